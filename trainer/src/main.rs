//! `patchmill-train`: batches to loss to checkpoints.
//!
//! **Invariant:** this is the only place that prints an error.

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match trainer::cli::run(trainer::cli::Args::parse()) {
        Ok(code) => code,
        Err(err) if pipeline::cli::is_closed_pipe(&err) => ExitCode::SUCCESS,
        Err(err) => {
            // A closed stderr leaves nobody to tell.
            let _ = writeln!(
                std::io::stderr(),
                "{}error: {}",
                trainer::progress::speaker(),
                pipeline::cli::describe(&err)
            );
            trainer::cli::exit_code(&err)
        }
    }
}
