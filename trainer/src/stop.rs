//! Stopping on request: the first SIGTERM or SIGINT asks, one that comes a second later or more ends the process at once. SIGUSR1
//! asks and never ends: a scheduler's warning, or a launcher that knows of no person's impatience.
//!
//! What comes within the second is the same request: a signal to a whole group of processes reaches a rank of it twice, the
//! second time by its launcher.
//!
//! **Invariant:** a request leaves the process' state untouched; the loop looks at the flag between steps.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;
use signal_hook::low_level;

use crate::progress::progress;

/// The signals that ask.
pub const SIGNALS: [i32; 3] = [SIGTERM, SIGINT, SIGUSR1];
/// The one of them that only asks.
pub const ASKING: i32 = SIGUSR1;
/// How long signals are the request that the first of them was.
const SAME_REQUEST: Duration = Duration::from_secs(1);

/// Whether somebody asked the run to stop.
#[derive(Clone, Debug, Default)]
pub struct StopFlag {
    asked: Arc<AtomicBool>,
}

impl StopFlag {
    /// Takes over the three signals for the rest of the process.
    pub fn install() -> Result<StopFlag> {
        let stop = StopFlag::default();
        let asked = Arc::clone(&stop.asked);
        let mut signals = Signals::new(SIGNALS).context("install the handlers of signals")?;
        let follow = move || {
            let mut first: Option<Instant> = None;
            for signal in signals.forever() {
                asked.store(true, Ordering::SeqCst);
                if signal != ASKING
                    && SAME_REQUEST <= first.get_or_insert_with(Instant::now).elapsed()
                {
                    progress(
                        "ended at once by a second signal: steps behind the last checkpoint are lost",
                    );
                    low_level::exit(128 + signal);
                }
            }
        };
        let thread = std::thread::Builder::new().name("signals".to_owned());
        thread.spawn(follow).context("start the thread that waits for signals")?;
        Ok(stop)
    }

    /// True from the first signal on.
    pub fn asked(&self) -> bool {
        self.asked.load(Ordering::SeqCst)
    }
}
