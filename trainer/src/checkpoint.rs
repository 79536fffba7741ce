//! Checkpoints: their files, how they are stored, and which run may resume from them.
//!
//! A checkpoint holds the master weights once. `model.safetensors` is fp32 and *is* the master
//! weights; the optimizer file next to it has only the moments and the step count, with the phase's
//! maps. The folder is written under another name, hashed, listed in `MANIFEST.json` and renamed.
//! If the newest checkpoint is damaged, it is named and the one before it is used.
//!
//! **Invariant:** a checkpoint is complete or absent, and its model opens in Hugging Face's tools
//! unconverted.

pub mod store;

pub mod contents;

pub mod tensor_file;

pub mod hf_config;

pub mod weights;

pub mod resume;
