//! `patchmill plan`: what a run file comes to, before anything is trained.
//!
//! **Invariant:** every number that is printed comes from the [`Plan`] that the loader would read.

use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use schemas::run::ReadBackend;
use serde_json::{Value, json};

use crate::corpus::{Corpus, read_manifest};
use crate::numbers::{format_count, parse_count, parse_positive_count};
use crate::plan::{Phase, Plan, Window};
use crate::run_file::Run;

/// A run file with overrides.
#[derive(clap::Args, Debug)]
pub struct RunArgs {
    /// The run file.
    pub run: PathBuf,
    /// Lay a value over the run file, such as plan.epochs=2 or phases.0.share=1/2.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    pub overrides: Vec<String>,
}

impl RunArgs {
    /// Reads the run file.
    pub fn load(&self) -> anyhow::Result<Run> {
        Ok(Run::load(&self.run, &self.overrides)?)
    }
}

/// Arguments of `patchmill plan`.
#[derive(clap::Args, Debug)]
pub struct PlanArgs {
    #[command(flatten)]
    run: RunArgs,
    /// Plan for a corpus of this many tokens, whether there is one or not; 60e9 and 60_000 are numbers too.
    #[arg(long, value_name = "TOKENS", value_parser = parse_positive_count)]
    assume_tokens: Option<u64>,
    /// Say at which steps a document of the corpus is read (may be repeated).
    #[arg(long, value_name = "DOCUMENT", value_parser = parse_count, conflicts_with = "assume_tokens")]
    find: Vec<u64>,
    /// Say which windows and documents a step reads (may be repeated).
    #[arg(long, value_name = "STEP", value_parser = parse_count)]
    step: Vec<u64>,
    /// Print one JSON object instead.
    #[arg(long)]
    json: bool,
}

/// `patchmill plan`.
pub fn plan(args: &PlanArgs) -> anyhow::Result<()> {
    let run = args.run.load()?;
    let plan = match args.assume_tokens {
        Some(tokens) => run.plan(tokens, None)?,
        None => plan_of_corpus(&run)?,
    };
    let needs_corpus =
        args.assume_tokens.is_none() && !(args.find.is_empty() && args.step.is_empty());
    let corpus = if needs_corpus {
        Some(Corpus::open(&run.corpus_dir(), ReadBackend::Pread)?)
    } else {
        None
    };
    let steps = args.step.iter().map(|&step| step_report(&plan, corpus.as_ref(), step));
    let steps = steps.collect::<anyhow::Result<Vec<StepReport>>>()?;
    let found = args.find.iter().map(|&document| find_report(&plan, corpus.as_ref(), document));
    let found = found.collect::<anyhow::Result<Vec<FindReport>>>()?;
    let mut out = std::io::stdout().lock();
    if args.json {
        let mut object = plan_json(&plan);
        if !steps.is_empty() {
            object["steps"] = steps.iter().map(StepReport::json).collect();
        }
        if !found.is_empty() {
            object["documents"] = found.iter().map(FindReport::json).collect();
        }
        writeln!(out, "{object}")?;
        return Ok(());
    }
    print_plan(&mut out, &plan, &args.run.run)?;
    steps.iter().try_for_each(|report| report.print(&mut out))?;
    found.iter().try_for_each(|report| report.print(&mut out))?;
    Ok(())
}

/// The plan of a run over the corpus that its file names, of which only the manifest is read.
pub fn plan_of_corpus(run: &Run) -> anyhow::Result<Plan> {
    let hint = "to plan before there is a corpus, give --assume-tokens";
    let manifest = read_manifest(&run.corpus_dir()).context(hint)?;
    run.check_vocabulary(&manifest)?;
    Ok(run.plan(manifest.totals.tokens, Some(manifest.fingerprint))?)
}

/// The plan as other tools read it.
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
        "run      {} epochs, {} tokens: {} steps of {}; the last {} tokens fill no step and stay unread",
        spec.epochs,
        count(plan.run_tokens()),
        count(plan.step_count()),
        count(spec.step_tokens),
        count(plan.unread_tokens()),
    )?;
    writeln!(
        out,
        "cost     {:.4} of token-level training on the same tokens (units processed / tokens read)\n",
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
    writeln!(out, "\nfingerprint {}", plan.fingerprint())?;
    Ok(())
}

/// Columns as wide as their widest cell, right-aligned.
fn print_table(out: &mut impl Write, rows: &[Vec<String>]) -> std::io::Result<()> {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for row in rows {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:>width$}"));
        writeln!(out, "{}", cells.collect::<Vec<_>>().join("  "))?;
    }
    Ok(())
}

/// What a step reads.
struct StepReport {
    step: u64,
    patch_size: u64,
    /// Each window with its first and last document, when there is a corpus.
    windows: Vec<(Window, Option<[u64; 2]>)>,
}

fn step_report(plan: &Plan, corpus: Option<&Corpus>, step: u64) -> anyhow::Result<StepReport> {
    let step_count = plan.step_count();
    anyhow::ensure!(
        step < step_count,
        "--step {step}: the plan has {step_count} steps, numbered from 0"
    );
    let documents = |window: Window| match corpus {
        Some(corpus) => {
            let last_token = window.first_token + window.token_count - 1;
            let ends = [corpus.document_at(window.first_token)?, corpus.document_at(last_token)?];
            anyhow::Ok((window, Some(ends)))
        }
        None => Ok((window, None)),
    };
    let windows = plan.step(step).map(documents).collect::<anyhow::Result<Vec<_>>>()?;
    Ok(StepReport { step, patch_size: plan.phase_of(step).patch_size, windows })
}

impl StepReport {
    fn json(&self) -> Value {
        let windows = self.windows.iter().map(|(window, documents)| {
            json!({
                "epoch": window.epoch,
                "first_token": window.first_token,
                "token_count": window.token_count,
                "first_document": documents.map(|[first, _]| first),
                "last_document": documents.map(|[_, last]| last),
            })
        });
        json!({"step": self.step, "patch_size": self.patch_size, "windows": windows.collect::<Vec<Value>>()})
    }

    fn print(&self, out: &mut impl Write) -> anyhow::Result<()> {
        writeln!(out, "\nstep {}, K = {}", format_count(self.step), self.patch_size)?;
        for (slot, (window, documents)) in self.windows.iter().enumerate() {
            let end_token = window.first_token + window.token_count;
            write!(
                out,
                "  window {slot}: epoch {}, tokens {}..{end_token}",
                window.epoch, window.first_token
            )?;
            match documents {
                Some([first, last]) if first == last => writeln!(out, ", document {first}")?,
                Some([first, last]) => writeln!(out, ", documents {first} to {last}")?,
                None => writeln!(out)?,
            }
        }
        Ok(())
    }
}

/// When a document is read.
struct FindReport {
    document: u64,
    first_token: u64,
    end_token: u64,
    /// Epoch, step and slot of each window that holds some of it; `None` for a part that is never read in
    /// that epoch.
    readings: Vec<(u64, Option<[u64; 2]>)>,
}

fn find_report(plan: &Plan, corpus: Option<&Corpus>, document: u64) -> anyhow::Result<FindReport> {
    let corpus = corpus.context("--find needs a corpus")?;
    let tokens = corpus.document_tokens(document)?;
    let smallest = plan.phases().iter().map(|phase| phase.window_tokens).min();
    let smallest = smallest.context("a plan has a phase")?;
    let mut readings = Vec::new();
    for epoch in 0..plan.spec().epochs {
        let mut token = tokens.start;
        while token < tokens.end {
            let reading = plan.find(epoch, token);
            let window =
                reading.map_or(smallest, |found| plan.phases()[found.phase_index].window_tokens);
            let entry = (epoch, reading.map(|found| [found.step, found.slot]));
            if entry.1.is_some() || readings.last() != Some(&entry) {
                readings.push(entry);
            }
            token = token / window * window + window; // every window is aligned to its own size
        }
    }
    Ok(FindReport { document, first_token: tokens.start, end_token: tokens.end, readings })
}

impl FindReport {
    fn json(&self) -> Value {
        let readings = self.readings.iter().map(|(epoch, place)| {
            json!({"epoch": epoch, "step": place.map(|[step, _]| step), "slot": place.map(|[_, slot]| slot)})
        });
        json!({
            "document": self.document,
            "first_token": self.first_token,
            "end_token": self.end_token,
            "readings": readings.collect::<Vec<Value>>(),
        })
    }

    fn print(&self, out: &mut impl Write) -> anyhow::Result<()> {
        let Self { document, first_token, end_token, .. } = self;
        writeln!(out, "\ndocument {document}, tokens {first_token}..{end_token}")?;
        for (epoch, place) in &self.readings {
            match place {
                Some([step, slot]) => writeln!(out, "  epoch {epoch}: step {step}, window {slot}")?,
                None => writeln!(
                    out,
                    "  epoch {epoch}: (a part is outside the subset, or in the unread rest)"
                )?,
            }
        }
        Ok(())
    }
}
