//! The inputs a rank opens for a run, and the parts of them all ranks must have alike.
//!
//! **Invariant:** nothing is written.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Result;
use pipeline::corpus::Corpus;
use pipeline::run_file;
use plan::Plan;

use crate::checkpoint::contents;
use crate::checkpoint::resume::{self, Found, Identity};
use crate::checkpoint::store;
use crate::device;
use crate::model::llama::Compute;
use crate::ranks::process_group::ProcessGroup;
use crate::run::prepare;
use crate::run::validation::ValidationSet;
use crate::step::schedule::PhaseSchedule;

/// Inputs a rank has read and checked by itself.
pub struct Inputs {
    /// The order of the data.
    pub plan: Arc<Plan>,
    /// By phase; `None` for a phase without steps.
    pub schedules: Vec<Option<PhaseSchedule>>,
    /// The training corpus.
    pub corpus: Arc<Corpus>,
    /// The validation corpus, if the run file names one.
    pub validation: Option<ValidationSet>,
    /// How the model computes.
    pub compute: Compute,
}

impl Inputs {
    /// Opens and checks what the run file names.
    pub fn open(file: &run_file::Run, group: &ProcessGroup) -> Result<Inputs> {
        let config = &file.file;
        let corpus = Arc::new(file.open_corpus(config.loader.io)?);
        file.check_vocabulary(corpus.manifest())?;
        prepare::check_tokenizer(&corpus)?;
        let plan = Arc::new(file.plan_of(corpus.manifest())?);
        prepare::loader_spec(config, &corpus, &plan, 0..plan.step_count(), group).check::<i64>()?;
        let schedules = prepare::schedules(config, &plan)?;
        let validation = file
            .validation_dir()
            .map(|dir| ValidationSet::open(&dir, &corpus, config))
            .transpose()?;
        let compute = Compute {
            dtype: config.train.dtype,
            device: device::resolve_for(group, config.train.device)?,
            position_count: prepare::position_count(config, &plan),
            activation_checkpointing: config.train.activation_checkpointing,
        };
        Ok(Inputs { plan, schedules, corpus, validation, compute })
    }

    /// Everything a resumed run must have alike, with the checkpoint it resumes from.
    pub fn identity(&self, file: &run_file::Run, found: Option<&Found>) -> Result<Identity> {
        let checkpoint = found.map(|(checkpoint, _)| checkpoint);
        let init_hash = contents::init_hash(init_from(file).as_deref(), checkpoint)?;
        Ok(resume::identity(&file.file, &self.plan, init_hash))
    }

    /// Refuses a rank with another run than the first.
    pub fn check_ranks_agree(
        &self,
        file: &run_file::Run,
        identity: &Identity,
        found: Option<&Found>,
        group: &ProcessGroup,
    ) -> Result<()> {
        let next_step = found.map_or(0, |(checkpoint, _)| checkpoint.state.next_step);
        let fingerprint = self.validation.as_ref().map(ValidationSet::fingerprint);
        let device = if self.compute.device.is_cuda() { "cuda" } else { "cpu" };
        resume::check_ranks_agree(&file.file, identity, fingerprint, device, next_step, group)
    }
}

/// Folder of the weights a run starts from.
pub fn init_from(file: &run_file::Run) -> Option<PathBuf> {
    let path = file.file.train.init_from.as_deref()?;
    Some(store::resolve(&file.resolve(path)))
}
