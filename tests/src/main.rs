//! The laws of Patchmill, its goldens and its damage tests, one folder for each room, in the order
//! of the data's path.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

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
