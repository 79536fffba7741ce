//! The plan's windows as batches, and as micro-batches copied ahead.

mod order;
#[cfg(feature = "trainer")]
pub(crate) mod prefetch;
