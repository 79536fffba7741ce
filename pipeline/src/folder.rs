//! The folder that a corpus is written into: who may write, what is in it, and what of an interrupted run can stay.
//!
//! **Invariant:** nothing is removed that is not recognisably a corpus' own, and only the holder of the lock removes.

use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use schemas::build::{
    BUILD_FILE, BUILD_FORMAT, BuildOptions, BuildRecord, SKIPPED_FILE, SeriesRecord,
};
use schemas::manifest;

use crate::inputs::Input;
use crate::publish::{self, write_atomic};
use crate::report::notice;
use crate::tokenize::{TOKENIZER_FILES, TOKENIZER_FOLDER};

const LOCK_FILE: &str = ".lock";

/// A use of the command line that cannot be meant.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// A corpus folder that this process alone writes.
pub(crate) struct Folder {
    path: PathBuf,
    lock: Lock,
}

impl Folder {
    /// Takes the folder for writing a corpus with these options.
    ///
    /// An interrupted run with the same options is kept, for [`Folder::finished_series`]; anything else of
    /// a corpus is an error, or removed by `force`. Files of others are an error, or left alone by `force`.
    pub(crate) fn take(path: &Path, options: &BuildOptions, force: bool) -> anyhow::Result<Folder> {
        std::fs::create_dir_all(path).with_context(|| format!("create {}", path.display()))?;
        let lock = Lock::take(path)?;
        let folder = Folder { path: path.to_owned(), lock };
        let foreign = folder.foreign_files()?;
        let has_manifest = folder.has_own_manifest()?;
        let before = folder.build_record()?;
        if let Some(before) = &before
            && has_manifest
            && before.options == *options
        {
            // Cut off between the manifest and the removal of these records: all series stand, and the same run
            // writes the same manifest again.
            remove(&path.join(manifest::FILE_NAME))?;
            return Ok(folder);
        }
        if !force {
            if let Some(foreign) = foreign.first() {
                return Err(UsageError(format!(
                    "{} holds {foreign:?}, which is no part of a corpus; name an empty folder, \
                     or write beside it with --force",
                    path.display()
                ))
                .into());
            }
            if has_manifest {
                return Err(UsageError(format!(
                    "{} already holds a corpus; name another folder, or replace it with --force",
                    path.display()
                ))
                .into());
            }
        }
        match before {
            Some(before) if before.options == *options && !has_manifest => {}
            Some(before) if !force && before.options != *options => {
                let what = differences(&before.options, options).join(", ");
                return Err(UsageError(format!(
                    "{} holds an unfinished corpus that was begun with other options ({what}); \
                     go on with those, or begin anew with --force",
                    path.display()
                ))
                .into());
            }
            _ => folder.begin(options, force)?,
        }
        Ok(folder)
    }

    /// Removes what a corpus may have left and writes down what is being made.
    fn begin(&self, options: &BuildOptions, force: bool) -> anyhow::Result<()> {
        let manifest = self.path.join(manifest::FILE_NAME);
        remove(&manifest)?; // first: without it nobody takes the rest for a corpus
        publish::sync_dir(&self.path)?;
        let own = self.own_files()?;
        if !force && let Some(name) = own.iter().find(|name| !publish::is_temporary(name)) {
            return Err(UsageError(format!(
                "{} holds {name:?} of a corpus without a manifest; name an empty folder, or replace it with --force",
                self.path.display()
            ))
            .into());
        }
        for name in own {
            remove(&self.path.join(name))?;
        }
        let record = BuildRecord {
            format: BUILD_FORMAT.to_owned(),
            version: manifest::VERSION,
            options: options.clone(),
            inputs: Vec::new(),
        };
        let text = serde_json::to_string_pretty(&record).expect("a record is plain data");
        Ok(write_atomic(&self.path.join(BUILD_FILE), text.as_bytes())?)
    }

    /// The series that an interrupted run completed, by their index; all other files of series are removed.
    pub(crate) fn finished_series(
        &self,
        inputs: &[Input],
    ) -> anyhow::Result<BTreeMap<u64, SeriesRecord>> {
        let mut finished = BTreeMap::new();
        for (index, input) in (0..).zip(inputs) {
            if let Some(record) = self.finished(index, input)? {
                finished.insert(index, record);
            }
        }
        for name in self.own_files()? {
            let kept = match series_of(&name) {
                Some(index) => finished.get(&index).is_some_and(|record: &SeriesRecord| {
                    name == record_name(index) || record.files().any(|file| file.path == name)
                }),
                None => name == BUILD_FILE,
            };
            if !kept {
                remove(&self.path.join(name))?;
            }
        }
        Ok(finished)
    }

    /// The record of a series, if it is of this input and its files are what it says.
    fn finished(&self, index: u64, input: &Input) -> anyhow::Result<Option<SeriesRecord>> {
        let path = self.path.join(record_name(index));
        if !path.exists() {
            return Ok(None);
        }
        let text = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        let again = |path: &Path, what: &dyn std::fmt::Display| {
            let name = &input.name;
            notice(&format!("{}: {what}; series {index} ({name}) is made again", path.display()));
            Ok(None)
        };
        let record = match SeriesRecord::parse(&text) {
            Ok(record) => record,
            Err(err) => return again(&path, &err),
        };
        let is_same_input = record.input == input.name
            && record.input_bytes == input.bytes
            && record.modified_nanoseconds == input.modified_nanoseconds;
        if !is_same_input {
            return Ok(None);
        }
        for file in record.files() {
            let path = self.path.join(&file.path);
            let (bytes, hash) = match publish::hash_file(&path) {
                Ok(found) => found,
                Err(err) => return again(&path, &format!("{:#}", anyhow::Error::new(err))),
            };
            let (found, expected) = (hash.to_hex(), &file.blake3);
            if found.as_str() != expected {
                let what = format!(
                    "is {bytes} bytes with BLAKE3 {found}; its record says {} with {expected}",
                    file.bytes
                );
                return again(&path, &what);
            }
        }
        Ok(Some(record))
    }

    /// Removes what only unfinished corpora have, and gives the folder back.
    pub(crate) fn finish(self) -> anyhow::Result<()> {
        for name in self.own_files()? {
            if name.ends_with(RECORD_END) || name.ends_with(SKIPPED_END) || name == BUILD_FILE {
                remove(&self.path.join(name))?;
            }
        }
        drop(self.lock);
        Ok(publish::sync_dir(&self.path)?)
    }

    /// Whether there is a manifest of ours.
    fn has_own_manifest(&self) -> anyhow::Result<bool> {
        let path = self.path.join(manifest::FILE_NAME);
        if !path.exists() {
            return Ok(false);
        }
        let text = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        let format = serde_json::from_slice::<serde_json::Value>(&text).ok();
        let format = format.as_ref().and_then(|value| value.get("format")?.as_str());
        ensure!(
            format == Some(manifest::FORMAT),
            "{} is no manifest of a corpus and would be replaced; move it away",
            path.display()
        );
        Ok(true)
    }

    fn build_record(&self) -> anyhow::Result<Option<BuildRecord>> {
        let path = self.path.join(BUILD_FILE);
        if !path.exists() {
            return Ok(None);
        }
        let text = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        match serde_json::from_slice::<BuildRecord>(&text) {
            Ok(record) if record.format == BUILD_FORMAT => Ok(Some(record)),
            _ => bail!(
                "{} is not from Patchmill and would be replaced; move it away",
                path.display()
            ),
        }
    }

    /// Names, relative to the folder, that are a corpus' own.
    fn own_files(&self) -> anyhow::Result<Vec<String>> {
        Ok(self.list()?.into_iter().filter(|name| is_own(name)).collect())
    }

    fn foreign_files(&self) -> anyhow::Result<Vec<String>> {
        Ok(self.list()?.into_iter().filter(|name| !is_own(name)).collect())
    }

    /// Everything in the folder and in its tokenizer folder, sorted, the lock excepted.
    fn list(&self) -> anyhow::Result<Vec<String>> {
        let mut names = Vec::new();
        for (dir, prefix) in [
            (self.path.clone(), String::new()),
            (self.path.join(TOKENIZER_FOLDER), format!("{TOKENIZER_FOLDER}/")),
        ] {
            if !dir.is_dir() {
                continue;
            }
            let entries =
                std::fs::read_dir(&dir).with_context(|| format!("list {}", dir.display()))?;
            for entry in entries {
                let entry = entry.with_context(|| format!("list {}", dir.display()))?;
                let name = format!("{prefix}{}", entry.file_name().to_string_lossy());
                let is_tokenizer_folder = name == TOKENIZER_FOLDER && entry.path().is_dir();
                if name != LOCK_FILE && !is_tokenizer_folder {
                    names.push(name);
                }
            }
        }
        names.sort();
        Ok(names)
    }
}

const RECORD_END: &str = ".series.json";
const SKIPPED_END: &str = ".skipped.jsonl";
const INDEX_END: &str = ".index.parquet";
const SHARD_END: &str = ".tok";

/// Name of a shard.
pub(crate) fn shard_name(series_index: u64, shard_index: u64) -> String {
    format!("{series_index:05}-{shard_index:05}{SHARD_END}")
}

/// Name of a series' document index.
pub(crate) fn index_name(series_index: u64) -> String {
    format!("{series_index:05}{INDEX_END}")
}

/// Name of a series' list of skipped documents, until the manifest is in place.
pub(crate) fn skipped_name(series_index: u64) -> String {
    format!("{series_index:05}{SKIPPED_END}")
}

/// Name of a series' record, until the manifest is in place.
pub(crate) fn record_name(series_index: u64) -> String {
    format!("{series_index:05}{RECORD_END}")
}

/// The series that a file name of the above belongs to.
fn series_of(name: &str) -> Option<u64> {
    let number = |digits: &str| {
        let is_number = digits.len() >= 5 && digits.bytes().all(|byte| byte.is_ascii_digit());
        if is_number { digits.parse::<u64>().ok() } else { None }
    };
    if let Some(stem) = name.strip_suffix(SHARD_END) {
        let (series, shard) = stem.split_once('-')?;
        return number(shard).and(number(series));
    }
    let ends = [RECORD_END, SKIPPED_END, INDEX_END];
    number(ends.iter().find_map(|end| name.strip_suffix(end))?)
}

/// Whether a name (relative to the folder) is one that corpora use.
fn is_own(name: &str) -> bool {
    if let Some(file) = name.strip_prefix(&format!("{TOKENIZER_FOLDER}/")) {
        return TOKENIZER_FILES.contains(&file) || publish::is_temporary(file);
    }
    series_of(name).is_some()
        || [manifest::FILE_NAME, BUILD_FILE, SKIPPED_FILE].contains(&name)
        || publish::is_temporary(name)
}

fn remove(path: &Path) -> anyhow::Result<()> {
    match std::fs::remove_file(path) {
        Err(err) if err.kind() != std::io::ErrorKind::NotFound => {
            Err(err).with_context(|| format!("remove {}", path.display()))
        }
        _ => Ok(()),
    }
}

/// The options that are not the same, with both values.
fn differences(before: &BuildOptions, now: &BuildOptions) -> Vec<String> {
    let object = |options| match serde_json::to_value(options) {
        Ok(serde_json::Value::Object(object)) => object,
        _ => unreachable!("options are an object"),
    };
    let (before, now) = (object(before), object(now));
    let keys = before.keys().chain(now.keys().filter(|key| !before.contains_key(*key)));
    let of = |object: &serde_json::Map<_, _>, key| object.get(key).cloned().unwrap_or_default();
    keys.filter(|key| before.get(*key) != now.get(*key))
        .map(|key| format!("{key} was {}, now {}", of(&before, key), of(&now, key)))
        .collect()
}

/// A lock file that exists while it is held; the kernel frees it when its holder dies.
struct Lock {
    path: PathBuf,
    _file: File,
}

impl Lock {
    fn take(folder: &Path) -> anyhow::Result<Lock> {
        let path = folder.join(LOCK_FILE);
        let context = || format!("lock {}", path.display());
        loop {
            let mut options = File::options();
            options.read(true).write(true).create(true).truncate(false);
            let mut file = options.open(&path).with_context(context)?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let holder = std::fs::read_to_string(&path).unwrap_or_default();
                    bail!(
                        "{} is being written by another process ({})",
                        folder.display(),
                        holder.trim()
                    );
                }
                Err(TryLockError::Error(err)) => return Err(err).with_context(context),
            }
            // The holder before may have removed the file between our opening and our locking it.
            let ours = file.metadata().with_context(context)?;
            let is_current = std::fs::metadata(&path)
                .is_ok_and(|named| (named.dev(), named.ino()) == (ours.dev(), ours.ino()));
            if is_current {
                file.set_len(0).with_context(context)?;
                writeln!(file, "process {}", std::process::id()).with_context(context)?;
                return Ok(Lock { path, _file: file });
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // The file is removed while it is locked. A leftover does no harm: the lock is what counts.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_a_corpus_are_its_own() {
        for name in [
            "manifest.json",
            "build.json",
            "skipped.jsonl",
            "00000-00000.tok",
            "123456-00001.tok",
            "00001.index.parquet",
            "00001.series.json",
            "00001.skipped.jsonl",
            ".00001-00000.tok.tmp",
            "tokenizer/tokenizer.json",
        ] {
            assert!(is_own(name), "{name}");
        }
        for name in ["thesis.tex", "0-0.tok", "a.tok", "00000.tok", "tokenizer/notes", "x.tmp"] {
            assert!(!is_own(name), "{name}");
        }
    }
}
