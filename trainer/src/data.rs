//! Batches: from the loader's token ids to tensors on the device.
//!
//! **Invariant:** batches arrive in the order of the plan, and every id is checked before it
//! reaches the device.

pub mod batch;

pub mod prefetch;
