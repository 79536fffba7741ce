//! The laws of Patchmill, its goldens and its breakage, one module a subject.

mod presets;
mod tidy;

#[cfg(feature = "trainer")]
mod golden;
#[cfg(feature = "trainer")]
mod step;
#[cfg(feature = "trainer")]
mod weights;

#[cfg(feature = "trainer")]
mod support;
