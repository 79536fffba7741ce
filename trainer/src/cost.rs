//! What a training step costs, from its shape alone: floating-point operations and memory.
//!
//! **Invariant:** an estimate needs neither the run's data nor its weights.

pub mod flops;

pub mod memory;
