//! The laws of Patchmill, its goldens and its breakage, one module a subject, in the order of the data's path.

mod corpora;

mod docs;

mod tokens;

mod corrupt;

mod permute;
mod plan;
mod presets;
mod tidy;

#[cfg(feature = "trainer")]
mod golden;
