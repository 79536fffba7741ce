//! What came of writing a corpus.
//!
//! **Invariant:** documents read = written + skipped + held out + dropped, in every report.

use schemas::manifest::Manifest;

use crate::write::tasks::Task;
use encoder::SessionStatistics;

/// What came out.
#[derive(Clone, Debug)]
pub struct Report {
    /// As published; of a task its share, without a fingerprint and published nowhere.
    pub manifest: Manifest,
    /// Which encoder made the ids.
    pub encoder: &'static str,
    /// Why it was not our own, one obstacle each.
    pub encoder_obstacles: Vec<String>,
    /// From the start of the command.
    pub seconds: f64,
    /// Series that an interrupted run had completed.
    pub kept_series: u64,
    /// Of all threads' encoders.
    pub statistics: SessionStatistics,
    /// Of a task, which one.
    pub task: Option<Task>,
}
