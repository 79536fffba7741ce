//! `patchmill-train pretrain`: a run, as one process or as ranks.
//!
//! **Invariant:** with `--json` the last line of stdout is one JSON object.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use pipeline::corpus;
use pipeline::run_file;

use crate::checkpoint::resume::Resume;
use crate::commands::exit::report;
use crate::commands::launch;
use crate::console::progress::{self, print, progress};
use crate::console::stop::{EXIT_STOPPED, StopFlag};
use crate::ranks::environment::{self, RanksError, Rendezvous};
use crate::ranks::process_group::{ProcessGroup, WaitLimits};
use crate::run::{Outcome, Run};
use pipeline::commands::values::local_path;

/// Arguments of `pretrain`.
#[derive(Args)]
pub struct PretrainArgs {
    /// The run file.
    #[arg(value_parser = local_path())]
    run: PathBuf,
    /// Replaces a value of the run file, such as train.dtype=fp32 or phases.0.share="1/2".
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Where to resume: auto (the newest complete checkpoint, else the beginning), never, or a
    /// checkpoint's folder.
    #[arg(long, default_value = "auto", value_name = "auto|never|PATH")]
    resume: Resume,
    /// Start this many processes on this machine to train together: one for each GPU. On several
    /// machines, start the ranks with torchrun, srun or mpirun, without this option.
    #[arg(long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..=1024))]
    ranks: Option<u64>,
    /// How long ranks wait for all of them to arrive [default: 300, and 60 on one machine].
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    meet_timeout: Option<u64>,
    /// How long a rank waits for the others within a step, or while the first one saves a
    /// checkpoint [default: 600].
    #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=86_400))]
    step_timeout: Option<u64>,
    /// Print the report as one JSON object.
    #[arg(long)]
    json: bool,
}

impl PretrainArgs {
    fn wait_limits(&self) -> WaitLimits {
        WaitLimits {
            meet: self.meet_timeout.map(Duration::from_secs),
            step: self.step_timeout.map(Duration::from_secs),
        }
    }

    /// The same command for one rank.
    fn rank_arguments(&self) -> Vec<OsString> {
        let joined = |option: &str, value: &OsStr| {
            let mut word = OsString::from(option);
            word.push(value);
            word
        };
        let mut words: Vec<OsString> = vec!["pretrain".into()];
        words.extend(self.overrides.iter().map(|found| joined("--set=", found.as_ref())));
        words.push(match &self.resume {
            Resume::Auto => "--resume=auto".into(),
            Resume::Never => "--resume=never".into(),
            Resume::Path(path) => joined("--resume=", path.as_ref()),
        });
        let limits =
            [("--meet-timeout=", self.meet_timeout), ("--step-timeout=", self.step_timeout)];
        for (option, seconds) in limits.into_iter().filter_map(|(o, seconds)| Some((o, seconds?))) {
            words.push(format!("{option}{seconds}").into());
        }
        words.extend(self.json.then(|| "--json".into()));
        words.extend(["--".into(), self.run.clone().into()]);
        words
    }
}

/// `pretrain`: exit code 0 for a finished run, 75 for one stopped on request.
pub fn pretrain(args: &PretrainArgs) -> Result<ExitCode> {
    let rendezvous = environment::from_environment(|name| std::env::var(name).ok())?;
    if let Some(rendezvous) = &rendezvous {
        progress::set_rank(rendezvous.rank);
    }
    if let (Some(count @ 2..), None) = (args.ranks, &rendezvous) {
        run_file::Run::load(&args.run, &args.overrides)?;
        return launch::launch(count, &args.rank_arguments());
    }
    let stop = StopFlag::install()?;
    let file = run_file::Run::load(&args.run, &args.overrides)?;
    match (args.ranks, rendezvous) {
        (Some(2..), Some(_)) => Err(RanksError::Nested.into()),
        (_, Some(rendezvous)) => {
            launch::exit_with_launcher()?;
            let group = ProcessGroup::init(
                &rendezvous,
                launch::listener().filter(|_| rendezvous.rank == 0),
                args.wait_limits(),
            )?;
            let Rendezvous { world_size, host, port, .. } = rendezvous;
            progress(&format!("{world_size} ranks have met at {host}:{port}"));
            // A stop is now a request to all ranks.
            stop.begin();
            // Report before the others lose this rank, so this error is read before theirs.
            let ending = train(args, &file, group.clone(), &stop);
            Ok(ending.unwrap_or_else(|err| report(&err)))
        }
        (_, None) => train(args, &file, ProcessGroup::single(), &stop),
    }
}

/// Trains as one rank of a process group. A process alone has nothing to save before its first
/// step; until then a signal ends it.
fn train(
    args: &PretrainArgs,
    file: &run_file::Run,
    group: ProcessGroup,
    stop: &StopFlag,
) -> Result<ExitCode> {
    for dir in [Some(file.corpus_dir()), file.validation_dir()].into_iter().flatten() {
        corpus::check_tokenizer(&dir, &corpus::read_manifest(&dir)?)?;
    }
    let is_first = group.is_rank_zero();
    let mut run = Run::prepare(file, &args.resume, group)?;
    stop.begin();
    match run.execute(stop)? {
        Outcome::Done(_) if !is_first => Ok(ExitCode::SUCCESS),
        Outcome::Done(summary) if args.json => print(&format!("{}\n", summary.json())),
        Outcome::Done(summary) => print(&format!("\n{}", summary.text())),
        Outcome::Stopped { next_step, checkpoint } => {
            progress(&format!(
                "stopped on request after step {next_step}; the same command resumes from {}",
                checkpoint.display()
            ));
            Ok(ExitCode::from(EXIT_STOPPED))
        }
    }
}
