//! `patchmill plan`: shows the plan of a run file before anything is trained.
//!
//! **Invariant:** every printed number comes from the [`Plan`] the loader would read.

pub mod lookup;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::Context as _;
use schemas::run::ReadBackend;
use serde_json::{Value, json};

use crate::commands::plan::lookup::{
    DocumentName, FindReport, StepReport, parse_document, parse_steps, resolve,
};
use crate::commands::values::{RankOf, RunArgs, local_path, parse_rank};
use crate::console::numbers::{format_count, parse_positive_count};
use crate::console::printable;
use crate::corpus::{CorpusError, check_tokenizer, read_manifest};
use crate::run_file::Run;
use plan::compare::{self, Comparison, Difference};
use plan::proof::{self, Proof};
use plan::{Phase, Plan, Stream};

/// Arguments of `patchmill plan`.
#[derive(clap::Args, Debug)]
pub struct PlanArgs {
    #[command(flatten)]
    run: RunArgs,
    /// The other run file of --diff.
    #[arg(requires = "diff", value_parser = local_path())]
    other: Option<PathBuf>,
    /// Plan for a corpus of this many tokens, without reading one; 60e9 and 60_000 are numbers too.
    #[arg(long, value_name = "TOKENS", value_parser = parse_positive_count)]
    assume_tokens: Option<u64>,
    /// Print the steps that read a document of the corpus (may be repeated): its number, INPUT:ROW
    /// as the manifest names the input, or its content hash in hex.
    #[arg(
        long,
        value_name = "DOCUMENT",
        value_parser = parse_document,
        conflicts_with = "assume_tokens"
    )]
    find: Vec<DocumentName>,
    /// Print the windows, shards, documents and sets read by a step or the steps S..E (may be
    /// repeated).
    #[arg(long, value_name = "STEP", value_parser = parse_steps)]
    step: Vec<(u64, u64)>,
    /// Only the part of each step rank r of W reads.
    #[arg(long, value_name = "r/W", value_parser = parse_rank, requires = "step")]
    rank: Option<RankOf>,
    /// Walk the whole plan and prove: every pass reads each token of its subset exactly once.
    #[arg(long)]
    verify: bool,
    /// Threads of --verify; when absent, one per core.
    #[arg(
        long,
        value_name = "COUNT",
        requires = "verify",
        value_parser = clap::value_parser!(u16).range(1..=1024)
    )]
    threads: Option<u16>,
    /// Print the differences between the plans of two run files, and up to which step they read the
    /// same.
    #[arg(long, requires = "other", conflicts_with_all = ["find", "step", "verify"])]
    diff: bool,
    /// Print one JSON object instead.
    #[arg(long)]
    json: bool,
}

/// `patchmill plan`.
pub fn plan(args: &PlanArgs) -> anyhow::Result<()> {
    let run = args.run.load()?;
    let plan = plan_of(&run, args.assume_tokens)?;
    if let Some(other) = &args.other {
        return diff(args, &plan, other);
    }
    let needs_corpus =
        args.assume_tokens.is_none() && !(args.find.is_empty() && args.step.is_empty());
    let corpus = if needs_corpus { Some(run.open_corpus(ReadBackend::Pread)?) } else { None };
    let steps = args.step.iter().flat_map(|&(first, end)| first..end);
    let steps = steps.map(|step| StepReport::new(&plan, corpus.as_ref(), step, args.rank));
    let steps = steps.collect::<anyhow::Result<Vec<StepReport>>>()?;
    let mut found = Vec::new();
    for name in &args.find {
        let corpus = corpus.as_ref().context("--find needs a corpus")?;
        for document in resolve(corpus, name)? {
            found.push(FindReport::new(&plan, corpus, document)?);
        }
    }
    let walked = if args.verify { Some(walk(&plan, args.threads)?) } else { None };
    let mut out = std::io::stdout().lock();
    if args.json {
        let mut object = plan_json(&plan);
        if !steps.is_empty() {
            object["steps"] = steps.iter().map(|report| report.json(&plan)).collect();
        }
        if !found.is_empty() {
            object["documents"] = found.iter().map(FindReport::json).collect();
        }
        if let Some(walked) = &walked {
            object["verify"] = walked.json();
        }
        writeln!(out, "{object}")?;
        return Ok(());
    }
    print_plan(&mut out, &plan, &args.run.run)?;
    steps.iter().try_for_each(|report| report.print(&mut out))?;
    found.iter().try_for_each(|report| report.print(&mut out))?;
    walked.iter().try_for_each(|walked| walked.print(&mut out, &plan))?;
    Ok(())
}

fn plan_of(run: &Run, assume_tokens: Option<u64>) -> anyhow::Result<Plan> {
    match assume_tokens {
        Some(tokens) => Ok(run.plan(tokens, None)?),
        None => plan_of_corpus(run),
    }
}

/// Result and time of a walk over the whole plan.
struct Walked {
    proof: Proof,
    threads: usize,
    seconds: f64,
}

fn walk(plan: &Plan, threads: Option<u16>) -> anyhow::Result<Walked> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let threads = threads.map_or(cores, usize::from);
    let bar = indicatif::ProgressBar::new(plan.step_count());
    let started = Instant::now();
    let proof = proof::walk(plan, threads, &|steps| bar.inc(steps));
    bar.finish_and_clear();
    Ok(Walked { proof: proof?, threads, seconds: started.elapsed().as_secs_f64() })
}

impl Walked {
    fn tokens_per_sec(&self) -> f64 {
        self.proof.tokens as f64 / self.seconds
    }

    fn json(&self) -> Value {
        json!({
            "windows": self.proof.windows,
            "tokens": self.proof.tokens,
            "whole_passes": self.proof.whole_passes,
            "partial_tokens": self.proof.partial_tokens,
            "threads": self.threads,
            "seconds": self.seconds,
            "tokens_per_sec": self.tokens_per_sec(),
        })
    }

    fn print(&self, out: &mut impl Write, plan: &Plan) -> anyhow::Result<()> {
        let Proof { windows, tokens, whole_passes, partial_tokens } = &self.proof;
        writeln!(
            out,
            "\nverified {} windows, {} tokens in {:.2} s on {} threads: {:.0} M tokens/s",
            format_count(*windows),
            format_count(*tokens),
            self.seconds,
            self.threads,
            self.tokens_per_sec() / 1e6,
        )?;
        for ((stream, passes), partial) in
            plan.streams().iter().zip(whole_passes).zip(partial_tokens)
        {
            writeln!(
                out,
                "  {}: {} passes read each of {} tokens once; {} tokens of a last one are read, \
                 each once",
                set_name(stream),
                format_count(*passes),
                format_count(stream.subset_tokens()),
                format_count(*partial),
            )?;
        }
        Ok(())
    }
}

fn set_name(stream: &Stream) -> String {
    stream.name().map_or_else(|| "corpus".to_owned(), |name| format!("set {name:?}"))
}

/// `patchmill plan --diff A B`.
fn diff(args: &PlanArgs, first: &Plan, other: &Path) -> anyhow::Result<()> {
    let run = RunArgs { run: other.to_owned(), overrides: args.run.overrides.clone() };
    let second = plan_of(&run.load()?, args.assume_tokens)?;
    let Comparison { differences, same_steps } = compare::compare(first, &second);
    let mut out = std::io::stdout().lock();
    if args.json {
        let list = differences.iter().map(|difference| {
            json!({"name": difference.name, "first": difference.first, "second": difference.second})
        });
        let object = json!({
            "fingerprints": [first.fingerprint(), second.fingerprint()],
            "steps_total": [first.step_count(), second.step_count()],
            "same": differences.is_empty(),
            "same_steps": same_steps,
            "differences": list.collect::<Vec<Value>>(),
        });
        writeln!(out, "{object}")?;
        return Ok(());
    }
    if differences.is_empty() {
        writeln!(out, "the plans are the same: {}", first.fingerprint())?;
        return Ok(());
    }
    let mut rows = vec![["", "first", "second"].map(str::to_owned).to_vec()];
    let cell = |value: &Option<Value>| value.as_ref().map_or("-".to_owned(), Value::to_string);
    for difference in &differences {
        let Difference { name, first, second } = difference;
        rows.push(vec![name.clone(), cell(first), cell(second)]);
    }
    rows.push(vec![
        "steps".to_owned(),
        format_count(first.step_count()),
        format_count(second.step_count()),
    ]);
    print_table(&mut out, &rows)?;
    writeln!(out, "\n{}", resume_advice(same_steps, first, &second))?;
    Ok(())
}

fn resume_advice(same_steps: u64, first: &Plan, second: &Plan) -> String {
    let refused = "A run refuses to resume under the other plan (exit 4).";
    if same_steps == 0 {
        return format!("No step reads the same. {refused} Start a new run.");
    }
    let all = if same_steps == first.step_count().min(second.step_count()) {
        " (all of the shorter plan)"
    } else {
        ""
    };
    format!(
        "Steps 0 to {} read the same windows in both{all}: a checkpoint at step {} or before has \
         seen exactly what the other plan would have shown it, one after it has not. {refused} To \
         take such a checkpoint's weights over, give it as train.init_from of a new run.",
        format_count(same_steps - 1),
        format_count(same_steps),
    )
}

/// The plan of a run over the corpus named in its file. Only the corpus's manifest is read.
pub fn plan_of_corpus(run: &Run) -> anyhow::Result<Plan> {
    let hint = "to plan before there is a corpus, give --assume-tokens";
    let manifest = read_manifest(&run.corpus_dir()).map_err(|err| match err {
        CorpusError::Io { .. } | CorpusError::NoManifest { .. } => {
            anyhow::Error::new(err).context(hint)
        }
        damaged => damaged.into(),
    })?;
    check_tokenizer(&run.corpus_dir(), &manifest)?;
    run.check_vocabulary(&manifest)?;
    Ok(run.plan_of(&manifest)?)
}

/// The plan as JSON.
pub fn plan_json(plan: &Plan) -> Value {
    let phases = plan.phases().iter().map(|phase| {
        let (first_epoch, end_epoch) = epochs(plan, phase);
        json!({
            "patch_size": phase.patch_size,
            "window_units": phase.window_units,
            "window_tokens": phase.window_tokens,
            "share": phase.share.to_string(),
            "first_step": phase.first_step,
            "steps": phase.steps,
            "tokens": phase.tokens,
            "windows": phase.windows,
            "windows_per_step": phase.windows_per_step,
            "first_epoch": first_epoch,
            "end_epoch": end_epoch,
        })
    });
    let sets = plan.streams().iter().enumerate().filter_map(|(index, stream)| {
        let read_tokens = plan.stream_read_tokens(index);
        Some(json!({
            "set_name": stream.name()?,
            "tokens": stream.tokens().end - stream.tokens().start,
            "subset_tokens": stream.subset_tokens(),
            "tail_tokens": stream.tail_tokens(),
            "epoch_tokens": stream.epoch_tokens(),
            "read_tokens": read_tokens,
            "unread_tokens": plan.spec().epochs * stream.epoch_tokens() - read_tokens,
        }))
    });
    json!({
        "fingerprint": plan.fingerprint(),
        "phases": phases.collect::<Vec<Value>>(),
        "steps_total": plan.step_count(),
        "step_tokens": plan.spec().step_tokens,
        "epochs": plan.spec().epochs,
        "corpus_tokens": plan.spec().corpus_tokens,
        "corpus_fingerprint": plan.spec().corpus_fingerprint,
        "block_tokens": plan.block_tokens(),
        "subset_tokens": plan.subset_tokens(),
        "run_tokens": plan.run_tokens(),
        "unread_tokens": plan.unread_tokens(),
        "tail_tokens": plan.tail_tokens(),
        "relative_cost": plan.relative_cost(),
        "sets": sets.collect::<Vec<Value>>(),
    })
}

/// Where a phase begins and ends, in passes over the subset.
fn epochs(plan: &Plan, phase: &Phase) -> (f64, f64) {
    let at = |step: u64| (step * plan.spec().step_tokens) as f64 / plan.subset_tokens() as f64;
    (at(phase.step_range().start), at(phase.step_range().end))
}

fn print_plan(out: &mut impl Write, plan: &Plan, path: &Path) -> anyhow::Result<()> {
    let (spec, count) = (plan.spec(), format_count);
    let assumed = if spec.corpus_fingerprint.is_none() { " (assumed)" } else { "" };
    let blocks = plan.subset_tokens() / plan.block_tokens();
    writeln!(out, "plan of {}\n", path.display())?;
    writeln!(out, "corpus   {} tokens{assumed}", count(spec.corpus_tokens))?;
    writeln!(
        out,
        "subset   {} tokens an epoch: {} blocks of {}; a tail of {} tokens fills no block",
        count(plan.subset_tokens()),
        count(blocks),
        count(plan.block_tokens()),
        count(plan.tail_tokens()),
    )?;
    writeln!(
        out,
        "run      {} epochs, {} tokens: {} steps of {}; the last {} tokens fill no step and stay \
         unread",
        spec.epochs,
        count(plan.run_tokens()),
        count(plan.step_count()),
        count(spec.step_tokens),
        count(plan.unread_tokens()),
    )?;
    writeln!(
        out,
        "cost     {:.4} of token-level training on the same tokens (units processed / tokens \
         read)\n",
        plan.relative_cost()
    )?;
    let mut rows = vec![
        [
            "phase",
            "K",
            "window",
            "share",
            "steps",
            "from step",
            "epochs",
            "tokens",
            "windows",
            "windows/step",
        ]
        .map(str::to_owned)
        .to_vec(),
    ];
    for (index, phase) in plan.phases().iter().enumerate() {
        let (first_epoch, end_epoch) = epochs(plan, phase);
        rows.push(vec![
            index.to_string(),
            phase.patch_size.to_string(),
            format!("{} units; {} tokens", count(phase.window_units), count(phase.window_tokens)),
            phase.share.to_string(),
            count(phase.steps),
            count(phase.first_step),
            format!("{first_epoch:.5} to {end_epoch:.5}"),
            count(phase.tokens),
            count(phase.windows),
            count(phase.windows_per_step),
        ]);
    }
    print_table(out, &rows)?;
    if plan.streams().iter().any(|stream| stream.name().is_some()) {
        print_sets(out, plan)?;
    }
    writeln!(out, "\nfingerprint {}", plan.fingerprint())?;
    Ok(())
}

fn print_sets(out: &mut impl Write, plan: &Plan) -> std::io::Result<()> {
    let names = ["set", "tokens", "in the subset", "an epoch", "of it", "passes", "read", "tail"];
    let mut rows = vec![names.map(str::to_owned).to_vec()];
    for (index, stream) in plan.streams().iter().enumerate() {
        let read_tokens = plan.stream_read_tokens(index);
        let share = stream.epoch_tokens() as f64 / plan.subset_tokens() as f64;
        rows.push(vec![
            printable::line(stream.name().unwrap_or_default()).into_owned(),
            format_count(stream.tokens().end - stream.tokens().start),
            format_count(stream.subset_tokens()),
            format_count(stream.epoch_tokens()),
            format!("{:.3} %", share * 100.0),
            format!("{:.3}", read_tokens as f64 / stream.subset_tokens().max(1) as f64),
            format_count(read_tokens),
            format_count(stream.tail_tokens()),
        ]);
    }
    writeln!(out)?;
    print_table(out, &rows)
}

/// Columns as wide as their widest cell, right-aligned.
fn print_table(out: &mut impl Write, rows: &[Vec<String>]) -> std::io::Result<()> {
    let columns = rows.first().map_or(0, Vec::len);
    let width =
        |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:>width$}"));
        writeln!(out, "{}", cells.collect::<Vec<_>>().join("  "))?;
    }
    Ok(())
}
