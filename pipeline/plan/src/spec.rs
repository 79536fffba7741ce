//! The values a plan is made from.
//!
//! **Invariant:** equal specs give equal plans; nothing else enters a plan.

use schemas::run::{SetAmount, Share, Shuffle};

/// Everything the order depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanSpec {
    /// N: tokens of the corpus.
    pub corpus_tokens: u64,
    /// The manifest's fingerprint; `None` when the corpus is only assumed.
    pub corpus_fingerprint: Option<String>,
    /// Upper limit on the tokens of the subset; the whole corpus when `None`. With sets, the most
    /// an epoch reads.
    pub subset_tokens: Option<u64>,
    /// Tokens read per optimizer step, in every phase.
    pub step_tokens: u64,
    /// E: passes over the subset.
    pub epochs: u64,
    /// Seed of all permutations.
    pub seed: u64,
    /// How the order is mixed.
    pub shuffle: Shuffle,
    /// The streams of a mixture, by name in byte order, together the whole corpus; empty when the
    /// corpus is one stream.
    pub sets: Vec<SetSpec>,
    /// In order; the shares add up to 1.
    pub phases: Vec<PhaseSpec>,
}

/// A set of the corpus: a stream of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetSpec {
    /// The set's name; empty for the documents without one.
    pub name: String,
    /// Tokens of the stream.
    pub tokens: u64,
    /// How much of it an epoch reads.
    pub amount: SetAmount,
}

/// A phase as requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PhaseSpec {
    /// K: tokens per patch.
    pub patch_size: u64,
    /// T: patches or tokens per window.
    pub window_units: u64,
    /// Share of the run's tokens.
    pub share: Share,
}
