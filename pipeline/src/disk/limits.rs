//! System limits of this process.
//!
//! **Invariant:** a limit is only ever raised, as far as the system lets us.

/// Raises the limit of open files as far as the system lets us.
///
/// A corpus that is read holds each touched shard open, and each series being written holds two
/// files; there may be thousands of either, where the usual limit is 1,024.
pub(crate) fn raise_open_files_limit() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    // If the limit stays, the error from opening one file too many is clear.
    let _ = setrlimit(Resource::Nofile, limit);
}
