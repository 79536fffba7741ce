//! Stopping on request: the first SIGTERM, SIGINT or SIGHUP asks, the second ends the process at
//! once. A process started with SIGHUP ignored, as by nohup, keeps ignoring it.
//!
//! **Invariant:** between the two signals nothing is cut off: a publication that has begun is
//! completed.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;

/// A run stopped on request.
#[derive(Debug, thiserror::Error)]
#[error("stopped on request; run the same command again to resume after the last closed shard")]
pub struct Stopped;

/// A run stopped on request before it wrote anything.
#[derive(Debug, thiserror::Error)]
#[error("stopped on request; nothing was written, the same command starts over")]
pub struct StoppedBefore;

/// Whether a stop was requested.
#[derive(Clone, Debug, Default)]
pub struct StopFlag {
    // Relaxed would do: the flag protects no other memory. SeqCst is the order signal-hook stores
    // with.
    asked: Arc<AtomicBool>,
}

impl StopFlag {
    /// Takes over the signals for the rest of the process.
    pub fn install() -> anyhow::Result<StopFlag> {
        let stop = StopFlag::default();
        let signals = [SIGTERM, SIGINT, SIGHUP].into_iter();
        for signal in signals.filter(|&signal| signal != SIGHUP || !is_ignored(signal)) {
            // Order matters: the first handler sees the flag as left by the signals before.
            flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&stop.asked))
                .and_then(|_| flag::register(signal, Arc::clone(&stop.asked)))
                .with_context(|| format!("install the handler of signal {signal}"))?;
        }
        Ok(stop)
    }

    /// True from the first signal on.
    pub fn asked(&self) -> bool {
        self.asked.load(Ordering::SeqCst)
    }
}

/// Whether the process was started with this signal ignored (proc(5), `SigIgn`).
pub fn is_ignored(signal: i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok());
    mask.is_some_and(|mask| mask >> (signal - 1) & 1 == 1)
}
