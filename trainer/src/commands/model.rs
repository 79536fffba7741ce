//! The model of `eval` and `generate`: its folder, its device and dtype, its tokenizer.
//!
//! **Invariant:** a checkpoint of ours is verified before its weights are used.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use encoder::{Encoder, PolicyChoice, TokenizeError};
use schemas::manifest::SpecialTokens;
use schemas::run::{Device, Dtype};

use crate::checkpoint::hf_config::ModelNotes;
use crate::checkpoint::store;
use crate::checkpoint::weights;
use crate::device;
use crate::model::llama::Llama;
use pipeline::commands::values::local_path;

/// Dtype of the compute, on the command line.
#[derive(Clone, Copy, ValueEnum)]
enum DtypeArg {
    Fp32,
    Bf16,
}

/// The model, its device and its dtype.
#[derive(Args)]
pub struct ModelArgs {
    /// Folder of the model: a checkpoint, or any Hugging Face directory of a LLaMA.
    #[arg(long, value_name = "DIR", value_parser = local_path())]
    model: PathBuf,
    /// auto, cpu, cuda or cuda:INDEX.
    #[arg(
        long,
        default_value = "auto",
        value_parser = |text: &str| Device::try_from(text.to_owned())
    )]
    device: Device,
    /// Dtype of the compute.
    #[arg(long, default_value = "fp32")]
    dtype: DtypeArg,
}

/// Texts for a model.
#[derive(Clone, Copy)]
pub(super) enum Text {
    /// Whole documents.
    Documents,
    /// Prompts.
    Beginnings,
}

impl ModelArgs {
    /// The model's folder.
    pub(super) fn folder(&self) -> PathBuf {
        store::resolve(&self.model)
    }

    pub(super) fn load(&self) -> Result<(Llama, ModelNotes)> {
        let dtype = match self.dtype {
            DtypeArg::Fp32 => Dtype::Fp32,
            DtypeArg::Bf16 => Dtype::Bf16,
        };
        let folder = self.folder();
        store::verify_if_ours(&folder)?;
        Ok(weights::load_model(&folder, dtype, device::resolve(self.device)?)?)
    }
}

/// A tokenizer that fits the model, for whole documents or for beginnings of documents, which have
/// no EOS. Its own configuration decides about BOS and EOS, in a checkpoint the policy of the
/// corpus; if it leaves that open, a BOS begins each document. Special tokens are text.
pub(super) fn load_encoder(path: &Path, model: &Llama, text: Text) -> Result<Encoder> {
    let load = |bos, eos| {
        let special_tokens = SpecialTokens::Text;
        Encoder::load(path, PolicyChoice { bos, eos, special_tokens })
    };
    let eos = match text {
        Text::Documents => None,
        Text::Beginnings => Some(false),
    };
    let encoder = load(None, eos)
        .or_else(|err| match err {
            TokenizeError::Unsettled { .. } => load(Some(true), Some(false)),
            err => Err(err),
        })
        .with_context(|| "load the tokenizer; --tokenizer names another one".to_owned())?;
    if encoder.vocab_size() > model.config().vocab_size {
        bail!(
            "{} has {} entries; the model's vocab_size is {}: it is not this model's tokenizer",
            encoder.path().display(),
            encoder.vocab_size(),
            model.config().vocab_size
        );
    }
    Ok(encoder)
}
