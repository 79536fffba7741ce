//! `patchmill-train`: batches to loss to checkpoints.
//!
//! **Invariant:** an error is printed once, by `exit::report`.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match trainer::cli::run(trainer::cli::Args::parse()) {
        Ok(code) => code,
        Err(err) if pipeline::cli::is_closed_pipe(&err) => ExitCode::SUCCESS,
        Err(err) => trainer::commands::exit::report(&err),
    }
}
