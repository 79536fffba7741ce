//! The metadata of a checkpoint.
//!
//! **Invariant:** a checkpoint folder is complete exactly if its `MANIFEST.json` parses and every
//! file it lists has the recorded length and hash.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Name of the list of files in a checkpoint folder, written last.
pub const CHECKPOINT_MANIFEST: &str = "MANIFEST.json";
/// Name of the progress record in a checkpoint folder.
pub const TRAINER_STATE: &str = "trainer_state.json";
/// Version of both.
pub const VERSION: u32 = 1;

/// `MANIFEST.json` of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CheckpointManifest {
    /// [`VERSION`].
    pub version: u32,
    /// Every other file of the folder, in byte order of the path.
    pub files: Vec<crate::manifest::FileRecord>,
}

/// `trainer_state.json`: the progress of a run, and the values it must not change.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TrainerState {
    /// [`VERSION`].
    pub version: u32,
    /// Steps done, which is also the number of the next step.
    pub next_step: u64,
    /// Phase of the optimizer state, as a position in the run file's list.
    pub phase_index: u64,
    /// Steps of that phase the optimizer state has seen.
    pub phase_steps_done: u64,
    /// Tokens read so far.
    pub tokens_read: u64,
    /// Units (patches or tokens) processed so far: the run's cost.
    pub units_processed: u64,
    /// Fingerprint of the plan.
    pub plan_fingerprint: String,
    /// Values that must be equal in a resumed run, by name; a difference refuses the resume.
    pub identity: BTreeMap<String, serde_json::Value>,
    /// Values that may change with a notice, by name.
    pub recorded: BTreeMap<String, serde_json::Value>,
    /// The step before which the last evaluation was made and logged.
    pub evaluated_step: Option<u64>,
    /// The run's results so far, phase by phase, for its closing table.
    pub phases: Vec<PhaseRecord>,
}

/// The results of a phase so far.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PhaseRecord {
    /// K.
    pub patch_size: u64,
    /// Steps done.
    pub steps: u64,
    /// Steps whose loss or gradient was not finite and which made no update.
    pub skipped_steps: u64,
    /// Training loss at the last logged step.
    pub loss: Option<f64>,
    /// Token-level validation loss before the first step.
    pub first_eval_loss: Option<f64>,
    /// Seconds of training over all restarts, excluding evaluation and saving.
    pub seconds: f64,
}
