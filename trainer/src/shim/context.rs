//! Process-wide settings of libtorch, and the states of its random generators.
//!
//! **Invariant:** both flavours of libtorch have the same functions, and none of them needs a GPU.

use std::ffi::{CStr, c_char, c_int};

use tch::{Device, Tensor};
use torch_sys::C_tensor;

use super::{ShimError, adopt, check, device_index};

#[expect(unsafe_code, reason = "libtorch's C++ is reachable in no other way")]
// SAFETY: the signatures match shim/context.cpp.
unsafe extern "C" {
    fn pm_set_attention_backends(backends: *const i64, count: i64) -> c_int;
    fn pm_set_matmul_precision(precision: *const c_char) -> c_int;
    fn pm_allows_tf32(allows: *mut c_int) -> c_int;
    fn pm_set_allocator_default(settings: *const c_char, applied: *mut c_int) -> c_int;
    fn pm_expandable_segments(on: *mut c_int) -> c_int;
    fn pm_loop_threads(threads: *mut i64) -> c_int;
    fn pm_random_state(device: c_int, state: *mut *mut C_tensor) -> c_int;
    fn pm_set_random_state(device: c_int, state: *const C_tensor) -> c_int;
}

/// An implementation of attention in libtorch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i64)]
pub enum AttentionBackend {
    /// Plain products and a softmax: takes any shape and needs the most memory.
    Math = 0,
    /// FlashAttention.
    Flash = 1,
    /// Memory-efficient attention.
    Efficient = 2,
    /// cuDNN's.
    CuDnn = 3,
}

/// From now on attention uses the first of `backends` that supports a shape, and no unlisted one.
/// The CPU has only `Math` and `Flash`; there only the selection counts, not the order.
pub fn set_attention_backends(backends: &[AttentionBackend]) -> Result<(), ShimError> {
    let numbers: Vec<i64> = backends.iter().map(|&backend| backend as i64).collect();
    #[expect(unsafe_code, reason = "see the extern block")]
    // SAFETY: the pointer is to as many numbers as the count.
    let status = unsafe { pm_set_attention_backends(numbers.as_ptr(), numbers.len() as i64) };
    check(status, "choose attention backends")
}

/// Precision of products of fp32 matrices on a GPU. The CPU always computes in fp32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MatmulPrecision {
    /// IEEE single precision.
    Ieee,
    /// TF32: 10 bits of mantissa in the factors.
    Tf32,
}

/// Sets the precision for the whole process.
pub fn set_matmul_precision(precision: MatmulPrecision) -> Result<(), ShimError> {
    let name = match precision {
        MatmulPrecision::Ieee => c"highest",
        MatmulPrecision::Tf32 => c"high",
    };
    #[expect(unsafe_code, reason = "see the extern block")]
    // SAFETY: a string literal.
    let status = unsafe { pm_set_matmul_precision(name.as_ptr()) };
    check(status, "set the precision of fp32 products")
}

/// The current precision.
pub fn matmul_precision() -> Result<MatmulPrecision, ShimError> {
    let allows = flag("read the precision of fp32 products", pm_allows_tf32)?;
    Ok(if allows { MatmulPrecision::Tf32 } else { MatmulPrecision::Ieee })
}

/// Gives the GPU's caching allocator these settings, in the form of `PYTORCH_ALLOC_CONF`, unless
/// the environment has this variable or `PYTORCH_CUDA_ALLOC_CONF`. Returns whether it did. It must
/// be called before the first allocation on a GPU.
pub fn set_allocator_default(settings: &CStr) -> Result<bool, ShimError> {
    let mut applied = 0;
    #[expect(unsafe_code, reason = "see the extern block")]
    // SAFETY: both live for the call.
    let status = unsafe { pm_set_allocator_default(settings.as_ptr(), &raw mut applied) };
    check(status, "set up the allocator")?;
    Ok(applied != 0)
}

/// Whether the GPU's caching allocator uses expandable segments.
pub fn expandable_segments() -> Result<bool, ShimError> {
    flag("read the allocator's settings", pm_expandable_segments)
}

/// The state of the default generator of `device`, a byte tensor on the CPU.
pub fn random_state(device: Device) -> Result<Tensor, ShimError> {
    let mut state = std::ptr::null_mut();
    #[expect(unsafe_code, reason = "see the extern block")]
    // SAFETY: `state` is written on success alone.
    let status = unsafe { pm_random_state(device_index(device), &raw mut state) };
    check(status, "random state")?;
    Ok(adopt(state))
}

/// Sets the default generator of `device` to a state returned by [`random_state`].
pub fn set_random_state(device: Device, state: &Tensor) -> Result<(), ShimError> {
    #[expect(unsafe_code, reason = "see the extern block")]
    // SAFETY: the handle is alive for the call; the state's form is checked on the other side.
    let status = unsafe { pm_set_random_state(device_index(device), state.as_ptr()) };
    check(status, "set random state")
}

/// The number of threads that run a loop of the shim's kernels.
pub fn loop_threads() -> Result<i64, ShimError> {
    let mut threads = 0;
    #[expect(unsafe_code, reason = "see the extern block")]
    // SAFETY: `threads` is written on success alone.
    let status = unsafe { pm_loop_threads(&raw mut threads) };
    check(status, "count the threads of a loop")?;
    Ok(threads)
}

#[expect(unsafe_code, reason = "see the extern block")]
fn flag(
    operation: &'static str,
    read: unsafe extern "C" fn(*mut c_int) -> c_int,
) -> Result<bool, ShimError> {
    let mut value = 0;
    // SAFETY: the functions passed here write one number.
    check(unsafe { read(&raw mut value) }, operation)?;
    Ok(value != 0)
}

#[cfg(test)]
mod tests {
    use tch::Kind;

    use super::*;

    #[test]
    fn a_random_state_brings_the_same_numbers_again() {
        let draw = || Tensor::rand([8], (Kind::Float, Device::Cpu));
        let state = random_state(Device::Cpu).unwrap();
        let first = draw();
        assert!(!draw().equal(&first));
        set_random_state(Device::Cpu, &state).unwrap();
        assert!(draw().equal(&first));
        let err = set_random_state(Device::Cpu, &Tensor::zeros([3], (Kind::Uint8, Device::Cpu)));
        assert!(err.is_err());
    }

    /// The loops are templates of libtorch's headers, which run on one thread unless they are
    /// compiled for more.
    #[test]
    fn loops_of_the_shim_run_on_all_of_libtorchs_threads() {
        let before = tch::get_num_threads();
        for threads in [1, 2, 3] {
            tch::set_num_threads(threads);
            assert_eq!(loop_threads().unwrap(), i64::from(threads));
        }
        tch::set_num_threads(before);
    }

    #[test]
    fn backends_that_are_listed_twice_are_refused() {
        let both = [AttentionBackend::Flash, AttentionBackend::Flash];
        let err = set_attention_backends(&both).unwrap_err();
        assert!(err.message.contains("listed twice"), "{err}");
    }
}
