//! The run: phases of the plan, one after the other, from the current state.
//!
//! Tests kill runs in both phases and at the switch, and compare the resumed run bit for bit.
//!
//! **Invariant:** the state after step s is a function of run file, data and s alone (for one
//! device and number of threads), however often the run was stopped in between.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use pipeline::corpus::Corpus;
use pipeline::run_file;
use plan::{Phase, Plan};
use schemas::checkpoint::{PhaseRecord, TrainerState};
use schemas::run::RunFile;

use crate::checkpoint::contents;
use crate::checkpoint::resume::{self, Found, Identity, Resume};
use crate::checkpoint::store;
use crate::console::progress::progress;
use crate::console::stop::StopFlag;
use crate::cost::flops::{self, Peak};
use crate::data::batch::BatchShape;
use crate::data::prefetch::Prefetcher;
use crate::device;
use crate::device::attention::{self, AttentionShape};
use crate::device::memory;
use crate::model::llama::{Compute, Llama};
use crate::ranks::process_group::{ProcessGroup, ReportedByRankZero};
use crate::run::diverged::{Diverged, NoUpdate, StopNumbers};
use crate::run::inputs::{Inputs, init_from};
use crate::run::interval::{Figures, Interval, StepCost};
use crate::run::log::{EvaluationLog, StepLog};
use crate::run::metrics::{MetricsLog, Point};
use crate::run::output::RunFolder;
use crate::run::report::{PhaseSummary, Sample, Summary, Validation};
use crate::run::save::Snapshot;
use crate::run::validation::ValidationSet;
use crate::step::adamw::{self, AdamW};
use crate::step::graph::Stepper;
use crate::step::schedule::PhaseSchedule;
use crate::step::{StepOutput, StepReport, StopReport};

pub mod inputs;

pub mod prepare;

pub mod validation;

pub mod interval;

pub mod log;

pub mod metrics;

pub mod save;

pub mod report;

pub mod diverged;

pub mod output;

/// How a successful run ended.
pub enum Outcome {
    /// Every step is done.
    Done(Box<Summary>),
    /// Somebody asked to stop; the checkpoint is saved.
    Stopped {
        /// Steps done.
        next_step: u64,
        /// Where the run can resume.
        checkpoint: PathBuf,
    },
}

/// A run between two steps.
pub struct Run {
    config: RunFile,
    plan: Arc<Plan>,
    /// By phase; `None` for a phase without steps.
    schedules: Vec<Option<PhaseSchedule>>,
    corpus: Arc<Corpus>,
    validation: Option<ValidationSet>,
    output: PathBuf,
    group: ProcessGroup,
    /// On the first rank alone.
    writer: Option<Writer>,
    model: Llama,
    optimizer: AdamW,
    state: TrainerState,
    last_checkpoint: Option<PathBuf>,
    /// The device's peak performance, where it is known.
    peak: Option<Peak>,
    limits: Limits,
    /// With the number of steps done at that time.
    last_validation: Option<(u64, Validation)>,
}

/// State of the rank that writes for all.
struct Writer {
    folder: RunFolder,
    metrics: MetricsLog,
}

/// Where a run ends, and whether it saves checkpoints.
struct Limits {
    /// Steps done at the end.
    end_step: u64,
    saves: bool,
}

impl Run {
    /// Loads, checks and prepares everything up to the first step. Errors in run file, data or
    /// checkpoint are reported here, before any training. Every rank of the group calls it; if one
    /// rank cannot proceed, none does.
    pub fn prepare(file: &run_file::Run, resume: &Resume, group: ProcessGroup) -> Result<Run> {
        let inputs = group.all_ranks_ok(Inputs::open(file, &group))?;
        let output = file.output_dir();
        let lock_and_find = || -> Result<_> {
            if !group.is_rank_zero() {
                return Ok((None, None));
            }
            Ok((Some(RunFolder::lock(&output)?), resume::find_checkpoint(&output, resume)?))
        };
        let (folder, found) = group.all_ranks_ok(lock_and_find())?;
        let found = group.all_ranks_ok(resume::broadcast_found(found, &output, resume, &group))?;
        let identity = group.all_ranks_ok(inputs.identity(file, found.as_ref()))?;
        group.all_ranks_ok(inputs.check_ranks_agree(file, &identity, found.as_ref(), &group))?;
        let folder = (folder, output);
        let run =
            group.all_ranks_ok(Run::load(file, inputs, folder, found, identity, group.clone()))?;
        group.broadcast(&mut run.model.parameters().masters().shallow_clone())?;
        Ok(run)
    }

    /// The run at the checkpoint found, or at its beginning.
    fn load(
        file: &run_file::Run,
        inputs: Inputs,
        (folder, output): (Option<RunFolder>, PathBuf),
        found: Option<Found>,
        identity: Identity,
        group: ProcessGroup,
    ) -> Result<Run> {
        let Inputs { plan, schedules, corpus, validation, compute } = inputs;
        let config = file.file.clone();
        let recorded = resume::recorded(
            &config,
            &device::name(compute.device),
            device::thread_count(),
            group.world_size(),
        );
        let (model, optimizer, state) = match &found {
            Some((checkpoint, damaged)) => {
                resume::check_identity(&checkpoint.path, &checkpoint.state, &plan, &identity)?;
                prepare::notice_resume(checkpoint, damaged, &recorded);
                let (model, optimizer) = contents::load(&config, compute, checkpoint)?;
                (model, optimizer, TrainerState { recorded, ..checkpoint.state.clone() })
            }
            None => {
                let record = &corpus.manifest().tokenizer;
                contents::check_init_tokenizer(&config, init_from(file).as_deref(), record)?;
                let model = contents::initial_model(&config, compute, init_from(file).as_deref())?;
                let optimizer = AdamW::new(model.parameters(), &config.optimizer)?;
                (model, optimizer, prepare::fresh_state(&plan, identity, recorded))
            }
        };
        let peak = flops::peak(compute.dtype, compute.device)?;
        let writer = folder.map(|folder| {
            if found.is_some() {
                store::settle(&folder.path, state.next_step, save::retention(&config))?;
            }
            let metrics = MetricsLog::open(&folder.path, found.as_ref().map(|_| state.next_step))?;
            if found.is_some() {
                prepare::notice_lost_points(&metrics, &state, config.train.log_every_steps);
            }
            folder.write_run_file(&file.resolved().context("resolve the run file's paths")?)?;
            anyhow::Ok(Writer { folder, metrics })
        });
        let limits = Limits { end_step: plan.step_count(), saves: true };
        Ok(Run {
            config,
            plan,
            schedules,
            corpus,
            validation,
            output,
            group,
            writer: writer.transpose()?,
            model,
            optimizer,
            state,
            last_checkpoint: found.map(|(checkpoint, _)| checkpoint.path),
            peak,
            limits,
            last_validation: None,
        })
    }

    /// Trains until the plan's last step, or until somebody asks to stop.
    pub fn execute(&mut self, stop: &StopFlag) -> Result<Outcome> {
        let last_step = self.limits.end_step;
        if let Some(peak) = &self.peak {
            let tera = peak.flops_per_sec / 1e12;
            progress(&format!("MFU is of {tera:.3} TFLOP/s ({})", peak.source));
        }
        if self.catch_up_evaluation(stop)? && self.state.next_step == last_step {
            // Save now, so the evaluation is not repeated.
            self.save()?;
        }
        while self.state.next_step < last_step && self.run_phase(stop)? {}
        let is_complete = self.validation.is_none() || self.state.evaluated_step == Some(last_step);
        if self.state.next_step < last_step || !is_complete {
            let checkpoint = self.save()?;
            return Ok(Outcome::Stopped { next_step: self.state.next_step, checkpoint });
        }
        let is_idle =
            |record: &PhaseRecord| record.steps > 0 && record.skipped_steps == record.steps;
        if let Some(index) = self.state.phases.iter().position(is_idle) {
            return Err(NoUpdate { index, steps: self.state.phases[index].steps }.into());
        }
        Ok(Outcome::Done(Box::new(self.summarize()?)))
    }

    /// Trains on the steps of `range`, which begin a phase and lie in it, with the current weights,
    /// to measure: nothing is saved. False if somebody asked to stop before the end.
    pub fn train_part(&mut self, range: Range<u64>, stop: &StopFlag) -> Result<bool> {
        self.state.next_step = range.start;
        self.limits = Limits { end_step: range.end, saves: false };
        self.run_phase(stop)
    }

    /// The order of the data.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// How the model computes.
    pub fn compute(&self) -> Compute {
        self.model.compute()
    }

    /// The device's peak performance, where it is known.
    pub fn peak(&self) -> Option<&Peak> {
        self.peak.as_ref()
    }

    /// Turns model, optimizer and state into those of a phase's first step.
    fn begin_phase(&mut self, phase_index: usize) -> Result<()> {
        let (config, model, optimizer) = (&self.config, &self.model, &self.optimizer);
        if let Some(changed) = prepare::change_maps(config, phase_index, model, optimizer)? {
            (self.model, self.optimizer) = changed;
        }
        if !prepare::carries_optimizer(&self.config, &self.plan, phase_index) {
            self.optimizer.reset();
        }
        self.optimizer.loss_guard().reset_window();
        // Fresh maps are drawn on each rank. Should machines differ in a last bit, the first rank's
        // maps count.
        self.group.broadcast(&mut self.model.parameters().masters().shallow_clone())?;
        self.state.phase_index = phase_index as u64;
        self.state.phase_steps_done = 0;
        Ok(())
    }

    /// Trains to the end of the phase containing the next step; false if somebody asked to stop
    /// before.
    fn run_phase(&mut self, stop: &StopFlag) -> Result<bool> {
        let phase_index = self.plan.phase_index_of(self.state.next_step);
        let phase = self.plan.phases()[phase_index];
        if self.state.next_step == phase.first_step {
            self.begin_phase(phase_index)?;
        }
        self.choose_attention(&phase)?;
        let cuda_graphs = self.config.train.cuda_graphs.unwrap_or(false);
        let mut stepper = Stepper::new(cuda_graphs, self.model.compute().device)?;
        let mut prefetcher = self.start_prefetcher(&phase)?;
        let world_size = self.group.world_size();
        let cost = StepCost::new(&self.config, phase_index, phase.window_units, world_size);
        let mut interval = Interval::default();
        let end = phase.step_range().end.min(self.limits.end_step);
        while self.state.next_step < end {
            if self.group.any_rank(stop.is_requested())? {
                self.read(phase_index, &mut interval)?;
                return Ok(false);
            }
            let started = Instant::now();
            let learning_rate = self.learning_rate(phase_index);
            interval.unread.push(self.step(
                &phase,
                &mut prefetcher,
                &mut stepper,
                learning_rate,
            )?);
            self.count_step(phase_index, &phase, started.elapsed(), &mut interval);
            let step = self.state.next_step;
            let due = |every: u64| step == end || (every > 0 && step.is_multiple_of(every));
            let is_log_due = due(self.config.train.log_every_steps);
            let is_save_due = self.limits.saves && due(self.config.train.checkpoint_every_steps);
            let is_evaluation_due = self.is_evaluation_due(step);
            if (is_log_due || is_save_due || is_evaluation_due)
                && let Some(report) = self.read(phase_index, &mut interval)?
                && is_log_due
            {
                let times = stepper.take_times()?;
                let figures =
                    interval.figures(&cost, self.peak.as_ref(), prefetcher.waited(), times);
                self.log(phase_index, report, learning_rate, &figures)?;
                interval = Interval { waited_before: prefetcher.waited(), ..Interval::default() };
            }
            if is_evaluation_due {
                self.evaluate(phase.patch_size, stop)?;
            }
            if is_save_due {
                self.save()?;
            }
        }
        Ok(true)
    }

    /// The micro-batches of the steps from the next one to the end of `phase`.
    fn start_prefetcher(&self, phase: &Phase) -> Result<Prefetcher> {
        let steps = self.state.next_step..phase.step_range().end;
        let (config, group) = (&self.config, &self.group);
        let spec = prepare::loader_spec(config, &self.corpus, &self.plan, steps, group);
        let shape = BatchShape {
            window_units: phase.window_units,
            patch_size: phase.patch_size,
            vocab_size: self.config.model.vocab_size,
        };
        Prefetcher::start(spec, shape, self.model.compute().device)
    }

    /// Makes a GPU use the fastest attention for the phase, and prints which one.
    fn choose_attention(&self, phase: &Phase) -> Result<()> {
        let (model, compute) = (self.model.config(), self.model.compute());
        let windows = self.config.train.micro_batch_windows;
        let shape = AttentionShape::new(model, windows, phase.window_units, compute.dtype);
        if let Some(choice) = attention::choose(shape, compute.device)? {
            progress(&choice.text());
        }
        Ok(())
    }

    /// The learning rate of the next step.
    fn learning_rate(&self, phase_index: usize) -> f64 {
        let schedule = self.schedules[phase_index].as_ref();
        schedule
            .expect("a phase with steps has a schedule")
            .learning_rate(self.state.phase_steps_done)
    }

    /// Trains on the next step's windows.
    fn step(
        &mut self,
        phase: &Phase,
        prefetcher: &mut Prefetcher,
        stepper: &mut Stepper,
        learning_rate: f64,
    ) -> Result<StepOutput> {
        let step = self.state.next_step;
        let rank_windows = phase.windows_per_step / self.group.world_size();
        let micro_batch_count = rank_windows / self.config.train.micro_batch_windows;
        let batches = (0..micro_batch_count).map(|micro_index| -> Result<_> {
            let next = prefetcher.next_micro_batch()?;
            let (index, tokens_btk) = next.context("the loader ended before the phase")?;
            assert_eq!(index, (step, micro_index), "plan order");
            Ok(tokens_btk)
        });
        let (model, optimizer) = (&self.model, &mut self.optimizer);
        stepper.train_step(model, optimizer, batches, micro_batch_count, learning_rate, &self.group)
    }

    /// Waits for the device (host-device synchronisation) and looks at the steps since the last
    /// time. Returns an error if one of them stops the run, else the last one's report, or `None`
    /// if there was none.
    fn read(&mut self, phase_index: usize, interval: &mut Interval) -> Result<Option<StepReport>> {
        let started = Instant::now();
        let Some((report, skipped_steps)) = interval.unread.read() else { return Ok(None) };
        interval.busy += started.elapsed();
        let record = &mut self.state.phases[phase_index];
        record.seconds += started.elapsed().as_secs_f64();
        record.skipped_steps += skipped_steps;
        match report.stop {
            Some(stop) => {
                let err = anyhow::Error::from(self.diverged(self.state.next_step - 1, stop)?);
                Err(if self.group.is_rank_zero() { err } else { err.context(ReportedByRankZero) })
            }
            None => Ok(Some(report)),
        }
    }

    /// The error of a run stopped by a step, read at `step`.
    fn diverged(&self, step: u64, stop: StopReport) -> Result<Diverged> {
        let StopReport { steps_ago, loss, grad_norm } = stop;
        let numbers = StopNumbers { step: step - steps_ago, loss, grad_norm };
        let checkpoint = self.last_checkpoint.as_ref();
        Ok(Diverged {
            numbers,
            setting: if numbers.is_spike() {
                "optimizer.spike.action"
            } else {
                "optimizer.nonfinite"
            },
            checkpoint: checkpoint.map_or("none".to_owned(), |path| path.display().to_string()),
            read: match &self.writer {
                Some(Writer { folder, .. }) => {
                    diverged::write_record(&folder.path, numbers, &self.plan, &self.corpus)?
                }
                None => "rank 0 reports the reason".to_owned(),
            },
        })
    }

    fn count_step(
        &mut self,
        phase_index: usize,
        phase: &Phase,
        elapsed: Duration,
        interval: &mut Interval,
    ) {
        interval.steps += 1;
        interval.busy += elapsed;
        let tokens = self.config.plan.step_tokens;
        let state = &mut self.state;
        state.next_step += 1;
        state.phase_steps_done += 1;
        state.tokens_read += tokens;
        state.units_processed += tokens / phase.patch_size;
        state.phases[phase_index].steps += 1;
        state.phases[phase_index].seconds += elapsed.as_secs_f64();
    }

    /// Writes a point of the curves, and a line on stderr.
    fn log(
        &mut self,
        phase_index: usize,
        report: StepReport,
        learning_rate: f64,
        figures: &Figures,
    ) -> Result<()> {
        let device = self.model.compute().device;
        let logged = StepLog {
            report,
            learning_rate,
            param_norm: adamw::norm(self.model.parameters().masters())?.double_value(&[]),
            peak_memory_bytes: memory::peak_memory_bytes(device)?,
            figures,
        };
        self.state.phases[phase_index].loss = Some(report.loss);
        let step = self.state.next_step;
        let values = logged.values(&self.plan, phase_index, &self.state);
        self.write(&Point { step, values })?;
        progress(&logged.line(&self.plan, phase_index, step));
        Ok(())
    }

    fn write(&mut self, point: &Point) -> Result<()> {
        let Some(writer) = &mut self.writer else { return Ok(()) };
        writer.folder.check_is_there()?;
        writer.metrics.write(point)
    }

    /// Due before the first step (the fresh model, for comparison with the patch phase's weights),
    /// at the end of each phase, and every so many steps.
    fn is_evaluation_due(&self, step: u64) -> bool {
        let every = self.config.train.eval_every_steps;
        let is_end = |phase: &Phase| phase.steps > 0 && phase.step_range().end == step;
        step == 0
            || (every > 0 && step.is_multiple_of(every))
            || self.plan.phases().iter().any(is_end)
    }

    /// Makes the evaluation due before the next step, unless it was already made. Returns whether
    /// it was completed now; one cut off by a stop is made again.
    fn catch_up_evaluation(&mut self, stop: &StopFlag) -> Result<bool> {
        let step = self.state.next_step;
        if !self.is_evaluation_due(step) || self.state.evaluated_step == Some(step) {
            return Ok(false);
        }
        let patch_size = match step.checked_sub(1) {
            Some(last_step) => self.plan.phase_of(last_step).patch_size,
            None => 1,
        };
        self.evaluate(patch_size, stop)?;
        Ok(self.state.evaluated_step == Some(step))
    }

    /// Token-level validation, with the patch loss in a patch phase. A request to stop cuts it off:
    /// nothing is logged, and the resumed run makes it again.
    fn evaluate(&mut self, patch_size: u64, stop: &StopFlag) -> Result<()> {
        let Some(validation) = &self.validation else { return Ok(()) };
        let (model, group) = (&self.model, &self.group);
        let Some(figures) = validation.evaluate(model, stop, group)? else { return Ok(()) };
        let patch_loss = match patch_size {
            1 => None,
            _ => validation.patch_loss(model, patch_size, stop, group)?,
        };
        if group.any_rank(stop.is_requested())? {
            return Ok(());
        }
        let step = self.state.next_step;
        let logged = EvaluationLog { validation: figures, patch_loss };
        self.write(&Point { step, values: logged.values(&self.state) })?;
        progress(&logged.line(step, self.plan.step_count()));
        for (phase, record) in self.plan.phases().iter().zip(&mut self.state.phases) {
            if phase.steps > 0 && phase.first_step == step {
                record.first_eval_loss = Some(figures.loss);
            }
        }
        self.state.evaluated_step = Some(step);
        self.last_validation = Some((step, figures));
        Ok(())
    }

    /// Saves a checkpoint of the state between two steps; the other ranks wait for the first.
    fn save(&mut self) -> Result<PathBuf> {
        // First: a checkpoint claims the points up to its step.
        if let Some(writer) = &self.writer {
            writer.folder.check_is_there()?;
            writer.metrics.sync()?;
        }
        save::check_ranks_have_equal_weights(&self.model, &self.group, self.state.next_step)?;
        let snapshot = Snapshot {
            config: &self.config,
            plan: &self.plan,
            corpus: &self.corpus,
            model: &self.model,
            optimizer: &self.optimizer,
            state: &self.state,
        };
        let path = match &self.writer {
            Some(Writer { folder, .. }) => snapshot.save(&folder.path)?,
            None => store::path(&self.output, self.state.next_step),
        };
        self.group.barrier()?;
        self.last_checkpoint = Some(path.clone());
        Ok(path)
    }

    fn summarize(&mut self) -> Result<Summary> {
        let validation = match (&self.validation, self.last_validation) {
            (_, Some((step, figures))) if step == self.state.next_step => Some(figures),
            // Was made and logged before this start.
            (Some(validation), _) => {
                validation.evaluate(&self.model, &StopFlag::default(), &self.group)?
            }
            (None, _) => None,
        };
        Ok(Summary {
            phases: PhaseSummary::of_all(&self.plan, &self.state.phases),
            validation,
            relative_cost: self.plan.relative_cost(),
            checkpoint: self.last_checkpoint.clone(),
            sample: self.sample()?,
        })
    }

    /// The final weights' continuation of the beginning of a validation document; on the first
    /// rank.
    fn sample(&self) -> Result<Option<Sample>> {
        let validation = self.validation.as_ref().filter(|_| self.group.is_rank_zero());
        validation.map(|validation| validation.sample(&self.model)).transpose()
    }
}
