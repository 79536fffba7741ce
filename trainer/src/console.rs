//! The terminal: progress lines on stderr, results on stdout, requests to stop.
//!
//! **Invariant:** nothing here depends on the model being trained, and nothing here changes a
//! result.

pub mod progress;

pub mod stop;
