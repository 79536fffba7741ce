//! Why a spec gives no plan.
//!
//! **Invariant:** [`PlanError`] names the field of the run file, the value found there and the
//! values that would do.

use schemas::run::Share;

/// Why a spec gives no plan.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A size that must not be 0.
    #[error("{field} is 0; expected at least 1")]
    Zero {
        /// Its name in the run file.
        field: String,
    },
    /// No phases at all.
    #[error("there are no phases; expected at least one")]
    NoPhases,
    /// Numbers beyond what the plan computes with.
    #[error("{what} exceeds 2^62 tokens")]
    Overflow {
        /// Which product or sum.
        what: String,
    },
    /// Shares whose common denominator is too large to add exactly.
    #[error("shares have no common denominator below 2^64; write them as simpler fractions")]
    ShareDenominator,
    /// Shares that do not make up the run.
    #[error("shares add up to {sum_numer}/{sum_denom}; expected exactly 1 ({shares})")]
    ShareSum {
        /// Of the sum, reduced.
        sum_numer: u64,
        /// Of the sum, reduced.
        sum_denom: u64,
        /// As written in the run file, with plus signs.
        shares: String,
    },
    /// A window that does not divide the largest one.
    #[error(
        "phase {phase_index} has windows of {window_tokens} tokens, \
         which do not divide the largest window, {block_tokens} tokens; \
         choose patch_size and window_units so that they do"
    )]
    WindowBlock {
        /// From 0.
        phase_index: usize,
        /// K * T of the phase.
        window_tokens: u64,
        /// The largest K * T.
        block_tokens: u64,
    },
    /// A step that is not a whole number of windows.
    #[error(
        "step_tokens is {step_tokens}, \
         which is not a multiple of the {window_tokens}-token windows of phase {phase_index}; \
         the nearest values that suit every phase are {}", nearest(*below, *above)
    )]
    StepTokens {
        /// As requested.
        step_tokens: u64,
        /// From 0.
        phase_index: usize,
        /// K * T of the phase.
        window_tokens: u64,
        /// The largest smaller value that suits, if any.
        below: Option<u64>,
        /// The smallest larger value that suits.
        above: u64,
    },
    /// Sets that are not the parts of the corpus.
    #[error(
        "the sets must be in byte order of their names, each once, \
         and hold the corpus's {corpus_tokens} tokens; \
         found {names:?} with {found_tokens}"
    )]
    Sets {
        /// In the order given.
        names: Vec<String>,
        /// Their sum.
        found_tokens: u64,
        /// Of the corpus.
        corpus_tokens: u64,
    },
    /// Shares of sets that do not make up an epoch.
    #[error("the shares of data.sets add up to {sum_numer}/{sum_denom}; expected {expected}")]
    SetShares {
        /// Of the sum, reduced.
        sum_numer: u64,
        /// Of the sum, reduced.
        sum_denom: u64,
        /// A sum that would make up an epoch.
        expected: &'static str,
    },
    /// A set too small for a block.
    #[error(
        "data.sets.{name:?} comes to no block of {block_tokens} tokens an epoch \
         (the set has {set_tokens} tokens); \
         raise its part, or make it {{ epochs = 0 }}"
    )]
    NoSetBlock {
        /// The set.
        name: String,
        /// Of the set.
        set_tokens: u64,
        /// The largest K * T.
        block_tokens: u64,
    },
    /// More requested than the sets have.
    #[error(
        "subset_tokens leaves {wanted_tokens} tokens an epoch to the sets with epochs; \
         they come to {found_tokens}: \
         lower subset_tokens, or raise epochs or shares of data.sets"
    )]
    SetSubset {
        /// The part shares leave over.
        wanted_tokens: u64,
        /// Whole blocks of the sets, times their epochs.
        found_tokens: u64,
    },
    /// More requested than the corpus has.
    #[error("subset_tokens is {subset_tokens}; the corpus has {corpus_tokens} tokens")]
    Subset {
        /// As requested.
        subset_tokens: u64,
        /// Of the corpus.
        corpus_tokens: u64,
    },
    /// Less than one block.
    #[error(
        "{what} has {found_tokens} tokens, less than one block of {block_tokens} \
         (the largest patch_size * window_units)"
    )]
    NoBlock {
        /// "the corpus" or "the subset".
        what: &'static str,
        /// Its tokens.
        found_tokens: u64,
        /// The largest K * T.
        block_tokens: u64,
    },
    /// Less than one step.
    #[error(
        "the run has {run_tokens} tokens ({epochs} epochs of {subset_tokens}), \
         less than one step of {step_tokens}; \
         lower step_tokens or take more data"
    )]
    NoStep {
        /// Of all epochs.
        run_tokens: u64,
        /// As requested.
        epochs: u64,
        /// Of the blocks of the subset.
        subset_tokens: u64,
        /// As requested.
        step_tokens: u64,
    },
    /// A share too small for a step.
    #[error(
        "phase {phase_index} has share {share} of {run_tokens} tokens, \
         which comes to no step of {step_tokens}; \
         raise the share, or make it \"0/1\""
    )]
    NoPhaseStep {
        /// From 0.
        phase_index: usize,
        /// As requested.
        share: Share,
        /// Of all epochs.
        run_tokens: u64,
        /// As requested.
        step_tokens: u64,
    },
    /// A switch inside an epoch to windows that do not divide those of the phase before.
    #[error(
        "phase {phase_index} begins at step {step}, inside epoch {epoch}, \
         with windows of {window_tokens} tokens; \
         inside an epoch they must divide the {before_tokens}-token windows of the phase before \
         (or choose shares that put the switch between epochs)"
    )]
    Switch {
        /// From 0.
        phase_index: usize,
        /// First step of the phase.
        step: u64,
        /// From 0.
        epoch: u64,
        /// K * T of the phase.
        window_tokens: u64,
        /// K * T of the phase before.
        before_tokens: u64,
    },
}

fn nearest(below: Option<u64>, above: u64) -> String {
    below.map_or_else(|| above.to_string(), |below| format!("{below} and {above}"))
}
