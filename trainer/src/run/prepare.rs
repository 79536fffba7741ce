//! Loading and checking before a run's first step.
//!
//! **Invariant:** anything that passes here trains: data, model and run file fit each other.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use anyhow::{Context, Result};
use encoder::Encoder;
use pipeline::corpus::Corpus;
use pipeline::loader::{LoaderSpec, READ_AHEAD_BYTES};
use plan::Plan;
use schemas::checkpoint::{PhaseRecord, TrainerState, VERSION};
use schemas::run::{Carry, RunFile};
use serde_json::Value;

use crate::checkpoint::resume;
use crate::checkpoint::store::Checkpoint;
use crate::console::progress::progress;
use crate::model::architecture::{INPUT_MAP, OUTPUT_MAP, PatchMaps};
use crate::model::llama::Llama;
use crate::ranks::process_group::ProcessGroup;
use crate::run::metrics::{METRICS_FILE, MetricsLog};
use crate::step::adamw::AdamW;
use crate::step::schedule::PhaseSchedule;

/// The loader settings of a rank for these steps of the run.
pub fn loader_spec(
    config: &RunFile,
    corpus: &Arc<Corpus>,
    plan: &Arc<Plan>,
    steps: Range<u64>,
    group: &ProcessGroup,
) -> LoaderSpec {
    LoaderSpec {
        corpus: Arc::clone(corpus),
        plan: Arc::clone(plan),
        from_step: steps.start,
        end_step: steps.end,
        rank: group.rank(),
        world_size: group.world_size(),
        micro_batch_windows: config.train.micro_batch_windows,
        workers: config.loader.workers,
        ring_bytes: config.loader.ring_bytes,
        read_ahead_bytes: config.loader.read_ahead_bytes.unwrap_or(READ_AHEAD_BYTES),
        pin: None,
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

/// Whether a phase continues with the moments and the step count of the last phase before it that
/// has steps. A phase without steps in between passes on whatever it would have inherited.
pub fn carries_optimizer(config: &RunFile, plan: &Plan, phase_index: usize) -> bool {
    let before = plan.phases()[..phase_index].iter().rposition(|phase| phase.steps > 0);
    before.is_some_and(|before| {
        let taking = &config.phases[before + 1..=phase_index];
        taking.iter().all(|phase| phase.carry == Carry::WeightsAndOptimizer)
    })
}

/// Model and optimizer for a new phase: its own fresh maps replace those of the phase before, and
/// all else is unchanged. `None` where neither phase has maps.
pub fn change_maps(
    config: &RunFile,
    phase_index: usize,
    model: &Llama,
    optimizer: &AdamW,
) -> Result<Option<(Llama, AdamW)>> {
    let phase = &config.phases[phase_index];
    let maps = PatchMaps {
        patch_size: phase.patch_size,
        input: phase.input_map,
        output: phase.output_map,
    };
    let before = model.maps();
    if !(maps.input || maps.output || before.input || before.output) {
        return Ok(None);
    }
    let changed = model.with_maps(maps, config.train.init_seed.wrapping_add(phase_index as u64))?;
    let mut moved = AdamW::new(changed.parameters(), &config.optimizer)?;
    let old = optimizer.export(model.parameters());
    let taken = moved.export(changed.parameters()).into_iter().map(|(name, fresh)| {
        let is_map = [INPUT_MAP, OUTPUT_MAP].iter().any(|map| name.ends_with(map));
        let before = old.iter().find(|(other, _)| *other == name).filter(|_| !is_map);
        let tensor = before.map_or(fresh, |(_, tensor)| tensor.shallow_clone());
        (name, tensor)
    });
    let taken: Vec<_> = taken.collect();
    moved.import(changed.parameters(), &taken)?;
    Ok(Some((changed, moved)))
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
        evaluated_step: None,
        phases: phases
            .map(|phase| PhaseRecord {
                patch_size: phase.patch_size,
                steps: 0,
                skipped_steps: 0,
                loss: None,
                first_eval_loss: None,
                seconds: 0.0,
            })
            .collect(),
    }
}

/// Prints to stderr where a run resumes, any damage, and permitted changes.
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

/// Prints a notice if `metrics.jsonl` ends before the last point that the checkpoint claims. A log
/// that was cut by a power failure or edited is continued, and never silently.
pub fn notice_lost_points(metrics: &MetricsLog, state: &TrainerState, log_every_steps: u64) {
    let step = state.next_step;
    let logged = if log_every_steps == 0 { 0 } else { step - step % log_every_steps };
    let expected = logged.max(state.evaluated_step.unwrap_or(0));
    if metrics.last_kept_step().unwrap_or(0) < expected {
        let found = match metrics.last_kept_step() {
            Some(last) => format!("ends at step {last}"),
            None => "has no line".to_owned(),
        };
        progress(&format!(
            "notice: {METRICS_FILE} {found}, and the checkpoint at step {step} was saved after the \
             point of step {expected}: the points between are lost; training is not affected"
        ));
    }
}

/// The tokenizer's files in the corpus folder, which are copied into every checkpoint, must be the
/// ones that made its ids.
pub fn check_tokenizer(corpus: &Corpus) -> Result<()> {
    let record = &corpus.manifest().tokenizer;
    if !record.files.is_empty() {
        Encoder::of_corpus(corpus.dir(), record)?;
    }
    Ok(())
}

/// Positions the model computes: T of the widest phase, or validation's if it is wider.
pub fn position_count(config: &RunFile, plan: &Plan) -> u64 {
    let phases = plan.phases().iter().map(|phase| phase.window_units);
    phases.chain([config.plan.window_units]).max().expect("there is at least one")
}
