//! Points where tests kill the process, or ask it to stop. Builds without debug assertions have
//! none.
//!
//! **Invariant:** nothing happens unless `PATCHMILL_ABORT_AT` or `PATCHMILL_TERM_AT` names the
//! point.

/// Kills the process, as a power cut would, if `PATCHMILL_ABORT_AT` names this point: `name`, or
/// `name#n` for its n-th pass (from 0). `PATCHMILL_TERM_AT` sends SIGTERM instead.
pub fn failpoint(name: &str) {
    #[cfg(debug_assertions)]
    {
        use std::sync::atomic::{AtomicU64, Ordering};
        // Relaxed: they only count.
        static ABORTS: AtomicU64 = AtomicU64::new(0);
        static TERMS: AtomicU64 = AtomicU64::new(0);
        let is_here = |variable: &str, passed: &AtomicU64| {
            let Ok(wanted) = std::env::var(variable) else { return false };
            let (wanted, count) = wanted.split_once('#').unwrap_or((&wanted, "0"));
            wanted == name && passed.fetch_add(1, Ordering::Relaxed) == count.parse().unwrap_or(0)
        };
        if is_here("PATCHMILL_ABORT_AT", &ABORTS) {
            std::process::abort();
        }
        if is_here("PATCHMILL_TERM_AT", &TERMS) {
            signal_hook::low_level::raise(signal_hook::consts::SIGTERM)
                .expect("a process may signal itself");
        }
    }
    #[cfg(not(debug_assertions))]
    let _ = name;
}
