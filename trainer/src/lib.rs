//! Patchmill's training side: batches to loss to checkpoints, on libtorch.
//!
//! The rooms, from the ground up:
//! - [`shim`]: what tch does not bind of libtorch, the crate's only FFI.
//! - [`console`]: progress lines, results, requests to stop.
//! - [`ranks`]: which rank this process is, and the collectives of the process group.
//! - [`data`]: batches as tensors on the device, copied ahead of the step that reads them.
//! - [`device`]: devices and dtypes, what a GPU can do, time and memory measured.
//! - [`model`]: LLaMA over units, which are patches or tokens; its loss, evaluation and text.
//! - [`step`]: one training step: schedule, loss guard, AdamW, CUDA graphs.
//! - [`cost`]: what a step costs in FLOPs and memory.
//! - [`checkpoint`]: checkpoints and Hugging Face model directories; resuming.
//! - [`run`]: the phases of a plan, one after the other, with validation, logs and saves.
//! - [`commands`], [`cli`]: the binary.
//!
//! **Invariant:** a module imports from its own room and from rooms above it in this list.

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
