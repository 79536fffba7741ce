//! The cost of a training step, from its shape alone: FLOPs and memory.
//!
//! **Invariant:** an estimate needs neither the run's data nor its weights.

pub mod flops;

pub mod memory;
