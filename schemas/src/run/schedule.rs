//! How a phase learns: its learning rate, and the state it takes over.
//!
//! **Invariant:** every kind of schedule warms up alike; a kind rejects fields it does not have.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The state a phase takes over from the one before. Its schedule is its own either way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Carry {
    /// The weights alone: moments, step count and schedule start afresh (paper §3.1).
    #[serde(rename = "weights")]
    Weights,
    /// The weights, the optimizer's moments and its step count; not for the first phase.
    #[serde(rename = "weights+optimizer")]
    WeightsAndOptimizer,
}

/// The learning rate over the steps of a phase. Each kind warms up linearly from 0 to `peak`.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "lowercase", deny_unknown_fields)]
pub enum Schedule {
    /// Linear warm-up from 0 to `peak`, then half a cosine down to `final`.
    Cosine {
        /// Highest rate, reached at step `warmup_steps` of the phase.
        peak: f64,
        /// Steps of linear warm-up; less than the steps of the phase.
        warmup_steps: u64,
        /// Rate at the end of the phase, absolute.
        #[serde(rename = "final")]
        end: f64,
    },
    /// Linear warm-up from 0 to `peak`, then a straight line down to `final`.
    Linear {
        /// Highest rate, reached at step `warmup_steps` of the phase.
        peak: f64,
        /// Steps of linear warm-up; less than the steps of the phase.
        warmup_steps: u64,
        /// Rate at the end of the phase, absolute.
        #[serde(rename = "final")]
        end: f64,
    },
    /// Linear warm-up from 0 to `peak`, and `peak` from then on.
    Constant {
        /// Highest rate, reached at step `warmup_steps` of the phase.
        peak: f64,
        /// Steps of linear warm-up; less than the steps of the phase.
        warmup_steps: u64,
    },
    /// Warm-up, stable, decay: linear warm-up from 0 to `peak`, `peak`, and in the phase's last
    /// `decay_steps` down to `final`.
    Wsd {
        /// Highest rate, reached at step `warmup_steps` of the phase.
        peak: f64,
        /// Steps of linear warm-up; less than the steps of the phase.
        warmup_steps: u64,
        /// Last steps of the phase, in which the rate falls; at least 1, at most the steps after
        /// the warm-up.
        decay_steps: u64,
        /// The shape of the fall.
        decay: Decay,
        /// Rate at the end of the phase, absolute.
        #[serde(rename = "final")]
        end: f64,
    },
}

/// How a rate falls from its peak (share 1) to its final value (share 0); x is the completed part
/// of the decay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Decay {
    /// 1 − x.
    Linear,
    /// (1 + cos πx) / 2.
    Cosine,
    /// 1 − √x.
    #[serde(rename = "1-sqrt")]
    OneMinusSqrt,
}

impl Schedule {
    /// The highest rate.
    pub fn peak(self) -> f64 {
        match self {
            Schedule::Cosine { peak, .. }
            | Schedule::Linear { peak, .. }
            | Schedule::Constant { peak, .. }
            | Schedule::Wsd { peak, .. } => peak,
        }
    }

    /// The rate at the end of the phase.
    pub fn end(self) -> f64 {
        match self {
            Schedule::Cosine { end, .. }
            | Schedule::Linear { end, .. }
            | Schedule::Wsd { end, .. } => end,
            Schedule::Constant { peak, .. } => peak,
        }
    }

    /// Steps of linear warm-up.
    pub fn warmup_steps(self) -> u64 {
        match self {
            Schedule::Cosine { warmup_steps, .. }
            | Schedule::Linear { warmup_steps, .. }
            | Schedule::Constant { warmup_steps, .. }
            | Schedule::Wsd { warmup_steps, .. } => warmup_steps,
        }
    }

    /// Steps of the decay, for schedules with one of its own length.
    pub fn decay_steps(self) -> Option<u64> {
        match self {
            Schedule::Wsd { decay_steps, .. } => Some(decay_steps),
            Schedule::Cosine { .. } | Schedule::Linear { .. } | Schedule::Constant { .. } => None,
        }
    }
}
