//! Results on stdout, and lines for a person on stderr.
//!
//! **Invariant:** only results go to stdout, and lines go to stderr. A closed stderr stops no run,
//! and lines of several ranks do not mix. Lines hold no control characters.

use std::io::Write;
use std::process::ExitCode;
use std::sync::OnceLock;

use anyhow::Result;
use pipeline::console::printable;

/// The rank of this process, if it is one of several.
static RANK: OnceLock<u64> = OnceLock::new();

/// Writes one line to stderr on rank 0; a failure is ignored.
pub fn progress(line: &str) {
    if RANK.get().is_none_or(|&rank| rank == 0) {
        write(&format!("{line}\n"));
    }
}

/// Writes one line to stderr on any rank, prefixed with the rank.
pub fn progress_of_rank(line: &str) {
    let who = RANK.get().map_or(String::new(), |rank| format!("rank {rank}: "));
    write(&format!("{who}{line}\n"));
}

/// In one call, since other processes write to the same stderr. Names from files and messages about
/// them give a terminal no command.
fn write(line: &str) {
    let _ = std::io::stderr().lock().write_all(printable::lines(line).as_bytes());
}

/// Sets the rank of this process, one of several. Lines that concern all ranks then come from rank
/// 0.
pub fn set_rank(rank: u64) {
    let _is_set = RANK.set(rank);
}

/// Writes a result to stdout.
pub fn print(text: &str) -> Result<ExitCode> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush())?;
    Ok(ExitCode::SUCCESS)
}

/// A rate with an SI prefix, such as `5.09M`.
pub fn si(value: f64) -> String {
    match value {
        v if v >= 1e9 => format!("{:.2}G", v / 1e9),
        v if v >= 1e6 => format!("{:.2}M", v / 1e6),
        v if v >= 1e3 => format!("{:.1}k", v / 1e3),
        v => format!("{v:.0}"),
    }
}

/// Seconds as `20h31m`, `4m05s` or `12s`.
pub fn clock(seconds: f64) -> String {
    let whole = seconds.max(0.0).round() as u64;
    match (whole / 3600, whole / 60 % 60, whole % 60) {
        (0, 0, s) => format!("{s}s"),
        (0, m, s) => format!("{m}m{s:02}s"),
        (h, m, _) => format!("{h}h{m:02}m"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short() {
        assert_eq!([si(5_094_000.0), si(12_340.0), si(999.4)], ["5.09M", "12.3k", "999"]);
        assert_eq!([clock(73_860.0), clock(245.4), clock(11.6)], ["20h31m", "4m05s", "12s"]);
    }
}
