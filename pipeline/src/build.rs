//! `patchmill tokenize`: inputs to a corpus.
//!
//! `stage` does the work; here stands what surrounds it: what is checked before anything is written, what of an
//! interrupted run can stay, and what is said in the end.
//!
//! **Invariant:** the bytes written are a function of inputs, tokenizer and options; never of threads, tasks, restarts or time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, Once};
use std::time::Instant;

use anyhow::{Context, ensure};
use schemas::build::{BUILD_FORMAT, BuildInput, BuildOptions, BuildRecord, SeriesRecord};
use schemas::manifest::{self, Manifest, SpecialTokens};
use schemas::shard::{HEADER_BYTES, TokenBytes};

use crate::console_progress::{Progress, notice};
use crate::corpus;
use crate::docs::Docs;
use crate::document::{Columns, DOCUMENT_BYTES_MAX};
use crate::folder::Folder;
use crate::inputs::{self, Format, Input};
use crate::job::{InputPlan, Job};
use crate::kept::{Expected, Kept};
use crate::merge;
use crate::publish::free_bytes;
use crate::report::Report;
use crate::select::{Select, SelectArgs};
use crate::stop::{StopFlag, Stopped};
use crate::tasks::Task;
use crate::tokenize::{Encoder, PolicyChoice, SessionStatistics, TokenizeError};
use crate::usage::UsageError;

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
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=THREADS_MAX))]
    pub threads: Option<u16>,
    /// What a line or row that is no document does.
    #[arg(long, value_enum, default_value_t = OnError::Stop)]
    pub on_error: OnError,
    /// Put the beginning-of-sequence token before each document. Without --bos or --no-bos the tokenizer's own
    /// configuration decides; a BOS is put where it has none.
    #[arg(long, overrides_with = "no_bos")]
    pub bos: bool,
    /// Put nothing before each document.
    #[arg(long, overrides_with = "bos")]
    pub no_bos: bool,
    /// Put the end-of-sequence token after each document. Without --eos or --no-eos the tokenizer's own configuration
    /// decides; nothing is put where it has none.
    #[arg(long, overrides_with = "no_eos")]
    pub eos: bool,
    /// Put nothing after each document.
    #[arg(long, overrides_with = "eos")]
    pub no_eos: bool,
    /// What special tokens written out in a text are: text, or control ids as Hugging Face's default makes them.
    #[arg(long, value_enum, default_value_t = Specials::Text)]
    pub special_tokens: Specials,
    /// Bytes of each thread's cache of words. The output is the same for any number.
    #[arg(long, default_value_t = crate::tokenize::CACHE_BYTES, value_parser = cache_bytes)]
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
    /// Bytes of the longest document's text; a longer one is refused. The `tokenizers` crate, where it
    /// makes the ids, may need 160 times as much memory in each thread.
    #[arg(long, default_value_t = DOCUMENT_BYTES_MAX, value_parser = clap::value_parser!(u64).range(1..))]
    pub max_document_bytes: u64,
    /// Write a series for each set of an input, so that sets lie apart.
    #[arg(long)]
    pub by_set: bool,
    /// Write one share of the inputs, beside other tasks, for `patchmill merge`: "i/n" from 0, or "auto" in an array job of
    /// Slurm (SLURM_ARRAY_TASK_ID) or an indexed job of Kubernetes (JOB_COMPLETION_INDEX, with --tasks).
    #[arg(long, value_name = "I/N", conflicts_with = "force")]
    pub task: Option<String>,
    /// How many tasks there are, where the environment does not say so.
    #[arg(long, value_name = "N", requires = "task", value_parser = clap::value_parser!(u64).range(1..))]
    pub tasks: Option<u64>,
    /// Replace a corpus that the folder holds, once the new one is complete, and write beside files of others; those are
    /// never removed.
    #[arg(long)]
    pub force: bool,
    /// Estimate sizes from a sample of the inputs and write nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Print one JSON object as the last line of stdout.
    #[arg(long)]
    pub json: bool,
    /// Which documents are written.
    #[command(flatten)]
    pub select: SelectArgs,
}

/// Threads at most: more than that is a slip of the keyboard, for which a system may have no memory.
const THREADS_MAX: i64 = 1024;
/// Bytes of a cache at most; one of this size hits no more often than a much smaller one.
const CACHE_BYTES_MAX: usize = 1 << 34;

fn cache_bytes(text: &str) -> Result<usize, String> {
    let bytes = text.parse::<usize>().map_err(|err| err.to_string())?;
    if bytes <= CACHE_BYTES_MAX {
        return Ok(bytes);
    }
    Err(format!("it is {bytes}; expected at most {CACHE_BYTES_MAX}"))
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
    fn policy(&self) -> PolicyChoice {
        let special_tokens = match self.special_tokens {
            Specials::Text => SpecialTokens::Text,
            Specials::Hf => SpecialTokens::Hf,
        };
        let chosen = |yes: bool, no: bool| (yes || no).then_some(yes);
        PolicyChoice {
            bos: chosen(self.bos, self.no_bos),
            eos: chosen(self.eos, self.no_eos),
            special_tokens,
        }
    }

    fn thread_count(&self) -> usize {
        match self.threads {
            Some(threads) => usize::from(threads),
            None => std::thread::available_parallelism().map_or(1, usize::from),
        }
    }

    fn columns(&self) -> Columns {
        Columns {
            text: self.text_column.clone(),
            set: self.set_column.clone(),
            document_bytes_max: self.max_document_bytes,
        }
    }

    fn options(&self, encoder: &Encoder, select: &Select) -> BuildOptions {
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
            by_set: self.by_set,
            selection: select.record(),
            imported: None,
            foreign_token_bytes: None,
        }
    }
}

/// Runs `patchmill tokenize`.
pub fn tokenize(args: &TokenizeArgs) -> anyhow::Result<()> {
    if args.dry_run {
        let encoder = Encoder::load(&args.tokenizer, args.policy())?;
        let inputs = find_inputs(args)?;
        let select = make_select(args, &inputs)?;
        return crate::estimate::print(&encoder, &inputs, &args.columns(), &select, args.json);
    }
    let (report, encoder) = build_until(args, &StopFlag::install()?)?;
    report.print(args.json)?;
    std::mem::forget(encoder); // taking its tables apart takes milliseconds, and the process ends
    Ok(())
}

/// Writes the corpus that `args` ask for, or a task's share of it. `dry_run` and `json` are for [`tokenize`].
pub fn build(args: &TokenizeArgs) -> anyhow::Result<Report> {
    let (report, _) = build_until(args, &StopFlag::default())?;
    Ok(report)
}

/// The same, until somebody asks to stop: then [`Stopped`].
fn build_until(args: &TokenizeArgs, stop: &StopFlag) -> anyhow::Result<(Report, Encoder)> {
    let started = Instant::now();
    raise_open_files_limit();
    let variable = |name: &str| std::env::var(name).ok();
    let task = args.task.as_deref().map(|task| Task::parse(task, args.tasks, variable));
    let task = task.transpose()?;
    let encoder = load(args)?.with_cache_bytes(args.cache_bytes);
    encoder.followed().iter().for_each(|what| notice(what));
    let inputs = find_inputs(args)?;
    check_outside(&args.out, &inputs, &encoder)?;
    check_readable(&inputs, &args.columns())?;
    let select = make_select(args, &inputs)?;
    let record = build_record(args.options(&encoder, &select), &inputs);
    let folder = Folder::take(&args.out, &record, args.force, task)?;
    if task.is_none() && folder.is_cut_off_in_finishing(&record)? {
        let manifest = corpus::read_manifest(folder.path())?;
        folder.finish(&manifest)?;
        let (kept_series, statistics) =
            (manifest.series.len() as u64, SessionStatistics::default());
        return Ok((
            make_report(&encoder, manifest, started, kept_series, statistics, task),
            encoder,
        ));
    }
    let input_bytes: Vec<u64> = inputs.iter().map(|input| input.bytes).collect();
    let positions = match task {
        Some(task) => task.share(&input_bytes),
        None => (0..inputs.len()).collect(),
    };
    let run = Run {
        args,
        encoder: &encoder,
        inputs: &inputs,
        select: &select,
        record: &record,
        task,
        positions,
    };
    let kept = run.begin(&folder)?;
    let decides_all = kept.finished.is_empty() && kept.parts.values().all(BTreeMap::is_empty);
    let kept_series = kept.finished.len() as u64;
    let (records, statistics) =
        run.write(&folder, kept, stop).map_err(|err| run.explain(err, folder.path()))?;
    for option in select.unmet_sets().iter().filter(|_| decides_all) {
        notice(&format!("{option}: none of the documents read is of such a set"));
    }
    let manifest = match task {
        Some(_) => merge::unsealed(&encoder, &records, &record.options),
        None => {
            let manifest =
                merge::write_manifest(folder.path(), &encoder, &records, &record.options)
                    .map_err(|err| run.explain(err, folder.path()))?;
            folder.finish(&manifest)?;
            manifest
        }
    };
    Ok((make_report(&encoder, manifest, started, kept_series, statistics, task), encoder))
}

fn make_report(
    encoder: &Encoder,
    manifest: Manifest,
    started: Instant,
    kept_series: u64,
    statistics: SessionStatistics,
    task: Option<Task>,
) -> Report {
    let seconds = started.elapsed().as_secs_f64();
    let (encoder, encoder_obstacles) = (encoder.name(), encoder.obstacles().to_vec());
    Report { manifest, encoder, encoder_obstacles, seconds, kept_series, statistics, task }
}

/// The encoder; with more threads than one our own may still be in the making.
fn load(args: &TokenizeArgs) -> Result<Encoder, TokenizeError> {
    match args.thread_count() {
        1 => Encoder::load(&args.tokenizer, args.policy()),
        _ => Encoder::load_on_two_threads(&args.tokenizer, args.policy()),
    }
}

/// Each series in the making holds two files open, and with `--by-set` there may be thousands of them.
pub(crate) fn raise_open_files_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Where it stays as it was, opening a file too many says so.
    let _ = setrlimit(Resource::Nofile, limit);
}

pub(crate) fn build_record(options: BuildOptions, inputs: &[Input]) -> BuildRecord {
    let inputs = inputs.iter();
    let inputs =
        inputs.map(|input| BuildInput { name: input.name.clone(), bytes: input.bytes }).collect();
    let format = BUILD_FORMAT.to_owned();
    let version = manifest::version_of(options.imported.as_ref());
    BuildRecord { format, version, options, inputs }
}

/// What a run writes.
struct Run<'a> {
    args: &'a TokenizeArgs,
    encoder: &'a Encoder,
    inputs: &'a [Input],
    select: &'a Select,
    record: &'a BuildRecord,
    task: Option<Task>,
    /// Of its inputs, among all.
    positions: Vec<usize>,
}

impl Run<'_> {
    /// Makes the folder ready, and says what of an interrupted run stays.
    fn begin(&self, folder: &Folder) -> anyhow::Result<Kept> {
        let options = self.record.options.fingerprint();
        let by_set = self.args.by_set;
        let expected =
            Expected { inputs: self.inputs, options: &options, by_set, knows_changes: true };
        let kept = if folder.must_clear() {
            Kept::default()
        } else {
            Kept::find(folder, &expected, &self.positions)?
        };
        self.check_space(folder, &kept)?;
        let is_others = |name: &str| {
            let position = expected.position_of(name).and_then(|at| usize::try_from(at).ok());
            self.task.is_some() && position.is_none_or(|at| !self.positions.contains(&at))
        };
        let is_kept = |name: &str| kept.has(name) || is_others(name);
        folder.begin(self.record, self.task, self.encoder.path(), is_kept)?;
        Ok(kept)
    }

    /// Writes what is not there yet; all records in the order of the inputs.
    fn write(
        &self,
        folder: &Folder,
        kept: Kept,
        stop: &StopFlag,
    ) -> anyhow::Result<(Vec<SeriesRecord>, SessionStatistics)> {
        let Kept { finished, mut parts, .. } = kept;
        let columns = self.args.columns();
        let input = |position: u64| &self.inputs[usize::try_from(position).expect("in memory")];
        let bytes = self.positions.iter().map(|&position| self.inputs[position].bytes).sum();
        let kept_bytes = finished.keys().map(|&position| input(position).bytes).sum();
        let progress = Progress::start(bytes, kept_bytes);
        let selection = self.record.options.selection.as_ref();
        let has_holdout = selection.is_some_and(|selection| selection.holdout_rate.is_some());
        let positions = self.positions.iter().map(|&position| position as u64);
        let todo = positions.filter(|position| !finished.contains_key(position)).map(|position| {
            let (input, kept) =
                (input(position).clone(), parts.remove(&position).unwrap_or_default());
            InputPlan { position, input, kept, is_single: !self.args.by_set && !has_holdout }
        });
        let todo: Vec<InputPlan> = todo.collect();
        let job = Job {
            dir: folder.path(),
            encoder: self.encoder,
            columns: &columns,
            lists_skipped: self.args.on_error == OnError::Skip,
            shard_bytes: self.args.shard_bytes,
            by_set: self.args.by_set,
            select: self.select,
            options: self.record.options.fingerprint(),
            progress: &progress,
            stop,
            encoder_is_known: Once::new(),
        };
        let records = Mutex::new(finished);
        let statistics = job.run(self.args.thread_count(), todo, &|position, record| {
            records.lock().expect("inserting does not panic").insert(position, record);
        })?;
        progress.finish();
        let records = records.into_inner().expect("inserting does not panic");
        if records.len() < self.positions.len() {
            return Err(Stopped.into());
        }
        Ok((records.into_values().collect(), statistics))
    }

    /// Refuses to begin what cannot fit, by a rough estimate: compressed text is 4 times as long, a token 3 bytes of text.
    fn check_space(&self, folder: &Folder, kept: &Kept) -> anyhow::Result<()> {
        if self.record.options.selection.is_some() {
            return Ok(()); // who knows how much of it
        }
        let free_bytes = free_bytes(folder.path())?.saturating_add(folder.clearable_bytes()?);
        let needed_bytes = self.needed_bytes(|position| kept.finished.contains_key(&position));
        ensure!(
            needed_bytes <= free_bytes,
            "the corpus will need about {needed_bytes} bytes; {} has {free_bytes} free",
            folder.path().display()
        );
        Ok(())
    }

    fn needed_bytes(&self, is_done: impl Fn(u64) -> bool) -> u64 {
        let todo = self.positions.iter().filter(|&&position| !is_done(position as u64));
        let inputs = todo.map(|&position| &self.inputs[position]);
        let expansion = |format| if format == Format::JsonLines { 1 } else { 4 };
        let text_bytes = |input: &Input| expansion(input.format) * input.bytes;
        let vocab_size = self.encoder.vocab_size();
        let token_bytes = u64::from(TokenBytes::for_vocabulary(vocab_size).get());
        inputs.map(|input| text_bytes(input) / 3 * token_bytes + HEADER_BYTES).sum()
    }

    /// An error with what there is to do, where that is room on the disk.
    fn explain(&self, err: anyhow::Error, dir: &Path) -> anyhow::Error {
        use std::io::ErrorKind;
        let is_full = err.chain().any(|cause| {
            let io = cause.downcast_ref::<std::io::Error>();
            io.is_some_and(|io| {
                matches!(io.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
            })
        });
        if !is_full {
            return err;
        }
        let needed_bytes =
            self.needed_bytes(|position| dir.join(crate::folder::record_name(position)).exists());
        let free = free_bytes(dir).map_or_else(|_| "?".to_owned(), |bytes| bytes.to_string());
        err.context(format!(
            "{} is full: {free} bytes are free, and what is left to write needs about {needed_bytes}; make room and run the \
             same command again, which goes on behind the last closed shard",
            dir.display()
        ))
    }
}

/// What is asked for of the documents, where that fits the inputs.
fn make_select(args: &TokenizeArgs, inputs: &[Input]) -> anyhow::Result<Select> {
    let select = Select::new(&args.select)?;
    select.check_inputs(inputs.iter().map(|input| (input.name.as_str(), input.bytes)))?;
    Ok(select)
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
pub(crate) fn check_outside(out: &Path, inputs: &[Input], encoder: &Encoder) -> anyhow::Result<()> {
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
fn check_readable(inputs: &[Input], columns: &Columns) -> anyhow::Result<()> {
    for input in inputs {
        let path = &input.path;
        let found = std::fs::metadata(path).with_context(|| format!("read {}", path.display()))?;
        if !found.is_file() {
            return Err(UsageError(format!(
                "{} is a pipe or a device, which cannot be read again when a run goes on; write it into a file",
                path.display()
            ))
            .into());
        }
        Docs::open(input, columns)?;
    }
    Ok(())
}
