//! Finds the files of an import, and checks them as far as possible before anything is written.
//!
//! **Invariant:** a file passed on has the length of its ids, and its index fits them, provided
//! [`Foreign::check_unchanged`] finds the file unchanged.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context;
use schemas::manifest::ForeignFormat;
use schemas::shard::TokenBytes;

use crate::console::usage::UsageError;
use crate::exchange::error::ForeignError;
use crate::exchange::formats::raw_ids::Span;
use crate::exchange::formats::{megatron, olmo, raw_ids};
use crate::exchange::import::spec::ImportSpec;
use crate::read::inputs::{self, Input};

fn usage<T>(what: String) -> anyhow::Result<T> {
    Err(UsageError(what).into())
}

/// A file of ids, checked as far as possible without reading them.
pub(crate) struct Foreign {
    pub(crate) input: Input,
    pub(crate) token_bytes: TokenBytes,
    pub(crate) token_count: u64,
    /// Where the first id lies in the file.
    pub(crate) first_byte: u64,
    pub(crate) index: Option<megatron::Index>,
    pub(crate) csv: Option<PathBuf>,
    seen: Vec<Seen>,
}

/// A file's state before any of it was read.
struct Seen {
    path: PathBuf,
    before: Metadata,
}

impl Foreign {
    /// Refuses files changed since they were found: the bytes read may be of both versions.
    pub(crate) fn check_unchanged(&self) -> Result<(), ForeignError> {
        self.seen.iter().try_for_each(Seen::check)
    }
}

impl Seen {
    fn of(path: &Path) -> Result<Seen, ForeignError> {
        let io = |source| ForeignError::Io { action: "read", path: path.to_owned(), source };
        Ok(Seen { path: path.to_owned(), before: std::fs::metadata(path).map_err(io)? })
    }

    fn check(&self) -> Result<(), ForeignError> {
        let changed = |what| Err(ForeignError::Changed { path: self.path.clone(), what });
        let Ok(Seen { before: now, .. }) = Seen::of(&self.path) else {
            return changed("it can no longer be found".to_owned());
        };
        let before = &self.before;
        if now.len() != before.len() {
            return changed(format!("it is {} bytes; it was {}", now.len(), before.len()));
        }
        let written = |of: &Metadata| (of.mtime(), of.mtime_nsec());
        // Also catches a file with its old time restored.
        let touched = |of: &Metadata| (of.ctime(), of.ctime_nsec());
        if written(&now) != written(before) || touched(&now) != touched(before) {
            return changed("it was written to or replaced".to_owned());
        }
        Ok(())
    }
}

/// Bytes of an id, for a vocabulary of this size; an index may differ.
pub(crate) fn token_bytes(spec: &ImportSpec, vocab_size: u64) -> TokenBytes {
    match spec.from {
        ForeignFormat::Nanogpt => TokenBytes::Two,
        _ => spec.token_bytes.unwrap_or(TokenBytes::for_vocabulary(vocab_size)),
    }
}

/// The files, in their order in the corpus.
pub(crate) fn find(spec: &ImportSpec, token_bytes: TokenBytes) -> anyhow::Result<Vec<Foreign>> {
    let source = &spec.source;
    match spec.from {
        ForeignFormat::Megatron => find_megatron(source),
        ForeignFormat::Olmo => {
            let inputs = inputs::foreign(source, olmo::IDS_END)?;
            let files = inputs.into_iter().map(|input| flat(input, token_bytes, true));
            let files = files.collect::<anyhow::Result<Vec<Foreign>>>()?;
            let with = files.iter().find(|file| file.csv.is_some());
            let without = files.iter().find(|file| file.csv.is_none());
            if let (Some(with), Some(without)) = (with, without) {
                return usage(format!(
                    "{} has a .csv.gz of its documents and {} has none; import them separately",
                    with.input.path.display(),
                    without.input.path.display()
                ));
            }
            Ok(files)
        }
        ForeignFormat::Nanogpt if source.is_dir() => usage(format!(
            "{} is a folder; name train.bin or val.bin in it, each of which becomes a corpus",
            source.display()
        )),
        ForeignFormat::Nanogpt => {
            let inputs = inputs::foreign(source, ".bin")?;
            inputs.into_iter().map(|input| flat(input, token_bytes, false)).collect()
        }
    }
}

/// A file of ids alone.
fn flat(input: Input, token_bytes: TokenBytes, may_have_csv: bool) -> anyhow::Result<Foreign> {
    let csv = Some(olmo::csv_path(&input.path)).filter(|csv| may_have_csv && csv.exists());
    let input = match &csv {
        Some(csv) => with_side(input, csv)?,
        None => input,
    };
    let path = &input.path;
    let seen = csv.iter().chain([path]).map(|path| Seen::of(path));
    let seen = seen.collect::<Result<_, _>>()?;
    let Span { first_byte, token_count } = raw_ids::span(path, token_bytes)?;
    if let Some(csv) = &csv {
        let mut ends = olmo::DocumentEnds::open(csv, token_count)?;
        while ends.next_end()?.is_some() {}
    }
    Ok(Foreign { input, token_bytes, token_count, first_byte, index: None, csv, seen })
}

/// Makes a change of `side`, the file beside the ids, a change of the input: work made from both is
/// useless after either changes.
///
/// Uses the sum of both times, not the later one: a replacement may be older than the other file.
fn with_side(mut input: Input, side: &Path) -> anyhow::Result<Input> {
    for side in inputs::foreign(side, "")? {
        input.modified_nanoseconds =
            input.modified_nanoseconds.wrapping_add(side.modified_nanoseconds);
    }
    Ok(input)
}

/// Pairs of `.bin` and `.idx`.
fn find_megatron(source: &Path) -> anyhow::Result<Vec<Foreign>> {
    let inputs = if source.is_dir() {
        let found = inputs::foreign(source, ".idx")?;
        // A `.bin` without its `.idx` would be left out silently.
        for bin in inputs::foreign(source, ".bin")? {
            let idx = bin.path.with_extension("idx");
            if !idx.exists() {
                return usage(format!("{} has no {}", bin.path.display(), idx.display()));
            }
        }
        found.into_iter().map(|idx| bin_of(&idx.path, &idx.name)).collect::<Result<_, _>>()?
    } else {
        let text = source.to_string_lossy();
        let is_file = text.ends_with(".bin") || text.ends_with(".idx");
        let bin = if is_file {
            source.with_extension("bin")
        } else {
            megatron::with_extension(source, ".bin")
        };
        inputs::foreign(&bin, ".bin")?
    };
    let open = |input: Input| {
        let idx = input.path.with_extension("idx");
        if !idx.exists() {
            return usage(format!("{} has no {}", input.path.display(), idx.display()));
        }
        let input = with_side(input, &idx)?;
        let seen = vec![Seen::of(&input.path)?, Seen::of(&idx)?];
        let index = megatron::Index::open(&idx, &input.path)?;
        let token_count = input.bytes / u64::from(index.token_bytes.get());
        let token_bytes = index.token_bytes;
        let (first_byte, index) = (0, Some(index));
        Ok(Foreign { input, token_bytes, token_count, first_byte, index, csv: None, seen })
    };
    inputs.into_iter().map(open).collect()
}

fn bin_of(idx: &Path, name: &str) -> anyhow::Result<Input> {
    let bin = idx.with_extension("bin");
    let found = inputs::foreign(&bin, ".bin")?;
    let input = found.into_iter().next().context("a file is an input")?;
    let stem = name.strip_suffix(".idx").unwrap_or(name);
    Ok(Input { name: format!("{stem}.bin"), ..input })
}
