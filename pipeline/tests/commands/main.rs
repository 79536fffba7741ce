//! `patchmill` as its users run it, one module a command or a subject, in the order of the data's
//! path.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

mod support;
#[path = "../../../tests/src/support/trees.rs"]
mod trees;

mod awkward_input;
mod exchange;
mod inspect;
mod plan;
mod read_parquet;
mod reference_families;
mod selection;
mod tokenize;
