//! Cross-crate tests, in the order of the data's path.

mod permute;
mod plan;
mod presets;

#[cfg(feature = "trainer")]
mod golden;

#[cfg(feature = "trainer")]
mod step;
mod tidy;
#[cfg(feature = "trainer")]
mod weights;

#[cfg(feature = "trainer")]
mod support;
