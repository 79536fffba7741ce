//! The commands of `patchmill-train`, one match arm each.
//!
//! libgomp reads its spin setting before `main`, so the commands that train or evaluate restart
//! themselves with it. Threads then look for work a thirtieth as long as libgomp's default before
//! they sleep.
//!
//! **Invariant:** results go to stdout, everything else to stderr.

use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{self, ExitCode};

use anyhow::{Context, Result};
use clap::{CommandFactory, Parser, Subcommand};
use pipeline::disk::failpoint::failpoint;

use crate::commands::bench::{self, BenchArgs};
use crate::commands::doctor;
use crate::commands::eval::{self, EvalArgs};
use crate::commands::generate::{self, GenerateArgs};
use crate::commands::plan_memory::{self, PlanMemoryArgs};
use crate::commands::pretrain::{self, PretrainArgs};
use crate::console::progress::print;
use crate::console::stop;
use pipeline::commands::values::local_path;

/// Patch-level training of LLaMA models.
#[derive(Parser)]
#[command(name = "patchmill-train", version, about)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train by a run file; resumes where a run was stopped.
    Pretrain(PretrainArgs),
    /// Measure each phase of a run file: speed, where a step's time goes, memory. Leaves no files.
    Bench(BenchArgs),
    /// Estimate the memory each phase of a run file takes, part by part, without data and without a
    /// device.
    PlanMemory(PlanMemoryArgs),
    /// Print loss and perplexity of a model on a text or a corpus.
    Eval(EvalArgs),
    /// Let a model continue a text.
    Generate(GenerateArgs),
    /// Show this machine's libtorch, devices, dtypes, shared memory and limits, and any problems
    /// with them.
    Doctor,
    /// Print a shell's completion script.
    Completions {
        /// Which shell.
        shell: clap_complete::Shell,
    },
    /// Write man pages into a folder.
    Man {
        /// Target folder; created if missing.
        #[arg(value_parser = local_path())]
        folder: PathBuf,
    },
}

/// How long libtorch's threads look for work before they sleep, in turns of a loop: some tens of
/// microseconds. libgomp's default is milliseconds. Where other programs want the cores too, each
/// of a step's hundreds of thread barriers then waits for the scheduler. Next to two busy programs
/// on two cores a step took 428 ms by default and 263 ms with this; alone it took equally long
/// either way.
const SPIN_COUNT: &str = "10000";
/// Variables by which the caller may have set it.
const SPIN_SETTINGS: [&str; 2] = ["GOMP_SPINCOUNT", "OMP_WAIT_POLICY"];

/// Restarts this program in its place with [`SPIN_COUNT`]: libgomp reads it when it is loaded,
/// before `main`. If that fails, the program continues unchanged.
fn spin_briefly() {
    let is_set = SPIN_SETTINGS.iter().any(|name| std::env::var_os(name).is_some());
    if let (false, Ok(program)) = (is_set, std::env::current_exe()) {
        let mut words = std::env::args_os();
        let mut command = process::Command::new(program);
        command.arg0(words.next().unwrap_or_default()).args(words);
        let _why_not = command.env(SPIN_SETTINGS[0], SPIN_COUNT).exec();
    }
}

/// Runs the command.
pub fn run(args: Args) -> Result<ExitCode> {
    use Command::{Bench, Eval, Generate, Pretrain};
    if matches!(args.command, Pretrain(_)) {
        stop::hold();
        failpoint("starting");
    }
    if matches!(args.command, Pretrain(_) | Bench(_) | Eval(_) | Generate(_)) {
        spin_briefly();
    }
    crate::device::cuda::set_defaults()?;
    crate::shim::keep_freed_memory()?;
    match args.command {
        Command::Pretrain(args) => pretrain::pretrain(&args),
        Command::Bench(args) => bench::bench(&args),
        Command::PlanMemory(args) => plan_memory::plan_memory(&args),
        Command::Eval(args) => eval::eval(&args).map(|()| ExitCode::SUCCESS),
        Command::Generate(args) => generate::generate(&args).map(|()| ExitCode::SUCCESS),
        Command::Doctor => print(&doctor::examine()?.text()),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Args::command(), "patchmill-train", &mut script);
            print(&String::from_utf8(script).context("completion script")?)
        }
        Command::Man { folder } => {
            std::fs::create_dir_all(&folder)
                .with_context(|| format!("create {}", folder.display()))?;
            clap_mangen::generate_to(Args::command(), &folder)
                .with_context(|| format!("write man pages into {}", folder.display()))?;
            Ok(ExitCode::SUCCESS)
        }
    }
}
