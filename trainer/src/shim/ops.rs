//! Counts the libtorch operations called by a piece of code.
//!
//! Waits are counted, not assumed. [`count_ops`] counts every operation a piece of code calls,
//! backward passes included. A test asserts that a training step calls none that makes the host
//! wait for a device. On a GPU, `just test-cuda` makes libtorch itself fail where it would wait.
//!
//! **Invariant:** one count at a time in the process; it covers one thread and the backward passes
//! it starts.

use std::ffi::{CStr, c_char, c_int};
use std::sync::{Mutex, PoisonError};

use super::{ShimError, check};

#[expect(unsafe_code, reason = "libtorch's C++ is reachable in no other way")]
// SAFETY: the signatures match shim/ops.cpp.
unsafe extern "C" {
    fn pm_count_begin() -> c_int;
    fn pm_count_end(listing: *mut *const c_char) -> c_int;
}

/// Operations that make the host wait for a device: they read a number, return sizes that depend on
/// values, or copy to the host.
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

/// Calls of one operation within an outermost one, which may be the operation itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Calls {
    /// The operation called by the code.
    pub outermost: String,
    /// The operation called inside it.
    pub name: String,
    /// The number of calls.
    pub count: u64,
}

/// The operations called by a piece of code, and those they called.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OpCounts(pub Vec<Calls>);

impl OpCounts {
    /// How often `name` was called in total.
    pub fn of(&self, name: &str) -> u64 {
        self.0.iter().filter(|calls| calls.name == name).map(|calls| calls.count).sum()
    }

    /// The called operations that are in [`WAITING`].
    pub fn waits(&self) -> Vec<&Calls> {
        self.0.iter().filter(|calls| WAITING.contains(&calls.name.as_str())).collect()
    }
}

/// Runs `work` and counts this thread's operations in it.
pub fn count_ops<R>(work: impl FnOnce() -> R) -> Result<(R, OpCounts), ShimError> {
    static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
    let _turn = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
    /// Stops counting, also when `work` panics.
    struct Counting(bool);
    impl Counting {
        fn end(&mut self) -> Result<String, ShimError> {
            self.0 = false;
            let mut listing = std::ptr::null();
            #[expect(unsafe_code, reason = "see the extern block")]
            // SAFETY: `listing` is written on success alone, and its text lives until this thread's
            // next call.
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
        let fields: Vec<&str> = line.split('\t').collect();
        let [outermost, name, count] = fields[..] else { panic!("three fields: {line:?}") };
        let count = count.parse().expect("a count is a number");
        Calls { outermost: outermost.to_owned(), name: name.to_owned(), count }
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
        assert!(counts.waits().is_empty());
        assert!(counts.of("aten::mul") >= 2, "the backward pass is counted too: {counts:?}");
        let waits = |counts: &OpCounts| {
            let waits = counts.waits().into_iter();
            waits.map(|calls| format!("{}/{}", calls.outermost, calls.name)).collect::<Vec<_>>()
        };
        let (value, counts) = count_ops(|| x.sum(Kind::Float).double_value(&[])).unwrap();
        assert_eq!(value, 4.0);
        assert_eq!(waits(&counts), ["aten::item/aten::_local_scalar_dense"]);
        let (_, counts) = count_ops(|| x.equal(&x)).unwrap();
        assert_eq!(waits(&counts), ["aten::equal/aten::equal"]);
    }

    #[test]
    fn counting_ends_with_a_panic() {
        let panicked = std::panic::catch_unwind(|| count_ops(|| panic!("on purpose")));
        assert!(panicked.is_err());
        let ((), counts) = count_ops(|| ()).unwrap();
        assert_eq!(counts, OpCounts::default());
    }
}
