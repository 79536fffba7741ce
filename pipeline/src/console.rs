//! Input and output for people: numbers, printable text, progress, requests to stop, usage errors.
//!
//! **Invariant:** results go to stdout and everything else to stderr.

pub mod numbers;
pub(crate) mod panic;
pub mod printable;
pub(crate) mod progress;
pub mod stop;
pub mod usage;
