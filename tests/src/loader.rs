//! The plan's windows as batches, and as micro-batches copied ahead.
//!
//! Ids are compared with a direct read, and one digest over all workers, ranks, rings, back ends,
//! widths and stops.

mod order;
#[cfg(feature = "trainer")]
pub(crate) mod prefetch;
