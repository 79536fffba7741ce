//! Exit codes: what an error means to the caller of `patchmill-train`.
//!
//! **Invariant:** an error is printed once, here.

use std::process::ExitCode;

use pipeline::loader::LoaderError;

use crate::checkpoint::contents::CorpusTokenizerMismatch;
use crate::checkpoint::resume::ResumeError;
use crate::commands::error::{CorpusMismatch, NotMeasurable, WrongStep};
use crate::console::progress;
use crate::data::batch::BatchError;
use crate::device::DeviceError;
use crate::model::architecture::ModelError;
use crate::model::eval::EvalError;
use crate::model::generate::GenerateError;
use crate::ranks::environment::RanksError;
use crate::ranks::process_group::ReportedByRankZero;
use crate::run::diverged::{Diverged, NoUpdate};
use crate::run::output::ForeignFolder;
use crate::run::validation::ValidationTooShort;
use crate::step::adamw::OptimizerError;
use crate::step::schedule::ScheduleError;

/// Exit code of a run whose loss or gradient was not finite.
pub const EXIT_DIVERGED: u8 = 3;

/// Prints an error, unless another rank does, and returns its exit code.
pub fn report(err: &anyhow::Error) -> ExitCode {
    if !err.is::<ReportedByRankZero>() {
        let text = pipeline::cli::describe(err);
        progress::progress_of_rank(&format!("error: {text}"));
    }
    exit_code(err)
}

/// 2 usage or configuration, 3 diverged, 4 data does not match, else 1.
pub fn exit_code(err: &anyhow::Error) -> ExitCode {
    type Cause = dyn std::error::Error + 'static;
    let is_usage = |cause: &Cause| {
        cause.is::<ScheduleError>()
            || cause.is::<ModelError>()
            || cause.is::<OptimizerError>()
            || cause.is::<DeviceError>()
            || cause.is::<GenerateError>()
            || cause.is::<ForeignFolder>()
            || cause.is::<NotMeasurable>()
            || cause.is::<RanksError>()
            || cause.is::<WrongStep>()
            || matches!(cause.downcast_ref(), Some(EvalError::Window { .. }))
            || matches!(
                cause.downcast_ref(),
                Some(
                    LoaderError::Split { .. } | LoaderError::Ring { .. } | LoaderError::Zero { .. }
                )
            )
    };
    let is_mismatch = |cause: &Cause| {
        cause.is::<ValidationTooShort>()
            || cause.is::<CorpusMismatch>()
            || cause.is::<CorpusTokenizerMismatch>()
            || cause.is::<BatchError>()
            || matches!(
                cause.downcast_ref(),
                Some(ResumeError::OtherRun { .. } | ResumeError::OtherRank { .. })
            )
    };
    if err.chain().any(|cause| cause.is::<Diverged>() || cause.is::<NoUpdate>()) {
        ExitCode::from(EXIT_DIVERGED)
    } else if err.chain().any(is_mismatch) {
        ExitCode::from(pipeline::cli::EXIT_MISMATCH)
    } else if err.chain().any(is_usage) {
        ExitCode::from(pipeline::cli::EXIT_USAGE)
    } else {
        pipeline::cli::exit_code(err)
    }
}
