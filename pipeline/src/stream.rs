//! `patchmill stream`: reads a run's windows as a trainer would, at full speed, with nothing behind it.
//!
//! **Invariant:** what is counted, hashed or written are the batches of the [`Loader`], in plan order.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde_json::json;

use crate::corpus::Corpus;
use crate::folder::UsageError;
use crate::loader::{Batch, Digest, Loader, LoaderSpec};
use crate::numbers::{format_count, parse_count};
use crate::plan::Plan;
use crate::plan_command::RunArgs;
use crate::run_file::Run;

/// Arguments of `patchmill stream`.
#[derive(clap::Args, Debug)]
pub struct StreamArgs {
    #[command(flatten)]
    run: RunArgs,
    /// The first step.
    #[arg(long, default_value = "0", value_parser = parse_count)]
    from_step: u64,
    /// Read this many steps; all the rest when not given.
    #[arg(long, value_parser = parse_count)]
    steps: Option<u64>,
    /// Read the part of this rank.
    #[arg(long, default_value = "0", value_parser = parse_count)]
    rank: u64,
    /// Cut each step into the parts of this many ranks.
    #[arg(long, default_value = "1", value_parser = parse_count)]
    world_size: u64,
    /// What becomes of the ids: nothing, a digest of them, or a file of little-endian u32.
    #[arg(long, num_args = 1..=2, value_names = ["KIND", "PATH"], default_value = "digest")]
    sink: Vec<String>,
    /// Print one JSON object instead.
    #[arg(long)]
    json: bool,
}

enum Sink {
    None,
    Digest(Digest),
    File { path: PathBuf, out: BufWriter<File> },
}

/// A `--sink` that is none.
#[derive(Debug, thiserror::Error)]
#[error("--sink {found}; expected none, digest, or file PATH")]
pub struct SinkError {
    found: String,
}

impl Sink {
    fn new(words: &[String]) -> anyhow::Result<Sink> {
        match words.iter().map(String::as_str).collect::<Vec<&str>>()[..] {
            ["none"] => Ok(Sink::None),
            ["digest"] => Ok(Sink::Digest(Digest::default())),
            ["file", path] => {
                let path = PathBuf::from(path);
                let file =
                    File::create(&path).with_context(|| format!("create {}", path.display()))?;
                Ok(Sink::File { path, out: BufWriter::with_capacity(1 << 20, file) })
            }
            _ => Err(SinkError { found: words.join(" ") }.into()),
        }
    }

    fn take(&mut self, plan: &Plan, batch: &Batch, bytes: &mut Vec<u8>) -> anyhow::Result<()> {
        match self {
            Sink::None => {}
            Sink::Digest(digest) => digest.add(plan, batch),
            Sink::File { path, out } => {
                bytes.clear();
                for &id in &batch.ids {
                    let id = u32::try_from(id).expect("ids come from a corpus, which has u32");
                    bytes.extend_from_slice(&id.to_le_bytes());
                }
                out.write_all(bytes).with_context(|| format!("write {}", path.display()))?;
            }
        }
        Ok(())
    }

    fn finish(&mut self) -> anyhow::Result<Option<Digest>> {
        match self {
            Sink::None => Ok(None),
            Sink::Digest(digest) => Ok(Some(*digest)),
            Sink::File { path, out } => {
                let written = out.flush().and_then(|()| out.get_ref().sync_all());
                written.with_context(|| format!("write {}", path.display()))?;
                Ok(None)
            }
        }
    }
}

/// What a stream came to.
struct Summary {
    steps: u64,
    tokens: u64,
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
            "--from-step is {}; the plan has {} steps, numbered from 0",
            args.from_step,
            plan.step_count()
        ))
        .into());
    }
    let plan = Arc::new(plan);
    let spec = loader_spec(args, &run, corpus, plan.clone());
    let steps = spec.end_step.saturating_sub(spec.from_step);
    let mut loader = Loader::start(spec)?;
    let mut sink = Sink::new(&args.sink)?;
    let (mut tokens, mut first_batch, mut bytes) = (0, None, Vec::new());
    while let Some(batch) = loader.next_batch()? {
        first_batch.get_or_insert_with(|| started.elapsed());
        tokens += batch.ids.len() as u64;
        sink.take(&plan, &batch, &mut bytes)?;
        loader.recycle(batch);
    }
    let digest = sink.finish()?;
    let (elapsed, waited) = (started.elapsed(), loader.waited());
    let first_batch = first_batch.unwrap_or(elapsed);
    print(&Summary { steps, tokens, elapsed, first_batch, waited, digest }, args.json)
}

fn loader_spec(args: &StreamArgs, run: &Run, corpus: Arc<Corpus>, plan: Arc<Plan>) -> LoaderSpec {
    let step_count = plan.step_count();
    let end_step = match args.steps {
        Some(steps) => args.from_step.saturating_add(steps), // the loader refuses what is not there
        None => step_count,
    };
    LoaderSpec {
        corpus,
        plan,
        from_step: args.from_step,
        end_step,
        rank: args.rank,
        world_size: args.world_size,
        micro_batch_windows: run.file.train.micro_batch_windows,
        workers: run.file.loader.workers,
        ring_bytes: run.file.loader.ring_bytes,
    }
}

fn print(summary: &Summary, json: bool) -> anyhow::Result<()> {
    let Summary { steps, tokens, .. } = *summary;
    let seconds = summary.elapsed.as_secs_f64();
    let tokens_per_sec = tokens as f64 / seconds;
    let first_batch_ms = summary.first_batch.as_secs_f64() * 1e3;
    let digest = summary.digest.map(|digest| digest.0);
    let mut out = std::io::stdout().lock();
    if json {
        let object = json!({
            "tokens": tokens,
            "seconds": seconds,
            "tokens_per_sec": tokens_per_sec,
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
        "{} steps, {} tokens in {seconds:.3} s: {:.1} M tokens/s; first batch after {first_batch_ms:.1} ms; waited {:.3} s",
        format_count(steps),
        format_count(tokens),
        tokens_per_sec / 1e6,
        summary.waited.as_secs_f64(),
    )?;
    if let Some(digest) = digest {
        writeln!(out, "digest {digest}")?;
    }
    Ok(())
}
