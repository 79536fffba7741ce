//! The parts of a plan's order: phases, windows, and when a token is read.
//!
//! **Invariant:** numbers alone; the plan that gives them keeps them true.

use std::ops::Range;

use schemas::run::Share;

/// A phase as it comes out: whole steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Phase {
    /// K: tokens per patch.
    pub patch_size: u64,
    /// T: patches or tokens per window.
    pub window_units: u64,
    /// K * T.
    pub window_tokens: u64,
    /// Share that was asked for.
    pub share: Share,
    /// The first step of the run that is of this phase; the next phase's when there are no steps.
    pub first_step: u64,
    /// Steps; 0 only for a share of 0.
    pub steps: u64,
    /// Windows that a step reads.
    pub windows_per_step: u64,
    /// Windows of the run before this phase.
    pub first_window: u64,
    /// Windows of this phase.
    pub windows: u64,
    /// Tokens of this phase.
    pub tokens: u64,
}

impl Phase {
    /// The steps of the run that are of this phase.
    pub fn step_range(&self) -> Range<u64> {
        self.first_step..self.first_step + self.steps
    }
}

/// A run of tokens of the corpus that a model sees at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The pass over its stream's subset, from 0.
    pub epoch: u64,
    /// Position of the phase in the plan's list.
    pub phase_index: usize,
    /// Position of the stream in the plan's list; 0 when the corpus is one stream.
    pub stream_index: usize,
    /// Offset in the corpus; of a mixture, in its streams one after the other.
    pub first_token: u64,
    /// K * T of the phase.
    pub token_count: u64,
}

/// When a token is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Position of the phase in the plan's list.
    pub phase_index: usize,
    /// Step of the run.
    pub step: u64,
    /// Window of the step.
    pub slot: u64,
}
