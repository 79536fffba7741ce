//! `patchmill-train bench`: the speed and memory of each phase of a run file on this machine,
//! measured in the training loop.
//!
//! Each phase is measured in a process of its own, so its memory peak is its own too. It has fresh
//! weights and the phase's own windows through the loader. There is no validation and no
//! checkpoint, and nothing is left on disk.
//!
//! **Invariant:** the figures are those the run loop logs; no other loop measures anything.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context, Result, anyhow, bail};
use clap::{Args, value_parser};
use pipeline::run_file;
use plan::{Phase, Plan};
use serde_json::Value;

use crate::checkpoint::resume::Resume;
use crate::commands::error::NotMeasurable;
use crate::console::progress::{print, progress};
use crate::console::stop::StopFlag;
use crate::cost::flops::PassFlops;
use crate::device;
use crate::device::memory;
use crate::model::architecture::PatchMaps;
use crate::ranks::environment::{self, RanksError};
use crate::ranks::process_group::ProcessGroup;
use crate::run::Run;
use crate::run::diverged::Diverged;
use crate::run::metrics::METRICS_FILE;
use crate::shim::ShimError;
use pipeline::commands::values::local_path;

use self::report::{PhaseReport, Report, Spread};

mod report;

/// Intervals the measured steps are split into, if there are enough steps.
const INTERVALS: u64 = 10;
/// How often a step's products are measured alone.
const PRODUCT_TRIES: usize = 5;

/// Arguments of `bench`.
#[derive(Args)]
pub struct BenchArgs {
    /// The run file.
    #[arg(value_parser = local_path())]
    run: PathBuf,
    /// Replaces a value of the run file, such as train.dtype=bf16.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Steps to measure in each phase.
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = 20,
        value_parser = value_parser!(u64).range(1..=1 << 32)
    )]
    steps: u64,
    /// Steps before them.
    #[arg(
        long,
        value_name = "COUNT",
        default_value_t = 3,
        value_parser = value_parser!(u64).range(1..=1 << 32)
    )]
    warm_up_steps: u64,
    /// Measure this phase alone, counted from 0.
    #[arg(long, value_name = "INDEX")]
    phase: Option<usize>,
    /// Print the report as one JSON object.
    #[arg(long)]
    json: bool,
}

/// `bench`: a report on stdout.
pub fn bench(args: &BenchArgs) -> Result<ExitCode> {
    if environment::from_environment(|name| std::env::var(name).ok())?.is_some() {
        return Err(RanksError::Bench.into());
    }
    let start_bytes = memory::resident_memory_bytes();
    let file = run_file::Run::load(&args.run, &args.overrides)?;
    let report = match args.phase {
        Some(index) => measure(file, index, args, start_bytes)?,
        None => measure_all(&file, args)?,
    };
    if args.json {
        return print(&format!("{}\n", serde_json::to_string(&report)?));
    }
    let mut text = String::new();
    report.write_text(&mut text)?;
    print(&text)
}

/// Every phase with steps, each measured by this program in another process.
fn measure_all(file: &run_file::Run, args: &BenchArgs) -> Result<Report> {
    let corpus = file.open_corpus(file.file.loader.io)?;
    let plan = file.plan_of(corpus.manifest())?;
    let has_steps = |&index: &usize| plan.phases()[index].steps > 0;
    let indexes: Vec<usize> = (0..plan.phases().len()).filter(has_steps).collect();
    for &index in &indexes {
        // Before any is measured.
        measurable(&plan, index, args)?;
    }
    let mut all: Option<Report> = None;
    for index in indexes {
        let report = measure_in_child(args, index)?;
        match &mut all {
            None => all = Some(report),
            Some(all) => all.phases.extend(report.phases),
        }
    }
    all.context("a plan has a phase with steps")
}

fn measure_in_child(args: &BenchArgs, index: usize) -> Result<Report> {
    let program = std::env::current_exe().context("find this program")?;
    let mut command = Command::new(program);
    command.arg("bench").arg(&args.run).args(["--json", "--phase", &index.to_string()]);
    command.args(["--steps", &args.steps.to_string()]);
    command.args(["--warm-up-steps", &args.warm_up_steps.to_string()]);
    for found in &args.overrides {
        command.args(["--set", found]);
    }
    let output = command.stderr(Stdio::inherit()).output().context("start this program again")?;
    match output.status.code() {
        Some(0) => {}
        // It has printed the cause; its exit code gives the error's class.
        Some(code) => std::process::exit(code),
        None => bail!("phases.{index}: the process that measured it ended by {}", output.status),
    }
    let text = String::from_utf8(output.stdout).context("the report of a phase")?;
    serde_json::from_str(&text).context("the report of a phase")
}

/// One phase, in this process.
fn measure(
    mut file: run_file::Run,
    index: usize,
    args: &BenchArgs,
    start_bytes: Option<u64>,
) -> Result<Report> {
    let folder = tempfile::tempdir().context("make a folder for the time of the bench")?;
    let output = folder.path().to_str().context("the path of temporary files is not UTF-8")?;
    let config = &mut file.file;
    config.data.validation = None;
    // Does not affect speed.
    config.train.init_from = None;
    config.train.output = output.to_owned();
    let plan = file.plan_of(file.open_corpus(file.file.loader.io)?.manifest())?;
    let phase = measurable(&plan, index, args)?;
    let steps = measured_steps(&phase, index, args);
    let measured_from = phase.first_step + args.warm_up_steps;
    file.file.train.log_every_steps = interval_steps(steps, measured_from);
    let mut run = Run::prepare(&file, &Resume::Never, ProcessGroup::single())?;
    let stop = StopFlag::install()?;
    stop.begin();
    match run.train_part(phase.first_step..measured_from + steps, &stop) {
        Ok(true) => {}
        Ok(false) => bail!("stopped on request: nothing was measured"),
        Err(err) => return Err(without_the_folder(err, index)),
    }

    let compute = run.compute();
    let peak_bytes = memory::peak_memory_bytes(compute.device)?;
    let figures = figures(&folder.path().join(METRICS_FILE), phase.first_step, measured_from)?;
    let config = &file.file;
    let maps = PatchMaps {
        patch_size: phase.patch_size,
        input: config.phases[index].input_map,
        output: config.phases[index].output_map,
    };
    let windows = config.train.micro_batch_windows;
    let pass = PassFlops::new(&config.model, maps, windows, phase.window_units);
    let micro_batches = (phase.windows_per_step / windows) as f64;
    let products_ms =
        alone(micro_batches, || pass.measure_products(compute.dtype, compute.device))?;
    let attention_products_ms =
        alone(micro_batches, || pass.measure_attention(compute.dtype, compute.device))?;
    let step_ms = figures.get("time/step_ms").context("the run logs the time of a step")?.median;
    let phase_report = PhaseReport {
        index,
        patch_size: phase.patch_size,
        window_units: phase.window_units,
        micro_batch_windows: windows,
        step_tokens: config.plan.step_tokens,
        steps,
        figures,
        products_ms,
        products_pct: 100.0 * products_ms.median / step_ms,
        attention_products_ms,
        start_bytes,
        peak_bytes,
    };
    let peak = run.peak();
    Ok(Report {
        device: device::name(compute.device),
        dtype: format!("{:?}", compute.dtype).to_lowercase(),
        threads: device::thread_count(),
        peak_flops_per_sec: peak.map(|peak| peak.flops_per_sec),
        peak_source: peak.map(|peak| peak.source.clone()),
        phases: vec![phase_report],
    })
}

/// Steps of a log interval: about a tenth of the measured ones, and a divisor of the first measured
/// step, so an interval begins there.
fn interval_steps(steps: u64, measured_from: u64) -> u64 {
    let wanted = steps.div_ceil(INTERVALS);
    (1..=wanted).rev().find(|every| measured_from.is_multiple_of(*every)).expect("1 divides it")
}

/// A step that stopped the run, reported without its record, which is deleted with the folder.
fn without_the_folder(err: anyhow::Error, index: usize) -> anyhow::Error {
    match err.downcast_ref::<Diverged>() {
        Some(Diverged { numbers, .. }) => anyhow!(
            "phases.{index}: step {} diverged, loss {}, gradient norm {}; \
             a bench begins with fresh weights, so measure with a \
             lower rate, such as --set phases.{index}.schedule.peak=1e-4",
            numbers.step,
            numbers.loss,
            numbers.grad_norm
        ),
        None => err,
    }
}

/// Milliseconds of an operation a step performs once for each micro-batch.
fn alone(
    micro_batches: f64,
    mut measure: impl FnMut() -> Result<f64, ShimError>,
) -> Result<Spread> {
    measure()?; // warms up
    let tries = (0..PRODUCT_TRIES).map(|_| Ok(1e3 * micro_batches * measure()?));
    Ok(Spread::of(tries.collect::<Result<Vec<_>>>()?))
}

/// The phase, if it has steps after the warm-up.
fn measurable(plan: &Plan, index: usize, args: &BenchArgs) -> Result<Phase, NotMeasurable> {
    let refuse = |found: String, wanted: String| NotMeasurable { index, found, wanted };
    let phases = plan.phases();
    let phase = phases.get(index).ok_or_else(|| {
        let wanted = format!("there are {} phases, counted from 0", phases.len());
        refuse("is not in the run file".to_owned(), wanted)
    })?;
    if phase.steps <= args.warm_up_steps {
        let wanted = format!(
            "--warm-up-steps {} leaves none to measure: \
             choose fewer, or a larger data.subset_tokens",
            args.warm_up_steps
        );
        return Err(refuse(format!("has {} steps", phase.steps), wanted));
    }
    Ok(*phase)
}

/// The number of steps to measure: those asked for, or all there are after the warm-up.
fn measured_steps(phase: &Phase, index: usize, args: &BenchArgs) -> u64 {
    let steps = args.steps.min(phase.steps - args.warm_up_steps);
    if steps < args.steps {
        progress(&format!(
            "notice: phases.{index} has {steps} steps after the warm-up: measuring these"
        ));
    }
    steps
}

/// The times and rates in the run's metrics, from the intervals after the warm-up.
fn figures(path: &Path, first_step: u64, measured_from: u64) -> Result<BTreeMap<String, Spread>> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let mut values: BTreeMap<String, Vec<f64>> = BTreeMap::new();
    let mut interval_start = first_step;
    for line in text.lines() {
        let point: BTreeMap<String, Value> = serde_json::from_str(line)?;
        let step = point.get("step").and_then(Value::as_u64).context("a line has a step")?;
        if interval_start >= measured_from {
            let measured = point
                .iter()
                .filter(|(tag, _)| tag.starts_with("throughput/") || tag.starts_with("time/"));
            for (tag, value) in measured {
                values.entry(tag.clone()).or_default().extend(value.as_f64());
            }
        }
        interval_start = step;
    }
    let spreads = values.into_iter().filter(|(_, values)| !values.is_empty());
    Ok(spreads.map(|(tag, values)| (tag, Spread::of(values))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_with_steps_of_the_warm_up_are_left_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(METRICS_FILE);
        let line = |step: u64, ms: u64| {
            format!("{{\"step\":{step},\"time/step_ms\":{ms},\"train/loss\":1}}\n")
        };
        // Steps 10, 11 and 12 warm up; the second line holds step 12 too.
        std::fs::write(&path, [line(12, 90), line(14, 80), line(16, 7), line(17, 9)].concat())
            .unwrap();
        let found = figures(&path, 10, 13).unwrap();
        assert_eq!(found.keys().collect::<Vec<_>>(), ["time/step_ms"]);
        let Spread { median, min, max } = found["time/step_ms"];
        assert_eq!([median, min, max], [8.0, 7.0, 9.0]);
    }

    #[test]
    fn an_interval_begins_where_measuring_begins() {
        for (steps, measured_from, every) in
            [(100, 30, 10), (100, 33, 3), (20, 3, 1), (4, 3, 1), (1, 7, 1)]
        {
            assert_eq!(interval_steps(steps, measured_from), every, "{steps} from {measured_from}");
        }
    }
}
