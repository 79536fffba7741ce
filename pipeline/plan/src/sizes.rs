//! The sizes of a plan's steps and phases, in exact integers.
//!
//! **Invariant:** a phase ends at the last whole step inside the sum of the shares up to it.

use schemas::run::{Share, Shuffle};

use crate::error::PlanError;
use crate::permutation::COUNT_MAX;
use crate::spec::{PhaseSpec, PlanSpec};
use crate::window::Phase;

pub(crate) fn check_sizes(spec: &PlanSpec) -> Result<(), PlanError> {
    if spec.phases.is_empty() {
        return Err(PlanError::NoPhases);
    }
    let mut fields = vec![
        ("data.corpus.tokens".to_owned(), spec.corpus_tokens),
        ("plan.step_tokens".to_owned(), spec.step_tokens),
        ("plan.epochs".to_owned(), spec.epochs),
    ];
    if let Shuffle::Blocked { group_blocks } = spec.shuffle {
        fields.push(("plan.shuffle.group_blocks".to_owned(), group_blocks));
    }
    fields.extend(spec.subset_tokens.map(|tokens| ("data.subset_tokens".to_owned(), tokens)));
    for (index, phase) in spec.phases.iter().enumerate() {
        fields.push((format!("phases.{index}.patch_size"), phase.patch_size));
        fields.push((format!("phases.{index}.window_units"), phase.window_units));
    }
    match fields.into_iter().find(|(_, value)| *value == 0) {
        Some((field, _)) => Err(PlanError::Zero { field }),
        None => Ok(()),
    }
}

fn window_tokens(spec: &PlanSpec, phase_index: usize) -> Result<u64, PlanError> {
    let phase = &spec.phases[phase_index];
    let what = || format!("patch_size * window_units of phase {phase_index}");
    let tokens = phase.patch_size.checked_mul(phase.window_units);
    tokens.filter(|&tokens| tokens <= COUNT_MAX).ok_or_else(|| PlanError::Overflow { what: what() })
}

/// The largest window, which all others divide.
pub(crate) fn block_tokens(spec: &PlanSpec) -> Result<u64, PlanError> {
    let mut windows = Vec::with_capacity(spec.phases.len());
    for phase_index in 0..spec.phases.len() {
        windows.push(window_tokens(spec, phase_index)?);
    }
    let block_tokens = windows.iter().copied().max().ok_or(PlanError::NoPhases)?;
    match windows.iter().position(|window| !block_tokens.is_multiple_of(*window)) {
        Some(phase_index) => {
            let window_tokens = windows[phase_index];
            Err(PlanError::WindowBlock { phase_index, window_tokens, block_tokens })
        }
        None => Ok(block_tokens),
    }
}

/// Every phase's window divides the step.
pub(crate) fn check_steps(spec: &PlanSpec) -> Result<(), PlanError> {
    let step_tokens = spec.step_tokens;
    let mut common = 1;
    let mut misfit = None;
    for phase_index in 0..spec.phases.len() {
        let window = window_tokens(spec, phase_index)?;
        common = common / gcd(common.into(), window.into()) as u64 * window; // divides the block
        if misfit.is_none() && !step_tokens.is_multiple_of(window) {
            misfit = Some((phase_index, window));
        }
    }
    let Some((phase_index, window_tokens)) = misfit else { return Ok(()) };
    let below = step_tokens / common * common;
    let above = below.saturating_add(common);
    let below = Some(below).filter(|&below| below > 0);
    Err(PlanError::StepTokens { step_tokens, phase_index, window_tokens, below, above })
}

/// An exact fraction with room for sums: both numbers fit into a `u64`.
#[derive(Clone, Copy)]
pub(crate) struct Fraction {
    pub(crate) numer: u128,
    pub(crate) denom: u128,
}

impl Fraction {
    pub(crate) const ZERO: Fraction = Fraction { numer: 0, denom: 1 };

    pub(crate) fn plus(self, share: Share) -> Result<Fraction, PlanError> {
        let (numer, denom) = (u128::from(share.numer()), u128::from(share.denom()));
        // Each factor is below 2^64.
        let added = (self.numer * denom).checked_add(numer * self.denom);
        let numer = added.ok_or(PlanError::ShareDenominator)?;
        let denom = self.denom * denom;
        let divisor = gcd(numer, denom);
        let sum = Fraction { numer: numer / divisor, denom: denom / divisor };
        if sum.denom > u128::from(u64::MAX) || sum.numer > u128::from(u64::MAX) {
            return Err(PlanError::ShareDenominator);
        }
        Ok(sum)
    }
}

/// The sum of the shares up to and with each phase; the last one is 1.
pub(crate) fn cumulative_shares(phases: &[PhaseSpec]) -> Result<Vec<Fraction>, PlanError> {
    let mut sum = Fraction::ZERO;
    let mut sums = Vec::with_capacity(phases.len());
    for phase in phases {
        sum = sum.plus(phase.share)?;
        sums.push(sum);
    }
    if sum.numer == sum.denom {
        return Ok(sums);
    }
    let shares: Vec<String> = phases.iter().map(|phase| phase.share.to_string()).collect();
    Err(PlanError::ShareSum {
        sum_numer: sum.numer as u64,
        sum_denom: sum.denom as u64,
        shares: shares.join(" + "),
    })
}

/// Tokens of all epochs, at least a step.
pub(crate) fn run_tokens(spec: &PlanSpec, subset_tokens: u64) -> Result<u64, PlanError> {
    let (epochs, step_tokens) = (spec.epochs, spec.step_tokens);
    let run_tokens = epochs
        .checked_mul(subset_tokens)
        .filter(|&tokens| tokens <= COUNT_MAX)
        .ok_or_else(|| PlanError::Overflow { what: "epochs * subset".to_owned() })?;
    if run_tokens < step_tokens {
        return Err(PlanError::NoStep { run_tokens, epochs, subset_tokens, step_tokens });
    }
    Ok(run_tokens)
}

/// Whole steps for each phase: phase i ends at step `floor(cumulative_i * run_tokens /
/// step_tokens)`.
pub(crate) fn phases(
    spec: &PlanSpec,
    cumulative: &[Fraction],
    run_tokens: u64,
) -> Result<Vec<Phase>, PlanError> {
    let step_tokens = spec.step_tokens;
    let (mut first_step, mut first_window) = (0, 0);
    let mut phases = Vec::with_capacity(spec.phases.len());
    for (phase_index, (phase, sum)) in spec.phases.iter().zip(cumulative).enumerate() {
        // floor(floor(a / b) / c) = floor(a / (b * c)), and 2^62 * 2^64 fits.
        let end = u128::from(run_tokens) * sum.numer / sum.denom / u128::from(step_tokens);
        let end = u64::try_from(end).expect("a sum of shares up to here is at most 1");
        let steps = end - first_step;
        if steps == 0 && phase.share.numer() > 0 {
            let share = phase.share;
            return Err(PlanError::NoPhaseStep { phase_index, share, run_tokens, step_tokens });
        }
        let window_tokens = window_tokens(spec, phase_index)?;
        let windows_per_step = step_tokens / window_tokens;
        let PhaseSpec { patch_size, window_units, share } = *phase;
        let (windows, tokens) = (steps * windows_per_step, steps * step_tokens);
        phases.push(Phase {
            patch_size,
            window_units,
            window_tokens,
            share,
            first_step,
            steps,
            windows_per_step,
            first_window,
            windows,
            tokens,
        });
        (first_step, first_window) = (end, first_window + windows);
    }
    Ok(phases)
}

/// Greatest common divisor; `gcd(0, n)` is `n`.
pub(crate) fn gcd(mut a: u128, mut b: u128) -> u128 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}
