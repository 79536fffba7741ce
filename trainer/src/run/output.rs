//! A run's output folder, locked during the run, with the resolved run file next to the results.
//!
//! **Invariant:** at most one process writes into the folder; the kernel frees the lock of a dead
//! one.

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use schemas::run::RunFile;

use crate::checkpoint::store;

/// Name of the resolved run file.
pub const RUN_FILE: &str = "run.toml";
const LOCK_FILE: &str = ".lock";

/// The output folder holds files that do not belong to a run.
#[derive(Debug, thiserror::Error)]
#[error(
    "train.output is {}, which holds other files (such as {found}) and no run; \
     choose an empty or a new folder",
    path.display()
)]
pub struct ForeignFolder {
    /// The output folder.
    pub path: PathBuf,
    /// The first of them, by name.
    pub found: String,
}

/// A locked output folder.
pub struct RunFolder {
    /// Its path.
    pub path: PathBuf,
    _lock: File,
}

impl RunFolder {
    /// Creates and locks the folder, and removes the leftovers of a killed run under temporary
    /// names. A folder that holds anything but never held a run is refused.
    pub fn lock(path: &Path) -> Result<RunFolder> {
        fs::create_dir_all(path).with_context(|| format!("create {}", path.display()))?;
        refuse_foreign(path)?;
        let lock_path = path.join(LOCK_FILE);
        let lock =
            File::options().create(true).truncate(false).read(true).write(true).open(&lock_path);
        let lock = lock.with_context(|| format!("open {}", lock_path.display()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let holder = fs::read_to_string(&lock_path).unwrap_or_default();
                bail!("{} is in use by another run ({})", path.display(), holder.trim());
            }
            Err(TryLockError::Error(err)) => {
                return Err(err).with_context(|| format!("lock {}", lock_path.display()));
            }
        }
        fs::write(&lock_path, format!("process {}\n", std::process::id()))
            .with_context(|| format!("write {}", lock_path.display()))?;
        store::remove_leftovers(path)?;
        Ok(RunFolder { path: path.to_owned(), _lock: lock })
    }

    /// Writes the run file in force, with absolute paths.
    pub fn write_run_file(&self, run: &RunFile) -> Result<()> {
        let text = toml::to_string_pretty(run).context("encode the run file")?;
        let path = self.path.join(RUN_FILE);
        pipeline::disk::atomic::write_atomic(&path, text.as_bytes())
            .with_context(|| format!("write {}", path.display()))
    }
}

/// A run's folder has a lock file from the first moment.
fn refuse_foreign(path: &Path) -> Result<()> {
    if path.join(LOCK_FILE).exists() {
        return Ok(());
    }
    let entries = fs::read_dir(path).with_context(|| format!("list {}", path.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("list {}", path.display()))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    match names.into_iter().min() {
        Some(found) => Err(ForeignFolder { path: path.to_owned(), found }.into()),
        None => Ok(()),
    }
}
