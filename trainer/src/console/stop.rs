//! Stopping on request. The first SIGTERM, SIGINT or SIGHUP asks the run to stop; one that arrives
//! a second or more later ends the process at once. SIGUSR1 only ever asks: it comes from a
//! scheduler as a warning, or from a launcher. SIGHUP counts unless the process was started with it
//! ignored, as by nohup.
//!
//! A process that has not begun to train has nothing to save: it ends at once, as stopped on
//! request. [`hold`] makes signals wait from the first moment of `main` until the handlers are
//! installed, also across a restart of the program.
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
use pipeline::console::stop::is_ignored;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1};
use signal_hook::iterator::Signals;
use signal_hook::low_level;

use crate::console::progress::progress_of_rank;

/// Exit code of a run stopped on request, with nothing lost: start it again (EX_TEMPFAIL).
pub const EXIT_STOPPED: u8 = 75;
/// The signal that only asks.
pub const REQUEST_SIGNAL: i32 = SIGUSR1;
/// How long further signals belong to the request of the first.
const REPEAT_WINDOW: Duration = Duration::from_secs(1);
/// How long an immediate exit waits for its message to be read.
const MESSAGE_TIMEOUT: Duration = Duration::from_millis(100);

/// The signals that ask the run to stop.
pub fn signals() -> Vec<i32> {
    let all = [SIGTERM, SIGINT, SIGUSR1, SIGHUP];
    all.into_iter().filter(|&signal| signal != SIGHUP || !is_ignored(signal)).collect()
}

/// Makes the signals wait until [`release`]. The mask survives a restart by `exec`, and so does a
/// signal that waits.
pub fn hold() {
    mask(libc::SIG_BLOCK);
}

/// Delivers the signals that waited, and all later ones.
pub fn release() {
    mask(libc::SIG_UNBLOCK);
}

#[expect(unsafe_code, reason = "the standard library has no signal masks")]
fn mask(how: libc::c_int) {
    // SAFETY: all zeros is a valid `sigset_t` to initialize, and the calls only read and write
    // `set`.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in signals() {
            libc::sigaddset(&raw mut set, signal);
        }
        libc::pthread_sigmask(how, &raw const set, std::ptr::null_mut());
    }
}

/// Whether a stop was requested.
#[derive(Clone, Debug, Default)]
pub struct StopFlag {
    requested: Arc<AtomicBool>,
    has_begun: Arc<AtomicBool>,
}

impl StopFlag {
    /// Handles the signals for the rest of the process. Until [`StopFlag::begin`] they end it with
    /// [`EXIT_STOPPED`].
    pub fn install() -> Result<StopFlag> {
        let stop = StopFlag::default();
        let StopFlag { requested, has_begun } = stop.clone();
        let mut signals = Signals::new(signals()).context("install the handlers of signals")?;
        let follow = move || {
            let mut first: Option<Instant> = None;
            for signal in signals.forever() {
                if !has_begun.load(Ordering::SeqCst) {
                    report_exit(
                        "stopped on request before the first step; the same command starts again",
                    );
                    low_level::exit(i32::from(EXIT_STOPPED));
                }
                requested.store(true, Ordering::SeqCst);
                if signal != REQUEST_SIGNAL
                    && REPEAT_WINDOW <= first.get_or_insert_with(Instant::now).elapsed()
                {
                    report_exit(
                        "ended at once by a second signal; steps after the last checkpoint are \
                         lost",
                    );
                    low_level::exit(128 + signal);
                }
            }
        };
        let thread = std::thread::Builder::new().name("signals".to_owned());
        thread.spawn(follow).context("start the thread that waits for signals")?;
        release();
        Ok(stop)
    }

    /// From here on signals ask, and the loop stops between two steps.
    pub fn begin(&self) {
        self.has_begun.store(true, Ordering::SeqCst);
    }

    /// Returns true from the first signal on.
    pub fn is_requested(&self) -> bool {
        self.requested.load(Ordering::SeqCst)
    }
}

/// Reports an immediate exit. If nobody reads the message, the process ends anyway: the run may
/// hang in an unread line too.
fn report_exit(message: &'static str) {
    let (done, said) = mpsc::channel();
    let say = move || {
        progress_of_rank(message);
        let _nobody_waits = done.send(());
    };
    if std::thread::Builder::new().spawn(say).is_ok() {
        let _ = said.recv_timeout(MESSAGE_TIMEOUT);
    }
}
