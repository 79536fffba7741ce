//! Limits of the system on this process.
//!
//! **Invariant:** a limit is only ever raised, and as far as the system lets us.

/// Each series in the making holds two files open, and with `--by-set` there may be thousands of
/// them.
pub(crate) fn raise_open_files_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // Where it stays as it was, opening a file too many says so.
    let _ = setrlimit(Resource::Nofile, limit);
}
