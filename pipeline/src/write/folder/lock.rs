//! Locks on a corpus folder: one writer of everything, or several tasks writing their own series.
//!
//! Locks are the kernel's, on files in the folder. A run holds the folder alone. Tasks share it,
//! and each holds its own name alone: a second task of the same name, or of another number of
//! tasks, is refused with the holder's process id.
//!
//! **Invariant:** locks are the kernel's: when a holder dies, for whatever reason, its lock is
//! free.

use std::fs::{File, TryLockError};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use rustix::fs::OFlags;

use crate::write::tasks::Task;

const FOLDER_LOCK: &str = ".lock";
const BEGIN_LOCK: &str = ".begin.lock";
const TASK_LOCK: &str = ".task-";
const LOCK_END: &str = ".lock";

/// Whether a file name belongs to a lock of this module.
pub(crate) fn is_lock(name: &str) -> bool {
    [FOLDER_LOCK, BEGIN_LOCK].contains(&name) || task_count(name).is_some()
}

/// The number of tasks, from the name of a task's lock file.
fn task_count(name: &str) -> Option<u64> {
    let (index, count) =
        name.strip_prefix(TASK_LOCK)?.strip_suffix(LOCK_END)?.split_once("-of-")?;
    index.parse::<u64>().ok().and(count.parse().ok())
}

/// The right to write a folder, or a task's series in it.
pub(crate) struct FolderLock {
    // Dropped in this order: a task gives up its name before its share of the folder.
    _task: Option<Held>,
    _folder: Held,
}

impl FolderLock {
    /// For the only writer of everything; refused while anybody else writes.
    pub(crate) fn exclusive(folder: &Path) -> anyhow::Result<FolderLock> {
        let held = Held::exclusive(folder, FOLDER_LOCK, "process")?;
        Ok(FolderLock { _task: None, _folder: held })
    }

    /// For the only writer of some files of a folder, by the name of the lock's own file.
    pub(crate) fn named(folder: &Path, name: &str) -> anyhow::Result<FolderLock> {
        let held = Held::exclusive(folder, name, "process")?;
        Ok(FolderLock { _task: None, _folder: held })
    }

    /// For a task, beside others of the same number of tasks.
    pub(crate) fn task(folder: &Path, task: Task) -> anyhow::Result<FolderLock> {
        let shared = Held::shared(folder)?;
        let name = format!("{TASK_LOCK}{}-of-{}{LOCK_END}", task.index, task.count);
        let held = Held::exclusive(folder, &name, &format!("{task}, process"))?;
        for other in names(folder)? {
            if task_count(&other).is_some_and(|count| count != task.count) {
                // Only a check: a lock we can take is a dead task's, and is removed.
                Held::exclusive(folder, &other, "process").with_context(|| {
                    format!("{task} cannot write beside tasks of another number of tasks")
                })?;
            }
        }
        Ok(FolderLock { _task: Some(held), _folder: shared })
    }

    /// For the moment when tasks agree on the corpus to write: waits for its turn.
    pub(crate) fn begin(folder: &Path) -> anyhow::Result<impl Drop> {
        Held::take(folder, BEGIN_LOCK, |file| file.lock().map_err(TryLockError::Error))
    }
}

/// A locked file. The kernel frees it when its holder dies.
struct Held {
    path: PathBuf,
    file: File,
    is_exclusive: bool,
}

impl Held {
    fn exclusive(folder: &Path, name: &str, holder: &str) -> anyhow::Result<Held> {
        let held = Held::take(folder, name, File::try_lock)?;
        let context = || format!("lock {}", held.path.display());
        held.file.set_len(0).with_context(context)?;
        writeln!(&held.file, "{holder} {}", std::process::id()).with_context(context)?;
        Ok(held)
    }

    /// The folder's lock, shared with other tasks. Its file stays: another holder may need it.
    fn shared(folder: &Path) -> anyhow::Result<Held> {
        let mut held = Held::take(folder, FOLDER_LOCK, File::try_lock_shared)?;
        held.is_exclusive = false;
        // Clears any text left by a dead holder of the whole folder.
        held.file.set_len(0).with_context(|| format!("lock {}", held.path.display()))?;
        Ok(held)
    }

    fn take(
        folder: &Path,
        name: &str,
        lock: impl Fn(&File) -> Result<(), TryLockError>,
    ) -> anyhow::Result<Held> {
        let path = folder.join(name);
        let context = || format!("lock {}", path.display());
        loop {
            let mut options = File::options();
            options.read(true).write(true).create(true).truncate(false);
            // A link would have its target overwritten.
            options.custom_flags(OFlags::NOFOLLOW.bits().cast_signed());
            let file = options.open(&path).with_context(context)?;
            match lock(&file) {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => bail!(
                    "{} is being written by another process ({})",
                    folder.display(),
                    holders(folder, name)?
                ),
                Err(TryLockError::Error(err)) => return Err(err).with_context(context),
            }
            // The previous holder may have removed the file after we opened it and before we locked
            // it.
            let ours = file.metadata().with_context(context)?;
            let is_current = std::fs::metadata(&path)
                .is_ok_and(|named| (named.dev(), named.ino()) == (ours.dev(), ours.ino()));
            if is_current {
                return Ok(Held { path, file, is_exclusive: true });
            }
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if self.is_exclusive {
            // The file is removed while it is locked. A leftover does no harm: the lock is what
            // counts.
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn names(folder: &Path) -> anyhow::Result<Vec<String>> {
    let context = || format!("list {}", folder.display());
    let mut names = Vec::new();
    for entry in std::fs::read_dir(folder).with_context(context)? {
        names.push(entry.with_context(context)?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// The holders of the lock `name`, as far as they recorded themselves. The folder's lock may be
/// held by tasks.
fn holders(folder: &Path, name: &str) -> anyhow::Result<String> {
    let said = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap_or_default();
    let mut holders = vec![said(name)];
    if name == FOLDER_LOCK {
        holders.extend(
            names(folder)?.iter().filter(|name| task_count(name).is_some()).map(|n| said(n)),
        );
    }
    let holders: Vec<&str> =
        holders.iter().map(|text| text.trim()).filter(|t| !t.is_empty()).collect();
    Ok(if holders.is_empty() { "it left no name".to_owned() } else { holders.join("; ") })
}
