//! The laws of Patchmill, its goldens and its breakage, one module a subject.

#[cfg(feature = "trainer")]
mod golden;
