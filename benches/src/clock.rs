//! Time that a thread spent on a core: on a machine that others use too it says more than the clock on the wall.
//!
//! **Invariant:** waiting, for a core or for a disk, does not count.

/// Seconds of CPU time that the calling thread has used; 0 where the system does not tell (it is Linux that does).
pub fn thread_cpu_seconds() -> f64 {
    let read = std::fs::read_to_string("/proc/thread-self/schedstat");
    let nanoseconds = read.ok().and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
    nanoseconds.unwrap_or(0) as f64 / 1e9
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
}
