//! Activation checkpointing: a part of the forward pass that is made again in the backward pass
//! instead of kept.
//!
//! **Invariant:** a panic of that part is an error of the pass that called it; none unwinds into
//! C++.

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
// SAFETY: the signatures are those of shim/checkpoint.cpp and shim/error.cpp.
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

/// What `body` makes of `inputs`, keeping nothing but these: the backward pass calls it again on
/// the same values.
///
/// It must make the same from the same inputs, and draw no random numbers. What it holds, such as
/// parameters, has its gradients added as in any backward pass. Where no input requires a gradient
/// it is called, and nothing more.
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
    // SAFETY: the handles are alive for the call, and as many as it is told; the outputs are
    // written on success alone. `context` is the box that `call` and `end` expect; C++ owns it from
    // here on and ends it once. It may call and end it on another thread, one at a time: `F` is
    // `Send`.
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
        // SAFETY: the clone is a handle of its own; the one that it is made from is only read.
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
// SAFETY: `context` is the box of an `F` that nobody will use again.
unsafe extern "C" fn end<F>(context: *mut c_void) {
    // SAFETY: as the function's.
    drop(unsafe { Box::from_raw(context.cast::<F>()) });
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("a panic")
}
