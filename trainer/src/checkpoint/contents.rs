//! The contents of a checkpoint besides the model, and the weights a run starts from without one.
//!
//! **Invariant:** loading restores exactly the saved state: weights, moments, step count and the
//! phase's maps.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use encoder::{CONFIG_FILE, TOKENIZER_FILE};
use pipeline::corpus::Corpus;
use schemas::manifest::TokenizerRecord;
use schemas::run::{InitTokenizer, RunFile};
use serde_json::{Map, Value};
use tch::Tensor;

use crate::checkpoint::store::{self, Checkpoint};
use crate::checkpoint::tensor_file::{self, TensorFile};
use crate::checkpoint::weights;
use crate::model::architecture::{INPUT_MAP, OUTPUT_MAP, PatchMaps, is_map};
use crate::model::llama::{Compute, Llama};
use crate::step::adamw::AdamW;

/// Optimizer state in a checkpoint: moments and step count by parameter. The master weights are in
/// `model.safetensors`. It has a folder of its own because servers without an index load every
/// `*.safetensors` of a model's folder.
const OPTIMIZER_FILE: &str = "training_state/optimizer.safetensors";
/// Its name in checkpoints of earlier builds.
const OPTIMIZER_FILE_BEFORE: &str = "optim-00000-of-00001.safetensors";

/// BLAKE3 of the weights a run starts from. A `resumed` run no longer needs the weights; if they
/// are gone, the hash recorded in the checkpoint is used.
pub fn init_hash(init_from: Option<&Path>, resumed: Option<&Checkpoint>) -> Result<Option<String>> {
    let Some(folder) = init_from else { return Ok(None) };
    let has_weights = [weights::WEIGHTS_FILE, weights::WEIGHTS_INDEX_FILE];
    let has_weights = has_weights.iter().any(|name| folder.join(name).exists());
    if let Some(checkpoint) = resumed.filter(|_| !has_weights) {
        let before = checkpoint.state.identity.get("train.init_from").and_then(Value::as_str);
        return Ok(before.map(str::to_owned));
    }
    let hash = || -> Result<String> {
        store::verify_if_ours(folder)?;
        let mut hashes = Vec::new();
        for path in weights::weight_paths(folder)? {
            hashes.push(pipeline::disk::atomic::hash_file(&path)?.1.to_hex().to_string());
        }
        // Of several files, the hash of their hashes.
        Ok(match hashes.as_slice() {
            [only] => only.clone(),
            all => blake3::hash(all.concat().as_bytes()).to_hex().to_string(),
        })
    };
    hash().with_context(|| format!("train.init_from = {}", folder.display())).map(Some)
}

/// The model of a run's first step.
pub fn initial_model(
    config: &RunFile,
    compute: Compute,
    init_from: Option<&Path>,
) -> Result<Llama> {
    let Some(folder) = init_from else {
        return Ok(Llama::new(&config.model, compute, config.train.init_seed)?);
    };
    let model = Llama::zeroed(&config.model, compute)?;
    weights::load_weights(folder, &model)
        .with_context(|| format!("train.init_from = {}", folder.display()))?;
    Ok(model)
}

/// Refuses weights whose tokenizer is not that of the corpus: their ids have other meanings.
pub fn check_init_tokenizer(
    config: &RunFile,
    init_from: Option<&Path>,
    record: &TokenizerRecord,
) -> Result<()> {
    let path = init_from.map(|folder| folder.join(TOKENIZER_FILE)).filter(|path| path.exists());
    let Some(path) = path else { return Ok(()) };
    let (found, expected) =
        (pipeline::disk::atomic::hash_file(&path)?.1.to_hex(), &record.fingerprint);
    let is_ignored = config.train.init_tokenizer == Some(InitTokenizer::Ignore);
    anyhow::ensure!(
        is_ignored || found.as_str() == expected,
        CorpusTokenizerMismatch { path, found: found.to_string(), expected: expected.clone() }
    );
    Ok(())
}

/// The weights of `train.init_from` were trained with another tokenizer.
#[derive(Debug, thiserror::Error)]
#[error(
    "{} has BLAKE3 {found}, the corpus's tokenizer {expected}: ids of the corpus mean other texts \
     to these weights; take weights of this tokenizer, or insist with \
     train.init_tokenizer = \"ignore\"",
    path.display()
)]
pub struct CorpusTokenizerMismatch {
    /// tokenizer.json next to the weights.
    pub path: PathBuf,
    /// Its hash.
    pub found: String,
    /// The corpus's.
    pub expected: String,
}

/// Model and optimizer of a checkpoint, with the maps of the phase it was saved in.
pub fn load(config: &RunFile, compute: Compute, checkpoint: &Checkpoint) -> Result<(Llama, AdamW)> {
    let names = [OPTIMIZER_FILE, OPTIMIZER_FILE_BEFORE];
    let [path, before] = names.map(|name| checkpoint.path.join(name));
    let path = if !path.exists() && before.exists() { before } else { path };
    let read = || -> Result<(Llama, AdamW)> {
        let tensors = TensorFile::open(&path)?.read_all()?;
        let (map_tensors, state): (Vec<_>, Vec<_>) =
            tensors.into_iter().partition(|(name, _)| is_map(name));
        let has = |wanted: &str| map_tensors.iter().any(|(name, _)| name == wanted);
        let phase_index = usize::try_from(checkpoint.state.phase_index)?;
        let phase = config.phases.get(phase_index).context("the checkpoint's phase")?;
        let (input, output) = (has(INPUT_MAP), has(OUTPUT_MAP));
        let maps = PatchMaps { patch_size: phase.patch_size, input, output };
        let model = Llama::zeroed_with(&config.model, compute, maps)?;
        for (name, tensor) in &map_tensors {
            let parameter = model.parameters().get(name).expect("the model has the file's maps");
            let (found, expected) = (tensor.size(), parameter.shape());
            anyhow::ensure!(found == expected, "{name} is {found:?}, expected {expected:?}");
            tch::no_grad(|| parameter.leaf().shallow_clone().copy_(tensor));
        }
        let mut optimizer = AdamW::new(model.parameters(), &config.optimizer)?;
        optimizer.import(model.parameters(), &state)?;
        Ok((model, optimizer))
    };
    let (model, optimizer) = read().with_context(|| format!("read {}", path.display()))?;
    weights::load_weights(&checkpoint.path, &model)?;
    Ok((model, optimizer))
}

/// Writes the optimizer's state, including the phase's maps, into a checkpoint's folder.
pub fn save_optimizer(into: &Path, model: &Llama, optimizer: &AdamW) -> Result<()> {
    let path = into.join(OPTIMIZER_FILE);
    let folder = path.parent().expect("it is in a folder of the checkpoint");
    fs::create_dir(folder).with_context(|| format!("create {}", folder.display()))?;
    tensor_file::write(&path, &optimizer_tensors(model, optimizer))
        .with_context(|| format!("write {}", path.display()))
}

/// The optimizer's state as saved in a checkpoint, including the phase's maps.
fn optimizer_tensors(model: &Llama, optimizer: &AdamW) -> Vec<(String, Tensor)> {
    let maps = model.parameters().iter().filter(|parameter| is_map(parameter.name()));
    let mut tensors: Vec<_> =
        maps.map(|map| (map.name().to_owned(), map.leaf().detach())).collect();
    tensors.extend(optimizer.export(model.parameters()));
    tensors
}

/// Copies a corpus's tokenizer files into a checkpoint. Its configuration gets what decides the ids
/// of a document: the corpus's BOS and EOS, and the class that reads tokenizer.json as it is. Other
/// classes build a tokenizer of their own from it, whose ids may differ.
pub fn copy_tokenizer(corpus: &Corpus, into: &Path) -> Result<()> {
    let record = &corpus.manifest().tokenizer;
    for file in &record.files {
        let from = corpus.dir().join(&file.path);
        let name = from.file_name().expect("a manifest's paths name files");
        fs::copy(&from, into.join(name)).with_context(|| format!("copy {}", from.display()))?;
    }
    if record.files.is_empty() {
        // Ids made for a measurement.
        return Ok(());
    }
    let path = into.join(CONFIG_FILE);
    let text = match fs::read(&path) {
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => b"{}".to_vec(),
        text => text.with_context(|| format!("read {}", path.display()))?,
    };
    let config: Map<String, Value> = serde_json::from_slice(&text)
        .with_context(|| format!("{}: expected a JSON object", path.display()))?;
    let text = serde_json::to_string_pretty(&tokenizer_config(config, record))?;
    fs::write(&path, text + "\n").with_context(|| format!("write {}", path.display()))
}

/// A tokenizer's configuration with the policy of a corpus.
fn tokenizer_config(
    mut config: Map<String, Value>,
    record: &TokenizerRecord,
) -> Map<String, Value> {
    config.insert("tokenizer_class".to_owned(), "PreTrainedTokenizerFast".into());
    for (name, token) in [("bos", &record.bos), ("eos", &record.eos)] {
        config.insert(format!("add_{name}_token"), token.is_some().into());
        if let Some(token) = token {
            config.insert(format!("{name}_token"), token.token.clone().into());
        }
    }
    config
}
