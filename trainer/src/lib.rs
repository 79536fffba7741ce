//! Patchmill's training side: batches to loss to checkpoints, on libtorch.
//!
//! The rooms, from the ground up:
//! - [`shim`]: the parts of libtorch that tch does not bind; the crate's only FFI.
//! - [`console`]: progress lines, results, requests to stop.
//! - [`ranks`]: which rank this process is, and the collectives of the process group.
//! - [`data`]: batches as tensors on the device, copied ahead of the step that reads them.
//! - [`device`]: devices and dtypes, a GPU's capabilities, time and memory measured.
//! - [`model`]: LLaMA over units, which are patches or tokens; its loss, evaluation and text.
//! - [`step`]: one training step: schedule, loss guard, AdamW, CUDA graphs.
//! - [`cost`]: the FLOPs and memory of a step.
//! - [`checkpoint`]: checkpoints and Hugging Face model directories; resuming.
//! - [`run`]: the phases of a plan, one after the other, with validation, logs and saves.
//! - [`commands`], [`cli`]: the binary.
//!
//! **Invariant:** a module imports only from its own room and from rooms above it in this list.

pub mod shim;

pub mod console;

pub mod ranks;

pub mod data;

pub mod device;

pub mod model;

pub mod step;

pub mod cost;

pub mod checkpoint;

pub mod run;

pub mod commands;

pub mod cli;
