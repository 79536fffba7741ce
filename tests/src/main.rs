//! The laws of Patchmill, its goldens and its breakage, one module a subject, in the order of the data's path.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod corpora;
mod small_corpus;
mod trees;

mod docs;
mod reading;

mod encode;
mod families;
mod select;
mod splits;
mod tokens;

mod corpus;
mod corrupt;

mod permute;
mod permute_quality;

mod mixture;
mod plan;
mod schedules;

mod by_set;

mod loader;
mod run_file;

mod presets;
mod tidy;

#[cfg(feature = "trainer")]
mod support;

#[cfg(feature = "trainer")]
mod checkpointing;
#[cfg(feature = "trainer")]
mod cuda;
#[cfg(feature = "trainer")]
mod footprint;
#[cfg(feature = "trainer")]
mod fused;
#[cfg(feature = "trainer")]
mod golden;
#[cfg(feature = "trainer")]
mod stage;
#[cfg(feature = "trainer")]
mod step;
#[cfg(feature = "trainer")]
mod weights;

#[cfg(feature = "trainer")]
mod pretrain;
#[cfg(feature = "trainer")]
mod process;
