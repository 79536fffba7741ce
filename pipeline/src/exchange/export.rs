//! Exports a corpus to the files of another project.
//!
//! An export writes what the other projects' readers expect; the facts, with packages and versions,
//! are in `exchange/formats`. It reads through [`Corpus`], which checks every block, and holds one
//! shard's footer at a time. Ids are written as they are. Files are complete under temporary names
//! before the first gets its own, documents after ids.
//!
//! A file for each shard is an option and not the default, because the readers of OLMo-core and
//! datatrove drop the tokens at the end of each file that fill no window. The report lists whatever
//! a format has no place for; nothing is squeezed in some other way.
//!
//! Tests read exports with our own readers and flip every bit of an index; `just exchange` uses the
//! projects' own.
//!
//! **Invariant:** either the files hold every id of the corpus in the order of its stream, or none
//! of them has its name.

pub(crate) mod files;
pub(crate) mod spec;
pub(crate) mod target;

use std::path::{Component, Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, ensure};
use indicatif::ProgressBar;
use schemas::run::ReadBackend;
use schemas::shard::TokenBytes;

use crate::console::progress::notice;
use crate::console::stop::StopFlag;
use crate::console::usage::UsageError;
use crate::corpus::Corpus;
use crate::disk::atomic::{SealedFile, free_bytes, parent, sync_dir};
use crate::disk::failpoint::failpoint;
use crate::disk::limits::raise_open_files_limit;
use crate::exchange::export::files::{Job, Part, VAL_NAME, bytes_of, for_each_chunk, parts};
use crate::exchange::export::spec::ExportSpec;
use crate::exchange::export::target::{Target, token_bytes};
use crate::exchange::formats::megatron;
use crate::write::folder::lock::FolderLock;
use crate::write::folder::{self, HOLDOUT_FOLDER};

/// The result of an export.
pub struct Report {
    pub(crate) to: Target,
    /// The files with their lengths.
    pub(crate) files: Vec<(PathBuf, u64)>,
    pub(crate) tokens: u64,
    pub(crate) documents: u64,
    pub(crate) token_bytes: TokenBytes,
    pub(crate) vocab_size: u64,
    pub(crate) fingerprint: String,
    /// Information missing from the files.
    pub(crate) lost: Vec<&'static str>,
    pub(crate) seconds: f64,
}

/// Writes the files of `spec`.
pub fn write(spec: &ExportSpec) -> anyhow::Result<Report> {
    export_until(spec, &StopFlag::default())
}

pub(crate) fn export_until(spec: &ExportSpec, stop: &StopFlag) -> anyhow::Result<Report> {
    let started = Instant::now();
    raise_open_files_limit();
    check_options(spec)?;
    let train = Corpus::open(&spec.corpus, ReadBackend::Pread)?;
    let val = open_val(spec, &train)?;
    let corpora: Vec<&Corpus> = std::iter::once(&train).chain(&val).collect();
    for corpus in &corpora {
        check_destination(spec, corpus.dir())?;
        check_sequences(spec.to, corpus)?;
        check_ids(spec.to, corpus, stop)?;
    }
    let parts = parts(spec, &corpora);
    let stale = stale(spec, &parts);
    check_existing(spec, &parts, &stale)?;
    let token_bytes = token_bytes(spec.to, train.manifest());
    let dir = folder_of(spec);
    std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
    let _lock = FolderLock::named(dir, &lock_name(spec))?;
    // Another export may have ended since.
    check_existing(spec, &parts, &stale)?;
    check_space(spec.to, dir, &parts, token_bytes)?;
    let bytes: u64 = parts.iter().map(|part| part.tokens() * bytes_of(token_bytes)).sum();
    let mut job = Job { to: spec.to, token_bytes, stop, bar: ProgressBar::new(bytes) };
    let mut files = Vec::new();
    for part in &parts {
        files.extend(job.write(part)?);
    }
    job.bar.finish_and_clear();
    let lost = lost(spec.to, &corpora);
    say(spec, &train, &val, &lost);
    let files = publish(dir, &parts, &stale, files)?;
    Ok(Report {
        to: spec.to,
        files,
        tokens: parts.iter().map(Part::tokens).sum(),
        documents: corpora.iter().map(|corpus| corpus.document_count()).sum(),
        token_bytes,
        vocab_size: train.vocab_size(),
        fingerprint: train.manifest().fingerprint.clone(),
        lost,
        seconds: started.elapsed().as_secs_f64(),
    })
}

fn usage<T>(what: String) -> anyhow::Result<T> {
    Err(UsageError(what).into())
}

fn check_options(spec: &ExportSpec) -> anyhow::Result<()> {
    let (to, out) = (spec.to.name(), spec.out.display());
    if spec.file_per_shard && !matches!(spec.to, Target::Olmo | Target::Datatrove) {
        return usage(format!("--file-per-shard is for olmo and datatrove; {to} has one file"));
    }
    if spec.val.is_some() && spec.to != Target::Nanogpt {
        return usage(format!("--val is for nanogpt; export the other corpus by itself to {to}"));
    }
    let ends_in_slash = spec.out.to_string_lossy().ends_with('/');
    if spec.to == Target::Megatron && (spec.out.is_dir() || ends_in_slash) {
        return usage(format!(
            "--out {out} is a folder; name a prefix in it, which gets .bin and .idx"
        ));
    }
    let has_extension = spec.out.extension().is_some_and(|end| end == "bin" || end == "idx");
    if spec.to == Target::Megatron && has_extension {
        return usage(format!(
            "--out {out} has an extension; name the prefix alone, which gets both"
        ));
    }
    if spec.out.file_name().is_none() && !spec.out.is_dir() || spec.out.as_os_str().is_empty() {
        return usage(format!("--out {out:?} is not a name"));
    }
    if spec.to != Target::Megatron && spec.out.exists() && !spec.out.is_dir() {
        return usage(format!("--out {out} is a file; {to} wants a folder"));
    }
    Ok(())
}

/// The corpus of val.bin.
fn open_val(spec: &ExportSpec, train: &Corpus) -> anyhow::Result<Option<Corpus>> {
    let holdout = spec.corpus.join(HOLDOUT_FOLDER);
    let dir = match &spec.val {
        Some(dir) => dir.clone(),
        None if spec.to == Target::Nanogpt && holdout.join("manifest.json").exists() => holdout,
        None => return Ok(None),
    };
    let val = Corpus::open(&dir, ReadBackend::Pread)?;
    let of = |corpus: &Corpus| corpus.manifest().tokenizer.fingerprint.clone();
    if of(&val) != of(train) {
        return usage(format!(
            "{} has ids of another tokenizer ({}) than {} ({})",
            dir.display(),
            of(&val),
            spec.corpus.display(),
            of(train)
        ));
    }
    let is_empty = val.document_count() == 0;
    if is_empty && spec.val.is_some() {
        return usage(format!("{} has no documents for val.bin", dir.display()));
    }
    Ok(Some(val).filter(|_| !is_empty))
}

/// The folder the files are written into.
fn folder_of(spec: &ExportSpec) -> &Path {
    if spec.to == Target::Megatron { parent(&spec.out) } else { &spec.out }
}

/// Exports with different prefixes may run side by side.
fn lock_name(spec: &ExportSpec) -> String {
    match (spec.to, spec.out.file_name()) {
        (Target::Megatron, Some(name)) => format!(".{}.lock", name.to_string_lossy()),
        _ => ".export.lock".to_owned(),
    }
}

/// Refuses to write among the files of a corpus.
fn check_destination(spec: &ExportSpec, corpus: &Path) -> anyhow::Result<()> {
    let dir = folder_of(spec);
    let real_corpus =
        corpus.canonicalize().with_context(|| format!("find {}", corpus.display()))?;
    // A missing folder lies where its nearest existing ancestor does, unless its path goes up
    // again.
    let here = |dir: &Path| if dir == Path::new("") { PathBuf::from(".") } else { dir.to_owned() };
    let real = dir.ancestors().find_map(|dir| Some((dir, here(dir).canonicalize().ok()?)));
    let Some((nearest, real)) = real else { return Ok(()) };
    let missing = dir.strip_prefix(nearest).expect("an ancestor is a prefix");
    if missing.components().any(|part| part == Component::ParentDir) {
        return usage(format!(
            "--out {} has \"..\" after a folder that does not exist; name the place without it",
            spec.out.display()
        ));
    }
    if real.starts_with(&real_corpus) {
        return usage(format!(
            "--out {} lies inside the corpus {}; name a place outside of it",
            spec.out.display(),
            corpus.display()
        ));
    }
    Ok(())
}

/// Refuses a document longer than a sequence of Megatron can be.
fn check_sequences(to: Target, corpus: &Corpus) -> anyhow::Result<()> {
    if to != Target::Megatron {
        return Ok(());
    }
    let tokens_max = megatron::SEQUENCE_TOKENS_MAX;
    for shard in 0..corpus.shard_count() {
        if corpus.shard_header(shard).token_count <= tokens_max {
            continue;
        }
        let footer = corpus.shard_footer(shard)?;
        let mut first = 0;
        for (document, &end) in (0u64..).zip(&footer.document_ends) {
            if end - first > tokens_max {
                return usage(format!(
                    "{}: document {document} has {} tokens; a sequence of megatron has at most \
                     {tokens_max}",
                    corpus.shard_path(shard).display(),
                    end - first
                ));
            }
            first = end;
        }
    }
    Ok(())
}

/// Refuses ids outside the target's range; looks for them only where the vocabulary has such ids.
fn check_ids(to: Target, corpus: &Corpus, stop: &StopFlag) -> anyhow::Result<()> {
    let id_end = to.id_end();
    if corpus.vocab_size() <= id_end {
        return Ok(());
    }
    for shard in 0..corpus.shard_count() {
        let tokens = corpus.shard_tokens(shard);
        for_each_chunk(corpus, tokens.clone(), stop, |first, ids| {
            let at = ids.iter().position(|&id| u64::from(id) >= id_end);
            let Some(at) = at else { return Ok(()) };
            usage(format!(
                "{}: token {} is id {}; {} holds ids below {id_end}, so it cannot hold this corpus",
                corpus.shard_path(shard).display(),
                first - tokens.start + at as u64,
                ids[at],
                to.name()
            ))
        })?;
    }
    Ok(())
}

/// A file of an earlier corpus a reader would take for a part of this one.
fn stale(spec: &ExportSpec, parts: &[Part]) -> Option<PathBuf> {
    let val = spec.out.join(VAL_NAME);
    (spec.to == Target::Nanogpt && parts.iter().all(|part| part.ids != val)).then_some(val)
}

/// Refuses existing files, unless they may be replaced, and other files a reader would take for a
/// part of these.
fn check_existing(
    spec: &ExportSpec,
    parts: &[Part],
    stale: &Option<PathBuf>,
) -> anyhow::Result<()> {
    let paths: Vec<&PathBuf> = parts.iter().flat_map(Part::paths).chain(stale).collect();
    let exists = |path: &Path| path.symlink_metadata().is_ok();
    if let Some(path) = paths.iter().find(|path| path.is_dir()) {
        return usage(format!("{} is a folder, which is not replaced", path.display()));
    }
    if let Some(path) = paths.iter().find(|path| exists(path) && !spec.force) {
        return usage(format!(
            "{} exists; name another place, or replace it with --force",
            path.display()
        ));
    }
    let Ok(entries) = std::fs::read_dir(folder_of(spec)) else { return Ok(()) };
    let mut names: Vec<String> = entries
        .filter_map(|entry| Some(entry.ok()?.file_name().to_string_lossy().into_owned()))
        .filter(|name| !name.starts_with('.'))
        .filter(|name| spec.to.name_ends().iter().any(|end| name.ends_with(end)))
        .filter(|name| !paths.iter().any(|path| path.file_name() == Some(name.as_ref())))
        .collect();
    names.sort();
    match names.first() {
        None => Ok(()),
        Some(name) => usage(format!(
            "{} holds {name}, which a reader of {} would take for a part of this corpus; move it \
             away",
            spec.out.display(),
            spec.to.name()
        )),
    }
}

fn check_space(
    to: Target,
    dir: &Path,
    parts: &[Part],
    token_bytes: TokenBytes,
) -> anyhow::Result<()> {
    let document_bytes = match to {
        Target::Megatron => 20,
        Target::Olmo | Target::Datatrove => 8,
        Target::Nanogpt => 0,
    };
    let needed =
        |part: &Part| part.tokens() * bytes_of(token_bytes) + part.documents() * document_bytes;
    let needed_bytes: u64 = parts.iter().map(needed).sum();
    let free_bytes = free_bytes(dir)?;
    ensure!(
        needed_bytes <= free_bytes,
        "the files will need about {needed_bytes} bytes; {} has {free_bytes} free",
        dir.display()
    );
    Ok(())
}

/// Gives all files their names. Old ones are removed first, those beside the ids before the ids:
/// files of two corpora are never side by side.
fn publish(
    dir: &Path,
    parts: &[Part],
    stale: &Option<PathBuf>,
    files: Vec<SealedFile>,
) -> anyhow::Result<Vec<(PathBuf, u64)>> {
    let sides = parts.iter().flat_map(|part| &part.sides);
    for path in sides.chain(parts.iter().map(|part| &part.ids)) {
        folder::remove(path)?;
    }
    if let Some(stale) = stale.as_ref().filter(|stale| stale.symlink_metadata().is_ok()) {
        folder::remove(stale)?;
        notice(&format!("{} was removed: it was of another corpus", stale.display()));
    }
    sync_dir(dir)?;
    for file in files {
        failpoint("export-publish");
        file.publish()?;
    }
    let with_bytes = |path: &PathBuf| {
        let found = std::fs::metadata(path);
        found
            .map(|found| (path.clone(), found.len()))
            .with_context(|| format!("read {}", path.display()))
    };
    parts.iter().flat_map(Part::paths).map(with_bytes).collect()
}

/// Information the target's files have no place for.
fn lost(to: Target, corpora: &[&Corpus]) -> Vec<&'static str> {
    let has_sets = corpora
        .iter()
        .any(|corpus| corpus.manifest().sets.iter().any(|set| set.set_name.is_some()));
    let mut lost = vec!["input files and rows", "lengths and hashes of texts", "checksums"];
    if has_sets {
        lost.insert(0, "set names");
    }
    if to == Target::Nanogpt {
        lost.insert(0, "borders of documents");
    }
    lost
}

/// Warns the user about limits of the files.
fn say(spec: &ExportSpec, train: &Corpus, val: &Option<Corpus>, lost: &[&str]) {
    let name = spec.to.name();
    notice(&format!("the files of {name} have no place for {}", lost.join(", ")));
    match spec.to {
        Target::Nanogpt if val.is_none() => notice(
            "no val.bin was written: name its corpus with --val, or tokenize with --holdout-rate",
        ),
        Target::Olmo if train.manifest().tokenizer.eos.is_none() => notice(
            "documents end without EOS, by which OLMo-core finds them in local files unless it is \
             configured to read the csv",
        ),
        _ => {}
    }
}
