//! Places at which tests kill the process. Builds without debug assertions have none.
//!
//! **Invariant:** nothing happens unless `PATCHMILL_ABORT_AT` names the place.

/// Kills the process, as a power cut would, when this is the place that `PATCHMILL_ABORT_AT` names: `name`, or `name#n` for
/// the n-th time (from 0) that it is passed.
pub(crate) fn failpoint(name: &str) {
    #[cfg(debug_assertions)]
    {
        use std::sync::atomic::{AtomicU64, Ordering};
        // Relaxed: it only counts.
        static PASSED: AtomicU64 = AtomicU64::new(0);
        let Ok(wanted) = std::env::var("PATCHMILL_ABORT_AT") else { return };
        let (wanted, count) = wanted.split_once('#').unwrap_or((&wanted, "0"));
        if wanted == name && PASSED.fetch_add(1, Ordering::Relaxed) == count.parse().unwrap_or(0) {
            std::process::abort();
        }
    }
    #[cfg(not(debug_assertions))]
    let _ = name;
}
