//! The result of writing a corpus.
//!
//! **Invariant:** documents read = written + skipped + held out + dropped, in every report.

use schemas::manifest::Manifest;

use crate::write::tasks::Task;
use encoder::SessionStatistics;

/// The result of a run.
#[derive(Clone, Debug)]
pub struct Report {
    /// The published manifest. For a task it describes its share, has no fingerprint and is not
    /// published.
    pub manifest: Manifest,
    /// The encoder used for the ids.
    pub encoder: &'static str,
    /// Why our own encoder was not used, one obstacle each.
    pub encoder_obstacles: Vec<String>,
    /// Time since the start of the command.
    pub seconds: f64,
    /// Series completed by an interrupted run.
    pub kept_series: u64,
    /// Sums over all threads' encoders.
    pub statistics: SessionStatistics,
    /// The task, for a task's share.
    pub task: Option<Task>,
}
