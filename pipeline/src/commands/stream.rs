//! `patchmill stream`: reads a run's windows as a trainer would, at full speed, without training.
//!
//! **Invariant:** counts, digest and file cover the batches of the [`Loader`], in plan order.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::json;

use crate::commands::values::{RankOf, RunArgs, parse_rank};
use crate::console::numbers::{format_count, parse_count, parse_positive_count};
use crate::console::usage::UsageError;
use crate::corpus::{Corpus, OutId};
use crate::disk::atomic::AtomicFile;
use crate::disk::source::url_scheme;
use crate::loader::{Batch, Digest, Loader, LoaderSpec, READ_AHEAD_BYTES};
use crate::run_file::Run;
use plan::Plan;

/// Arguments of `patchmill stream`.
#[derive(clap::Args, Debug)]
pub struct StreamArgs {
    #[command(flatten)]
    run: RunArgs,
    /// The first step.
    #[arg(
        long = "from",
        alias = "from-step",
        value_name = "STEP",
        default_value = "0",
        value_parser = parse_count
    )]
    from_step: u64,
    /// Read this many steps; when absent, all the rest.
    #[arg(long, value_parser = parse_count)]
    steps: Option<u64>,
    /// Read only the part of each step that rank r of W reads.
    #[arg(long, value_name = "r/W", value_parser = parse_rank)]
    rank: Option<RankOf>,
    /// Reading threads, in place of loader.workers.
    #[arg(long, value_parser = parse_positive_count)]
    workers: Option<u64>,
    /// Type of the ids: u16 or u32 as in shards, i32 or i64 as in tensors.
    #[arg(long, value_enum, default_value_t = Output::I64)]
    output: Output,
    /// Use of the ids: none (null), a digest of them, or a file of little-endian u32.
    #[arg(long, num_args = 1..=2, value_names = ["KIND", "PATH"], default_value = "digest")]
    sink: Vec<String>,
    /// Print one JSON object instead.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Output {
    U16,
    U32,
    I32,
    I64,
}

enum Sink {
    Null,
    Digest(Digest),
    /// Gets its name once complete.
    File(AtomicFile),
    /// A pipe or a device.
    Pipe {
        path: PathBuf,
        out: BufWriter<File>,
    },
}

/// An invalid `--sink`.
#[derive(Debug, thiserror::Error)]
#[error("--sink {found}; expected null, digest, or file PATH")]
pub struct SinkError {
    found: String,
}

impl Sink {
    fn new(words: &[String]) -> anyhow::Result<Sink> {
        match words.iter().map(String::as_str).collect::<Vec<&str>>()[..] {
            ["null" | "none"] => Ok(Sink::Null),
            ["digest"] => Ok(Sink::Digest(Digest::default())),
            ["file", path] => {
                let path = PathBuf::from(path);
                if let Some(scheme) = url_scheme(&path) {
                    let what = format!("--sink file {}: {scheme}:// is not supported", words[1]);
                    return Err(UsageError(what).into());
                }
                if std::fs::metadata(&path).is_ok_and(|found| !found.is_file()) {
                    let file =
                        File::create(&path).with_context(|| format!("open {}", path.display()))?;
                    return Ok(Sink::Pipe { path, out: BufWriter::with_capacity(1 << 20, file) });
                }
                Ok(Sink::File(AtomicFile::create(&path)?))
            }
            _ => Err(SinkError { found: words.join(" ") }.into()),
        }
    }

    fn take<T: OutId>(
        &mut self,
        plan: &Plan,
        batch: &Batch<T>,
        bytes: &mut Vec<u8>,
    ) -> anyhow::Result<()> {
        match self {
            Sink::Null => {}
            Sink::Digest(digest) => digest.add(plan, batch),
            Sink::File(file) => file.append(little_endian(batch, bytes))?,
            Sink::Pipe { path, out } => out
                .write_all(little_endian(batch, bytes))
                .map_err(not_stdout)
                .with_context(|| format!("write {}", path.display()))?,
        }
        Ok(())
    }

    fn finish(self) -> anyhow::Result<Option<Digest>> {
        match self {
            Sink::Null => Ok(None),
            Sink::Digest(digest) => Ok(Some(digest)),
            Sink::File(file) => {
                file.publish()?;
                Ok(None)
            }
            Sink::Pipe { path, mut out } => {
                out.flush()
                    .map_err(not_stdout)
                    .with_context(|| format!("write {}", path.display()))?;
                Ok(None)
            }
        }
    }
}

/// The ids of a batch as little-endian u32, in `bytes`.
fn little_endian<'a, T: OutId>(batch: &Batch<T>, bytes: &'a mut Vec<u8>) -> &'a [u8] {
    bytes.clear();
    for id in batch.ids.iter() {
        let id = u32::try_from(id.number()).expect("ids of a corpus are u32");
        bytes.extend_from_slice(&id.to_le_bytes());
    }
    bytes
}

/// The same error, marked as not from standard output, whose reader may leave at any time.
fn not_stdout(err: std::io::Error) -> std::io::Error {
    std::io::Error::other(err.to_string())
}

/// Refuses to overwrite an input: a file in the corpus's folder, or the run file.
fn check_sink(args: &StreamArgs, corpus: &Path) -> anyhow::Result<()> {
    let [_, path] = &args.sink[..] else { return Ok(()) };
    let path = Path::new(path);
    let real = |path: &Path| std::fs::canonicalize(path).ok();
    // A file yet to be made lies in its folder.
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let in_folder = || Some(real(folder.unwrap_or(Path::new(".")))?.join(path.file_name()?));
    // Opening it reports the error.
    let Some(found) = real(path).or_else(in_folder) else { return Ok(()) };
    let what = if real(corpus).is_some_and(|corpus| found.starts_with(corpus)) {
        "lies inside the corpus"
    } else if real(&args.run.run).is_some_and(|run| run == found) {
        "is the run file"
    } else {
        return Ok(());
    };
    Err(UsageError(format!("--sink file {} {what}; choose another place", path.display())).into())
}

/// Result of a stream.
struct Summary {
    steps: u64,
    tokens: u64,
    /// Of the shards, read so far.
    bytes: u64,
    /// For the manifest, the shards' headers and the plan.
    open: Duration,
    /// From the first batch on.
    elapsed: Duration,
    first_batch: Duration,
    waited: Duration,
    digest: Option<Digest>,
}

/// `patchmill stream`.
pub fn stream(args: &StreamArgs) -> anyhow::Result<()> {
    let run = args.run.load()?;
    let started = Instant::now();
    let corpus = Arc::new(run.open_corpus(run.file.loader.io)?);
    run.check_vocabulary(corpus.manifest())?;
    let plan = run.plan_of(corpus.manifest())?;
    if args.from_step >= plan.step_count() {
        return Err(UsageError(format!(
            "--from is {}; the plan has {} steps, numbered from 0",
            args.from_step,
            plan.step_count()
        ))
        .into());
    }
    let spec = loader_spec(args, &run, corpus, Arc::new(plan));
    let open = started.elapsed();
    check_sink(args, spec.corpus.dir())?;
    let summary = match args.output {
        Output::U16 => read::<u16>(&spec, &args.sink, open),
        Output::U32 => read::<u32>(&spec, &args.sink, open),
        Output::I32 => read::<i32>(&spec, &args.sink, open),
        Output::I64 => read::<i64>(&spec, &args.sink, open),
    };
    print(&summary?, args.json)
}

fn read<T: OutId>(spec: &LoaderSpec, sink: &[String], open: Duration) -> anyhow::Result<Summary> {
    let started = Instant::now();
    let mut loader: Loader<T> = Loader::start(spec.clone())?;
    let mut sink = Sink::new(sink)?;
    let (mut tokens, mut first_batch, mut bytes) = (0, None, Vec::new());
    while let Some(batch) = loader.next_batch()? {
        first_batch.get_or_insert_with(|| started.elapsed());
        tokens += batch.ids.len() as u64;
        sink.take(&spec.plan, &batch, &mut bytes)?;
        loader.recycle(batch);
    }
    let digest = sink.finish()?;
    let elapsed = started.elapsed();
    Ok(Summary {
        // In this order, or the loader would not have started.
        steps: spec.end_step - spec.from_step,
        tokens,
        bytes: tokens * u64::from(spec.corpus.manifest().token_bytes),
        open,
        elapsed,
        first_batch: first_batch.unwrap_or(elapsed),
        waited: loader.waited(),
        digest,
    })
}

fn loader_spec(args: &StreamArgs, run: &Run, corpus: Arc<Corpus>, plan: Arc<Plan>) -> LoaderSpec {
    let step_count = plan.step_count();
    let end_step = match args.steps {
        // The loader refuses steps past the end.
        Some(steps) => args.from_step.saturating_add(steps),
        None => step_count,
    };
    let loader = &run.file.loader;
    let (rank, world_size) = args.rank.map_or((0, 1), |part| (part.rank(), part.world_size()));
    LoaderSpec {
        corpus,
        plan,
        from_step: args.from_step,
        end_step,
        rank,
        world_size,
        micro_batch_windows: run.file.train.micro_batch_windows,
        workers: args.workers.map_or(loader.workers, |workers| workers as usize),
        ring_bytes: loader.ring_bytes,
        read_ahead_bytes: loader.read_ahead_bytes.unwrap_or(READ_AHEAD_BYTES),
        pin: None,
    }
}

fn print(summary: &Summary, json: bool) -> anyhow::Result<()> {
    let Summary { steps, tokens, bytes, .. } = *summary;
    let seconds = summary.elapsed.as_secs_f64();
    let (tokens_per_sec, bytes_per_sec) = (tokens as f64 / seconds, bytes as f64 / seconds);
    let ms = |duration: Duration| duration.as_secs_f64() * 1e3;
    let (open_ms, first_batch_ms) = (ms(summary.open), ms(summary.first_batch));
    let digest = summary.digest.map(|digest| digest.0);
    let mut out = std::io::stdout().lock();
    if json {
        let object = json!({
            "tokens": tokens,
            "bytes": bytes,
            "seconds": seconds,
            "tokens_per_sec": tokens_per_sec,
            "bytes_per_sec": bytes_per_sec,
            "open_ms": open_ms,
            "first_batch_ms": first_batch_ms,
            "waited_seconds": summary.waited.as_secs_f64(),
            "digest": digest,
            "steps": steps,
        });
        writeln!(out, "{object}")?;
        return Ok(());
    }
    writeln!(
        out,
        "{} steps, {} tokens in {seconds:.3} s: {:.1} M tokens/s, {:.2} GB/s of shards\n\
         opened in {open_ms:.1} ms, first batch {first_batch_ms:.1} ms later; waited {:.3} s",
        format_count(steps),
        format_count(tokens),
        tokens_per_sec / 1e6,
        bytes_per_sec / 1e9,
        summary.waited.as_secs_f64(),
    )?;
    if let Some(digest) = digest {
        writeln!(out, "digest {digest}")?;
    }
    Ok(())
}
