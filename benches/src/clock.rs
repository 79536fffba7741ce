//! Time that threads spent on a core: on a shared machine it is more meaningful than wall time.
//!
//! **Invariant:** waiting, for a core or for a disk, does not count.

/// Seconds of CPU time that the calling thread has used; 0 where the system does not tell (it is
/// Linux that does).
pub fn thread_cpu_seconds() -> f64 {
    let read = std::fs::read_to_string("/proc/thread-self/schedstat");
    let nanoseconds = read.ok().and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
    nanoseconds.unwrap_or(0) as f64 / 1e9
}

/// Seconds of CPU time that all threads of this process have used, ended ones included; 0 where the
/// system does not tell.
pub fn process_cpu_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    // Utime and stime, fields 14 and 15 of proc(5).
    let ticks = after_name.split_whitespace().skip(11).take(2);
    let ticks: u64 = ticks.filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    ticks as f64 / 100.0 // USER_HZ, which is 100 on every Linux that Rust runs on
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_takes_time_on_a_core() {
        let before = thread_cpu_seconds();
        let mut hash = blake3::hash(b"");
        while thread_cpu_seconds() == before {
            hash = blake3::hash(hash.as_bytes());
        }
        assert!(thread_cpu_seconds() > before);
    }

    #[test]
    fn a_process_counts_its_ended_threads() {
        let before = process_cpu_seconds();
        let work = || {
            let (mut hash, started) = (blake3::hash(b""), thread_cpu_seconds());
            while thread_cpu_seconds() < started + 0.05 {
                hash = blake3::hash(hash.as_bytes());
            }
        };
        std::thread::spawn(work).join().unwrap();
        assert!(process_cpu_seconds() >= before + 0.03);
    }
}
