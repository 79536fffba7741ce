//! Saving a run between two steps.
//!
//! **Invariant:** nothing is saved of a run whose ranks no longer have the same weights.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use pipeline::corpus::Corpus;
use plan::Plan;
use schemas::checkpoint::TrainerState;
use schemas::run::RunFile;

use crate::checkpoint::contents;
use crate::checkpoint::hf_config::ModelNotes;
use crate::checkpoint::store::{self, Retention};
use crate::checkpoint::weights;
use crate::console::progress::progress;
use crate::model::llama::Llama;
use crate::ranks::process_group::ProcessGroup;
use crate::step::adamw::{self, AdamW};

/// Every rank makes the same updates. If one does not, nothing of the run is saved.
pub fn check_ranks_have_equal_weights(
    model: &Llama,
    group: &ProcessGroup,
    step: u64,
) -> Result<()> {
    if group.world_size() == 1 {
        return Ok(());
    }
    let norm = adamw::norm(model.parameters().masters())?.double_value(&[]);
    let first = group.broadcast_text(&norm.to_bits().to_string())?;
    let differs = norm.to_bits().to_string() != first;
    if group.any_rank(differs)? {
        let rank = group.rank();
        let this = if differs { "differs" } else { "does not differ" };
        bail!(
            "the weights of the ranks are no longer alike after step {step} \
             (rank {rank}: norm {norm}, which {this} \
             from rank 0's): no checkpoint was written. Look for a rank \
             whose machine or libtorch is different or faulty; \
             the same command resumes from the last checkpoint"
        );
    }
    Ok(())
}

/// The checkpoints a run keeps.
pub fn retention(config: &RunFile) -> Retention {
    let train = &config.train;
    Retention { newest: train.keep_checkpoints, every_steps: train.keep_every_steps }
}

/// The state of a run between two steps, as stored in a checkpoint.
pub struct Snapshot<'a> {
    /// The run file.
    pub config: &'a RunFile,
    /// The order of the data.
    pub plan: &'a Plan,
    /// The training corpus; its tokenizer is copied too.
    pub corpus: &'a Corpus,
    /// Weights.
    pub model: &'a Llama,
    /// Moments and step count.
    pub optimizer: &'a AdamW,
    /// The progress of the run.
    pub state: &'a TrainerState,
}

impl Snapshot<'_> {
    /// Saves a checkpoint in the run's folder, and returns its path.
    pub fn save(&self, folder: &Path) -> Result<PathBuf> {
        let Snapshot { corpus, model, optimizer, .. } = *self;
        let phase = self.plan.phases()[usize::try_from(self.state.phase_index)?];
        let record = &corpus.manifest().tokenizer;
        let notes = ModelNotes {
            position_count: model.compute().position_count,
            patch_size: phase.patch_size,
            bos_token_id: record.bos.as_ref().map(|token| token.id),
            eos_token_ids: record.eos.iter().map(|token| token.id).collect(),
        };
        let path = store::save(folder, self.state, retention(self.config), |into| {
            weights::save_model(into, model, &notes)?;
            contents::save_optimizer(into, model, optimizer)?;
            contents::copy_tokenizer(corpus, into)
        })?;
        progress(&format!("saved {}", path.display()));
        Ok(path)
    }
}
