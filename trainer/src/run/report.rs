//! The closing report of a run: both phases, validation, cost, location.
//!
//! **Invariant:** every number was measured by the run or derived by the plan; an estimate is
//! labelled as one.

use std::fmt::Write as _;
use std::path::PathBuf;

use plan::Plan;
use schemas::checkpoint::PhaseRecord;
use serde_json::{Value, json};

/// Results of a finished or stopped run.
#[derive(Clone, Debug)]
pub struct Summary {
    /// Phases with steps, in order.
    pub phases: Vec<PhaseSummary>,
    /// On the validation corpus, at the end.
    pub validation: Option<Validation>,
    /// Units processed per token read: λ/K + 1 − λ for two phases.
    pub relative_cost: f64,
    /// The last checkpoint.
    pub checkpoint: Option<PathBuf>,
    /// Prompt, and continuation by the final weights.
    pub sample: Option<Sample>,
}

/// One phase.
#[derive(Clone, Debug)]
pub struct PhaseSummary {
    /// Its results.
    pub record: PhaseRecord,
    /// Tokens read.
    pub tokens: u64,
}

impl PhaseSummary {
    /// Of the phases with steps.
    pub fn of_all(plan: &Plan, records: &[PhaseRecord]) -> Vec<PhaseSummary> {
        let phases = plan.phases().iter().zip(records).filter(|(phase, _)| phase.steps > 0);
        phases
            .map(|(phase, record)| PhaseSummary { record: record.clone(), tokens: phase.tokens })
            .collect()
    }

    fn tokens_per_sec(&self) -> f64 {
        self.tokens as f64 / self.record.seconds
    }
}

/// Token-level figures on the validation corpus.
#[derive(Clone, Copy, Debug)]
pub struct Validation {
    /// Mean negative log-likelihood per predicted token, in nats.
    pub loss: f64,
    /// exp of it.
    pub perplexity: f64,
    /// exp of the entropy of the validation tokens: the perplexity of a model that knows only their
    /// frequencies.
    pub unigram_perplexity: f64,
    /// Bits per byte of text.
    pub bits_per_byte: f64,
}

/// A sample of generated text.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The prompt.
    pub prompt: String,
    /// The generated text.
    pub continuation: String,
}

impl Summary {
    /// The report as a person reads it.
    pub fn text(&self) -> String {
        let mut text = String::new();
        self.write_text(&mut text).expect("writing to a String cannot fail");
        text
    }

    fn write_text(&self, text: &mut String) -> std::fmt::Result {
        writeln!(
            text,
            "{:<14} {:>7} {:>12} {:>9} {:>11} {:>10} {:>16}",
            "phase", "steps", "tokens", "loss", "tokens/s", "seconds", "first eval loss"
        )?;
        let loss = |loss: Option<f64>| loss.map_or("-".to_owned(), |loss| format!("{loss:.4}"));
        for phase in &self.phases {
            let record = &phase.record;
            let level = if record.patch_size == 1 { "token" } else { "patch" };
            writeln!(
                text,
                "{:<14} {:>7} {:>12} {:>9} {:>11.0} {:>10.1} {:>16}",
                format!("{level} K={}", record.patch_size),
                record.steps,
                phase.tokens,
                loss(record.loss),
                phase.tokens_per_sec(),
                record.seconds,
                loss(record.first_eval_loss),
            )?;
        }
        let skipped_steps: u64 = self.phases.iter().map(|phase| phase.record.skipped_steps).sum();
        if skipped_steps > 0 {
            writeln!(
                text,
                "\n{skipped_steps} steps made no update: loss or gradient not finite, or a spike"
            )?;
        }
        writeln!(text)?;
        if let Some(validation) = &self.validation {
            writeln!(
                text,
                "validation      loss {:.4}, perplexity {:.2} (unigram {:.2}, ratio {:.3}), \
                 {:.4} bits/byte",
                validation.loss,
                validation.perplexity,
                validation.unigram_perplexity,
                validation.perplexity / validation.unigram_perplexity,
                validation.bits_per_byte,
            )?;
        }
        if let [.., before, last] = self.phases.as_slice()
            && let (Some(fresh), Some(carried)) =
                (self.phases[0].record.first_eval_loss, last.record.first_eval_loss)
            && before.record.steps > 0
        {
            writeln!(
                text,
                "at the switch   token-level validation loss {carried:.4} \
                 from the patch phase's weights, \
                 {fresh:.4} from fresh ones"
            )?;
        }
        writeln!(
            text,
            "cost            {:.3} of token-only training by units{}",
            self.relative_cost,
            self.time_ratio().map_or(String::new(), |ratio| format!(
                ", {ratio:.3} by time (token-only at the last phase's speed)"
            )),
        )?;
        if let Some(path) = &self.checkpoint {
            writeln!(text, "checkpoint      {}", path.display())?;
        }
        if let Some(sample) = &self.sample {
            writeln!(text, "\nsample          {:?} →\n{}", sample.prompt, sample.continuation)?;
        }
        Ok(())
    }

    /// Seconds of the run relative to reading all its tokens at the speed of its last, token-level
    /// phase.
    fn time_ratio(&self) -> Option<f64> {
        let last = self.phases.last().filter(|last| last.record.patch_size == 1)?;
        let tokens: u64 = self.phases.iter().map(|phase| phase.tokens).sum();
        let seconds: f64 = self.phases.iter().map(|phase| phase.record.seconds).sum();
        Some(seconds / (tokens as f64 / last.tokens_per_sec())).filter(|ratio| ratio.is_finite())
    }

    /// The report as a program reads it.
    pub fn json(&self) -> Value {
        let phases: Vec<Value> = self
            .phases
            .iter()
            .map(|phase| {
                json!({
                    "patch_size": phase.record.patch_size,
                    "steps": phase.record.steps,
                    "skipped_steps": phase.record.skipped_steps,
                    "tokens": phase.tokens,
                    "loss": phase.record.loss,
                    "first_eval_loss": phase.record.first_eval_loss,
                    "tokens_per_sec": phase.tokens_per_sec(),
                    "seconds": phase.record.seconds,
                })
            })
            .collect();
        let validation = self.validation.map(|validation| {
            json!({
                "loss": validation.loss,
                "perplexity": validation.perplexity,
                "bits_per_byte": validation.bits_per_byte,
            })
        });
        json!({
            "phases": phases,
            "validation": validation,
            "unigram_perplexity": self.validation.map(|validation| validation.unigram_perplexity),
            "relative_cost": self.relative_cost,
            "relative_seconds": self.time_ratio(),
            "checkpoint": self.checkpoint,
        })
    }
}

/// exp of the entropy of the ids in `counts` (occurrences by id), in nats.
pub fn unigram_perplexity(counts: &[u64]) -> f64 {
    let total = counts.iter().sum::<u64>() as f64;
    let shares = counts.iter().filter(|&&count| count > 0).map(|&count| count as f64 / total);
    (-shares.map(|share| share * share.ln()).sum::<f64>()).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Four equally frequent ids: entropy ln 4. One id: entropy 0. Halves and quarters: 2^1.5.
    #[test]
    fn unigram_perplexity_is_exp_of_the_entropy() {
        for (counts, expected) in
            [(&[5, 5, 0, 5, 5][..], 4.0), (&[0, 9], 1.0), (&[2, 1, 1], 2f64.powf(1.5))]
        {
            assert!((unigram_perplexity(counts) - expected).abs() < 1e-12, "{counts:?}");
        }
    }
}
