//! The error of a wrong use of the command line.
//!
//! **Invariant:** it ends in the exit code for usage.

/// A use of the command line that cannot be meant.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);
