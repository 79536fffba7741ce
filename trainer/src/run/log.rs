//! Log values of a step and of an evaluation, and their line on stderr.
//!
//! **Invariant:** nothing is computed on the device and nothing is written: numbers in, values and
//! text out.

use plan::Plan;
use schemas::checkpoint::TrainerState;

use crate::console::progress::{clock, si};
use crate::run::interval::Figures;
use crate::run::report::Validation;
use crate::step::StepReport;

/// A step at which a point of the curves is due.
pub struct StepLog<'a> {
    /// The step's numbers.
    pub report: StepReport,
    /// Of the update.
    pub learning_rate: f64,
    /// L2 norm of all weights after it.
    pub param_norm: f64,
    /// Peak memory so far, where it is known.
    pub peak_memory_bytes: Option<u64>,
    /// Rates and times since the point before.
    pub figures: &'a Figures,
}

impl StepLog<'_> {
    /// Values by tag.
    pub fn values(
        &self,
        plan: &Plan,
        phase_index: usize,
        state: &TrainerState,
    ) -> Vec<(&'static str, f64)> {
        let epoch = state.tokens_read as f64 / plan.subset_tokens() as f64;
        let mut values = vec![
            ("train/loss", self.report.loss),
            ("train/grad_norm", self.report.grad_norm),
            ("train/param_norm", self.param_norm),
            ("train/learning_rate", self.learning_rate),
            ("train/epoch", epoch),
            ("train/updated", f64::from(u8::from(self.report.updated))),
            ("patch/size", plan.phases()[phase_index].patch_size as f64),
            ("phase/index", phase_index as f64),
            ("data/tokens_seen", state.tokens_read as f64),
            ("cost/units", state.units_processed as f64),
        ];
        values.extend(self.figures.values());
        values.extend(self.peak_memory_bytes.map(|bytes| ("memory/peak_bytes", bytes as f64)));
        values
    }

    /// The line of the step after which `next_step` steps are done.
    pub fn line(&self, plan: &Plan, phase_index: usize, next_step: u64) -> String {
        let phase = plan.phases()[phase_index];
        let figures = self.figures;
        let left = (phase.step_range().end - next_step) as f64 * figures.step_ms / 1e3;
        let level = if phase.patch_size == 1 { "token" } else { "patch" };
        format!(
            "step {}/{} phase {level} K={} | loss {:.4}{} | gnorm {:.3} | lr {:.2e} | {:.0} ms | \
             {} tok/s{} | data {:.1}% | phase eta {}",
            next_step,
            plan.step_count(),
            phase.patch_size,
            self.report.loss,
            if self.report.updated { "" } else { " (skipped)" },
            self.report.grad_norm,
            self.learning_rate,
            figures.step_ms,
            si(figures.tokens_per_sec),
            figures.mfu_pct.map_or(String::new(), |[palm, _]| format!(" | mfu {palm:.0}%")),
            figures.data_wait_pct,
            clock(left),
        )
    }
}

/// An evaluation between two steps.
pub struct EvaluationLog {
    /// At token level.
    pub validation: Validation,
    /// Loss of predicting patches, in a patch phase.
    pub patch_loss: Option<f64>,
}

impl EvaluationLog {
    /// Values by tag.
    pub fn values(&self, state: &TrainerState) -> Vec<(&'static str, f64)> {
        let mut values = vec![
            ("eval/loss", self.validation.loss),
            ("eval/perplexity", self.validation.perplexity),
            ("eval/bits_per_byte", self.validation.bits_per_byte),
        ];
        values.extend(self.patch_loss.map(|loss| ("eval/patch_loss", loss)));
        values.push(("eval/tokens_seen", state.tokens_read as f64));
        values.push(("eval/cost_units", state.units_processed as f64));
        values
    }

    /// The line of an evaluation after `step` of `step_count` steps.
    pub fn line(&self, step: u64, step_count: u64) -> String {
        let Validation { loss, perplexity, unigram_perplexity, bits_per_byte } = self.validation;
        let patch_loss =
            self.patch_loss.map_or(String::new(), |loss| format!(" | patch loss {loss:.4}"));
        format!(
            "step {step}/{step_count} eval loss {loss:.4} | perplexity {perplexity:.2} \
             (unigram {unigram_perplexity:.2}) | {bits_per_byte:.4} bits/byte{patch_loss}"
        )
    }
}
