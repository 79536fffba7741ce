//! The commands of `patchmill-train`, one file each. Arguments become the library's plain values
//! here.
//!
//! **Invariant:** only this folder and `cli` know clap; with `--json` the last line of stdout is
//! one JSON object.

pub mod pretrain;

pub mod launch;

pub mod bench;

pub mod plan_memory;

pub mod eval;

pub mod generate;

pub mod doctor;

pub mod model;

pub mod error;

pub mod exit;
