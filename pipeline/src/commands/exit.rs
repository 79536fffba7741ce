//! Exit codes for the commands' errors.
//!
//! **Invariant:** an error gives the same exit code in every command.

use std::process::ExitCode;

use crate::commands::init::RunFileExists;
use crate::commands::stream::SinkError;
use crate::console::stop::{Stopped, StoppedBefore};
use crate::console::usage::UsageError;
use crate::corpus::CorpusError;
use crate::corpus::index::IndexError;
use crate::corpus::verify::VerifyError;
use crate::exchange::ForeignError;
use crate::loader::LoaderError;
use crate::read::inputs::InputsError;
use crate::run_file::RunError;
use crate::write::merge::MergeError;
use crate::write::select::DropListMismatch;
use encoder::TokenizeError;
use plan::PlanError;

/// Exit code for a usage error or an invalid run file.
pub const EXIT_USAGE: u8 = 2;
/// Exit code for data that does not match its description.
pub const EXIT_MISMATCH: u8 = 4;

/// Exit code for a run stopped on request; starting it again continues it.
pub const EXIT_STOPPED: u8 = 75;

/// The process's exit code, from [`exit_status`].
pub fn exit_code(err: &anyhow::Error) -> ExitCode {
    ExitCode::from(exit_status(err))
}

/// 2 for usage or configuration, 4 for data that does not match, 75 for a stop on request, else 1.
pub fn exit_status(err: &anyhow::Error) -> u8 {
    let is_usage = |cause: &(dyn std::error::Error + 'static)| {
        cause.is::<UsageError>()
            || cause.is::<InputsError>()
            || cause.is::<PlanError>()
            || cause.is::<SinkError>()
            || cause.is::<RunFileExists>()
            || matches!(cause.downcast_ref(), Some(CorpusError::Document { .. }))
            || cause.downcast_ref::<RunError>().is_some_and(RunError::is_usage)
            || cause.downcast_ref::<LoaderError>().is_some_and(LoaderError::is_usage)
    };
    let is_mismatch = |cause: &(dyn std::error::Error + 'static)| {
        cause.is::<VerifyError>()
            || cause.is::<MergeError>()
            || cause.is::<schemas::shard::ShardError>()
            || cause.downcast_ref::<TokenizeError>().is_some_and(TokenizeError::is_mismatch)
            || cause.downcast_ref::<IndexError>().is_some_and(IndexError::is_mismatch)
            || cause.downcast_ref::<ForeignError>().is_some_and(ForeignError::is_mismatch)
            || cause.is::<schemas::manifest::ManifestError>()
            || cause.is::<schemas::drop_list::DropListError>()
            || cause.is::<DropListMismatch>()
            || cause.downcast_ref::<CorpusError>().is_some_and(CorpusError::is_mismatch)
            || cause.downcast_ref::<RunError>().is_some_and(RunError::is_mismatch)
            || cause.downcast_ref::<LoaderError>().is_some_and(LoaderError::is_mismatch)
    };
    if err.is::<Stopped>() || err.is::<StoppedBefore>() {
        EXIT_STOPPED
    } else if err.chain().any(is_mismatch) {
        EXIT_MISMATCH
    } else if err.chain().any(is_usage) {
        EXIT_USAGE
    } else {
        1
    }
}

/// Whether the reader of stdout went away, as `head` does. This is not our error.
pub fn is_closed_pipe(err: &anyhow::Error) -> bool {
    err.chain().any(|cause| {
        let io = cause.downcast_ref::<std::io::Error>();
        io.is_some_and(|io| io.kind() == std::io::ErrorKind::BrokenPipe)
    })
}

/// The error with its causes, each printed once: a message that already quotes its cause is not
/// followed by it again.
pub fn describe(err: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in err.chain() {
        let cause = cause.to_string();
        if !text.contains(&cause) {
            if !text.is_empty() {
                text.push_str(": ");
            }
            text.push_str(&cause);
        }
    }
    text
}
