//! The model: its outputs, its kernels, its activations.

mod activation_checkpointing;
mod fused;
mod golden;
