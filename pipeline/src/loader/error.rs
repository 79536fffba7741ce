//! Errors on the way from a plan to its batches.
//!
//! **Invariant:** every error names the value asked for and the value found.

use crate::corpus::CorpusError;

/// Why batches cannot be delivered.
#[derive(Debug, thiserror::Error)]
pub enum LoaderError {
    /// A count that must not be 0.
    #[error("{field} is 0; expected at least 1")]
    Zero {
        /// Its name.
        field: &'static str,
    },
    /// More reading threads than any machine can use.
    #[error("loader.workers is {workers}; expected at most {workers_max}")]
    Workers {
        /// As requested.
        workers: usize,
        /// The most allowed.
        workers_max: usize,
    },
    /// A rank outside the world.
    #[error("rank is {rank}; the world has {world_size} ranks, numbered from 0")]
    Rank {
        /// As requested.
        rank: u64,
        /// As requested.
        world_size: u64,
    },
    /// Steps outside the plan.
    #[error("steps {from_step}..{end_step} are wanted; the plan has {step_count}")]
    Steps {
        /// As requested.
        from_step: u64,
        /// As requested.
        end_step: u64,
        /// Of the plan.
        step_count: u64,
    },
    /// A plan made for another corpus.
    #[error("the plan is for a corpus with {field} {planned}; {} has {found}", dir.display())]
    OtherCorpus {
        /// Its name.
        field: &'static str,
        /// In the plan.
        planned: String,
        /// In the corpus.
        found: String,
        /// The corpus.
        dir: std::path::PathBuf,
    },
    /// A step that does not split evenly.
    #[error(
        "a step of phase {phase_index} has {windows_per_step} windows, which do not split into \
         micro-batches of {micro_batch_windows} windows \
         (train.micro_batch_windows) on {world_size} ranks; \
         micro_batch_windows times ranks must divide {windows_per_step}"
    )]
    Split {
        /// From 0.
        phase_index: usize,
        /// Of the phase.
        windows_per_step: u64,
        /// As requested.
        micro_batch_windows: u64,
        /// As requested.
        world_size: u64,
    },
    /// No room for a batch.
    #[error(
        "loader.ring_bytes is {ring_bytes}; \
         {workers} workers with batches of {batch_bytes} bytes need at least {needed_bytes}"
    )]
    Ring {
        /// As requested.
        ring_bytes: u64,
        /// As requested.
        workers: usize,
        /// Of the largest batch.
        batch_bytes: u64,
        /// One batch a worker.
        needed_bytes: u64,
    },
    /// Ids wider than the requested type.
    #[error(
        "ids are wanted as {output}, which holds {output_max} different ones; \
         {} has a vocabulary of {vocab_size}",
        dir.display()
    )]
    Output {
        /// Name of the type.
        output: &'static str,
        /// Number of ids it can hold.
        output_max: u64,
        /// Of the corpus.
        vocab_size: u64,
        /// The corpus.
        dir: std::path::PathBuf,
    },
    /// No memory for a batch, or none a device accepts.
    #[error("cannot get a buffer of {batch_bytes} bytes for a batch: {source}")]
    Memory {
        /// Of the largest batch.
        batch_bytes: u64,
        /// The system's error.
        source: std::io::Error,
    },
    /// A window could not be read.
    #[error("step {step}, window {slot}: {source}")]
    Read {
        /// Step of the run.
        step: u64,
        /// Window of the step.
        slot: u64,
        /// Why.
        source: CorpusError,
    },
    /// A thread could not be started.
    #[error("cannot start reading thread {worker} of {workers}: {source}")]
    Thread {
        /// From 0.
        worker: usize,
        /// As requested.
        workers: usize,
        /// The system's error.
        source: std::io::Error,
    },
    /// A defect of the loader itself.
    #[error("reading thread {worker} panicked: {message}")]
    Panic {
        /// From 0.
        worker: usize,
        /// The panic's message.
        message: String,
    },
}

impl LoaderError {
    /// Whether the plan belongs to other data.
    pub fn is_mismatch(&self) -> bool {
        matches!(self, LoaderError::OtherCorpus { .. })
    }

    /// Whether the request must change.
    pub fn is_usage(&self) -> bool {
        use LoaderError::{Output, Rank, Ring, Split, Steps, Workers, Zero};
        matches!(
            self,
            Output { .. }
                | Rank { .. }
                | Ring { .. }
                | Split { .. }
                | Steps { .. }
                | Workers { .. }
                | Zero { .. }
        )
    }
}
