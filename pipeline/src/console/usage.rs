//! The error for incorrect use of the command line.
//!
//! **Invariant:** it leads to the exit code for usage.

/// A use of the command line that cannot be meant.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);
