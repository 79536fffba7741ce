//! The report on a step that stopped the run: its numbers, and the documents it read.
//!
//! **Invariant:** the record is written before the error is returned, and a failed look-up hides no
//! divergence.

use std::path::Path;

use anyhow::{Context, Result};
use pipeline::commands::plan::lookup::StepReport;
use pipeline::corpus::Corpus;
use plan::Plan;
use serde_json::json;

/// Lines about windows and their documents printed to stderr.
const LINES_MAX: usize = 16;

/// A step that stops the run.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct StopNumbers {
    /// The step, 0-based.
    pub step: u64,
    /// Of the step's windows.
    pub loss: f64,
    /// Before clipping.
    pub grad_norm: f64,
}

impl StopNumbers {
    /// Whether the loss alone caused the stop, with every number finite.
    pub fn is_spike(&self) -> bool {
        self.loss.is_finite() && self.grad_norm.is_finite()
    }
}

/// The loss or the gradient was not finite, or the loss rose too much, and the run file has "stop".
#[derive(Debug, thiserror::Error)]
#[error(
    "step {} diverged: loss {}, gradient norm {}; no update was made in it or since. \
     The last checkpoint is {checkpoint}. The same command with --set {setting}=skip \
     continues without such steps; a lower \
     peak rate or a longer warm-up is another run, in another train.output. It read:\n{read}",
    numbers.step, numbers.loss, numbers.grad_norm
)]
pub struct Diverged {
    /// Step, loss and norm.
    pub numbers: StopNumbers,
    /// Name of the run file's value that makes such a step stop.
    pub setting: &'static str,
    /// Path of the last checkpoint, or "none".
    pub checkpoint: String,
    /// The step's documents, shortened, and the path of the full list.
    pub read: String,
}

/// Every step of a phase was skipped, so the phase trained nothing.
#[derive(Debug, thiserror::Error)]
#[error(
    "phases.{index} made no update: loss or gradient of all its {steps} steps were not finite, or \
     spiked. Start again in another train.output with a lower peak rate or a longer warm-up; with \
     optimizer.nonfinite = \"stop\" the first such step names its documents"
)]
pub struct NoUpdate {
    /// The phase.
    pub index: usize,
    /// Its steps.
    pub steps: u64,
}

/// Writes `diverged-step-<step>.json` into the run's folder: the numbers, and every window of the
/// step with its shards, documents and sets. Returns its first lines as text for people.
pub fn write_record(
    folder: &Path,
    numbers: StopNumbers,
    plan: &Plan,
    corpus: &Corpus,
) -> Result<String> {
    let StopNumbers { step, loss, grad_norm } = numbers;
    let path = folder.join(format!("diverged-step-{step}.json"));
    let found = StepReport::new(plan, Some(corpus), step, None);
    let read = found
        .as_ref()
        .map_or_else(|err| json!({ "error": format!("{err:#}") }), |found| found.json(plan));
    let record = json!({
        "step": step,
        "reason": if numbers.is_spike() { "spike" } else { "nonfinite" },
        "loss": loss,
        "grad_norm": grad_norm,
        "read": read,
    });
    pipeline::disk::atomic::write_atomic(&path, format!("{record:#}\n").as_bytes())
        .with_context(|| format!("write {}", path.display()))?;
    let mut text = Vec::new();
    match &found {
        Ok(found) => found.print(&mut text)?,
        Err(err) => text = format!("the step's documents were not found: {err:#}").into_bytes(),
    }
    let text = String::from_utf8(text).context("a report is text")?;
    let lines: Vec<&str> = text.trim().lines().collect();
    let mut said = lines[..lines.len().min(LINES_MAX)].join("\n");
    if lines.len() > LINES_MAX {
        said.push_str(&format!("\n  … and {} lines more", lines.len() - LINES_MAX));
    }
    Ok(format!("{said}\nall of it is in {}", path.display()))
}
