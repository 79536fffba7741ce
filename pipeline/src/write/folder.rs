//! The folder a corpus is written into: its lock, its files, and the replacement of an older
//! corpus.
//!
//! **Invariant:** only files recognisable as a corpus's own are removed, and only by the holder of
//! the lock. A finished corpus stays until its replacement is finished.

pub(crate) mod lock;
pub(crate) mod names;

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use schemas::build::{
    BUILD_FILE, BUILD_FORMAT, BuildInput, BuildOptions, BuildRecord, NEXT_FOLDER,
};
use schemas::manifest::{self, FileRecord, Manifest};

use crate::console::progress::notice;
use crate::console::usage::UsageError;
use crate::corpus;
use crate::disk::atomic::{self, AtomicFile, write_atomic};
use crate::disk::failpoint::failpoint;
use crate::disk::source::read_file;
use crate::read::inputs::Input;
use crate::write::folder::lock::FolderLock;
use crate::write::tasks::Task;
use encoder::{Encoder, TOKENIZER_FILES, TOKENIZER_FOLDER};

pub(crate) use names::{
    Kind, index_name, part_name, part_of, part_skipped_name, record_name, rows_name, series_of,
    shard_name, skipped_name,
};
use names::{is_left_over, is_own};

/// The folder of the hold-out inside a corpus's folder.
pub(crate) const HOLDOUT_FOLDER: &str = "holdout";
/// Maximum series of an input with `--by-set`: one for documents without a set, and one for each
/// set.
pub(crate) const SERIES_MAX: u64 = 1000;

/// A corpus folder written by this process alone, or its task's share of one.
pub(crate) struct Folder {
    /// The folder written into: the corpus folder itself, or one in it.
    path: PathBuf,
    /// The folder with the finished corpus to replace.
    replaces: Option<PathBuf>,
    /// Whether old files must be removed before writing can begin.
    must_clear: bool,
    _lock: FolderLock,
}

impl Folder {
    /// Takes the folder for writing a corpus of these options; nothing changes before
    /// [`Folder::begin`].
    ///
    /// An interrupted run with the same options is continued. Any other corpus is an error, or is
    /// replaced with `force`; a finished one is replaced only at the end. Unrelated files are an
    /// error, or are left alone with `force`.
    pub(crate) fn take(
        root: &Path,
        record: &BuildRecord,
        force: bool,
        task: Option<Task>,
    ) -> anyhow::Result<Folder> {
        std::fs::create_dir_all(root).with_context(|| format!("create {}", root.display()))?;
        refuse_links(root)?;
        let lock = match task {
            Some(task) => FolderLock::task(root, task)?,
            None => FolderLock::exclusive(root)?,
        };
        let mut folder =
            Folder { path: root.to_owned(), replaces: None, must_clear: false, _lock: lock };
        let has_manifest = folder.has_own_manifest()?;
        let before = folder.build_record()?;
        let is_same = before.as_ref().is_some_and(|before| record.continues(before));
        // With both, the run was cut off between the manifest and the removal of the records: all
        // series are complete.
        if is_same && (task.is_none() || !has_manifest) {
            return Ok(folder);
        }
        folder.refuse(before.as_ref(), record, has_manifest, force)?;
        // A replacement cut off while its files were moved is continued where it is.
        let is_begun_beside = !has_manifest && task.is_none() && {
            folder.path = root.join(NEXT_FOLDER);
            let beside = folder.build_record()?;
            folder.path = root.to_owned();
            beside.is_some_and(|beside| record.continues(&beside))
        };
        if has_manifest || is_begun_beside {
            folder.path = root.join(NEXT_FOLDER);
            folder.replaces = Some(root.to_owned());
            std::fs::create_dir_all(&folder.path)
                .with_context(|| format!("create {}", folder.path.display()))?;
            folder.must_clear =
                folder.build_record()?.is_none_or(|before| !record.continues(&before));
        } else {
            folder.must_clear = true;
        }
        Ok(folder)
    }

    /// Takes the folder of finished tasks.
    pub(crate) fn take_for_merge(root: &Path) -> anyhow::Result<Folder> {
        ensure!(root.is_dir(), UsageError(format!("{} is not a folder", root.display())));
        refuse_links(root)?;
        let lock = FolderLock::exclusive(root)?;
        Ok(Folder { path: root.to_owned(), replaces: None, must_clear: false, _lock: lock })
    }

    /// Refuses actions that need `force`.
    fn refuse(
        &self,
        before: Option<&BuildRecord>,
        record: &BuildRecord,
        has_manifest: bool,
        force: bool,
    ) -> anyhow::Result<()> {
        if force {
            return Ok(());
        }
        let path = self.path.display();
        let usage = |what: String| Err(UsageError(what).into());
        let names = self.list()?;
        if !has_manifest && self.path.join(NEXT_FOLDER).join(manifest::FILE_NAME).exists() {
            return usage(format!(
                "the replacement of the corpus in {path} was interrupted; the same command as \
                 then, with --force, finishes it"
            ));
        }
        if let Some(foreign) = names.iter().find(|name| !is_own(name)) {
            return usage(format!(
                "{path} holds {foreign:?}, which is not part of a corpus; name an empty folder, \
                 or write beside it with --force"
            ));
        }
        if has_manifest {
            return usage(format!(
                "{path} already holds a corpus; name another folder, or replace it with --force"
            ));
        }
        if let Some(before) = before {
            let what = differences(before, record).join(", ");
            return usage(format!(
                "{path} holds an unfinished corpus that was begun with other options ({what}); \
                 continue with those, or start over with --force"
            ));
        }
        if let Some(name) = names.iter().find(|name| !is_left_over(name)) {
            return usage(format!(
                "{path} holds {name:?} of a corpus without a manifest; name an empty folder, or \
                 replace it with --force"
            ));
        }
        Ok(())
    }

    /// The folder to write into.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes [`Folder::begin`] will remove.
    pub(crate) fn clearable_bytes(&self) -> anyhow::Result<u64> {
        if !self.must_clear {
            return Ok(0);
        }
        let own = self.own_files()?;
        let bytes = |name| std::fs::metadata(self.path.join(name)).map_or(0, |found| found.len());
        Ok(own.iter().map(bytes).sum())
    }

    /// Whether none of the existing files is useful.
    pub(crate) fn must_clear(&self) -> bool {
        self.must_clear
    }

    /// Makes the folder ready: removes useless files, and records the corpus being made.
    ///
    /// `is_kept` decides whether a file of a series (by its name in the folder) stays. A task
    /// leaves other tasks' series alone by keeping them.
    pub(crate) fn begin(
        &self,
        record: &BuildRecord,
        task: Option<Task>,
        tokenizer: &Path,
        is_kept: impl Fn(&str) -> bool,
    ) -> anyhow::Result<()> {
        let _turn = task.map(|_| FolderLock::begin(&self.path)).transpose()?;
        // Another task may have begun since.
        let before = self.build_record()?;
        let is_same = before.as_ref().is_some_and(|before| record.continues(before));
        if let (Some(_), Some(before)) = (task, &before) {
            if !is_same {
                self.refuse(Some(before), record, false, false)?;
            }
            check_inputs(&self.path, &before.inputs, &record.inputs)?;
        }
        // First: without it nobody takes the rest for a corpus.
        remove(&self.path.join(manifest::FILE_NAME))?;
        atomic::sync_dir(&self.path)?;
        for name in self.own_files()? {
            let goes = match series_of(&name) {
                Some(_) if is_same => !is_kept(&name),
                // Files outside any series are rewritten at the end, or belong to all tasks.
                None if is_same => {
                    task.is_none() && name != BUILD_FILE && !name.starts_with(TOKENIZER_FOLDER)
                }
                _ => true,
            };
            if goes {
                remove(&self.path.join(name))?;
            }
        }
        if record.options.selection.as_ref().is_some_and(|s| s.holdout_rate.is_some()) {
            let holdout = self.path.join(HOLDOUT_FOLDER);
            std::fs::create_dir_all(&holdout)
                .with_context(|| format!("create {}", holdout.display()))?;
        }
        copy_tokenizer(&self.path, tokenizer, record, is_same)?;
        if before.as_ref() != Some(record) {
            let text = serde_json::to_string_pretty(record).expect("a record is plain data");
            write_atomic(&self.path.join(BUILD_FILE), text.as_bytes())?;
        }
        Ok(())
    }

    /// The manifest of a run of this record that was cut off in [`Folder::finish`], if every file
    /// it lists has the bytes it records: only moves and removals are left to do.
    pub(crate) fn cut_off_in_finishing(
        &self,
        record: &BuildRecord,
    ) -> anyhow::Result<Option<Manifest>> {
        if self.build_record()?.as_ref() != Some(record) || !self.has_own_manifest()? {
            return Ok(None);
        }
        let has_begun = match &self.replaces {
            Some(root) => !root.join(manifest::FILE_NAME).exists(),
            None => {
                let names = self.own_files()?;
                let mut records = (0..record.inputs.len() as u64).map(record_name);
                records.any(|record| !names.contains(&record))
            }
        };
        let Some(manifest) = corpus::read_manifest(&self.path).ok().filter(|_| has_begun) else {
            return Ok(None);
        };
        let places: Vec<&Path> =
            [&self.path].into_iter().chain(&self.replaces).map(|p| &**p).collect();
        match damaged(&places, &manifest) {
            None => Ok(Some(manifest)),
            Some(what) => {
                notice(&format!("{}: {what}; it is being rewritten", self.path.display()));
                Ok(None)
            }
        }
    }

    /// Removes files found only in unfinished corpora, moves the corpus into the place of the one
    /// it replaces, and releases the folder.
    pub(crate) fn finish(self, manifest: &Manifest) -> anyhow::Result<()> {
        if let Some(root) = &self.replaces {
            return self.replace(root, manifest);
        }
        for name in self.own_files()? {
            let name_in = name.strip_prefix("holdout/").unwrap_or(&name);
            if series_of(name_in).is_some_and(|(_, kind)| kind != Kind::Final) {
                remove(&self.path.join(name))?;
                failpoint("finish");
            }
        }
        remove_next(&self.path)?;
        // Last: while it exists, the same command continues.
        remove(&self.path.join(BUILD_FILE))?;
        Ok(atomic::sync_dir(&self.path)?)
    }

    /// Every step can be cut off: the same command moves the rest of the files.
    fn replace(&self, root: &Path, manifest: &Manifest) -> anyhow::Result<()> {
        let kept = names_of(&[&self.path, root], manifest)?;
        // First: from here on the folder is a mixture of both.
        remove(&root.join(manifest::FILE_NAME))?;
        atomic::sync_dir(root)?;
        for name in self.own_files()?.into_iter().filter(|name| kept.contains(name)) {
            let to = root.join(&name);
            let dir = to.parent().expect("it is in the folder");
            std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
            std::fs::rename(self.path.join(&name), &to)
                .with_context(|| format!("move {}", to.display()))?;
            failpoint("replace");
        }
        for name in own_files(root)? {
            if !kept.contains(&name) {
                remove(&root.join(name))?;
            }
        }
        for dir in [TOKENIZER_FOLDER, HOLDOUT_FOLDER, ""] {
            let dir = root.join(dir);
            if dir.is_dir() {
                atomic::sync_dir(&dir)?;
            }
        }
        failpoint("replace-manifest");
        let name = manifest::FILE_NAME;
        std::fs::rename(self.path.join(name), root.join(name)).context("move the manifest")?;
        atomic::sync_dir(root)?;
        failpoint("replaced");
        remove_next(root)?;
        debug_assert!(manifest.files().all(|file| root.join(&file.path).exists()));
        Ok(atomic::sync_dir(root)?)
    }

    /// Whether the folder has a manifest written by us.
    pub(crate) fn has_own_manifest(&self) -> anyhow::Result<bool> {
        let path = self.path.join(manifest::FILE_NAME);
        if !path.exists() {
            return Ok(false);
        }
        let text = read_file(&path).with_context(|| format!("read {}", path.display()))?;
        let format = serde_json::from_slice::<serde_json::Value>(&text).ok();
        let format = format.as_ref().and_then(|value| value.get("format")?.as_str());
        ensure!(
            format == Some(manifest::FORMAT),
            "{} is not a manifest of a corpus and would be replaced; move it away",
            path.display()
        );
        Ok(true)
    }

    pub(crate) fn build_record(&self) -> anyhow::Result<Option<BuildRecord>> {
        let path = self.path.join(BUILD_FILE);
        if !path.exists() {
            return Ok(None);
        }
        let text = read_file(&path).with_context(|| format!("read {}", path.display()))?;
        let form = serde_json::from_slice::<serde_json::Value>(&text).ok();
        let form = form.as_ref().and_then(|value| value.get("format")?.as_str());
        let wanted = |record: &BuildRecord| manifest::version_of(record.options.imported.as_ref());
        match serde_json::from_slice::<BuildRecord>(&text) {
            Ok(record) if form == Some(BUILD_FORMAT) && record.version == wanted(&record) => {
                Ok(Some(record))
            }
            read if form == Some(BUILD_FORMAT) => {
                let found = match read {
                    Ok(record) => format!("version {}, not {}", record.version, wanted(&record)),
                    Err(err) => err.to_string(),
                };
                Err(UsageError(format!(
                    "{} is of another version of Patchmill ({found}); finish it with that version, \
                     or remove it",
                    path.display()
                ))
                .into())
            }
            _ => bail!(
                "{} is not from Patchmill and would be replaced; move it away",
                path.display()
            ),
        }
    }

    /// Names of the corpus's own files, relative to the folder.
    pub(crate) fn own_files(&self) -> anyhow::Result<Vec<String>> {
        own_files(&self.path)
    }

    fn list(&self) -> anyhow::Result<Vec<String>> {
        list(&self.path)
    }
}

/// The record in a corpus folder of these options, inputs and tokenizer until the corpus is
/// finished.
pub(crate) fn build_record(
    options: BuildOptions,
    inputs: &[Input],
    tokenizer: &Path,
) -> anyhow::Result<BuildRecord> {
    let inputs = inputs.iter();
    let inputs =
        inputs.map(|input| BuildInput { name: input.name.clone(), bytes: input.bytes }).collect();
    let format = BUILD_FORMAT.to_owned();
    let version = manifest::version_of(options.imported.as_ref());
    let mut tokenizer_files = Vec::new();
    for name in TOKENIZER_FILES {
        let source = tokenizer_source(tokenizer, name);
        if source.exists() {
            let (bytes, hash) = atomic::hash_file(&source)?;
            let path = format!("{TOKENIZER_FOLDER}/{name}");
            tokenizer_files.push(FileRecord { path, bytes, blake3: hash.to_hex().to_string() });
        }
    }
    let is_read = |file: &FileRecord| file.blake3 == options.tokenizer;
    ensure!(
        tokenizer_files.first().is_some_and(is_read),
        "{} changed while it was in use",
        tokenizer.display()
    );
    Ok(BuildRecord { format, version, options, inputs, tokenizer_files })
}

/// The tokenizer's own file of this name, next to tokenizer.json.
fn tokenizer_source(tokenizer: &Path, name: &str) -> PathBuf {
    let is_tokenizer = name == TOKENIZER_FILES[0];
    if is_tokenizer { tokenizer.to_owned() } else { tokenizer.with_file_name(name) }
}

/// Refuses links where a corpus has folders: files would be written and removed elsewhere.
fn refuse_links(root: &Path) -> Result<(), UsageError> {
    let next = root.join(NEXT_FOLDER);
    let places =
        [root, &next].map(|place| [TOKENIZER_FOLDER, HOLDOUT_FOLDER].map(|f| place.join(f)));
    let inner = places.iter().map(|[_, holdout]| holdout.join(TOKENIZER_FOLDER));
    let all = places.iter().flatten().cloned().chain(inner).chain([next]);
    for path in all {
        if path.is_symlink() {
            return Err(UsageError(format!(
                "{} is a symbolic link, through which files elsewhere would be replaced or \
                 removed; remove it, or name another folder",
                path.display()
            )));
        }
    }
    Ok(())
}

/// Refuses an output folder inside a folder of inputs, where the next run would read it.
pub(crate) fn check_not_inside(out: &Path, inputs: &[PathBuf]) -> anyhow::Result<()> {
    // The part of the path that exists.
    let absolute = std::path::absolute(out).with_context(|| format!("find {}", out.display()))?;
    let real = absolute
        .ancestors()
        .find_map(|part| Some(part.canonicalize().ok()?.join(absolute.strip_prefix(part).ok()?)));
    let real = real.unwrap_or(absolute);
    for input in inputs.iter().filter(|input| input.is_dir()) {
        let folder = input.canonicalize().with_context(|| format!("find {}", input.display()))?;
        if real.starts_with(&folder) {
            return Err(UsageError(format!(
                "--out {} lies inside the folder of inputs {}, where the same command would read \
                 it as an input; name a folder elsewhere",
                out.display(),
                input.display()
            ))
            .into());
        }
    }
    Ok(())
}

/// Refuses inputs and tokenizers inside the output folder, where files may be removed.
pub(crate) fn check_outside(out: &Path, inputs: &[Input], encoder: &Encoder) -> anyhow::Result<()> {
    // Nothing lies in a missing folder.
    let Ok(out) = out.canonicalize() else { return Ok(()) };
    for path in inputs.iter().map(|input| input.path.as_path()).chain([encoder.path()]) {
        let real = path.canonicalize().with_context(|| format!("find {}", path.display()))?;
        if real.starts_with(&out) {
            return Err(UsageError(format!(
                "{} lies inside --out {}, where files may be removed or replaced; move it, or name \
                 another folder",
                path.display(),
                out.display()
            ))
            .into());
        }
    }
    Ok(())
}

/// Tasks of one corpus have the same inputs; otherwise their series do not fit together.
fn check_inputs(path: &Path, before: &[BuildInput], now: &[BuildInput]) -> Result<(), UsageError> {
    if before == now {
        return Ok(());
    }
    let is_in = |inputs: &[BuildInput], input: &BuildInput| inputs.contains(input);
    let gone = before.iter().filter(|input| !is_in(now, input)).map(|input| ("was", input));
    let new = now.iter().filter(|input| !is_in(before, input)).map(|input| ("is", input));
    let named: Vec<String> = gone
        .chain(new)
        .map(|(what, input)| format!("{} {what} {} bytes", input.name, input.bytes))
        .collect();
    Err(UsageError(format!(
        "the inputs are not those that {} was begun with ({}); give all tasks the same inputs, or \
         begin in an empty folder",
        path.display(),
        named.join(", ")
    )))
}

/// Makes the copies of the tokenizer's files those of the record. Of an interrupted run, files that
/// are missing or changed are restored.
fn copy_tokenizer(
    path: &Path,
    tokenizer: &Path,
    record: &BuildRecord,
    is_resumed: bool,
) -> anyhow::Result<()> {
    let dir = path.join(TOKENIZER_FOLDER);
    std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    for name in TOKENIZER_FILES {
        let copy = dir.join(name);
        let expected = record.tokenizer_files.iter().find(|file| file.path.ends_with(name));
        let Some(expected) = expected else {
            remove(&copy)?;
            continue;
        };
        if is_resumed {
            let Some(what) = damage(&copy, expected) else { continue };
            notice(&format!("{}: {what}; it is being restored", path.display()));
        }
        let source = tokenizer_source(tokenizer, name);
        let bytes = read_file(&source).with_context(|| format!("read {}", source.display()))?;
        ensure!(
            blake3::hash(&bytes).to_hex().as_str() == expected.blake3,
            "{} changed while it was in use",
            source.display()
        );
        let mut file = AtomicFile::create(&copy)?;
        file.append(&bytes)?;
        file.place()?;
    }
    Ok(atomic::sync_dir(&dir)?)
}

/// How a file differs from its record.
pub(crate) fn damage(path: &Path, expected: &FileRecord) -> Option<String> {
    let name = &expected.path;
    match atomic::hash_file(path) {
        Ok((bytes, hash)) if hash.to_hex().as_str() != expected.blake3 => Some(format!(
            "{name} is {bytes} bytes with BLAKE3 {}; its record says {} bytes with {}",
            hash.to_hex(),
            expected.bytes,
            expected.blake3
        )),
        Ok(_) => None,
        Err(err) => Some(format!("{name}: {:#}", anyhow::Error::new(err))),
    }
}

/// The files a corpus lists, those of its hold-out with its manifest included, by their names in
/// the folder. The hold-out's manifest is in one of `places`.
fn listed(places: &[&Path], manifest: &Manifest) -> anyhow::Result<Vec<FileRecord>> {
    let mut files: Vec<FileRecord> = manifest.files().cloned().collect();
    let selection = manifest.selection.as_ref();
    if selection.is_some_and(|selection| selection.holdout_rate.is_some()) {
        let has_manifest =
            |place: &&&Path| place.join(HOLDOUT_FOLDER).join(manifest::FILE_NAME).exists();
        let place = places.iter().find(has_manifest).context("the hold-out has no manifest")?;
        let holdout = corpus::read_manifest(&place.join(HOLDOUT_FOLDER))?;
        files.extend(holdout.files().map(|file| FileRecord {
            path: format!("{HOLDOUT_FOLDER}/{}", file.path),
            ..file.clone()
        }));
    }
    Ok(files)
}

/// The names of a corpus's files in its folder, but for its manifest.
fn names_of(places: &[&Path], manifest: &Manifest) -> anyhow::Result<BTreeSet<String>> {
    let mut names: BTreeSet<String> =
        listed(places, manifest)?.into_iter().map(|file| file.path).collect();
    if names.iter().any(|name| name.starts_with(HOLDOUT_FOLDER)) {
        names.insert(format!("{HOLDOUT_FOLDER}/{}", manifest::FILE_NAME));
    }
    Ok(names)
}

/// The first file of a corpus that has its recorded bytes in none of `places`.
fn damaged(places: &[&Path], manifest: &Manifest) -> Option<String> {
    let files = match listed(places, manifest) {
        Ok(files) => files,
        Err(err) => return Some(format!("{err:#}")),
    };
    files.iter().find_map(|file| {
        let found = places.iter().filter(|place| place.join(&file.path).exists());
        let mut faults = found.map(|place| damage(&place.join(&file.path), file));
        if faults.clone().any(|fault| fault.is_none()) {
            return None;
        }
        Some(faults.next().flatten().unwrap_or_else(|| format!("{} is missing", file.path)))
    })
}

fn own_files(path: &Path) -> anyhow::Result<Vec<String>> {
    Ok(list(path)?.into_iter().filter(|name| is_own(name)).collect())
}

/// All names in the folder, in its tokenizer's and in its hold-out's, sorted, without locks and
/// without those folders themselves.
fn list(path: &Path) -> anyhow::Result<Vec<String>> {
    let mut names = Vec::new();
    let holdout_tokenizer = format!("{HOLDOUT_FOLDER}/{TOKENIZER_FOLDER}");
    for folder in ["", TOKENIZER_FOLDER, HOLDOUT_FOLDER, &holdout_tokenizer] {
        let dir = path.join(folder);
        if !dir.is_dir() {
            continue;
        }
        let entries = std::fs::read_dir(&dir).with_context(|| format!("list {}", dir.display()))?;
        for entry in entries {
            let entry = entry.with_context(|| format!("list {}", dir.display()))?;
            let file_name = entry.file_name();
            let file_name = file_name.to_string_lossy();
            let is_folder = entry.path().is_dir()
                && (file_name == TOKENIZER_FOLDER
                    || folder.is_empty() && [HOLDOUT_FOLDER, NEXT_FOLDER].contains(&&*file_name));
            let is_lock = folder.is_empty() && lock::is_lock(&file_name);
            if !is_lock && !is_folder {
                let separator = if folder.is_empty() { "" } else { "/" };
                names.push(format!("{folder}{separator}{file_name}"));
            }
        }
    }
    names.sort();
    Ok(names)
}

/// Removes the leftovers of replacing the corpus at `root`, and their folder unless it has
/// unrelated files.
fn remove_next(root: &Path) -> anyhow::Result<()> {
    let next = root.join(NEXT_FOLDER);
    for name in own_files(&next)? {
        remove(&next.join(name))?;
    }
    let holdout_tokenizer = format!("{HOLDOUT_FOLDER}/{TOKENIZER_FOLDER}");
    for folder in [&holdout_tokenizer, HOLDOUT_FOLDER, TOKENIZER_FOLDER, ""] {
        let path = next.join(folder);
        match std::fs::remove_dir(&path) {
            Err(err)
                if ![ErrorKind::NotFound, ErrorKind::DirectoryNotEmpty].contains(&err.kind()) =>
            {
                return Err(err).with_context(|| format!("remove {}", path.display()));
            }
            _ => {}
        }
    }
    Ok(())
}

pub(crate) fn remove(path: &Path) -> anyhow::Result<()> {
    match std::fs::remove_file(path) {
        Err(err) if err.kind() != std::io::ErrorKind::NotFound => {
            Err(err).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// The options and tokenizer's files that differ, with both values of an option.
fn differences(before: &BuildRecord, now: &BuildRecord) -> Vec<String> {
    let object = |record: &BuildRecord| match serde_json::to_value(&record.options) {
        Ok(serde_json::Value::Object(object)) => object,
        _ => unreachable!("options are an object"),
    };
    let (options_before, options) = (object(before), object(now));
    let keys = options_before.keys();
    let keys = keys.chain(options.keys().filter(|key| !options_before.contains_key(*key)));
    let of = |object: &serde_json::Map<_, _>, key| object.get(key).cloned().unwrap_or_default();
    let differing = keys.filter(|key| options_before.get(*key) != options.get(*key));
    let mut found: Vec<String> = differing
        .map(|key| format!("{key} was {}, now {}", of(&options_before, key), of(&options, key)))
        .collect();
    if !now.continues(before) && before.options == now.options {
        let both = before.tokenizer_files.iter().chain(&now.tokenizer_files);
        let is_changed = |file: &&FileRecord| {
            !before.tokenizer_files.contains(file) || !now.tokenizer_files.contains(file)
        };
        let names: BTreeSet<&str> =
            both.filter(is_changed).map(|file| file.path.as_str()).collect();
        found.extend(names.into_iter().map(|name| format!("{name} of the source has changed")));
    }
    found
}
