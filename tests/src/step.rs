//! The training step, its memory, and both on a GPU.

mod cuda;
mod memory_estimate;
mod train_step;
