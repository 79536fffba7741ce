//! Makes a corpus from token ids of another project.
//!
//! An import trusts no count of a foreign file before the file's length agrees with it. It accepts
//! only sequences that follow each other and fill the file. A document of any length is streamed.
//!
//! The tokens around documents have no default: ids cannot tell whether a first `<s>` is a BOS, and
//! a wrong guess would cut documents in the wrong places.
//!
//! Imported ids have no texts. Wherever a tokenizer normalizes, decoding would produce texts nobody
//! wrote, and their hashes would be compared with those of real texts. So `text_bytes` and
//! `content_hash` are null in the index, the manifest has `imported`, and commands that use hashes
//! refuse such a corpus. Everything else is as `patchmill tokenize` writes it, and an interrupted
//! import continues in the same way.
//!
//! **Invariant:** the corpus has every id of the files in their order, or it has no manifest.

pub(crate) mod boundaries;
pub(crate) mod sources;
pub(crate) mod spec;

use std::path::Path;
use std::time::Instant;

use anyhow::ensure;
use indicatif::ProgressBar;
use schemas::build::{BuildOptions, SeriesRecord};
use schemas::manifest::{Borders, ForeignFormat, Imported, Manifest};
use schemas::shard::TokenBytes;

use crate::console::progress::notice;
use crate::console::stop::{StopFlag, Stopped};
use crate::disk::atomic::{Hands, free_bytes};
use crate::disk::limits::raise_open_files_limit;
use crate::exchange::formats::olmo;
use crate::exchange::formats::raw_ids::IdFile;
use crate::exchange::import::boundaries::{Around, Current, Documents, Ends, Written};
use crate::exchange::import::sources::{Foreign, find, token_bytes};
use crate::exchange::import::spec::ImportSpec;
use crate::read::inputs::Input;
use crate::write::folder::{Folder, build_record, check_outside};
use crate::write::job::BASE;
use crate::write::manifest::write_manifest;
use crate::write::resume::{CompletedWork, Expected};
use crate::write::series::close::{ClosedInput, ClosedSeries, Closing, Parts};
use crate::write::series::{SeriesSpec, SeriesWriter};
use encoder::Encoder;

/// The result of an import.
pub struct Report {
    pub(crate) manifest: Manifest,
    pub(crate) series_kept: u64,
    pub(crate) seconds: f64,
}

/// Makes the corpus of `spec`.
pub fn read(spec: &ImportSpec) -> anyhow::Result<Report> {
    import_until(spec, &StopFlag::default())
}

pub(crate) fn import_until(spec: &ImportSpec, stop: &StopFlag) -> anyhow::Result<Report> {
    let started = Instant::now();
    raise_open_files_limit();
    let encoder = Encoder::load(&spec.tokenizer, spec.policy)?;
    let token_bytes = token_bytes(spec, encoder.vocab_size());
    let files = find(spec, token_bytes)?;
    let inputs: Vec<Input> = files.iter().map(|file| file.input.clone()).collect();
    check_outside(&spec.out, &inputs, &encoder)?;
    let options = BuildOptions {
        tokenizer: encoder.fingerprint().to_hex().to_string(),
        bos: encoder.bos().cloned(),
        eos: encoder.eos().cloned(),
        special_tokens: spec.policy.special_tokens,
        shard_bytes: spec.shard_bytes,
        text_column: String::new(),
        set_column: None,
        on_error: "stop".to_owned(),
        max_document_bytes: None,
        by_set: false,
        selection: None,
        imported: Some(Imported { format: spec.from, borders: borders(spec, &files) }),
        foreign_token_bytes: (spec.from != ForeignFormat::Megatron).then_some(token_bytes.get()),
    };
    let record = build_record(options, &inputs, encoder.path())?;
    let folder = Folder::take(&spec.out, &record, spec.force, None)?;
    let fingerprint = record.options.fingerprint();
    let expected =
        Expected { inputs: &inputs, options: &fingerprint, by_set: false, knows_changes: true };
    let positions: Vec<usize> = (0..inputs.len()).collect();
    let kept = if folder.must_clear() {
        CompletedWork::default()
    } else {
        CompletedWork::find(&folder, &expected, &positions)?
    };
    check_space(&folder, &files, &kept, TokenBytes::for_vocabulary(encoder.vocab_size()))?;
    folder.begin(&record, None, encoder.path(), |name| kept.has(name))?;
    let series_kept = kept.finished.len() as u64;
    let job = Job { dir: folder.path(), encoder: &encoder, options: &record.options, stop };
    let records = job.write(&files, kept)?;
    let manifest = write_manifest(folder.path(), &encoder, &records, &record.options)?;
    folder.finish(&manifest)?;
    Ok(Report { manifest, series_kept, seconds: started.elapsed().as_secs_f64() })
}

/// The source of document borders.
fn borders(spec: &ImportSpec, files: &[Foreign]) -> Borders {
    if files.iter().any(|file| file.index.is_some() || file.csv.is_some()) {
        return Borders::Index;
    }
    match (spec.policy.bos, spec.policy.eos) {
        (true, true) => Borders::EosBos,
        (true, false) => Borders::Bos,
        (false, true) => Borders::Eos,
        (false, false) => Borders::File,
    }
}

fn check_space(
    folder: &Folder,
    files: &[Foreign],
    kept: &CompletedWork,
    token_bytes: TokenBytes,
) -> anyhow::Result<()> {
    let is_todo = |position: u64| !kept.finished.contains_key(&position);
    let todo = (0u64..).zip(files).filter(|(position, _)| is_todo(*position));
    let tokens: u64 = todo.map(|(_, file)| file.token_count).sum();
    let needed_bytes = tokens.saturating_mul(token_bytes.get().into());
    let free_bytes = free_bytes(folder.path())?.saturating_add(folder.clearable_bytes()?);
    ensure!(
        needed_bytes <= free_bytes,
        "the corpus will need about {needed_bytes} bytes; {} has {free_bytes} free",
        folder.path().display()
    );
    Ok(())
}

/// The corpus to write, and how.
struct Job<'a> {
    dir: &'a Path,
    encoder: &'a Encoder,
    options: &'a BuildOptions,
    stop: &'a StopFlag,
}

impl Job<'_> {
    /// Writes the missing series, and returns all records in the order of the files.
    fn write(&self, files: &[Foreign], kept: CompletedWork) -> anyhow::Result<Vec<SeriesRecord>> {
        let CompletedWork { mut finished, mut parts, .. } = kept;
        let bar = ProgressBar::new(files.iter().map(|file| file.token_count).sum());
        let mut written = Written::default();
        let mut records = Vec::new();
        for (position, file) in (0u64..).zip(files) {
            if let Some(record) = finished.remove(&position) {
                bar.inc(file.token_count);
                records.push(record);
                continue;
            }
            let mut kept = parts.remove(&position).unwrap_or_default();
            let kept = kept.remove(&BASE).unwrap_or_default();
            let writer = SeriesWriter::new(self.spec(position, file), &kept);
            let mut closed = Parts::new(Hands::One);
            let ignore = |_, _| ();
            let read = self.read(file, writer, &mut closed, &bar);
            // If the file changed, neither the ids read nor an error in them means anything.
            if !read.as_ref().is_err_and(|err| err.is::<Stopped>()) {
                file.check_unchanged()?;
            }
            let (writer, now) = read?;
            written = written.add(now);
            let (part, tail) = writer.finish()?;
            if let Some(part) = part {
                closed.close(Closing::Part(Box::new(part)), &ignore)?;
            }
            let series = vec![ClosedSeries { kept, last: None, tail }];
            let (dir, input, options) =
                (self.dir.to_owned(), file.input.clone(), self.options.fingerprint());
            records.push(closed.close_input(ClosedInput {
                position,
                dir,
                input,
                options,
                series,
            })?);
        }
        bar.finish_and_clear();
        written.say();
        Ok(records)
    }

    fn spec(&self, position: u64, file: &Foreign) -> SeriesSpec {
        SeriesSpec {
            dir: self.dir.to_owned(),
            is_holdout: false,
            vocab_size: self.encoder.vocab_size(),
            tokenizer: *self.encoder.fingerprint().as_bytes(),
            series_index: position,
            by_set: None,
            shard_bytes: self.options.shard_bytes,
            input: file.input.clone(),
            options: self.options.fingerprint(),
            index_schema: schemas::index::imported_schema(),
        }
    }

    /// Reads a file into `writer`.
    fn read(
        &self,
        file: &Foreign,
        writer: SeriesWriter,
        closed: &mut Parts,
        bar: &ProgressBar,
    ) -> anyhow::Result<(SeriesWriter, Written)> {
        let path = &file.input.path;
        let ends = match (&file.index, &file.csv) {
            (Some(index), _) => Ends::Megatron(index.document_ends()?),
            (None, Some(csv)) => Ends::Olmo(olmo::DocumentEnds::open(csv, file.token_count)?),
            (None, None) => Ends::Ids,
        };
        let around = Around { bos: self.options.bos.clone(), eos: self.options.eos.clone() };
        // GPT-2's BOS is its EOS: a token declared for one side is not undeclared on the other.
        let said = [&around.bos, &around.eos].map(|token| token.as_ref().map(|token| token.id));
        let unsaid =
            |flag| self.encoder.find_special(flag).filter(|token| !said.contains(&Some(token.id)));
        let unsaid = Around { bos: unsaid("bos"), eos: unsaid("eos") };
        let documents = Documents {
            path,
            ids: IdFile::open(path, file.token_bytes, self.encoder.vocab_size(), file.first_byte)?,
            token_count: file.token_count,
            around: &around,
            writer,
            on_part: &mut |part| closed.close(Closing::Part(Box::new(part)), &|_, _| ()),
            on_tokens: &mut |tokens| {
                bar.inc(tokens);
                ensure!(!self.stop.asked(), Stopped);
                Ok(())
            },
            current: Current::default(),
            written: Written::default(),
        };
        documents.read(ends, &unsaid)
    }
}

impl Written {
    fn add(self, other: Written) -> Written {
        Written {
            documents: self.documents + other.documents,
            unsaid_bos: self.unsaid_bos + other.unsaid_bos,
            unsaid_eos: self.unsaid_eos + other.unsaid_eos,
        }
    }

    /// Warns if the ids look as if the policy were different.
    fn say(self) {
        let documents = self.documents;
        for (count, does, flag) in
            [(self.unsaid_bos, "begin", "bos"), (self.unsaid_eos, "end", "eos")]
        {
            if count > 0 {
                notice(&format!(
                    "{count} of {documents} documents {does} with the tokenizer's {}, which \
                     --no-{flag} takes for a part of their texts",
                    flag.to_uppercase()
                ));
            }
        }
    }
}
