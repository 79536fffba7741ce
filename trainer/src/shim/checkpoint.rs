//! Activation checkpointing is one function. It calls a closure without recording it and keeps the
//! closure and its inputs. In the backward pass it calls the closure again, records it this time,
//! and runs a backward pass within the backward pass.
//!
//! With `"block"` the inputs of a block are kept: the residual stream and the previous block's
//! contribution to it. With `"attention"` everything is kept except the part between attention's
//! normalized input and its output. The closure holds the parameters, which are not inputs; their
//! gradients go where they always go.
//!
//! Nothing in a block is random, and all sums have the order of a pass that keeps everything, so a
//! CPU's result is the same bit for bit. The setting is recorded in a checkpoint and may change. A
//! panic in the closure becomes an error before it reaches C++.
//!
//! Measured with six blocks of width 256, 8 windows of 256 patches of 4, 32,000 ids, on 2 cores of
//! an AMD EPYC (medians of three interleaved rounds, with libtorch's attention): a bf16 step took
//! 9 % longer with `"attention"` and 14 % with `"block"` (fp32: 5 and 13 %). The tensors of a pass,
//! including head and loss, which checkpointing does not touch, peaked at 211 MiB without it, then
//! 178 and 111 (fp32: 308, 248, 125).
//!
//! **Invariant:** a panic in the closure is an error of the pass that called it; no panic unwinds
//! into C++.

use std::any::Any;
use std::ffi::{CString, c_char, c_int, c_void};
use std::mem::ManuallyDrop;
use std::panic::{AssertUnwindSafe, catch_unwind};

use tch::Tensor;
use torch_sys::C_tensor;

use super::{ShimError, adopt, check};

type Body = unsafe extern "C" fn(
    context: *const c_void,
    inputs: *const *const C_tensor,
    input_count: usize,
    outputs: *mut *mut C_tensor,
) -> c_int;

#[expect(unsafe_code, reason = "libtorch's C++ is reachable in no other way")]
// SAFETY: the signatures match shim/checkpoint.cpp and shim/error.cpp.
unsafe extern "C" {
    fn pm_checkpoint(
        body: Body,
        drop: unsafe extern "C" fn(context: *mut c_void),
        context: *mut c_void,
        inputs: *const *const C_tensor,
        input_count: usize,
        outputs: *mut *mut C_tensor,
        output_count: usize,
    ) -> c_int;
    fn pm_set_last_error(text: *const c_char);
}

/// The outputs of `body` for `inputs`. Only these are kept: the backward pass calls `body` again on
/// the same values.
///
/// `body` must return the same outputs for the same inputs, and draw no random numbers. Tensors it
/// holds, such as parameters, accumulate gradients as in any backward pass. If no input requires a
/// gradient, it is just called.
pub fn checkpoint<const N: usize, F>(inputs: &[&Tensor], body: F) -> Result<[Tensor; N], ShimError>
where
    F: Fn(&[Tensor]) -> [Tensor; N] + Send + 'static,
{
    if !inputs.iter().any(|input| input.requires_grad()) {
        let inputs: Vec<Tensor> = inputs.iter().map(|input| input.shallow_clone()).collect();
        return Ok(body(&inputs));
    }
    let inputs: Vec<*const C_tensor> = inputs.iter().map(|input| input.as_ptr()).collect();
    let mut outputs = [std::ptr::null_mut(); N];
    let context = Box::into_raw(Box::new(body)).cast::<c_void>();
    #[expect(unsafe_code, reason = "see the extern block")]
    // SAFETY: the handles are alive for the call, and their number is `inputs.len()`; the outputs
    // are written on success alone. `context` is the box expected by `call` and `end`; C++ owns it
    // from here on and ends it once. It may call and end it on another thread, one at a time: `F`
    // is `Send`.
    let status = unsafe {
        pm_checkpoint(
            call::<N, F>,
            end::<F>,
            context,
            inputs.as_ptr(),
            inputs.len(),
            outputs.as_mut_ptr(),
            N,
        )
    };
    check(status, "activation checkpointing")?;
    Ok(outputs.map(adopt))
}

#[expect(unsafe_code, reason = "called by C++")]
// SAFETY: `context` is a live `F`, the inputs are `input_count` live handles, and there is room for
// `N` outputs.
unsafe extern "C" fn call<const N: usize, F>(
    context: *const c_void,
    inputs: *const *const C_tensor,
    input_count: usize,
    outputs: *mut *mut C_tensor,
) -> c_int
where
    F: Fn(&[Tensor]) -> [Tensor; N],
{
    let made = catch_unwind(AssertUnwindSafe(|| {
        // SAFETY: as the function's.
        let (body, inputs) =
            unsafe { (&*context.cast::<F>(), std::slice::from_raw_parts(inputs, input_count)) };
        // SAFETY: the clone is a handle of its own; its source is only read.
        let own = |input: &*const C_tensor| unsafe { Tensor::clone_from_ptr(input.cast_mut()) };
        body(&inputs.iter().map(own).collect::<Vec<_>>())
    }));
    match made {
        Ok(made) => {
            for (index, tensor) in made.into_iter().enumerate() {
                // SAFETY: as the function's; the handle becomes the caller's.
                unsafe { *outputs.add(index) = ManuallyDrop::new(tensor).as_mut_ptr() };
            }
            0
        }
        Err(panic) => {
            let text = CString::new(panic_text(&*panic).replace('\0', "")).unwrap_or_default();
            // SAFETY: the text is copied.
            unsafe { pm_set_last_error(text.as_ptr()) };
            -1
        }
    }
}

#[expect(unsafe_code, reason = "called by C++")]
// SAFETY: `context` is the box of an `F`, not used again.
unsafe extern "C" fn end<F>(context: *mut c_void) {
    // SAFETY: as the function's.
    drop(unsafe { Box::from_raw(context.cast::<F>()) });
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("a panic")
}
