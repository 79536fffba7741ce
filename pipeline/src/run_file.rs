//! Run files from disk: read, with overrides laid over, paths resolved, and turned into specs.
//!
//! Paths are relative to the run file. The resolved copy is saved next to the run.
//!
//! **Invariant:** a loaded [`Run`] holds only values that make sense on their own, and its spec
//! holds exactly the values in the file.

use std::path::{Path, PathBuf};

use schemas::manifest::Manifest;
use schemas::run::{Carry, PhaseConfig, ReadBackend, RunFile, RunFileError};

use crate::corpus::sets::{MixedSeries, set_streams};
use crate::corpus::{Corpus, CorpusError};
use crate::disk::source::url_scheme;
use plan::{PhaseSpec, Plan, PlanError, PlanSpec, SetSpec};

/// A run file and the folder its paths are relative to.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// As written, overrides laid over.
    pub file: RunFile,
    dir: PathBuf,
}

/// Why a run file could not be used.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The file could not be read.
    #[error("cannot read run file {}: {source}", path.display())]
    Read {
        /// The run file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The file's text or an override was refused.
    #[error("run file {}: {source}", path.display())]
    File {
        /// The run file.
        path: PathBuf,
        /// Why.
        source: RunFileError,
    },
    /// A path that is an URL.
    #[error(
        "run file {}: {key} is {found:?}: {scheme}:// is not supported; expected a path on this \
         machine or on a mounted file system",
        path.display()
    )]
    Url {
        /// The run file.
        path: PathBuf,
        /// Section and key.
        key: &'static str,
        /// Its value.
        found: String,
        /// The URL's scheme.
        scheme: String,
    },
    /// The file's numbers give no plan.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Separate sets requested from a corpus that mixes them.
    #[error(transparent)]
    MixedSeries(#[from] MixedSeries),
    /// Sets that differ from those of the corpus.
    #[error(
        "data.sets is to name every set of the corpus, and no other{}{}",
        list("; it leaves out", missing),
        list("; the corpus has no", unknown)
    )]
    Sets {
        /// Of the corpus, not in the run file.
        missing: Vec<String>,
        /// Of the run file, not in the corpus.
        unknown: Vec<String>,
    },
    /// A mixture over a corpus whose sets are unknown.
    #[error("data.sets needs the sizes of the corpus' sets: there is no plan for assumed tokens")]
    AssumedSets,
    /// A warm-up too long for its phase.
    #[error(
        "phase {phase_index} has {steps} steps; \
         its schedule.warmup_steps is {warmup_steps}, expected less than the steps"
    )]
    Warmup {
        /// From 0.
        phase_index: usize,
        /// Of the phase.
        steps: u64,
        /// As written.
        warmup_steps: u64,
    },
    /// A decay too long for its phase.
    #[error(
        "phase {phase_index} has {steps} steps, {warmup_steps} of them warm-up; \
         its schedule.decay_steps is {decay_steps}, expected at most the {} that are left",
        steps - warmup_steps
    )]
    Decay {
        /// From 0.
        phase_index: usize,
        /// Of the phase.
        steps: u64,
        /// As written.
        warmup_steps: u64,
        /// As written.
        decay_steps: u64,
    },
    /// A model too small for the corpus's tokenizer.
    #[error(
        "model.vocab_size is {model_entries}; \
         the corpus was made with a vocabulary of {corpus_entries}: \
         raise it, or take another corpus"
    )]
    Vocabulary {
        /// Of the run file.
        model_entries: u64,
        /// Of the manifest.
        corpus_entries: u64,
    },
    /// Corpora whose ids mean different texts.
    #[error(
        "the validation corpus was made with another tokenizer: \
         its fingerprint is {validation}, that of the training corpus {train}"
    )]
    Tokenizers {
        /// BLAKE3 of tokenizer.json.
        train: String,
        /// BLAKE3 of tokenizer.json.
        validation: String,
    },
    /// A value that is legal for its type but makes no sense.
    #[error("{field} is {found}; expected {expected}")]
    Value {
        /// Its name in the run file.
        field: String,
        /// As written.
        found: String,
        /// The accepted values.
        expected: &'static str,
    },
}

impl RunError {
    /// Whether the run file is valid but the data do not match it.
    pub fn is_mismatch(&self) -> bool {
        use RunError::{MixedSeries, Tokenizers, Vocabulary};
        matches!(self, MixedSeries { .. } | Tokenizers { .. } | Vocabulary { .. })
    }

    /// Whether the run file must change.
    pub fn is_usage(&self) -> bool {
        !self.is_mismatch() && !matches!(self, RunError::Read { .. })
    }
}

impl Run {
    /// Reads the run file at `path` and lays `overrides` such as `"train.dtype=fp32"` over it.
    pub fn load(path: &Path, overrides: &[String]) -> Result<Run, RunError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| RunError::Read { path: path.to_owned(), source })?;
        let file = schemas::run::parse(&text, overrides)
            .map_err(|source| RunError::File { path: path.to_owned(), source })?;
        check_values(&file)?;
        check_paths(path, &file)?;
        Ok(Run { file, dir: path.parent().unwrap_or(Path::new("")).to_owned() })
    }

    /// A path of the run file, relative to the file's folder unless it is absolute.
    pub fn resolve(&self, path: &str) -> PathBuf {
        self.dir.join(path)
    }

    /// The run file in force, with absolute paths, so that its meaning does not depend on its
    /// place.
    pub fn resolved(&self) -> std::io::Result<RunFile> {
        let absolute = |path: &str| -> std::io::Result<String> {
            let path = std::path::absolute(self.resolve(path))?;
            path.into_os_string().into_string().map_err(|path| {
                let reason = format!("path {} is not UTF-8", path.display());
                std::io::Error::new(std::io::ErrorKind::InvalidData, reason)
            })
        };
        let mut file = self.file.clone();
        file.data.corpus = absolute(&file.data.corpus)?;
        file.data.validation = file.data.validation.as_deref().map(absolute).transpose()?;
        file.train.init_from = file.train.init_from.as_deref().map(absolute).transpose()?;
        file.train.output = absolute(&file.train.output)?;
        Ok(file)
    }

    /// Folder of the training corpus.
    pub fn corpus_dir(&self) -> PathBuf {
        self.resolve(&self.file.data.corpus)
    }

    /// Folder of the validation corpus.
    pub fn validation_dir(&self) -> Option<PathBuf> {
        self.file.data.validation.as_deref().map(|path| self.resolve(path))
    }

    /// Folder the run writes to.
    pub fn output_dir(&self) -> PathBuf {
        self.resolve(&self.file.train.output)
    }

    /// Checks that the model has an entry for every id of a corpus.
    pub fn check_vocabulary(&self, manifest: &Manifest) -> Result<(), RunError> {
        let model_entries = self.file.model.vocab_size;
        let corpus_entries = manifest.tokenizer.vocab_size;
        if corpus_entries <= model_entries {
            return Ok(());
        }
        Err(RunError::Vocabulary { model_entries, corpus_entries })
    }

    /// Opens the training corpus in the order in which the run's plan counts tokens.
    pub fn open_corpus(&self, backend: ReadBackend) -> Result<Corpus, CorpusError> {
        match self.file.data.sets {
            Some(_) => Corpus::open_by_set(&self.corpus_dir(), backend),
            None => Corpus::open(&self.corpus_dir(), backend),
        }
    }

    /// The plan of the run over the corpus `manifest` describes. Conditions on file and plan
    /// together are checked here.
    pub fn plan_of(&self, manifest: &Manifest) -> Result<Plan, RunError> {
        let fingerprint = Some(manifest.fingerprint.clone());
        let mut spec = plan_spec(&self.file, manifest.totals.tokens, fingerprint);
        spec.sets = self.sets(manifest)?;
        self.plan_of_spec(&spec)
    }

    /// The same over a corpus of `corpus_tokens`. `corpus_fingerprint` is that of its manifest,
    /// `None` for a corpus that is only assumed.
    pub fn plan(
        &self,
        corpus_tokens: u64,
        corpus_fingerprint: Option<String>,
    ) -> Result<Plan, RunError> {
        if self.file.data.sets.is_some() {
            return Err(RunError::AssumedSets);
        }
        self.plan_of_spec(&plan_spec(&self.file, corpus_tokens, corpus_fingerprint))
    }

    fn plan_of_spec(&self, spec: &PlanSpec) -> Result<Plan, RunError> {
        let plan = Plan::new(spec)?;
        for (phase_index, (phase, config)) in
            plan.phases().iter().zip(&self.file.phases).enumerate()
        {
            let (steps, warmup_steps) = (phase.steps, config.schedule.warmup_steps());
            if steps > 0 && warmup_steps >= steps {
                return Err(RunError::Warmup { phase_index, steps, warmup_steps });
            }
            let decay_steps = config.schedule.decay_steps().unwrap_or(0);
            if steps > 0 && decay_steps > steps - warmup_steps {
                return Err(RunError::Decay { phase_index, steps, warmup_steps, decay_steps });
            }
        }
        Ok(plan)
    }

    /// The streams of the mixture, empty if the run file has no sets.
    fn sets(&self, manifest: &Manifest) -> Result<Vec<SetSpec>, RunError> {
        let Some(amounts) = &self.file.data.sets else { return Ok(Vec::new()) };
        let streams = set_streams(manifest)?;
        let is_known = |name: &String| streams.iter().any(|stream| stream.name == *name);
        let unknown: Vec<String> = amounts.keys().filter(|name| !is_known(name)).cloned().collect();
        let mut missing = Vec::new();
        let mut sets = Vec::with_capacity(streams.len());
        for stream in &streams {
            match amounts.get(&stream.name) {
                Some(&amount) => {
                    let (name, tokens) = (stream.name.clone(), stream.tokens);
                    sets.push(SetSpec { name, tokens, amount });
                }
                None => missing.push(stream.name.clone()),
            }
        }
        if missing.is_empty() && unknown.is_empty() {
            return Ok(sets);
        }
        Err(RunError::Sets { missing, unknown })
    }
}

fn list(before: &str, names: &[String]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
    if names.is_empty() { String::new() } else { format!("{before} {}", names.join(", ")) }
}

/// Checks that ids mean the same texts in both corpora.
pub fn check_same_tokenizer(train: &Manifest, validation: &Manifest) -> Result<(), RunError> {
    let (train, validation) = (&train.tokenizer.fingerprint, &validation.tokenizer.fingerprint);
    if train == validation {
        return Ok(());
    }
    Err(RunError::Tokenizers { train: train.clone(), validation: validation.clone() })
}

/// Refuses URLs, which would otherwise name local folders.
fn check_paths(run_file: &Path, file: &RunFile) -> Result<(), RunError> {
    let paths = [
        ("data.corpus", Some(&file.data.corpus)),
        ("data.validation", file.data.validation.as_ref()),
        ("train.init_from", file.train.init_from.as_ref()),
        ("train.output", Some(&file.train.output)),
    ];
    for (key, found) in paths.into_iter().filter_map(|(key, found)| Some((key, found?))) {
        if let Some(scheme) = url_scheme(Path::new(found)) {
            let (path, found, scheme) = (run_file.to_owned(), found.clone(), scheme.to_owned());
            return Err(RunError::Url { path, key, found, scheme });
        }
    }
    Ok(())
}

/// Checks for values that are legal for their type but make no sense. Those of the plan and the
/// model are checked where these are built.
fn check_values(file: &RunFile) -> Result<(), RunError> {
    let RunFile { optimizer, train, loader, .. } = file;
    let counts = [
        ("train.micro_batch_windows", train.micro_batch_windows),
        ("train.checkpoint_every_steps", train.checkpoint_every_steps),
        ("train.keep_checkpoints", train.keep_checkpoints),
        ("train.log_every_steps", train.log_every_steps),
        ("loader.workers", loader.workers as u64),
    ];
    for (field, found) in counts {
        check(field, found >= 1, found, "at least 1")?;
    }
    for (field, path) in [("data.corpus", &file.data.corpus), ("train.output", &train.output)] {
        check(field, !path.is_empty(), "\"\"", "the path of a folder")?;
    }
    check_windows(file)?;
    for (index, beta) in optimizer.betas.into_iter().enumerate() {
        let field = format!("optimizer.betas.{index}");
        check(&field, (0.0..1.0).contains(&beta), beta, "a number from 0 to below 1")?;
    }
    for (field, found) in
        [("optimizer.eps", optimizer.eps), ("optimizer.clip_norm", optimizer.clip_norm)]
    {
        check(field, found > 0.0 && found.is_finite(), found, "a finite number above 0")?;
    }
    let decay = optimizer.weight_decay;
    check("optimizer.weight_decay", decay >= 0.0 && decay.is_finite(), decay, NOT_NEGATIVE)?;
    if let Some(spike) = optimizer.spike {
        let (window_steps, sigma) = (spike.window_steps, spike.sigma);
        let is_window = (2..=1 << 16).contains(&window_steps);
        check("optimizer.spike.window_steps", is_window, window_steps, "2 to 65536")?;
        check("optimizer.spike.sigma", sigma >= 0.0 && sigma.is_finite(), sigma, NOT_NEGATIVE)?;
    }
    file.phases.iter().enumerate().try_for_each(|(index, phase)| check_phase(index, phase))
}

/// Checks a phase's schedule without regard to the phase's length, its maps and its `carry`.
fn check_phase(index: usize, phase: &PhaseConfig) -> Result<(), RunError> {
    let schedule = phase.schedule;
    for (name, rate) in [("peak", schedule.peak()), ("final", schedule.end())] {
        let field = format!("phases.{index}.schedule.{name}");
        check(&field, rate >= 0.0 && rate.is_finite(), rate, NOT_NEGATIVE)?;
    }
    if let Some(decay_steps) = schedule.decay_steps() {
        let field = format!("phases.{index}.schedule.decay_steps");
        check(&field, decay_steps >= 1, decay_steps, "at least 1")?;
    }
    for (name, is_set) in [("input_map", phase.input_map), ("output_map", phase.output_map)] {
        let field = format!("phases.{index}.{name}");
        let expected = "no map where patch_size is 1: there is nothing to tell apart";
        check(&field, !is_set || phase.patch_size > 1, is_set, expected)?;
    }
    let is_first_fresh = index > 0 || phase.carry == Carry::Weights;
    let expected = "\"weights\": no phase before it has an optimizer to take over";
    check("phases.0.carry", is_first_fresh, "\"weights+optimizer\"", expected)
}

/// A window of one unit has no next unit to predict. (The plan refuses a window of 0.)
fn check_windows(file: &RunFile) -> Result<(), RunError> {
    const EXPECTED: &str = "at least 2: a unit and the next one";
    let units = file.plan.window_units;
    check("plan.window_units", units != 1, units, EXPECTED)?;
    for (index, phase) in file.phases.iter().enumerate() {
        if let Some(units) = phase.window_units {
            check(&format!("phases.{index}.window_units"), units != 1, units, EXPECTED)?;
        }
    }
    Ok(())
}

const NOT_NEGATIVE: &str = "a finite number from 0 on";

fn check(
    field: &str,
    fits: bool,
    found: impl std::fmt::Display,
    expected: &'static str,
) -> Result<(), RunError> {
    if fits {
        return Ok(());
    }
    Err(RunError::Value { field: field.to_owned(), found: found.to_string(), expected })
}

/// The run file's part of the order, for a corpus of `corpus_tokens`.
pub fn plan_spec(
    run: &RunFile,
    corpus_tokens: u64,
    corpus_fingerprint: Option<String>,
) -> PlanSpec {
    let phases = run.phases.iter().map(|phase| PhaseSpec {
        patch_size: phase.patch_size,
        window_units: phase.window_units.unwrap_or(run.plan.window_units),
        share: phase.share,
    });
    PlanSpec {
        corpus_tokens,
        corpus_fingerprint,
        subset_tokens: run.data.subset_tokens,
        step_tokens: run.plan.step_tokens,
        epochs: run.plan.epochs,
        seed: run.plan.seed,
        shuffle: run.plan.shuffle,
        sets: Vec::new(),
        phases: phases.collect(),
    }
}
