//! Checkpoints: their files, how they are stored, and which run may resume from them.
//!
//! **Invariant:** a checkpoint is complete or absent, and its model opens in Hugging Face's tools
//! unconverted.

pub mod store;

pub mod contents;

pub mod tensor_file;

pub mod hf_config;

pub mod weights;

pub mod resume;
