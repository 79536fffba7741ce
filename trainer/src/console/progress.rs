//! Results on stdout, and lines for a person on stderr.
//!
//! **Invariant:** results go to stdout alone, lines to stderr; a closed stderr stops no run, and
//! lines of several ranks do not mix.

use std::io::Write;
use std::process::ExitCode;
use std::sync::OnceLock;

use anyhow::Result;

/// Which rank of several this process is.
static RANK: OnceLock<u64> = OnceLock::new();

/// Writes one line to stderr; a failure is nobody's business.
pub fn progress(line: &str) {
    if RANK.get().is_none_or(|&rank| rank == 0) {
        write(&format!("{line}\n"));
    }
}

/// Writes one line to stderr on whichever rank, with who says it.
pub fn progress_of_rank(line: &str) {
    let who = RANK.get().map_or(String::new(), |rank| format!("rank {rank}: "));
    write(&format!("{who}{line}\n"));
}

/// At once, since other processes write to the same stderr.
fn write(line: &str) {
    let _ = std::io::stderr().lock().write_all(line.as_bytes());
}

/// From now on this process is that rank of several: the first one says what all of them have to
/// say.
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
