//! The binaries, as a user runs them.

use std::path::{Path, PathBuf};

/// The root of the repository.
pub(crate) fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap()
}

/// A binary of the workspace, built by the same `cargo test` as this test: the command-line tests
/// in `pipeline/tests` and `trainer/tests` make cargo build both.
pub(crate) fn binary(name: &str) -> PathBuf {
    let deps = std::env::current_exe().unwrap();
    let path = deps.parent().unwrap().parent().unwrap().join(name);
    assert!(
        path.exists(),
        "{} is not built; run `just test`, or `cargo build --bins`",
        path.display()
    );
    path
}
