//! Stopping on request: the first SIGTERM, SIGINT or SIGUSR1 asks, the second ends the process at once.
//!
//! **Invariant:** between the two signals the process state is untouched; the loop looks at the flag between steps.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::flag;

/// The signals that ask.
pub const SIGNALS: [i32; 3] = [SIGTERM, SIGINT, SIGUSR1];

/// Whether somebody asked the run to stop.
#[derive(Clone, Debug, Default)]
pub struct StopFlag {
    // Relaxed would do: the flag guards no other memory. SeqCst is what signal-hook stores with.
    asked: Arc<AtomicBool>,
}

impl StopFlag {
    /// Takes over the three signals for the rest of the process.
    pub fn install() -> Result<StopFlag> {
        let stop = StopFlag::default();
        for signal in SIGNALS {
            // Order matters: the first handler sees the flag as the signals before left it.
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
