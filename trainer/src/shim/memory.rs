//! Memory of tensors on the host: keeping it between steps, and counting it.
//!
//! **Invariant:** the count covers exactly the memory handed out by libtorch's CPU allocator, so it
//! is the same in every run.

use std::ffi::c_int;

use super::{ShimError, check};

#[expect(unsafe_code, reason = "libtorch's C++ is reachable in no other way")]
// SAFETY: the signatures match shim/memory.cpp.
unsafe extern "C" {
    fn pm_live_bytes_begin() -> c_int;
    fn pm_live_bytes_end(peak_bytes: *mut i64) -> c_int;
}

/// Runs `work`, and returns the peak of the bytes held by CPU tensors made in it by this thread.
pub fn peak_bytes<R>(work: impl FnOnce() -> R) -> Result<(R, u64), ShimError> {
    /// Stops counting, also when `work` panics.
    struct Counting(bool);
    impl Counting {
        fn end(&mut self) -> Result<u64, ShimError> {
            self.0 = false;
            let mut peak_bytes = 0;
            #[expect(unsafe_code, reason = "see the extern block")]
            // SAFETY: `peak_bytes` is written on success alone.
            let status = unsafe { pm_live_bytes_end(&raw mut peak_bytes) };
            check(status, "count bytes")?;
            Ok(u64::try_from(peak_bytes).expect("a peak is not below the start, which is 0"))
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
    let status = unsafe { pm_live_bytes_begin() };
    check(status, "count bytes")?;
    let mut counting = Counting(true);
    let result = work();
    Ok((result, counting.end()?))
}

#[cfg(test)]
mod tests {
    use tch::{Device, Kind, Tensor};

    use super::*;

    #[test]
    fn a_peak_is_of_tensors_that_live_at_a_time() {
        let kib = || Tensor::zeros([256], (Kind::Float, Device::Cpu));
        let (_kept, peak) = peak_bytes(|| (kib(), kib())).unwrap();
        assert_eq!(peak, 2048);
        let ((), peak) = peak_bytes(|| (0..3).for_each(|_| drop(kib()))).unwrap();
        assert_eq!(peak, 1024);
        assert!(std::panic::catch_unwind(|| peak_bytes(|| panic!("on purpose"))).is_err());
        assert_eq!(peak_bytes(|| ()).unwrap().1, 0);
    }
}
