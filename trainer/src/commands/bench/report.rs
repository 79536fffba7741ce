//! Measurements of `bench`, as JSON and as text.
//!
//! **Invariant:** the JSON reads back as the same values: each phase is measured in a process of
//! its own.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::console::progress::si;

/// The measurements.
#[derive(Serialize, Deserialize)]
pub(super) struct Report {
    pub(super) device: String,
    pub(super) dtype: String,
    /// libtorch's, within an operation.
    pub(super) threads: u64,
    /// The peak MFU is relative to.
    pub(super) peak_flops_per_sec: Option<f64>,
    pub(super) peak_source: Option<String>,
    pub(super) phases: Vec<PhaseReport>,
}

#[derive(Serialize, Deserialize)]
pub(super) struct PhaseReport {
    pub(super) index: usize,
    pub(super) patch_size: u64,
    pub(super) window_units: u64,
    pub(super) micro_batch_windows: u64,
    pub(super) step_tokens: u64,
    /// Steps after the warm-up.
    pub(super) steps: u64,
    /// By the tag of the run's metrics, over the intervals of the steps.
    pub(super) figures: BTreeMap<String, Spread>,
    /// A step's matrix products, measured alone after the steps.
    pub(super) products_ms: Spread,
    /// Their share of a step, by medians, in percent.
    pub(super) products_pct: f64,
    /// Attention's products alone, every query with every key; a step computes about half of them.
    pub(super) attention_products_ms: Spread,
    /// Resident before anything was loaded: the program and libtorch.
    pub(super) start_bytes: Option<u64>,
    /// The most at any time.
    pub(super) peak_bytes: Option<u64>,
}

/// A summary of several measurements.
#[derive(Clone, Copy, Serialize, Deserialize)]
pub(super) struct Spread {
    pub(super) median: f64,
    pub(super) min: f64,
    pub(super) max: f64,
}

impl Spread {
    /// Summarizes at least one value.
    pub(super) fn of(mut values: Vec<f64>) -> Spread {
        values.sort_by(f64::total_cmp);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            (values[middle - 1] + values[middle]) / 2.0
        };
        Spread { median, min: values[0], max: values[values.len() - 1] }
    }
}

impl Report {
    pub(super) fn write_text(&self, text: &mut String) -> std::fmt::Result {
        let Report { device, dtype, threads, .. } = self;
        writeln!(text, "{device}, {dtype}, {threads} threads; medians (smallest to largest)")?;
        if let (Some(flops), Some(source)) = (self.peak_flops_per_sec, &self.peak_source) {
            writeln!(text, "MFU is of {:.3} TFLOP/s ({source})", flops / 1e12)?;
        }
        for phase in &self.phases {
            phase.write_text(text)?;
        }
        let token = self.phases.iter().find(|phase| phase.patch_size == 1);
        let rate = |phase: &PhaseReport| {
            phase.figures.get("throughput/tokens_per_sec").map(|spread| spread.median)
        };
        for phase in self.phases.iter().filter(|phase| phase.patch_size > 1) {
            if let (Some(patch), Some(token)) = (rate(phase), token.and_then(rate)) {
                let (k, times) = (phase.patch_size, patch / token);
                writeln!(
                    text,
                    "\nK = {k} reads {times:.3} times the tokens a second of K = 1: {:.3} of K",
                    times / k as f64
                )?;
            }
        }
        Ok(())
    }
}

impl PhaseReport {
    fn write_text(&self, text: &mut String) -> std::fmt::Result {
        let PhaseReport { index, patch_size, window_units, micro_batch_windows, steps, .. } = self;
        writeln!(
            text,
            "\nphases.{index}: K = {patch_size}, T = {window_units}, \
             {micro_batch_windows} windows a micro-batch, {} tokens a step, \
             {steps} steps",
            self.step_tokens
        )?;
        let rate = |spread: Spread| {
            format!("{} ({} to {})", si(spread.median), si(spread.min), si(spread.max))
        };
        let number = |spread: Spread| {
            format!("{:.1} ({:.1} to {:.1})", spread.median, spread.min, spread.max)
        };
        for (label, tag) in [
            ("tokens/s", "throughput/tokens_per_sec"),
            ("units/s", "throughput/units_per_sec"),
            ("step, ms", "time/step_ms"),
            ("  forward", "time/forward_ms"),
            ("  backward", "time/backward_ms"),
            ("  both", "time/passes_ms"),
            ("  optimizer", "time/optimizer_ms"),
            ("data wait, %", "throughput/data_wait_pct"),
            ("MFU, %", "throughput/mfu_pct"),
            ("MFU causal, %", "throughput/mfu_causal_pct"),
        ] {
            let Some(&spread) = self.figures.get(tag) else { continue };
            let found = if label.ends_with("/s") { rate(spread) } else { number(spread) };
            writeln!(text, "  {label:<18} {found}")?;
        }
        let products = number(self.products_ms);
        writeln!(
            text,
            "  {:<18} {products}, {:.0} % of a step",
            "products alone, ms", self.products_pct
        )?;
        writeln!(text, "  {:<18} {}", "attention's", number(self.attention_products_ms))?;
        if let Some(peak) = self.peak_bytes {
            let start = self.start_bytes.unwrap_or(0);
            let mb = |bytes: u64| format!("{:.0}", bytes as f64 / 1e6);
            writeln!(
                text,
                "  {:<18} {} ({} before loading)",
                "peak memory, MB",
                mb(peak),
                mb(start)
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_has_the_middle_and_the_ends() {
        let check = |values: &[f64], expected: [f64; 3]| {
            let Spread { median, min, max } = Spread::of(values.to_vec());
            assert_eq!([median, min, max], expected);
        };
        check(&[3.0], [3.0, 3.0, 3.0]);
        check(&[5.0, 1.0, 2.0], [2.0, 1.0, 5.0]);
        check(&[4.0, 1.0, 2.0, 3.0], [2.5, 1.0, 4.0]);
    }
}
