//! Counts the operations of libtorch that a piece of code calls.
//!
//! **Invariant:** one count at a time in the process, of one thread and the backward passes that it starts.

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_int};
use std::sync::{Mutex, PoisonError};

use super::{ShimError, check};

#[expect(unsafe_code, reason = "libtorch's C++ is reachable in no other way")]
// SAFETY: the signatures are those of shim/ops.cpp.
unsafe extern "C" {
    fn pm_count_begin() -> c_int;
    fn pm_count_end(listing: *mut *const c_char) -> c_int;
}

/// Operations that make the host wait for a device: they read a number, or sizes that depend on values, or copy to the
/// host.
pub const WAITING: [&str; 9] = [
    "aten::_local_scalar_dense",
    "aten::is_nonzero",
    "aten::equal",
    "aten::nonzero",
    "aten::masked_select",
    "aten::_unique2",
    "aten::bincount",
    "aten::repeat_interleave",
    "copy to host",
];

/// How often each operation was called, by its name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpCounts(pub BTreeMap<String, u64>);

impl OpCounts {
    /// Those of [`WAITING`] that were called, with how often.
    pub fn waits(&self) -> Vec<(&str, u64)> {
        let calls = self.0.iter().map(|(name, &count)| (name.as_str(), count));
        calls.filter(|(name, _)| WAITING.contains(name)).collect()
    }
}

/// Runs `work` and counts the operations of this thread in it.
pub fn count_ops<R>(work: impl FnOnce() -> R) -> Result<(R, OpCounts), ShimError> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    /// Stops counting when `work` panics, too.
    struct Counting(bool);
    impl Counting {
        fn end(&mut self) -> Result<String, ShimError> {
            self.0 = false;
            let mut listing = std::ptr::null();
            #[expect(unsafe_code, reason = "see the extern block")]
            // SAFETY: `listing` is written on success alone, and its text lives until this thread's next call.
            unsafe {
                check(pm_count_end(&raw mut listing), "count operations")?;
                Ok(CStr::from_ptr(listing).to_string_lossy().into_owned())
            }
        }
    }
    impl Drop for Counting {
        fn drop(&mut self) {
            if self.0 {
                let _the_panic_says_more = self.end();
            }
        }
    }
    #[expect(unsafe_code, reason = "see the extern block")]
    // SAFETY: no arguments.
    let status = unsafe { pm_count_begin() };
    check(status, "count operations")?;
    let mut counting = Counting(true);
    let result = work();
    let listing = counting.end()?;
    let counts = listing.lines().map(|line| {
        let (name, count) = line.split_once('\t').expect("a line is a name, a tab, a count");
        (name.to_owned(), count.parse().expect("a count is a number"))
    });
    Ok((result, OpCounts(counts.collect())))
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind, Tensor};

    use super::*;

    #[test]
    fn what_reads_a_number_is_seen_and_what_computes_one_is_not() {
        let x = Tensor::ones([4], (Kind::Float, Device::Cpu)).set_requires_grad(true);
        let ((), counts) = count_ops(|| (&x * 2.0).sum(Kind::Float).backward()).unwrap();
        assert_eq!(counts.waits(), []);
        assert!(counts.0["aten::mul"] >= 2, "the backward pass is counted too: {counts:?}");
        let (value, counts) = count_ops(|| x.sum(Kind::Float).double_value(&[])).unwrap();
        assert_eq!(value, 4.0);
        assert_eq!(counts.waits(), [("aten::_local_scalar_dense", 1)]);
        let (_, counts) = count_ops(|| x.equal(&x)).unwrap();
        assert_eq!(counts.waits(), [("aten::equal", 1)]);
    }

    #[test]
    fn counting_ends_with_a_panic() {
        let panicked = std::panic::catch_unwind(|| count_ops(|| panic!("on purpose")));
        assert!(panicked.is_err());
        let ((), counts) = count_ops(|| ()).unwrap();
        assert_eq!(counts, OpCounts::default());
    }
}
