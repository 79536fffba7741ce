//! A run's output folder, locked during the run, with the resolved run file next to the results.
//!
//! **Invariant:** at most one process writes into the folder; the kernel frees the lock of a dead
//! one.

use std::fs::{self, File, TryLockError};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use pipeline::console::printable;
use pipeline::disk::atomic::sync_dir;
use schemas::checkpoint::CHECKPOINT_MANIFEST;
use schemas::run::RunFile;

use crate::checkpoint::store;
use crate::console::progress::progress;
use crate::run::metrics::{METRICS_FILE, TENSORBOARD_FOLDER};

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
    /// Device and inode.
    identity: (u64, u64),
    _lock: File,
}

impl RunFolder {
    /// Creates and locks the folder, and removes the leftovers of a killed run under temporary
    /// names. A folder that holds files of others and no run is refused.
    pub fn lock(path: &Path) -> Result<RunFolder> {
        fs::create_dir_all(path).with_context(|| format!("create {}", path.display()))?;
        // The name of a new folder, which a power cut must not take with all that is in it. A
        // parent that cannot be opened is not ours to refuse.
        if let Some(parent) = std::path::absolute(path).ok().as_deref().and_then(Path::parent) {
            let _ = sync_dir(parent);
        }
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
        let identity = identity(path).with_context(|| format!("look at {}", path.display()))?;
        Ok(RunFolder { path: path.to_owned(), identity, _lock: lock })
    }

    /// Fails if the folder was removed or replaced since it was locked: whatever the run wrote
    /// since would be lost.
    pub fn check_is_there(&self) -> Result<()> {
        ensure!(
            identity(&self.path).is_ok_and(|found| found == self.identity),
            "{} was removed or replaced while the run was writing into it",
            self.path.display()
        );
        Ok(())
    }

    /// Writes the run file in force, with absolute paths.
    pub fn write_run_file(&self, run: &RunFile) -> Result<()> {
        let text = toml::to_string_pretty(run).context("encode the run file")?;
        let path = self.path.join(RUN_FILE);
        pipeline::disk::atomic::write_atomic(&path, text.as_bytes())
            .with_context(|| format!("write {}", path.display()))
    }
}

/// Whether names in a folder show that a run was here. A copy without dotfiles has no lock, a run
/// file alone may be the user's, and other programs name folders `checkpoint-N` too.
fn show_a_run(path: &Path, names: &[String]) -> bool {
    let has = |wanted: &str| names.iter().any(|name| name == wanted);
    let is_ours = |name: &&String| path.join(name).join(CHECKPOINT_MANIFEST).exists();
    has(LOCK_FILE)
        || names.iter().filter(is_ours).any(|name| store::is_checkpoint(name))
        || [RUN_FILE, METRICS_FILE, TENSORBOARD_FOLDER].iter().all(|name| has(name))
}

/// Whether a name is one of a run's files.
fn is_own(name: &str) -> bool {
    let is_record = name.starts_with("diverged-step-") && name.ends_with(".json");
    let name = pipeline::disk::atomic::final_name(name);
    [LOCK_FILE, RUN_FILE, METRICS_FILE, TENSORBOARD_FOLDER].contains(&name)
        || store::is_own(name)
        || is_record
}

/// Whether anybody may leave such a file in a folder that is otherwise empty: file systems, shells
/// that keep a log, editors.
fn is_harmless(name: &str) -> bool {
    let ends = [".log", ".out", ".err", "~", ".swp"];
    name == "lost+found" || name.starts_with('.') || ends.iter().any(|end| name.ends_with(end))
}

/// Refuses a folder that holds files of others and no run. Next to a run, they are named and left
/// alone.
fn refuse_foreign(path: &Path) -> Result<()> {
    let entries = fs::read_dir(path).with_context(|| format!("list {}", path.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.with_context(|| format!("list {}", path.display()))?;
        names.push(entry.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    let has_run = show_a_run(path, &names);
    names.retain(|name| if has_run { !is_own(name) } else { !is_harmless(name) });
    if let (false, Some(found)) = (has_run, names.first()) {
        return Err(ForeignFolder { path: path.to_owned(), found: found.clone() }.into());
    }
    names.retain(|name| name != "lost+found");
    if !names.is_empty() {
        let names: Vec<_> = names.iter().map(|name| printable::line(name)).collect();
        progress(&format!(
            "notice: {} also holds files that are not the run's: {}; they are left alone",
            path.display(),
            names.join(", ")
        ));
    }
    Ok(())
}

/// Device and inode of a folder.
fn identity(path: &Path) -> std::io::Result<(u64, u64)> {
    fs::metadata(path).map(|found| (found.dev(), found.ino()))
}
