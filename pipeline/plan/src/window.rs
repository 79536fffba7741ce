//! The parts of a plan's order: phases, windows, and when a token is read.
//!
//! **Invariant:** plain numbers; the plan that gives them keeps them true.

use std::ops::Range;

use schemas::run::Share;

/// A phase in whole steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Phase {
    /// K: tokens per patch.
    pub patch_size: u64,
    /// T: patches or tokens per window.
    pub window_units: u64,
    /// K * T.
    pub window_tokens: u64,
    /// The requested share.
    pub share: Share,
    /// The phase's first step in the run; the next phase's when it has no steps.
    pub first_step: u64,
    /// Steps; 0 only for a share of 0.
    pub steps: u64,
    /// Windows a step reads.
    pub windows_per_step: u64,
    /// Windows of the run before this phase.
    pub first_window: u64,
    /// Windows of this phase.
    pub windows: u64,
    /// Tokens of this phase.
    pub tokens: u64,
}

impl Phase {
    /// The phase's steps in the run.
    pub fn step_range(&self) -> Range<u64> {
        self.first_step..self.first_step + self.steps
    }
}

/// A run of corpus tokens a model sees at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The pass over its stream's subset, from 0.
    pub epoch: u64,
    /// Position of the phase in the plan's list.
    pub phase_index: usize,
    /// Position of the stream in the plan's list; 0 when the corpus is one stream.
    pub stream_index: usize,
    /// Offset in the corpus; for a mixture, in its streams laid end to end.
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
