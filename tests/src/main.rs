//! The laws of Patchmill, its goldens and its breakage, a folder a room, in the order of the data's
//! path.
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

mod read;

mod encoder;

mod plan;

mod corpus;

mod write;

mod loader;

#[cfg(feature = "trainer")]
mod model;

#[cfg(feature = "trainer")]
mod step;

#[cfg(feature = "trainer")]
mod checkpoint;

mod run;

mod rooms;
mod tidy;
