//! Helpers shared by several rooms: inputs, small corpora, golden models, binaries.

pub(crate) mod documents;
pub(crate) mod inputs;
#[cfg(feature = "trainer")]
pub(crate) mod models;
#[cfg(feature = "trainer")]
pub(crate) mod process;
pub(crate) mod small_corpus;
pub(crate) mod trees;
