//! `patchmill`: text to shards to plan to batches.
//!
//! **Invariant:** this is the only place that prints an error.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match pipeline::cli::run(pipeline::cli::Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) if pipeline::cli::is_closed_pipe(&err) => ExitCode::SUCCESS,
        Err(err) => {
            // With stderr closed, nobody can read it.
            let described = pipeline::cli::describe(&err);
            let shown = pipeline::console::printable::lines(&described);
            let _ = writeln!(std::io::stderr(), "error: {shown}");
            pipeline::cli::exit_code(&err)
        }
    }
}
