//! `patchmill tokenize`: inputs to a corpus.
//!
//! One thread reads, N threads parse and encode, the calling thread writes. Chunk `i` goes to worker `i mod N` through
//! bounded channels and is collected in the same order, so that the order holds by construction.
//!
//! **Invariant:** the bytes written are a function of inputs, tokenizer and options; never of threads, restarts or time.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, ensure};
use crossbeam_channel::{Receiver, Sender, bounded};
use schemas::build::{BuildOptions, SKIPPED_FILE, SeriesRecord};
use schemas::index::CONTENT_HASH_BYTES;
use schemas::manifest::{self, FileRecord, Manifest, SpecialTokens, TokenizerRecord, Totals};
use schemas::shard::{HEADER_BYTES, TokenBytes};

use crate::docs::{Chunk, Columns, DOCUMENT_BYTES_MAX, Docs, DocsError, Refusal};
use crate::folder::{Folder, UsageError};
use crate::inputs::{self, Format, Input};
use crate::publish::{AtomicFile, free_bytes, hash_file, write_atomic};
use crate::report::{Progress, Report, notice};
use crate::series::{DocEntry, SeriesSpec, SeriesWriter, Sets};
use crate::tokenize::{Encoder, Policy, TOKENIZER_FILES, TOKENIZER_FOLDER, panic_text};

/// Chunks that wait before and after each worker.
const LANE_CHUNKS: usize = 2;

/// Options of `patchmill tokenize`.
#[derive(clap::Args, Clone, Debug)]
pub struct TokenizeArgs {
    /// A tokenizer.json, or the folder that holds it.
    #[arg(long)]
    pub tokenizer: PathBuf,
    /// The folder to write the corpus into: new, empty, or with an interrupted run of the same options.
    #[arg(long)]
    pub out: PathBuf,
    /// Files, folders or globs: .jsonl, .json or .ndjson (plain, .zst or .gz), .parquet.
    #[arg(required = true, value_name = "INPUT")]
    pub inputs: Vec<PathBuf>,
    /// Threads that encode; all cores when absent. The output is the same for any number.
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    pub threads: Option<u16>,
    /// What a line or row that is no document does.
    #[arg(long, value_enum, default_value_t = OnError::Stop)]
    pub on_error: OnError,
    /// Put the beginning-of-sequence token before each document (the default).
    #[arg(long, overrides_with = "no_bos")]
    pub bos: bool,
    /// Put nothing before each document.
    #[arg(long, overrides_with = "bos")]
    pub no_bos: bool,
    /// Put the end-of-sequence token after each document.
    #[arg(long, overrides_with = "no_eos")]
    pub eos: bool,
    /// Put nothing after each document (the default).
    #[arg(long, overrides_with = "eos")]
    pub no_eos: bool,
    /// What special tokens written out in a text are: text, or control ids as Hugging Face's default makes them.
    #[arg(long, value_enum, default_value_t = Specials::Text)]
    pub special_tokens: Specials,
    /// Bytes of each thread's cache of words. The output is the same for any number.
    #[arg(long, default_value_t = crate::tokenize::CACHE_BYTES)]
    pub cache_bytes: usize,
    /// Bytes of ids at which a shard closes, at the next document boundary.
    #[arg(long, default_value_t = 256 << 20, value_parser = clap::value_parser!(u64).range(1..))]
    pub shard_bytes: u64,
    /// Key or column of the text.
    #[arg(long, default_value = "text")]
    pub text_column: String,
    /// Key, column or dotted path of the set name; `meta.pile_set_name` where present, when absent.
    #[arg(long)]
    pub set_column: Option<String>,
    /// Bytes of the longest document's text; a longer one is refused. Each thread may need 160 times as much memory.
    #[arg(long, default_value_t = DOCUMENT_BYTES_MAX, value_parser = clap::value_parser!(u64).range(1..))]
    pub max_document_bytes: u64,
    /// Replace a corpus that the folder holds, and write beside files of others; those are never removed.
    #[arg(long)]
    pub force: bool,
    /// Estimate sizes from a sample of the inputs and write nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Print one JSON object as the last line of stdout.
    #[arg(long)]
    pub json: bool,
}

/// What a line or row that is no document does.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnError {
    /// Stop with file and line.
    Stop,
    /// List it in skipped.jsonl, count it and go on.
    Skip,
}

/// What special tokens written out in a text are.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum Specials {
    /// Text like any other.
    Text,
    /// Control ids, as Hugging Face's default makes them.
    Hf,
}

impl TokenizeArgs {
    fn policy(&self) -> Policy {
        let special_tokens = match self.special_tokens {
            Specials::Text => SpecialTokens::Text,
            Specials::Hf => SpecialTokens::Hf,
        };
        Policy { bos: !self.no_bos, eos: self.eos, special_tokens }
    }

    fn columns(&self) -> Columns {
        Columns {
            text: self.text_column.clone(),
            set: self.set_column.clone(),
            document_bytes_max: self.max_document_bytes,
        }
    }

    fn options(&self, encoder: &Encoder) -> BuildOptions {
        let on_error = match self.on_error {
            OnError::Stop => "stop",
            OnError::Skip => "skip",
        };
        BuildOptions {
            tokenizer: encoder.fingerprint().to_hex().to_string(),
            bos: encoder.bos().cloned(),
            eos: encoder.eos().cloned(),
            special_tokens: encoder.policy().special_tokens,
            shard_bytes: self.shard_bytes,
            text_column: self.text_column.clone(),
            set_column: self.set_column.clone(),
            on_error: on_error.to_owned(),
            max_document_bytes: (self.on_error == OnError::Skip).then_some(self.max_document_bytes),
        }
    }
}

/// Runs `patchmill tokenize`.
pub fn tokenize(args: &TokenizeArgs) -> anyhow::Result<()> {
    if args.dry_run {
        let encoder = Encoder::load(&args.tokenizer, args.policy())?;
        let inputs = find_inputs(args)?;
        return crate::estimate::print(&encoder, &inputs, &args.columns(), args.json);
    }
    build(args)?.print(args.json)
}

/// Writes the corpus that `args` ask for. `dry_run` and `json` are for [`tokenize`].
pub fn build(args: &TokenizeArgs) -> anyhow::Result<Report> {
    let started = Instant::now();
    let encoder = Encoder::load(&args.tokenizer, args.policy())?.with_cache_bytes(args.cache_bytes);
    let inputs = find_inputs(args)?;
    check_outside(&args.out, &inputs, &encoder)?;
    check_readable(&inputs, &args.columns())?;
    let folder = Folder::take(&args.out, &args.options(&encoder), args.force)?;
    check_space(&args.out, &inputs, &encoder)?;
    let mut records = folder.finished_series(&inputs)?;
    let kept_series = records.len() as u64;
    let todo: Vec<u64> =
        (0..inputs.len() as u64).filter(|index| !records.contains_key(index)).collect();
    let progress = Progress::start(todo.iter().map(|&index| inputs[index as usize].bytes).sum());
    let job = Job { args, encoder: &encoder, inputs: &inputs, columns: args.columns() };
    job.run(&todo, &progress, |index, record| {
        records.insert(index, record);
    })?;
    progress.finish();
    let records: Vec<SeriesRecord> = records.into_values().collect();
    let manifest = write_manifest(&args.out, &encoder, &records)?;
    folder.finish()?;
    let seconds = started.elapsed().as_secs_f64();
    Ok(Report { manifest, encoder: encoder.name(), seconds, kept_series })
}

/// What a run reads and how.
struct Job<'a> {
    args: &'a TokenizeArgs,
    encoder: &'a Encoder,
    inputs: &'a [Input],
    columns: Columns,
}

/// What travels from the reader to a worker.
enum Work {
    Begin { series_index: u64 },
    Chunk { chunk: Chunk, file_offset: u64 },
    End,
    Failed(DocsError),
    Finished,
}

/// What travels from a worker to the writer.
enum Done {
    Begin { series_index: u64 },
    Chunk { encoded: Encoded, file_offset: u64 },
    End,
    Failed(DocsError),
    Finished,
}

/// A chunk's documents as ids.
struct Encoded {
    ids: Vec<u32>,
    documents: Vec<Result<(DocEntry, usize), Refusal>>,
}

impl Job<'_> {
    /// Writes the series `todo` and hands each one's record on as soon as it is complete.
    fn run(
        &self,
        todo: &[u64],
        progress: &Progress,
        on_series: impl FnMut(u64, SeriesRecord),
    ) -> anyhow::Result<()> {
        let threads = match self.args.threads {
            Some(threads) => usize::from(threads),
            None => std::thread::available_parallelism().map_or(1, usize::from),
        };
        std::thread::scope(|scope| {
            let (work_txs, work_rxs): (Vec<_>, Vec<_>) =
                (0..threads).map(|_| bounded(LANE_CHUNKS)).unzip();
            let (done_txs, done_rxs): (Vec<_>, Vec<_>) =
                (0..threads).map(|_| bounded(LANE_CHUNKS)).unzip();
            let mut handles = vec![scope.spawn(move || self.read(todo, &work_txs))];
            for (rx, tx) in work_rxs.into_iter().zip(done_txs) {
                handles.push(scope.spawn(move || self.encode(&rx, &tx)));
            }
            let written = self.write(done_rxs, progress, on_series);
            // `done_rxs` is gone, so nobody waits for us: after an error all threads end at their next send.
            let panics = handles.into_iter().filter_map(|handle| handle.join().err());
            if let Some(panic) = panics.into_iter().next() {
                anyhow::bail!("a thread failed: {}", panic_text(&*panic));
            }
            written
        })
    }

    /// Reads the inputs in order and deals their chunks out. A closed channel means that the run is over.
    fn read(&self, todo: &[u64], lanes: &[Sender<Work>]) {
        let mut next_lane = 0;
        let mut send = |work| {
            let sent = lanes[next_lane].send(work).is_ok();
            next_lane = (next_lane + 1) % lanes.len();
            sent
        };
        for &series_index in todo {
            if !send(Work::Begin { series_index }) {
                return;
            }
            let input = &self.inputs[series_index as usize];
            let mut docs = match Docs::open(input, &self.columns) {
                Ok(docs) => docs,
                Err(err) => {
                    send(Work::Failed(err));
                    return;
                }
            };
            loop {
                let (work, is_last) = match docs.next_chunk() {
                    Ok(Some(chunk)) => {
                        (Work::Chunk { chunk, file_offset: docs.file_offset() }, false)
                    }
                    Ok(None) => (Work::End, true),
                    Err(err) => {
                        send(Work::Failed(err));
                        return;
                    }
                };
                if !send(work) {
                    return;
                }
                if is_last {
                    break;
                }
            }
        }
        send(Work::Finished);
    }

    /// Turns chunks into ids until the channel closes on either side.
    fn encode(&self, work: &Receiver<Work>, done: &Sender<Done>) {
        for work in work {
            let result = match work {
                Work::Begin { series_index } => Done::Begin { series_index },
                Work::Chunk { chunk, file_offset } => {
                    Done::Chunk { encoded: self.encode_chunk(&chunk), file_offset }
                }
                Work::End => Done::End,
                Work::Failed(err) => Done::Failed(err),
                Work::Finished => Done::Finished,
            };
            if done.send(result).is_err() {
                return;
            }
        }
    }

    fn encode_chunk(&self, chunk: &Chunk) -> Encoded {
        let mut ids = Vec::new();
        let documents = chunk.docs(&self.columns).map(|doc| {
            let doc = doc?;
            let first = ids.len();
            let byte_offset = chunk.byte_offset(doc.row);
            let refusal = |reason| Refusal { row: doc.row, byte_offset, reason };
            self.encoder.encode(&doc.text, &mut ids).map_err(|err| refusal(err.to_string()))?;
            if ids.len() == first {
                return Err(refusal("an empty text without BOS or EOS has no tokens".to_owned()));
            }
            let hash = blake3::hash(doc.text.as_bytes());
            let content_hash =
                *hash.as_bytes().first_chunk::<CONTENT_HASH_BYTES>().expect("32 bytes");
            let entry = DocEntry {
                row: doc.row,
                set_name: doc.set_name.map(|name| name.into_owned()),
                text_bytes: doc.text.len() as u64,
                content_hash,
            };
            Ok((entry, ids.len() - first))
        });
        let documents = documents.collect();
        Encoded { ids, documents }
    }

    /// Collects the lanes in the order in which they were dealt out, and writes.
    fn write(
        &self,
        lanes: Vec<Receiver<Done>>,
        progress: &Progress,
        mut on_series: impl FnMut(u64, SeriesRecord),
    ) -> anyhow::Result<()> {
        let mut series: Option<(u64, SeriesWriter)> = None;
        for lane in lanes.iter().cycle() {
            let done = lane.recv().context("a thread ended early")?;
            match done {
                Done::Begin { series_index } => {
                    series = Some((series_index, self.series_writer(series_index)));
                }
                Done::Chunk { encoded, file_offset } => {
                    let (_, writer) = series.as_mut().expect("a series was begun");
                    self.write_chunk(writer, &encoded, progress)?;
                    progress.set_file_offset(file_offset);
                }
                Done::End => {
                    let (series_index, writer) = series.take().expect("a series was begun");
                    on_series(series_index, writer.finish()?);
                    progress.add_file(self.inputs[series_index as usize].bytes);
                }
                Done::Failed(err) => return Err(err.into()),
                Done::Finished => return Ok(()),
            }
        }
        unreachable!("there is at least one lane")
    }

    fn series_writer(&self, series_index: u64) -> SeriesWriter {
        let spec = SeriesSpec {
            vocab_size: self.encoder.vocab_size(),
            tokenizer: *self.encoder.fingerprint().as_bytes(),
            series_index,
            shard_bytes: self.args.shard_bytes,
        };
        SeriesWriter::new(&self.args.out, spec, self.inputs[series_index as usize].clone())
    }

    fn write_chunk(
        &self,
        writer: &mut SeriesWriter,
        encoded: &Encoded,
        progress: &Progress,
    ) -> anyhow::Result<()> {
        let mut ids = encoded.ids.as_slice();
        for document in &encoded.documents {
            match document {
                Ok((entry, token_count)) => {
                    let (document_ids, rest) = ids.split_at(*token_count);
                    ids = rest;
                    writer.push(entry, document_ids)?;
                    progress.add_document(entry.text_bytes, *token_count as u64);
                }
                Err(refusal) if self.args.on_error == OnError::Skip => writer.skip(refusal)?,
                Err(refusal) => {
                    let path = writer.input().path.clone();
                    let err = DocsError::Document { path, refusal: refusal.clone() };
                    return Err(err)
                        .context("stopped (--on-error skip lists such documents and goes on)");
                }
            }
        }
        Ok(())
    }
}

/// The inputs, and a word on stderr about files that are none.
fn find_inputs(args: &TokenizeArgs) -> anyhow::Result<Vec<Input>> {
    let found = inputs::find_counted(&args.inputs)?;
    if found.ignored_files > 0 {
        let count = found.ignored_files;
        notice(&format!("{count} files of other kinds in the folders of inputs were left out"));
    }
    Ok(found.inputs)
}

/// Refuses inputs and tokenizers inside the folder to write: what is there may be removed.
fn check_outside(out: &Path, inputs: &[Input], encoder: &Encoder) -> anyhow::Result<()> {
    let Ok(out) = out.canonicalize() else { return Ok(()) }; // nothing lies in what is not there
    for path in inputs.iter().map(|input| input.path.as_path()).chain([encoder.path()]) {
        let real = path.canonicalize().with_context(|| format!("find {}", path.display()))?;
        if real.starts_with(&out) {
            return Err(UsageError(format!(
                "{} lies inside --out {}, where files may be removed or replaced; move it, or name another folder",
                path.display(),
                out.display()
            ))
            .into());
        }
    }
    Ok(())
}

/// Opens every input once, so that a file that cannot be an input is found before anything is written or removed.
fn check_readable(inputs: &[Input], columns: &Columns) -> Result<(), DocsError> {
    // Only files: to open a pipe is to wait for its writer.
    let is_file =
        |input: &&Input| std::fs::metadata(&input.path).is_ok_and(|found| found.is_file());
    inputs.iter().filter(is_file).try_for_each(|input| Docs::open(input, columns).map(|_| ()))
}

/// Refuses to begin what cannot fit, by a rough estimate: compressed text is 4 times as long, a token 3 bytes of text.
fn check_space(out: &Path, inputs: &[Input], encoder: &Encoder) -> anyhow::Result<()> {
    let free_bytes = free_bytes(out)?;
    let text_bytes: u64 = inputs
        .iter()
        .map(|input| if input.format == Format::JsonLines { 1 } else { 4 } * input.bytes)
        .sum();
    let token_bytes = u64::from(TokenBytes::for_vocabulary(encoder.vocab_size()).get());
    let needed_bytes = text_bytes / 3 * token_bytes + HEADER_BYTES * inputs.len() as u64;
    ensure!(
        needed_bytes <= free_bytes,
        "the corpus will need about {needed_bytes} bytes; {} has {free_bytes} free",
        out.display()
    );
    Ok(())
}

/// Copies the tokenizer, joins the lists of skipped documents, and writes the manifest last.
fn write_manifest(
    out: &Path,
    encoder: &Encoder,
    records: &[SeriesRecord],
) -> anyhow::Result<Manifest> {
    let mut totals = Totals::default();
    let mut sets = Sets::default();
    for record in records {
        totals = totals.checked_add(record.series.totals).expect("fewer than 2^64 bytes were read");
        record.series.sets.iter().for_each(|set| sets.add_totals(set));
    }
    if totals.documents_written == 0 {
        let what = format!("{} read, {} skipped", totals.documents_read, totals.documents_skipped);
        let list = join_skipped(out, records)?;
        let list = list.map(|list| format!("; {} says why", out.join(list.path).display()));
        let list = list.unwrap_or_default();
        return Err(UsageError(format!("the inputs hold no document ({what}){list}")).into());
    }
    let tokenizer = TokenizerRecord {
        fingerprint: encoder.fingerprint().to_hex().to_string(),
        vocab_size: encoder.vocab_size(),
        bos: encoder.bos().cloned(),
        eos: encoder.eos().cloned(),
        special_tokens: encoder.policy().special_tokens,
        files: copy_tokenizer(out, encoder)?,
    };
    let manifest = Manifest {
        format: manifest::FORMAT.to_owned(),
        version: manifest::VERSION,
        fingerprint: String::new(),
        tokenizer,
        token_bytes: TokenBytes::for_vocabulary(encoder.vocab_size()).get(),
        totals,
        sets: sets.into_totals(),
        series: records.iter().map(|record| record.series.clone()).collect(),
        skipped: join_skipped(out, records)?,
    };
    let (manifest, text) = manifest.seal();
    write_atomic(&out.join(manifest::FILE_NAME), text.as_bytes())?;
    Ok(manifest)
}

fn copy_tokenizer(out: &Path, encoder: &Encoder) -> anyhow::Result<Vec<FileRecord>> {
    let dir = out.join(TOKENIZER_FOLDER);
    std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
    let mut files = Vec::new();
    for name in TOKENIZER_FILES {
        let source = if name == TOKENIZER_FILES[0] {
            encoder.path().to_owned()
        } else {
            encoder.path().with_file_name(name)
        };
        if !source.exists() {
            continue;
        }
        let bytes = std::fs::read(&source).with_context(|| format!("read {}", source.display()))?;
        let hash = blake3::hash(&bytes);
        ensure!(
            name != TOKENIZER_FILES[0] || hash == encoder.fingerprint(),
            "{} changed while it was in use",
            source.display()
        );
        write_atomic(&dir.join(name), &bytes)?;
        files.push(FileRecord {
            path: format!("{TOKENIZER_FOLDER}/{name}"),
            bytes: bytes.len() as u64,
            blake3: hash.to_hex().to_string(),
        });
    }
    Ok(files)
}

/// The lists of the series, one after the other; `None` when nothing was skipped.
fn join_skipped(out: &Path, records: &[SeriesRecord]) -> anyhow::Result<Option<FileRecord>> {
    let parts: Vec<&FileRecord> =
        records.iter().filter_map(|record| record.skipped.as_ref()).collect();
    if parts.is_empty() {
        return Ok(None);
    }
    let path = out.join(SKIPPED_FILE);
    let mut joined = AtomicFile::create(&path)?;
    for part in parts {
        let part = out.join(&part.path);
        let mut copy = || std::io::copy(&mut std::fs::File::open(&part)?, &mut joined);
        copy().with_context(|| format!("copy {} to {}", part.display(), path.display()))?;
    }
    joined.flush().with_context(|| format!("write {}", path.display()))?;
    joined.publish()?;
    let (bytes, hash) = hash_file(&path)?;
    let blake3 = hash.to_hex().to_string();
    Ok(Some(FileRecord { path: SKIPPED_FILE.to_owned(), bytes, blake3 }))
}
