//! Measurements since the last line of the log, and the figures of that line.
//!
//! **Invariant:** no figure includes evaluating or saving: a rate covers the training steps alone.

use std::time::Duration;

use schemas::run::RunFile;

use crate::cost::flops::{FlopsConvention, PassFlops, Peak};
use crate::device::timing::{Part, PartTimes};
use crate::model::architecture::PatchMaps;
use crate::step::UnreadSteps;

/// The steps since the last line of the log.
#[derive(Default)]
pub struct Interval {
    /// How many.
    pub steps: u64,
    /// Host time in the steps and in waiting for their numbers.
    pub busy: Duration,
    /// The loader's waiting time at the start of the interval.
    pub waited_before: Duration,
    /// Steps the host has not looked at yet; empty at each log line, evaluation and save.
    pub unread: UnreadSteps,
}

/// The cost of a step of a phase: tokens and units of all ranks, FLOPs of one.
#[derive(Clone, Debug)]
pub struct StepCost {
    tokens: u64,
    units: u64,
    palm_flops: f64,
    causal_flops: f64,
}

impl StepCost {
    /// Of phase `phase_index`, whose windows have `window_units` units, on `world_size` ranks.
    pub fn new(
        config: &RunFile,
        phase_index: usize,
        window_units: u64,
        world_size: u64,
    ) -> StepCost {
        let phase = &config.phases[phase_index];
        let maps = PatchMaps {
            patch_size: phase.patch_size,
            input: phase.input_map,
            output: phase.output_map,
        };
        let windows = config.train.micro_batch_windows;
        let units = config.plan.step_tokens / phase.patch_size;
        let micro_batches = units as f64 / (windows * window_units * world_size) as f64;
        let pass = PassFlops::new(&config.model, maps, windows, window_units);
        let flops = |convention| micro_batches * pass.total(convention);
        StepCost {
            tokens: config.plan.step_tokens,
            units,
            palm_flops: flops(FlopsConvention::Palm),
            causal_flops: flops(FlopsConvention::Causal),
        }
    }
}

/// Rates and shares of the steps of an interval.
#[derive(Clone, Debug, PartialEq)]
pub struct Figures {
    /// Tokens a second.
    pub tokens_per_sec: f64,
    /// Milliseconds of a step.
    pub step_ms: f64,
    /// Share of the time spent waiting for the loader, in percent.
    pub data_wait_pct: f64,
    /// Model FLOPs utilization, in percent: the model's FLOPs against the device's peak; by the
    /// PaLM paper's counting, and with causal attention counted by half.
    pub mfu_pct: Option<[f64; 2]>,
    units_per_sec: f64,
    times: PartTimes,
    steps: u64,
}

impl Interval {
    /// The figures of the interval; `waited` is the loader's waiting time now, `times` covers the
    /// parts of its steps.
    pub fn figures(
        &self,
        cost: &StepCost,
        peak: Option<&Peak>,
        waited: Duration,
        times: PartTimes,
    ) -> Figures {
        let seconds = self.busy.as_secs_f64();
        let per_sec = |amount: f64| self.steps as f64 * amount / seconds;
        let mfu_pct = peak.map(|peak| {
            [cost.palm_flops, cost.causal_flops]
                .map(|flops| 100.0 * per_sec(flops) / peak.flops_per_sec)
        });
        Figures {
            tokens_per_sec: per_sec(cost.tokens as f64),
            units_per_sec: per_sec(cost.units as f64),
            step_ms: 1e3 * seconds / self.steps as f64,
            data_wait_pct: 100.0 * (waited - self.waited_before).as_secs_f64() / seconds,
            mfu_pct,
            times,
            steps: self.steps,
        }
    }
}

impl Figures {
    /// The figures as values of the metrics. Times of parts are those of one step, on the device.
    pub fn values(&self) -> Vec<(&'static str, f64)> {
        let mut values = vec![
            ("throughput/tokens_per_sec", self.tokens_per_sec),
            ("throughput/units_per_sec", self.units_per_sec),
            ("throughput/data_wait_pct", self.data_wait_pct),
            ("time/step_ms", self.step_ms),
        ];
        if let Some([palm, causal]) = self.mfu_pct {
            values.extend([("throughput/mfu_pct", palm), ("throughput/mfu_causal_pct", causal)]);
        }
        let parts = [
            ("time/forward_ms", Part::Forward),
            ("time/backward_ms", Part::Backward),
            ("time/passes_ms", Part::Passes),
            ("time/communication_ms", Part::Communication),
            ("time/optimizer_ms", Part::Optimizer),
        ];
        for (tag, part) in parts {
            let time = self.times.of(part);
            if time > Duration::ZERO {
                values.push((tag, 1e3 * time.as_secs_f64() / self.steps as f64));
            }
        }
        values
    }
}
