//! Stopping on request: the first SIGTERM or SIGINT asks, one that comes a second later or more
//! ends the process at once. SIGUSR1 asks and never ends: a scheduler's warning, or a launcher that
//! knows of no person's impatience.
//!
//! What comes within the second is the same request: a signal to a whole group of processes reaches
//! a rank of it twice, the second time by its launcher.
//!
//! **Invariant:** a request leaves the process' state untouched; the loop looks at the flag between
//! steps.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;
use signal_hook::low_level;

use crate::console::progress::progress_of_rank;

/// The signals that ask.
pub const SIGNALS: [i32; 3] = [SIGTERM, SIGINT, SIGUSR1];
/// The one of them that only asks.
pub const REQUEST_SIGNAL: i32 = SIGUSR1;
/// How long signals are the request that the first of them was.
const REPEAT_WINDOW: Duration = Duration::from_secs(1);
/// How long an end at once waits for its reason to be read.
const MESSAGE_TIMEOUT: Duration = Duration::from_millis(100);

/// Whether somebody asked the run to stop.
#[derive(Clone, Debug, Default)]
pub struct StopFlag {
    requested: Arc<AtomicBool>,
}

impl StopFlag {
    /// Takes over the three signals for the rest of the process.
    pub fn install() -> Result<StopFlag> {
        let stop = StopFlag::default();
        let requested = Arc::clone(&stop.requested);
        let mut signals = Signals::new(SIGNALS).context("install the handlers of signals")?;
        let follow = move || {
            let mut first: Option<Instant> = None;
            for signal in signals.forever() {
                requested.store(true, Ordering::SeqCst);
                if signal != REQUEST_SIGNAL
                    && REPEAT_WINDOW <= first.get_or_insert_with(Instant::now).elapsed()
                {
                    report_forced_exit();
                    low_level::exit(128 + signal);
                }
            }
        };
        let thread = std::thread::Builder::new().name("signals".to_owned());
        thread.spawn(follow).context("start the thread that waits for signals")?;
        Ok(stop)
    }

    /// True from the first signal on.
    pub fn is_requested(&self) -> bool {
        self.requested.load(Ordering::SeqCst)
    }
}

/// Says that the process ends, unless nobody reads it: the run may hang in a line that nobody
/// reads, too.
fn report_forced_exit() {
    let (done, said) = mpsc::channel();
    let say = move || {
        progress_of_rank(
            "ended at once by a second signal; steps behind the last checkpoint are lost",
        );
        let _nobody_waits = done.send(());
    };
    if std::thread::Builder::new().spawn(say).is_ok() {
        let _ = said.recv_timeout(MESSAGE_TIMEOUT);
    }
}
