//! The terminal: progress lines on stderr, results on stdout, requests to stop.
//!
//! **Invariant:** nothing here knows what is being trained, and nothing here changes a result.

pub mod progress;

pub mod stop;
