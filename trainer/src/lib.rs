//! Patchmill's training side: batches to loss to checkpoints, on libtorch.
//!
//! In the order of the data's path:
//! - [`device`]: the run file's devices and kinds as libtorch's.
//! - [`batch`]: ids to the `[b, t, k]` tensor that the model reads.
//! - [`params`]: all parameters in one flat tensor, their gradients in another.
//! - [`architecture`], [`model`]: LLaMA over units, which are patches or tokens.
//! - [`patch`]: the fold and the loss; K = 1 is token-level training.
//! - [`schedule`], [`guard`], [`optim`], [`step`]: one training step.
//! - [`tensor_file`]: safetensors, a tensor at a time.
//! - [`hf_config`], [`weights`]: Hugging Face model directories.
//! - [`eval`], [`generate`]: loss and perplexity of a stream; text.
//! - [`checkpoint`], [`metrics`], [`resume`], [`folder`]: what a run leaves behind, and how it goes on from there.
//! - [`prepare`], [`validation`], [`train`], [`diverged`], [`report`], [`stop`], [`progress`]: the run.
//! - [`doctor`], [`commands`], [`cli`]: the binary.
//! - [`shim`]: what tch does not bind of libtorch, the crate's only FFI.

pub mod device;

pub mod batch;

pub mod params;

pub mod architecture;

pub mod model;

pub mod patch;

pub mod schedule;

pub mod guard;
pub mod optim;

pub mod step;

pub mod tensor_file;

pub mod hf_config;

pub mod weights;

pub mod eval;

pub mod generate;

pub mod checkpoint;

pub mod metrics;

pub mod resume;

pub mod folder;

pub mod prepare;

pub mod validation;

pub mod train;

pub mod diverged;
pub mod report;

pub mod stop;

pub mod progress;

pub mod doctor;

pub mod commands;

pub mod cli;

pub mod shim;
