//! The host's memory that tensors take: kept between steps, and counted.
//!
//! **Invariant:** what is counted is what libtorch's allocator for the CPU hands out, so a count is
//! the same in every run.

use std::ffi::c_int;

use super::{ShimError, check};

#[expect(unsafe_code, reason = "libtorch's C++ is reachable in no other way")]
// SAFETY: the signatures are those of shim/memory.cpp.
unsafe extern "C" {
    fn pm_live_bytes_begin() -> c_int;
    fn pm_live_bytes_end(peak_bytes: *mut i64) -> c_int;
}

/// Runs `work`, and says how many bytes the tensors on the CPU had at most, of those that this
/// thread made in it.
pub fn peak_bytes<R>(work: impl FnOnce() -> R) -> Result<(R, u64), ShimError> {
    /// Stops counting when `work` panics, too.
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
