//! The model: LLaMA over units, which are patches or tokens, with its loss, evaluation and text
//! generation.
//!
//! **Invariant:** token-level training is K = 1; nothing here depends on the phase of a run.

pub mod architecture;

pub mod params;

pub mod patch;

pub mod llama;

pub mod eval;

pub mod generate;
