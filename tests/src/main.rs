//! Cross-crate tests, in the order of the data's path.

mod permute;
mod plan;
mod presets;

#[cfg(feature = "trainer")]
mod golden;

mod tidy;
