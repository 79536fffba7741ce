//! Where a run resumes, and the settings it must share with its checkpoint.
//!
//! Data, plan, phases, model, optimizer and initial weights are a run's *identity*. A difference
//! refuses the resume and names the field and both values (exit 4). Device, compute dtype, threads,
//! ranks and micro-batch are *recorded*. They may change, with a notice, because they affect only
//! rounding. So may `optimizer.nonfinite` and `optimizer.spike`: a run stopped by a spike or a
//! non-finite loss would meet it again at every restart. Loader, logging and paths are free.
//!
//! Resuming never mixes runs: an output folder with later checkpoints, or with foreign files, is
//! refused.
//!
//! **Invariant:** two runs with equal identity read the same windows in every step and apply the
//! same update rule.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use plan::Plan;
use schemas::checkpoint::TrainerState;
use schemas::run::RunFile;
use serde_json::Value;

use crate::checkpoint::store::{self, Checkpoint, CheckpointError};
use crate::ranks::process_group::ProcessGroup;

const NONFINITE: &str = "optimizer.nonfinite";
const SPIKE: &str = "optimizer.spike";

/// Everything a resumed run must have alike, by name.
pub type Identity = BTreeMap<String, Value>;
/// A checkpoint to resume from, and notices about damaged newer ones.
pub type Found = (Checkpoint, Vec<String>);

/// Where a run starts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resume {
    /// From the newest complete checkpoint of its output folder, or from the beginning.
    Auto,
    /// From the beginning; an output folder with checkpoints is refused.
    Never,
    /// From the checkpoint in this folder.
    Path(PathBuf),
}

impl std::str::FromStr for Resume {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Resume, Self::Err> {
        Ok(match text {
            "auto" => Resume::Auto,
            "never" => Resume::Never,
            path => Resume::Path(PathBuf::from(path)),
        })
    }
}

/// The reason a run does not start.
#[derive(Debug, thiserror::Error)]
pub enum ResumeError {
    /// The output folder already belongs to a run.
    #[error(
        "{path} already holds checkpoints; --resume auto resumes from the newest, \
         or choose another folder with --set train.output=…"
    )]
    NotEmpty {
        /// The output folder.
        path: PathBuf,
    },
    /// Going back would mix two runs in one folder.
    #[error(
        "{path} holds checkpoints up to step {last_step}, which a run from {from} \
         would mix with its own; \
         give the new run a folder of its own with --set train.output=…, \
         or remove the later checkpoints first"
    )]
    Mixed {
        /// The output folder.
        path: PathBuf,
        /// Step of its last checkpoint.
        last_step: u64,
        /// The requested checkpoint.
        from: PathBuf,
    },
    /// The checkpoint belongs to a run of other data, plan, model or optimizer.
    #[error(
        "{path} belongs to another run: its plan is {found_plan}, the run file's {expected_plan}\n\
         what differs (checkpoint → run file):\n{differences}\n\
         restore these values, or start a new run in another folder with --set train.output=…"
    )]
    OtherRun {
        /// The checkpoint.
        path: PathBuf,
        /// Fingerprint of its plan.
        found_plan: String,
        /// Fingerprint of the run file's plan, or that it is the same.
        expected_plan: String,
        /// A line for each field that differs.
        differences: String,
    },
    /// Ranks of one process group were given different runs.
    #[error(
        "rank {rank} was given another run than rank 0; \
         what differs (rank 0 → rank {rank}):\n{differences}\n\
         start every rank with the same run file, settings and data"
    )]
    OtherRank {
        /// This rank.
        rank: u64,
        /// A line for each field that differs.
        differences: String,
    },
    /// No complete checkpoint, or an unreadable one.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

/// The identity of a run. `init_hash` is the BLAKE3 of the weights of `train.init_from`: it
/// identifies their contents, not their location.
pub fn identity(run: &RunFile, plan: &Plan, init_hash: Option<String>) -> Identity {
    let mut identity: BTreeMap<String, Value> =
        plan.identity().into_iter().map(|(name, value)| (format!("plan.{name}"), value)).collect();
    for (index, phase) in run.phases.iter().enumerate() {
        flatten(&mut identity, &format!("phases.{index}.schedule"), &phase.schedule);
        flatten(&mut identity, &format!("phases.{index}.carry"), &phase.carry);
        for (name, is_set) in [("input_map", phase.input_map), ("output_map", phase.output_map)] {
            if is_set {
                flatten(&mut identity, &format!("phases.{index}.{name}"), &is_set);
            }
        }
    }
    flatten(&mut identity, "model", &run.model);
    flatten(&mut identity, "optimizer", &run.optimizer);
    identity.retain(|name, _| name != NONFINITE && !name.starts_with(SPIKE));
    flatten(&mut identity, "train.init_seed", &run.train.init_seed);
    flatten(&mut identity, "train.init_from", &init_hash);
    identity
}

/// Settings that may change between two starts of a run, with a notice.
pub fn recorded(run: &RunFile, device: &str, threads: u64, ranks: u64) -> BTreeMap<String, Value> {
    let mut recorded = BTreeMap::new();
    flatten(&mut recorded, NONFINITE, &run.optimizer.nonfinite);
    if let Some(spike) = &run.optimizer.spike {
        flatten(&mut recorded, SPIKE, spike);
    }
    flatten(&mut recorded, "train.dtype", &run.train.dtype);
    flatten(&mut recorded, "train.micro_batch_windows", &run.train.micro_batch_windows);
    flatten(&mut recorded, "train.activation_checkpointing", &run.train.activation_checkpointing);
    recorded.insert("device".to_owned(), device.into());
    recorded.insert("threads".to_owned(), threads.into());
    recorded.insert("ranks".to_owned(), ranks.into());
    recorded
}

/// Adds the leaves of `value` under dotted names beginning with `name`, which may be empty.
fn flatten(into: &mut BTreeMap<String, Value>, name: &str, value: &impl serde::Serialize) {
    fn leaves(into: &mut BTreeMap<String, Value>, name: String, value: Value) {
        match value {
            Value::Object(fields) => {
                for (field, value) in fields {
                    let dot = if name.is_empty() { "" } else { "." };
                    leaves(into, format!("{name}{dot}{field}"), value);
                }
            }
            leaf => {
                into.insert(name, leaf);
            }
        }
    }
    let value = serde_json::to_value(value).expect("a run file is plain data");
    leaves(into, name.to_owned(), value);
}

/// A line for each name with different values: `name: before → now`.
pub fn differences(before: &BTreeMap<String, Value>, now: &BTreeMap<String, Value>) -> Vec<String> {
    let mut names: Vec<&String> = before.keys().chain(now.keys()).collect();
    names.sort();
    names.dedup();
    let text = |value: Option<&Value>| value.map_or("absent".to_owned(), Value::to_string);
    names
        .into_iter()
        .filter(|name| before.get(*name) != now.get(*name))
        .map(|name| format!("  {name}: {} → {}", text(before.get(name)), text(now.get(name))))
        .collect()
}

/// The checkpoint to resume from, with notices about damaged newer ones; `None` to begin anew.
pub fn find_checkpoint(output: &Path, resume: &Resume) -> Result<Option<Found>, ResumeError> {
    match resume {
        Resume::Auto => Ok(store::newest_whole(output)?),
        Resume::Never if store::last_step(output)?.is_some() => {
            Err(ResumeError::NotEmpty { path: output.to_owned() })
        }
        Resume::Never => Ok(None),
        Resume::Path(from) => {
            let from = store::resolve(from);
            let checkpoint = store::verify(&from)?;
            let is_last = |last_step| {
                let same_folder = from.canonicalize().ok().zip(output.canonicalize().ok());
                same_folder.is_some_and(|(from, output)| from.parent() == Some(&*output))
                    && checkpoint.state.next_step == last_step
            };
            match store::last_step(output)? {
                Some(last_step) if !is_last(last_step) => {
                    let path = output.to_owned();
                    Err(ResumeError::Mixed { path, last_step, from })
                }
                _ => Ok(Some((checkpoint, Vec::new()))),
            }
        }
    }
}

/// Shares what the group's first rank found with all its ranks.
pub fn broadcast_found(
    found: Option<Found>,
    output: &Path,
    resume: &Resume,
    group: &ProcessGroup,
) -> anyhow::Result<Option<Found>> {
    let step = found.as_ref().map(|(checkpoint, _)| checkpoint.state.next_step);
    let step = group.broadcast_text(&step.map_or(String::new(), |step| step.to_string()))?;
    if group.is_rank_zero() || step.is_empty() {
        return Ok(found);
    }
    let path = match resume {
        Resume::Path(path) => store::resolve(path),
        _ => store::path(output, step.parse()?),
    };
    let checkpoint = store::verify(&path).map_err(ResumeError::from)?;
    Ok(Some((checkpoint, Vec::new())))
}

/// Settings each machine of a group may choose for itself: paths, by their location, and those no
/// result depends on.
const RANK_LOCAL_SETTINGS: [&str; 5] =
    ["data.corpus", "data.validation", "train.output", "train.device", "train.init_from"];

/// Refuses ranks with different runs: they would diverge, or wait for each other in vain.
/// `validation` is the fingerprint of the validation corpus. `device` is the type of device, which
/// has its own collectives.
pub fn check_ranks_agree(
    config: &RunFile,
    identity: &Identity,
    validation: Option<&str>,
    device: &str,
    next_step: u64,
    group: &ProcessGroup,
) -> anyhow::Result<()> {
    let mut own = BTreeMap::new();
    flatten(&mut own, "", config);
    own.retain(|name, _| {
        !RANK_LOCAL_SETTINGS.contains(&name.as_str()) && !name.starts_with("loader.")
    });
    own.extend(identity.clone());
    flatten(&mut own, "validation corpus", &validation);
    flatten(&mut own, "device", &device);
    flatten(&mut own, "next step", &next_step);
    let first = group.broadcast_text(&serde_json::to_string(&own)?)?;
    let differences = differences(&serde_json::from_str(&first)?, &own);
    if !differences.is_empty() {
        let (rank, differences) = (group.rank(), differences.join("\n"));
        return Err(ResumeError::OtherRank { rank, differences }.into());
    }
    Ok(())
}

/// Refuses a checkpoint of another identity.
pub fn check_identity(
    path: &Path,
    state: &TrainerState,
    plan: &Plan,
    identity: &Identity,
) -> Result<(), ResumeError> {
    let differences = differences(&state.identity, identity);
    if differences.is_empty() && state.plan_fingerprint == plan.fingerprint() {
        return Ok(());
    }
    let same_plan = state.plan_fingerprint == plan.fingerprint();
    let expected_plan =
        if same_plan { "the same".to_owned() } else { format!("is {}", plan.fingerprint()) };
    Err(ResumeError::OtherRun {
        path: path.to_owned(),
        found_plan: state.plan_fingerprint.clone(),
        expected_plan,
        differences: differences.join("\n"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        /// Otherwise a run would not match itself: its identity passes through JSON in a checkpoint
        /// and in the first rank's message.
        #[test]
        fn a_number_comes_back_from_json_bit_by_bit(number in proptest::num::f64::NORMAL) {
            let mut own = BTreeMap::new();
            flatten(&mut own, "optimizer.clip_norm", &number);
            let text = serde_json::to_string(&own).unwrap();
            proptest::prop_assert_eq!(serde_json::from_str::<Identity>(&text).unwrap(), own);
        }
    }

    #[test]
    fn differences_name_field_and_values() {
        let map = |pairs: &[(&str, i64)]| {
            pairs.iter().map(|&(name, value)| (name.to_owned(), Value::from(value))).collect()
        };
        let before = map(&[("a", 1), ("b", 2), ("c", 3)]);
        let now = map(&[("a", 1), ("b", 5), ("d", 4)]);
        assert_eq!(
            differences(&before, &now),
            ["  b: 2 → 5", "  c: 3 → absent", "  d: absent → 4"]
        );
        assert!(differences(&now, &now).is_empty());
    }
}
