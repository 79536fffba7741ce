//! Patchmill's training side: batches to loss to checkpoints, on libtorch.
//!
//! In the order of the data's path:
//! - [`device`]: the run file's devices and kinds as libtorch's.
//! - [`device::cuda`]: what is set before a GPU is used, and what one can do.
//! - [`data::batch`]: ids to the `[b, t, k]` tensor that the model reads.
//! - [`data::prefetch`]: the loader's batches as such tensors on the device, sent ahead of the computing on a GPU.
//! - [`model::params`]: all parameters in one flat tensor, their gradients in another.
//! - [`model::architecture`], [`model::llama`]: LLaMA over units, which are patches or tokens.
//! - [`device::attention`]: which implementation of attention a GPU uses.
//! - [`device::memory`]: what the process holds.
//! - [`model::patch`]: the fold and the loss; K = 1 is token-level training.
//! - [`ranks::environment`], [`ranks::process_group`]: several processes that train one model.
//! - [`step::schedule`], [`step::loss_guard`], [`step::adamw`], [`device::timing`], [`step`]: one training step.
//! - [`step::graph`]: the same step with its passes captured as a CUDA graph.
//! - [`cost::flops`]: its matrix products, in operations.
//! - [`checkpoint::tensor_file`]: safetensors, a tensor at a time.
//! - [`checkpoint::hf_config`], [`checkpoint::weights`]: Hugging Face model directories.
//! - [`model::eval`], [`model::generate`]: loss and perplexity of a stream; text.
//! - [`checkpoint::store`], [`checkpoint::contents`], [`run::metrics`], [`checkpoint::resume`], [`run::output`]: what a run leaves behind, and how it goes on from there.
//! - [`run::inputs`], [`run::prepare`], [`run::validation`], [`run`], [`run::interval`], [`mod@run::log`], [`run::save`], [`run::diverged`], [`run::report`], [`console::stop`], [`console::progress`]: the run.
//! - [`commands::launch`], [`mod@commands::bench`], [`cost::memory`], [`commands::doctor`], [`commands::pretrain`], [`commands::exit`], [`cli`]: the binary.
//! - [`shim`]: what tch does not bind of libtorch, the crate's only FFI.

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
