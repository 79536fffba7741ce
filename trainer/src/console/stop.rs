//! Stopping on request. The first SIGTERM or SIGINT asks the run to stop; one that arrives a second
//! or more later ends the process at once. SIGUSR1 only ever asks: it comes from a scheduler as a
//! warning, or from a launcher.
//!
//! Signals within the second belong to the same request: a signal to a whole group of processes
//! reaches a rank twice, the second time through its launcher.
//!
//! **Invariant:** a request leaves the process's state untouched; the loop checks the flag between
//! steps.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;
use signal_hook::low_level;

use crate::console::progress::progress_of_rank;

/// The signals that ask the run to stop.
pub const SIGNALS: [i32; 3] = [SIGTERM, SIGINT, SIGUSR1];
/// The signal that only asks.
pub const REQUEST_SIGNAL: i32 = SIGUSR1;
/// How long further signals belong to the request of the first.
const REPEAT_WINDOW: Duration = Duration::from_secs(1);
/// How long an immediate exit waits for its message to be read.
const MESSAGE_TIMEOUT: Duration = Duration::from_millis(100);

/// Whether a stop was requested.
#[derive(Clone, Debug, Default)]
pub struct StopFlag {
    requested: Arc<AtomicBool>,
}

impl StopFlag {
    /// Handles the three signals for the rest of the process.
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

    /// Returns true from the first signal on.
    pub fn is_requested(&self) -> bool {
        self.requested.load(Ordering::SeqCst)
    }
}

/// Reports the immediate exit. If nobody reads the message, the process ends anyway: the run may
/// hang in an unread line too.
fn report_forced_exit() {
    let (done, said) = mpsc::channel();
    let say = move || {
        progress_of_rank(
            "ended at once by a second signal; steps after the last checkpoint are lost",
        );
        let _nobody_waits = done.send(());
    };
    if std::thread::Builder::new().spawn(say).is_ok() {
        let _ = said.recv_timeout(MESSAGE_TIMEOUT);
    }
}
