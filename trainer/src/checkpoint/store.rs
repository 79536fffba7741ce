//! Checkpoint folders: `checkpoint-<step>` is complete or absent, and the newest complete one can
//! be found.
//!
//! A folder is written under a temporary name: first its files, then `MANIFEST.json` with the hash
//! of each. Every file is synced, the folder is renamed and its parent is synced. The caller
//! supplies all contents except the progress record.
//!
//! **Invariant:** a folder named `checkpoint-<step>` accepted by [`verify`] holds exactly the saved
//! bytes.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Once;

use pipeline::disk::failpoint::failpoint;
use pipeline::disk::source::{open_file, read_text};
use schemas::checkpoint::{
    CHECKPOINT_MANIFEST, CheckpointManifest, TRAINER_STATE, TrainerState, VERSION,
};
use schemas::manifest::{FileRecord, check_path};

use crate::console::progress::progress;

const PREFIX: &str = "checkpoint-";
const TEMPORARY: &str = ".tmp-checkpoint-";
const REPLACED: &str = "-replaced";
const LATEST: &str = "latest";
/// Largest record that is read; real ones have some kilobytes.
const RECORD_BYTES_MAX: u64 = 1 << 24;
/// In place of the link on a file system without links.
const LATEST_TEXT: &str = "latest.txt";

/// The reason a checkpoint was not written or not accepted.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The file system reported an error.
    #[error("{action} {path}: {source}")]
    Io {
        /// The operation, such as "read".
        action: &'static str,
        /// Its object.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A malformed file.
    #[error("{path}: {reason}")]
    Form {
        /// The file.
        path: PathBuf,
        /// The problem.
        reason: String,
    },
    /// A file whose hash or length differs from its record in the manifest.
    #[error("{path} {what}; the checkpoint's {CHECKPOINT_MANIFEST} says {expected}")]
    Content {
        /// The file.
        path: PathBuf,
        /// The value found.
        what: String,
        /// The value written.
        expected: String,
    },
    /// The caller could not write its part.
    #[error("no checkpoint was saved, those before it are as they were: write {path}: {reason:#}")]
    Write {
        /// The temporary folder.
        path: PathBuf,
        /// The cause.
        reason: anyhow::Error,
    },
    /// Not a checkpoint folder.
    #[error("{path} is not a checkpoint folder: it has no {CHECKPOINT_MANIFEST}")]
    NoCheckpoint {
        /// The folder.
        path: PathBuf,
    },
    /// There are checkpoints, but none is complete.
    #[error("none of the checkpoints in {path} is whole:\n{reasons}")]
    NoneWhole {
        /// The run's folder.
        path: PathBuf,
        /// One line each.
        reasons: String,
    },
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CheckpointError {
    move |source| CheckpointError::Io { action, path: path.to_owned(), source }
}

/// A checkpoint with every byte checked.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// Its folder.
    pub path: PathBuf,
    /// The progress of the run.
    pub state: TrainerState,
}

/// Checkpoints to keep when a new one is written.
#[derive(Clone, Copy, Debug)]
pub struct Retention {
    /// The newest so many, at least 1.
    pub newest: u64,
    /// Those at multiples of so many steps; 0 for none.
    pub every_steps: u64,
}

/// Saves `run_folder/checkpoint-<next_step>`: `write_files` puts the caller's files into the folder
/// it is given, flat or nested. An existing complete folder with the same state is kept. Older
/// checkpoints are then removed, by `retention`.
pub fn save(
    run_folder: &Path,
    state: &TrainerState,
    retention: Retention,
    write_files: impl FnOnce(&Path) -> anyhow::Result<()>,
) -> Result<PathBuf, CheckpointError> {
    let name = format!("{PREFIX}{}", state.next_step);
    let temporary = run_folder.join(format!("{TEMPORARY}{}", state.next_step));
    remove_folder(&temporary)?;
    fs::create_dir_all(&temporary).map_err(io_error("create", &temporary))?;
    if let Err(reason) = write_files(&temporary) {
        // On a full disk its room is needed.
        remove_folder(&temporary)?;
        return Err(CheckpointError::Write { path: temporary, reason });
    }
    let text = serde_json::to_vec_pretty(state).expect("a trainer state is plain data");
    write_synced(&temporary.join(TRAINER_STATE), &text)?;
    let manifest = CheckpointManifest { version: VERSION, files: sync_and_hash(&temporary)? };
    let text = serde_json::to_vec_pretty(&manifest).expect("a manifest is plain data");
    write_synced(&temporary.join(CHECKPOINT_MANIFEST), &text)?;
    sync_folder(&temporary)?;

    let path = run_folder.join(&name);
    if path.exists() {
        // The old folder has the same state or is damaged: a run never goes back beyond one of its
        // own complete checkpoints.
        if verify(&path).is_ok_and(|before| before.state == *state) {
            remove_folder(&temporary)?;
            return Ok(path);
        }
        let old = run_folder.join(format!("{TEMPORARY}{}{REPLACED}", state.next_step));
        remove_folder(&old)?;
        fs::rename(&path, &old).map_err(io_error("set aside", &path))?;
    }
    failpoint("checkpoint-written");
    fs::rename(&temporary, &path).map_err(io_error("publish", &path))?;
    sync_folder(run_folder)?;
    failpoint("checkpoint-published");
    point_latest(run_folder, &name)?;
    remove_leftovers(run_folder)?;
    prune(run_folder, state.next_step, retention)?;
    Ok(path)
}

/// Does what a save at `step` may have been kept from doing after its checkpoint got its name:
/// points `latest` at it and removes those not kept by `retention`. Does nothing if the folder has
/// no such checkpoint. The caller holds the run's lock.
pub fn settle(run_folder: &Path, step: u64, retention: Retention) -> Result<(), CheckpointError> {
    if !path(run_folder, step).is_dir() {
        return Ok(());
    }
    point_latest(run_folder, &format!("{PREFIX}{step}"))?;
    prune(run_folder, step, retention)
}

/// The newest complete checkpoint of a run, with a line for each damaged newer one; `None` if there
/// are no checkpoints at all.
pub fn newest_whole(
    run_folder: &Path,
) -> Result<Option<(Checkpoint, Vec<String>)>, CheckpointError> {
    let mut damaged = Vec::new();
    for step in steps(run_folder)?.into_iter().rev() {
        match verify(&path(run_folder, step)) {
            Ok(checkpoint) => return Ok(Some((checkpoint, damaged))),
            Err(err) => damaged.push(err.to_string()),
        }
    }
    if damaged.is_empty() {
        return Ok(None);
    }
    let reasons = damaged.join("\n");
    Err(CheckpointError::NoneWhole { path: run_folder.to_owned(), reasons })
}

/// Checks every byte of a model folder if it is a checkpoint. A folder from elsewhere has no
/// manifest to check against.
pub fn verify_if_ours(path: &Path) -> Result<(), CheckpointError> {
    match verify(path) {
        Ok(_) | Err(CheckpointError::NoCheckpoint { .. }) => Ok(()),
        Err(err) => Err(err),
    }
}

/// Whether a name in a run's folder is that of a checkpoint.
pub fn is_checkpoint(name: &str) -> bool {
    name.strip_prefix(PREFIX).is_some_and(|step| step.parse::<u64>().is_ok())
}

/// Whether a name in a run's folder is one that this module writes.
pub fn is_own(name: &str) -> bool {
    is_checkpoint(name) || name.starts_with(TEMPORARY) || [LATEST, LATEST_TEXT].contains(&name)
}

/// Path of a run's checkpoint of `step`.
pub fn path(run_folder: &Path, step: u64) -> PathBuf {
    run_folder.join(format!("{PREFIX}{step}"))
}

/// Checks every byte of the checkpoint in `path`.
pub fn verify(path: &Path) -> Result<Checkpoint, CheckpointError> {
    if !path.join(CHECKPOINT_MANIFEST).exists() {
        return Err(CheckpointError::NoCheckpoint { path: path.to_owned() });
    }
    let manifest: CheckpointManifest = read_json(&path.join(CHECKPOINT_MANIFEST))?;
    for expected in &manifest.files {
        let form = |reason| CheckpointError::Form { path: path.join(CHECKPOINT_MANIFEST), reason };
        check_path(&expected.path).map_err(|err| form(err.to_string()))?;
        let file = path.join(&expected.path);
        let found = hash_file(&file, &expected.path)?;
        let content = |what, expected| CheckpointError::Content { path: file, what, expected };
        if found.bytes != expected.bytes {
            return Err(content(format!("is {} bytes", found.bytes), expected.bytes.to_string()));
        }
        if found.blake3 != expected.blake3 {
            return Err(content(format!("has BLAKE3 {}", found.blake3), expected.blake3.clone()));
        }
    }
    if !manifest.files.iter().any(|file| file.path == TRAINER_STATE) {
        let (path, reason) =
            (path.join(CHECKPOINT_MANIFEST), format!("does not list {TRAINER_STATE}"));
        return Err(CheckpointError::Form { path, reason });
    }
    let state = read_json(&path.join(TRAINER_STATE))?;
    Ok(Checkpoint { path: path.to_owned(), state })
}

/// Reads a JSON record of this build's version.
fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<T, CheckpointError> {
    let text = read_text(path, RECORD_BYTES_MAX).map_err(io_error("read", path))?;
    let form = |reason| CheckpointError::Form { path: path.to_owned(), reason };
    let value: serde_json::Value = serde_json::from_str(&text)
        .map_err(|err| form(format!("not a checkpoint record: {err}")))?;
    let version = value.get("version").and_then(|version| version.as_u64());
    if version != Some(u64::from(VERSION)) {
        let found = version.map_or("missing".to_owned(), |version| version.to_string());
        return Err(form(format!("version is {found}; this build reads version {VERSION}")));
    }
    serde_json::from_value(value).map_err(|err| form(format!("not a checkpoint record: {err}")))
}

/// Step of the run's last checkpoint, whole or damaged.
pub fn last_step(run_folder: &Path) -> Result<Option<u64>, CheckpointError> {
    Ok(steps(run_folder)?.last().copied())
}

/// Steps of the checkpoint folders, in ascending order.
fn steps(run_folder: &Path) -> Result<Vec<u64>, CheckpointError> {
    let mut steps: Vec<u64> = names(run_folder)?
        .iter()
        .filter_map(|name| name.strip_prefix(PREFIX)?.parse().ok())
        .collect();
    steps.sort_unstable();
    Ok(steps)
}

fn names(folder: &Path) -> Result<Vec<String>, CheckpointError> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(err) => return Err(io_error("list", folder)(err)),
    };
    let mut names = Vec::new();
    for entry in entries {
        let entry = entry.map_err(io_error("list", folder))?;
        // A name outside UTF-8 is not ours.
        names.extend(entry.file_name().into_string());
    }
    Ok(names)
}

/// Removes the leftovers of a killed run under temporary names. A checkpoint set aside and not yet
/// replaced gets its name back. The caller holds the run's lock.
pub fn remove_leftovers(run_folder: &Path) -> Result<(), CheckpointError> {
    for name in names(run_folder)? {
        let Some(step) = name.strip_prefix(TEMPORARY) else { continue };
        let leftover = run_folder.join(&name);
        let path =
            step.strip_suffix(REPLACED).map(|step| run_folder.join(format!("{PREFIX}{step}")));
        match path.filter(|path| !path.exists()) {
            Some(path) => fs::rename(&leftover, &path).map_err(io_error("restore", &path))?,
            None => remove_folder(&leftover)?,
        }
    }
    Ok(())
}

/// Of the checkpoints up to `saved_step`, removes those not kept by `retention`. The one at
/// `saved_step` was just written and always stays. Later ones are damaged (the run was resumed from
/// before them): the run will write them again.
fn prune(run_folder: &Path, saved_step: u64, retention: Retention) -> Result<(), CheckpointError> {
    let mut steps = steps(run_folder)?;
    steps.retain(|&step| step <= saved_step);
    let newest_from = steps.len().saturating_sub(retention.newest.max(1) as usize);
    for &step in &steps[..newest_from] {
        if retention.every_steps == 0 || !step.is_multiple_of(retention.every_steps) {
            // Rename to a temporary name first, so a kill never leaves a partial checkpoint under
            // its own name.
            let path = path(run_folder, step);
            let aside = run_folder.join(format!("{TEMPORARY}{step}-old"));
            fs::rename(&path, &aside).map_err(io_error("set aside", &path))?;
            failpoint("checkpoint-pruning");
            remove_folder(&aside)?;
        }
    }
    Ok(())
}

/// Syncs every file below `folder` and returns their records, in byte order of the path.
fn sync_and_hash(folder: &Path) -> Result<Vec<FileRecord>, CheckpointError> {
    let mut pending = vec![String::new()];
    let mut files = Vec::new();
    while let Some(below) = pending.pop() {
        let place = folder.join(&below);
        for name in names(&place)? {
            let relative = if below.is_empty() { name } else { format!("{below}/{name}") };
            let path = folder.join(&relative);
            if path.is_dir() {
                pending.push(relative);
            } else {
                let file = File::open(&path).map_err(io_error("open", &path))?;
                file.sync_all().map_err(io_error("sync", &path))?;
                files.push(hash_file(&path, &relative)?);
            }
        }
        if !below.is_empty() {
            sync_folder(&place)?;
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(files)
}

fn hash_file(path: &Path, relative: &str) -> Result<FileRecord, CheckpointError> {
    let mut hasher = blake3::Hasher::new();
    let file = open_file(path).map_err(io_error("read", path))?;
    hasher.update_reader(&file).map_err(io_error("read", path))?;
    let (bytes, blake3) = (hasher.count(), hasher.finalize().to_hex().to_string());
    Ok(FileRecord { path: relative.to_owned(), bytes, blake3 })
}

/// Writes a file and waits until it is on the disk.
fn write_synced(path: &Path, bytes: &[u8]) -> Result<(), CheckpointError> {
    let mut file = File::create(path).map_err(io_error("create", path))?;
    file.write_all(bytes).map_err(io_error("write", path))?;
    file.sync_all().map_err(io_error("sync", path))
}

fn sync_folder(path: &Path) -> Result<(), CheckpointError> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(io_error("sync", path))
}

fn remove_folder(path: &Path) -> Result<(), CheckpointError> {
    match fs::remove_dir_all(path) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => Err(io_error("remove", path)(err)),
        _ => Ok(()),
    }
}

/// Makes `latest` a link to the checkpoint with this name, or `latest.txt` a file with the name
/// where `latest` is something else or links cannot be made.
fn point_latest(run_folder: &Path, name: &str) -> Result<(), CheckpointError> {
    let (link, text) = (run_folder.join(LATEST), run_folder.join(LATEST_TEXT));
    let obstacle = match fs::symlink_metadata(&link) {
        Ok(found) if !found.is_symlink() => format!("{} is not a link", link.display()),
        _ => match replace_link(run_folder, name) {
            Ok(()) => {
                remove_file(&text)?;
                return sync_folder(run_folder);
            }
            Err(err) => format!("{} cannot be a link ({err})", link.display()),
        },
    };
    static NOTICE: Once = Once::new();
    NOTICE.call_once(|| {
        let text = text.display();
        progress(&format!("notice: {obstacle}; {text} names the newest checkpoint instead"));
    });
    let temporary = run_folder.join(format!(".{LATEST_TEXT}.tmp"));
    write_synced(&temporary, format!("{name}\n").as_bytes())?;
    fs::rename(&temporary, &text).map_err(io_error("publish", &text))?;
    sync_folder(run_folder)
}

fn replace_link(run_folder: &Path, name: &str) -> io::Result<()> {
    let temporary = run_folder.join(format!(".{LATEST}.tmp"));
    match fs::remove_file(&temporary) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
        _ => {}
    }
    std::os::unix::fs::symlink(name, &temporary)?;
    failpoint("checkpoint-linked");
    fs::rename(&temporary, run_folder.join(LATEST))
}

/// The folder a user means by `path`: for a run's `latest`, the checkpoint that `latest.txt` names
/// if there is such a file.
pub fn resolve(path: &Path) -> PathBuf {
    let named = || {
        let text = path.with_file_name(LATEST_TEXT);
        let name = fs::read_to_string(text).ok().filter(|_| path.ends_with(LATEST))?;
        let name = name.trim();
        name.strip_prefix(PREFIX)?.parse::<u64>().ok()?;
        Some(path.with_file_name(name))
    };
    named().unwrap_or_else(|| path.to_owned())
}

fn remove_file(path: &Path) -> Result<(), CheckpointError> {
    match fs::remove_file(path) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => Err(io_error("remove", path)(err)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(next_step: u64) -> TrainerState {
        TrainerState {
            version: VERSION,
            next_step,
            phase_index: 0,
            phase_steps_done: next_step,
            tokens_read: 0,
            units_processed: 0,
            plan_fingerprint: String::new(),
            identity: Default::default(),
            recorded: Default::default(),
            evaluated_step: None,
            phases: Vec::new(),
        }
    }

    fn save_one(folder: &Path, step: u64, retention: Retention) -> PathBuf {
        let write = |into: &Path| {
            fs::create_dir(into.join("tokenizer"))?;
            fs::write(into.join("tokenizer/tokenizer.json"), b"{}")?;
            Ok(fs::write(into.join("model.safetensors"), step.to_le_bytes())?)
        };
        save(folder, &state(step), retention, write).unwrap()
    }

    const ALL: Retention = Retention { newest: 100, every_steps: 0 };

    #[test]
    fn every_flipped_bit_and_every_shorter_or_longer_file_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = save_one(folder.path(), 3, ALL);
        assert_eq!(verify(&path).unwrap().state.next_step, 3);
        for name in ["model.safetensors", "tokenizer/tokenizer.json", TRAINER_STATE] {
            let file = path.join(name);
            let whole = fs::read(&file).unwrap();
            for bit in 0..whole.len() * 8 {
                let mut bytes = whole.clone();
                bytes[bit / 8] ^= 1 << (bit % 8);
                fs::write(&file, &bytes).unwrap();
                verify(&path).unwrap_err();
            }
            for length in 0..whole.len() {
                fs::write(&file, &whole[..length]).unwrap();
                verify(&path).unwrap_err();
            }
            fs::write(&file, [&whole[..], b" "].concat()).unwrap();
            verify(&path).unwrap_err();
            fs::remove_file(&file).unwrap();
            verify(&path).unwrap_err();
            fs::write(&file, &whole).unwrap();
        }
        verify(&path).unwrap();
    }

    #[test]
    fn a_damaged_newest_checkpoint_falls_back_to_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        save_one(folder.path(), 1, ALL);
        let second = save_one(folder.path(), 2, ALL);
        fs::write(second.join("model.safetensors"), b"damaged!").unwrap();
        let (found, damaged) = newest_whole(folder.path()).unwrap().unwrap();
        assert_eq!(found.state.next_step, 1);
        assert_eq!(damaged.len(), 1);
        assert!(damaged[0].contains("checkpoint-2/model.safetensors has BLAKE3"), "{damaged:?}");
        fs::remove_file(found.path.join(CHECKPOINT_MANIFEST)).unwrap();
        let none = newest_whole(folder.path()).unwrap_err().to_string();
        assert!(none.starts_with("none of the checkpoints"), "{none}");
    }

    #[test]
    fn an_empty_run_has_no_checkpoint() {
        let folder = tempfile::tempdir().unwrap();
        assert!(newest_whole(folder.path()).unwrap().is_none());
        assert!(newest_whole(&folder.path().join("absent")).unwrap().is_none());
    }

    #[test]
    fn retention_keeps_the_newest_and_the_multiples() {
        let folder = tempfile::tempdir().unwrap();
        for step in 1..=9 {
            save_one(folder.path(), step, Retention { newest: 2, every_steps: 4 });
        }
        assert_eq!(steps(folder.path()).unwrap(), [4, 8, 9]);
        assert_eq!(fs::read_link(folder.path().join(LATEST)).unwrap(), Path::new("checkpoint-9"));
    }

    #[test]
    fn a_failed_write_publishes_nothing_and_leaves_the_old_one() {
        let folder = tempfile::tempdir().unwrap();
        save_one(folder.path(), 1, ALL);
        save(folder.path(), &state(1), ALL, |_| anyhow::bail!("disk full")).unwrap_err();
        save(folder.path(), &state(2), ALL, |_| anyhow::bail!("disk full")).unwrap_err();
        assert_eq!(steps(folder.path()).unwrap(), [1]);
        assert_eq!(newest_whole(folder.path()).unwrap().unwrap().0.state.next_step, 1);
        remove_leftovers(folder.path()).unwrap();
        let mut left = names(folder.path()).unwrap();
        left.sort();
        assert_eq!(left, ["checkpoint-1", LATEST]);
    }

    #[test]
    fn a_checkpoint_that_was_set_aside_and_not_replaced_comes_back() {
        let folder = tempfile::tempdir().unwrap();
        let path = save_one(folder.path(), 1, ALL);
        let aside = folder.path().join(format!("{TEMPORARY}1{REPLACED}"));
        fs::rename(&path, &aside).unwrap();
        // Half of the new one.
        fs::create_dir(folder.path().join(format!("{TEMPORARY}1"))).unwrap();
        remove_leftovers(folder.path()).unwrap();
        verify(&path).unwrap();
        assert_eq!(steps(folder.path()).unwrap(), [1]);
    }

    #[test]
    fn saving_a_damaged_step_again_mends_it_and_keeps_it() {
        let folder = tempfile::tempdir().unwrap();
        for step in 1..=3 {
            let path = save_one(folder.path(), step, ALL);
            fs::write(path.join("model.safetensors"), b"damaged!").unwrap();
        }
        let path = save_one(folder.path(), 1, Retention { newest: 1, every_steps: 0 });
        verify(&path).unwrap();
        assert_eq!(newest_whole(folder.path()).unwrap().unwrap().0.state.next_step, 1);
    }

    #[test]
    fn saving_a_whole_step_again_leaves_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = save_one(folder.path(), 1, ALL);
        let before = fs::metadata(path.join(CHECKPOINT_MANIFEST)).unwrap().modified().unwrap();
        save_one(folder.path(), 1, ALL);
        let after = fs::metadata(path.join(CHECKPOINT_MANIFEST)).unwrap().modified().unwrap();
        assert_eq!(before, after);
    }
}
