//! What a run loads and checks before its first step.
//!
//! **Invariant:** what passes here trains: data, model and run file fit each other.

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use pipeline::corpus::Corpus;
use pipeline::loader::LoaderSpec;
use pipeline::plan::Plan;
use schemas::record::{PhaseRecord, TrainerState, VERSION};
use schemas::run::{ModelConfig, RunFile};
use serde_json::Value;
use tch::Device;

use crate::checkpoint::Checkpoint;
use crate::model::{Compute, Llama};
use crate::optim::AdamW;
use crate::progress::progress;
use crate::resume;
use crate::schedule::PhaseSchedule;
use crate::tensor_file::TensorFile;
use crate::weights;

/// Optimizer state in a checkpoint: moments and step count by parameter. The masters are `model.safetensors`.
pub const OPTIMIZER_FILE: &str = "optim-00000-of-00001.safetensors";

/// The data do not fit the model or the run file.
#[derive(Debug, thiserror::Error)]
pub enum DataMismatch {
    /// Ids that the model's embedding does not have.
    #[error(
        "the corpus in {path} has ids up to {corpus_vocab_size}; model.vocab_size is {vocab_size}: \
         set it to at least that, or tokenize with another tokenizer"
    )]
    Vocabulary {
        /// The corpus.
        path: PathBuf,
        /// Of its tokenizer.
        corpus_vocab_size: u64,
        /// Of the run file.
        vocab_size: u64,
    },
    /// Validation tokens that mean something else than training tokens.
    #[error(
        "the validation corpus in {path} was made by tokenizer {found}; the training corpus by {expected}: \
         tokenize both with the same tokenizer.json"
    )]
    Tokenizer {
        /// The validation corpus.
        path: PathBuf,
        /// Its tokenizer's fingerprint.
        found: String,
        /// That of the training corpus.
        expected: String,
    },
    /// Too short to evaluate on.
    #[error(
        "the validation corpus in {path} has {tokens} tokens; a window takes {window_tokens}: give it more text"
    )]
    ValidationTooShort {
        /// The validation corpus.
        path: PathBuf,
        /// Its tokens.
        tokens: u64,
        /// T tokens.
        window_tokens: u64,
    },
}

/// Every id of the corpus must have a row in the embedding.
pub fn check_vocabulary(corpus: &Corpus, model: &ModelConfig) -> Result<(), DataMismatch> {
    if corpus.vocab_size() <= model.vocab_size {
        return Ok(());
    }
    Err(DataMismatch::Vocabulary {
        path: corpus.dir().to_owned(),
        corpus_vocab_size: corpus.vocab_size(),
        vocab_size: model.vocab_size,
    })
}

/// What the loader reads for these steps of the run, on its one rank.
pub fn loader_spec(
    config: &RunFile,
    corpus: &Arc<Corpus>,
    plan: &Arc<Plan>,
    steps: Range<u64>,
) -> LoaderSpec {
    LoaderSpec {
        corpus: Arc::clone(corpus),
        plan: Arc::clone(plan),
        from_step: steps.start,
        end_step: steps.end,
        rank: 0,
        world_size: 1,
        micro_batch_windows: config.train.micro_batch_windows,
        workers: config.loader.workers,
        ring_bytes: config.loader.ring_bytes,
    }
}

/// The schedule of each phase that has steps.
pub fn schedules(config: &RunFile, plan: &Plan) -> Result<Vec<Option<PhaseSchedule>>> {
    let phases = config.phases.iter().zip(plan.phases()).enumerate();
    phases
        .map(|(index, (phase, planned))| {
            if planned.steps == 0 {
                return Ok(None);
            }
            let schedule = PhaseSchedule::new(phase.schedule, planned.steps);
            schedule.with_context(|| format!("phases.{index}")).map(Some)
        })
        .collect()
}

/// BLAKE3 of the weights that a run starts from.
pub fn init_hash(init_from: Option<&Path>) -> Result<Option<String>> {
    let Some(folder) = init_from else { return Ok(None) };
    let path = folder.join(weights::WEIGHTS_FILE);
    let (_, hash) = pipeline::publish::hash_file(&path)
        .with_context(|| format!("train.init_from = {}", folder.display()))?;
    Ok(Some(hash.to_hex().to_string()))
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

/// Model and optimizer of a checkpoint.
pub fn load(config: &RunFile, compute: Compute, checkpoint: &Path) -> Result<(Llama, AdamW)> {
    let model = Llama::zeroed(&config.model, compute)?;
    weights::load_weights(checkpoint, &model)?;
    let mut optimizer = AdamW::new(model.parameters(), &config.optimizer)?;
    let path = checkpoint.join(OPTIMIZER_FILE);
    let mut read = || -> Result<()> {
        let tensors = TensorFile::open(&path)?.read_all()?;
        Ok(optimizer.import(model.parameters(), &tensors)?)
    };
    read().with_context(|| format!("read {}", path.display()))?;
    Ok((model, optimizer))
}

/// The state before the first step.
pub fn fresh_state(
    plan: &Plan,
    identity: BTreeMap<String, Value>,
    recorded: BTreeMap<String, Value>,
) -> TrainerState {
    let phases = plan.phases().iter();
    TrainerState {
        version: VERSION,
        next_step: 0,
        phase_index: 0,
        phase_steps_done: 0,
        tokens_read: 0,
        units_processed: 0,
        plan_fingerprint: plan.fingerprint(),
        identity,
        recorded,
        phases: phases
            .map(|phase| PhaseRecord {
                patch_size: phase.patch_size,
                steps: 0,
                loss: None,
                first_eval_loss: None,
                seconds: 0.0,
            })
            .collect(),
    }
}

/// Says on stderr where a run goes on, what was damaged, and what changed that may change.
pub fn notice_resume(
    checkpoint: &Checkpoint,
    damaged: &[String],
    recorded: &BTreeMap<String, Value>,
) {
    for reason in damaged {
        progress(&format!("warning: a newer checkpoint is damaged and not used: {reason}"));
    }
    progress(&format!(
        "resuming from {} at step {}",
        checkpoint.path.display(),
        checkpoint.state.next_step
    ));
    for line in resume::differences(&checkpoint.state.recorded, recorded) {
        progress(&format!("notice: changed since the checkpoint, so rounding may differ:{line}"));
    }
}

/// Copies the files of a folder, such as the tokenizer's into a checkpoint.
pub fn copy_files(from: &Path, into: &Path) -> Result<()> {
    let entries = fs::read_dir(from).with_context(|| format!("list {}", from.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("list {}", from.display()))?;
        if entry.file_type()?.is_file() {
            fs::copy(entry.path(), into.join(entry.file_name()))
                .with_context(|| format!("copy {}", entry.path().display()))?;
        }
    }
    Ok(())
}

/// T of the widest phase: the positions that the model has seen.
pub fn max_window_units(plan: &Plan) -> u64 {
    plan.phases().iter().map(|phase| phase.window_units).max().expect("a plan has phases")
}

/// The device as a checkpoint records it.
pub fn device_name(device: Device) -> String {
    match device {
        Device::Cuda(index) => format!("cuda:{index}"),
        other => format!("{other:?}").to_lowercase(),
    }
}

/// libtorch's threads within an operation.
pub fn thread_count() -> u64 {
    u64::try_from(tch::get_num_threads()).unwrap_or(0)
}
