//! Shared by the tests of several commands: the fixtures, the program and its output.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;

/// The repository's fixtures.
pub(crate) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures")
}

/// The fixtures' tokenizer.
pub(crate) fn tokenizer() -> PathBuf {
    fixtures().join("tokenizer")
}

/// The program, in an environment that neither makes it a task nor lets it fail.
pub(crate) fn patchmill() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_patchmill"));
    for name in ["SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX", "PATCHMILL_ABORT_AT"] {
        command.env_remove(name);
    }
    command
}

pub(crate) fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The output of a command that succeeded.
#[track_caller]
pub(crate) fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", stderr(output));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The object of `--json`, which comes last.
#[track_caller]
pub(crate) fn last_json(output: &Output) -> Value {
    serde_json::from_str(stdout(output).lines().last().unwrap()).unwrap()
}

/// The command ended with `code`, and `expected` is in its message.
#[track_caller]
pub(crate) fn assert_fails(output: &Output, code: i32, expected: &str) {
    let found = stderr(output);
    assert_eq!(output.status.code(), Some(code), "{found}");
    assert!(found.contains(expected), "found {found:?}\nexpected {expected:?}");
}
