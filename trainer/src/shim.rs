//! A small C++ shim supplies what tch does not bind: the fused AdamW, a chunked linear +
//! cross-entropy for K labels that never holds `[N, V]` in fp32, a gradient that is a given view,
//! activation checkpointing. It calls only what stock libtorch exports. All FFI of the crate is in
//! this module.
//!
//! GPU-only features (streams, events, graphs, memory statistics, pinned memory) have one ABI in
//! both flavours, `trainer/shim/cuda/cuda.h`. In the CPU flavour each function fails and explains
//! why, so the Rust code is the same.
//!
//! The shim is compiled with `NDEBUG`, as libtorch was: without it some types have other members.
//! It is compiled with OpenMP, because libtorch's loops over threads are templates, silently serial
//! without it.
//!
//! **Invariant:** every call either succeeds or returns the text of the C++ exception; no exception
//! unwinds into Rust.

use std::ffi::{CStr, c_char, c_int};

use tch::{Device, Kind, Tensor};
use torch_sys::C_tensor;

pub mod checkpoint;

pub mod context;

pub mod cuda;

pub mod group;

pub mod memory;

pub mod ops;

/// A failure inside libtorch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("libtorch: {operation}: {message}")]
pub struct ShimError {
    /// The function that failed.
    pub operation: &'static str,
    /// libtorch's message.
    pub message: String,
}

impl ShimError {
    /// An error from tch, without the addresses it was raised from.
    pub(crate) fn of(operation: &'static str, err: &tch::TchError) -> ShimError {
        let text = err.to_string();
        let message = text.split("\nException raised from").next().unwrap_or_default().to_owned();
        ShimError { operation, message }
    }
}

#[expect(unsafe_code, reason = "libtorch's C++ is reachable in no other way")]
// SAFETY: the signatures match shim/*.cpp. `at::Tensor*` there is tch's `*mut C_tensor`; a
// `const Tensor*` is never written through, and tensors are interior-mutable handles on the C++
// side in any case.
unsafe extern "C" {
    fn pm_last_error() -> *const c_char;
    fn pm_torch_version() -> *const c_char;
    fn pm_linear_cross_entropy(
        x: *const C_tensor,
        w: *const C_tensor,
        y: *const C_tensor,
        chunk_rows: i64,
        loss: *mut *mut C_tensor,
    ) -> c_int;
    fn pm_set_grad(leaf: *const C_tensor, grad: *const C_tensor) -> c_int;
    fn pm_adamw(
        param: *mut C_tensor,
        grad: *mut C_tensor,
        exp_avg: *mut C_tensor,
        exp_avg_sq: *mut C_tensor,
        step: *mut C_tensor,
        clip: *const C_tensor,
        found_inf: *const C_tensor,
        learning_rate: f64,
        beta1: f64,
        beta2: f64,
        weight_decay: f64,
        eps: f64,
    ) -> c_int;
    fn pm_norm(flat: *const C_tensor, part_elements: i64, norm: *mut *mut C_tensor) -> c_int;
    fn pm_fill_normal(out: *mut C_tensor, std: f64, seed: u64) -> c_int;
    fn pm_product(a: *const C_tensor, b: *const C_tensor, out: *mut *mut C_tensor) -> c_int;
    fn pm_linear(x: *const C_tensor, w: *const C_tensor, out: *mut *mut C_tensor) -> c_int;
    fn pm_embed_mean(
        w: *const C_tensor,
        ids: *const C_tensor,
        is_bf16: c_int,
        out: *mut *mut C_tensor,
    ) -> c_int;
    fn pm_add_rms_norm(
        x: *const C_tensor,
        delta: *const C_tensor,
        gain: *const C_tensor,
        eps: f64,
        sum: *mut *mut C_tensor,
        y: *mut *mut C_tensor,
    ) -> c_int;
    fn pm_swiglu(gate_up: *const C_tensor, out: *mut *mut C_tensor) -> c_int;
    fn pm_split_rotate(
        qkv: *const C_tensor,
        cos: *const C_tensor,
        sin: *const C_tensor,
        h: i64,
        g: i64,
        e: i64,
        q: *mut *mut C_tensor,
        k: *mut *mut C_tensor,
        v: *mut *mut C_tensor,
    ) -> c_int;
    fn pm_attention_scratch_bytes(units: i64, head_width: i64, is_bf16: c_int) -> i64;
    fn pm_attention(
        qkv: *const C_tensor,
        cos: *const C_tensor,
        sin: *const C_tensor,
        h: i64,
        g: i64,
        e: i64,
        out: *mut *mut C_tensor,
    ) -> c_int;
    fn pm_keep_freed_memory() -> c_int;
}

/// The operands of one AdamW update. All are flat, fp32 and of one length, except for the scalars.
pub struct AdamWOperands<'a> {
    /// Updated.
    pub param: &'a mut Tensor,
    /// Gradient of `param`.
    pub grad: &'a mut Tensor,
    /// Updated: first moment.
    pub exp_avg: &'a mut Tensor,
    /// Updated: second moment.
    pub exp_avg_sq: &'a mut Tensor,
    /// Number of this update, from 1; fp32, `[]`.
    pub step: &'a mut Tensor,
    /// Factor for the gradient; fp32, `[]`.
    pub clip: &'a Tensor,
    /// 1 to change nothing, else 0; fp32, `[]`.
    pub found_inf: &'a Tensor,
}

/// The numbers of one AdamW update.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AdamWNumbers {
    /// Learning rate.
    pub learning_rate: f64,
    /// Decay rates of the moments.
    pub betas: [f64; 2],
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Added to the root of the second moment.
    pub eps: f64,
}

/// Updates `operands.param` and the moments in place. The content of `operands.grad` afterwards
/// depends on the device.
pub fn adamw(operands: AdamWOperands<'_>, numbers: AdamWNumbers) -> Result<(), ShimError> {
    let AdamWOperands { param, grad, exp_avg, exp_avg_sq, step, clip, found_inf } = operands;
    #[expect(unsafe_code, reason = "see the extern block")]
    // SAFETY: all handles are alive for the call; shapes and dtypes are checked on the other side.
    let status = unsafe {
        pm_adamw(
            param.as_mut_ptr(),
            grad.as_mut_ptr(),
            exp_avg.as_mut_ptr(),
            exp_avg_sq.as_mut_ptr(),
            step.as_mut_ptr(),
            clip.as_ptr(),
            found_inf.as_ptr(),
            numbers.learning_rate,
            numbers.betas[0],
            numbers.betas[1],
            numbers.weight_decay,
            numbers.eps,
        )
    };
    check(status, "fused AdamW")
}

/// Mean cross-entropy of `x_nd · w_vdᵀ` against the k targets of each row of `y_nk`, computed
/// `chunk_rows` rows at a time; fp32, `[]`, differentiable in `x_nd` and `w_vd`. `x_nd` is in the
/// compute dtype, `w_vd` in fp32, `y_nk` int64.
pub fn linear_cross_entropy(
    x_nd: &Tensor,
    w_vd: &Tensor,
    y_nk: &Tensor,
    chunk_rows: i64,
) -> Result<Tensor, ShimError> {
    let mut loss = std::ptr::null_mut();
    #[expect(unsafe_code, reason = "see the extern block")]
    // SAFETY: the handles are alive for the call; `loss` is written on success alone.
    let status = unsafe {
        pm_linear_cross_entropy(
            x_nd.as_ptr(),
            w_vd.as_ptr(),
            y_nk.as_ptr(),
            chunk_rows,
            &raw mut loss,
        )
    };
    check(status, "linear cross-entropy")?;
    Ok(adopt(loss))
}

/// `a · b`, by the library [`linear`] multiplies with: `[n, i]` and `[i, o]` to `[n, o]`, or a
/// batch of these in three dimensions.
pub fn product(a: &Tensor, b: &Tensor) -> Result<Tensor, ShimError> {
    let mut out = std::ptr::null_mut();
    #[expect(unsafe_code, reason = "see the extern block")]
    // SAFETY: the handles are alive for the call; `out` is written on success alone.
    let status = unsafe { pm_product(a.as_ptr(), b.as_ptr(), &raw mut out) };
    check(status, "product")?;
    Ok(adopt(out))
}

/// `x · wᵀ` in the dtype of `x`: `[.., i]` and an fp32 leaf `[o, i]` to `[.., o]`. If the leaf
/// has a gradient set, its gradient is added to that in place, in fp32.
pub fn linear(x: &Tensor, w_oi: &Tensor) -> Result<Tensor, ShimError> {
    let mut out = std::ptr::null_mut();
    #[expect(unsafe_code, reason = "see the extern block")]
    // SAFETY: the handles are alive for the call; `out` is written on success alone.
    let status = unsafe { pm_linear(x.as_ptr(), w_oi.as_ptr(), &raw mut out) };
    check(status, "linear")?;
    Ok(adopt(out))
}

/// For each unit, the mean of the embeddings (rows of the fp32 leaf `w_vd`) of its k ids,
/// `[b, t, d]` in `kind` (fp32 or bf16).
pub fn embed_mean(w_vd: &Tensor, ids_btk: &Tensor, kind: Kind) -> Result<Tensor, ShimError> {
    assert!(matches!(kind, Kind::Float | Kind::BFloat16), "not a compute dtype: {kind:?}");
    let mut out = std::ptr::null_mut();
    let is_bf16 = c_int::from(kind == Kind::BFloat16);
    #[expect(unsafe_code, reason = "see the extern block")]
    // SAFETY: the handles are alive for the call; `out` is written on success alone.
    let status = unsafe { pm_embed_mean(w_vd.as_ptr(), ids_btk.as_ptr(), is_bf16, &raw mut out) };
    check(status, "embedding")?;
    Ok(adopt(out))
}

/// RMSNorm of `x` times the fp32 gain, in the dtype of `x`.
pub fn rms_norm(x: &Tensor, gain_d: &Tensor, eps: f64) -> Result<Tensor, ShimError> {
    let (mut sum, mut y) = (std::ptr::null_mut(), std::ptr::null_mut());
    #[expect(unsafe_code, reason = "see the extern block")]
    // SAFETY: the handles are alive for the call; `y` is written on success alone, `sum` never
    // without a delta.
    let status = unsafe {
        pm_add_rms_norm(
            x.as_ptr(),
            std::ptr::null(),
            gain_d.as_ptr(),
            eps,
            &raw mut sum,
            &raw mut y,
        )
    };
    check(status, "RMSNorm")?;
    Ok(adopt(y))
}

/// `x + delta` and the RMSNorm of this sum times the fp32 gain, both in the dtype of `x`.
pub fn add_rms_norm(
    x: &Tensor,
    delta: &Tensor,
    gain_d: &Tensor,
    eps: f64,
) -> Result<(Tensor, Tensor), ShimError> {
    let (mut sum, mut y) = (std::ptr::null_mut(), std::ptr::null_mut());
    #[expect(unsafe_code, reason = "see the extern block")]
    // SAFETY: the handles are alive for the call; both outputs are written on success alone.
    let status = unsafe {
        pm_add_rms_norm(x.as_ptr(), delta.as_ptr(), gain_d.as_ptr(), eps, &raw mut sum, &raw mut y)
    };
    check(status, "RMSNorm of a sum")?;
    Ok((adopt(sum), adopt(y)))
}

/// `silu(gate) * up`, with gate and up side by side: `[.., 2 f]` to `[.., f]`.
pub fn swiglu(gate_up: &Tensor) -> Result<Tensor, ShimError> {
    let mut out = std::ptr::null_mut();
    #[expect(unsafe_code, reason = "see the extern block")]
    // SAFETY: the handle is alive for the call; `out` is written on success alone.
    let status = unsafe { pm_swiglu(gate_up.as_ptr(), &raw mut out) };
    check(status, "SwiGLU")?;
    Ok(adopt(out))
}

/// The heads of a model's attention.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heads {
    /// Query heads.
    pub query: i64,
    /// Key heads, and as many value heads.
    pub key_value: i64,
    /// Elements per head.
    pub width: i64,
}

/// Queries, keys and values, `[b, heads, t, e]`, from merged rows `[b, t, (h + 2 g) e]`. Queries
/// and keys are rotated by the rotary tables `[t, e / 2]`.
pub fn split_rotate(
    qkv: &Tensor,
    cos_te: &Tensor,
    sin_te: &Tensor,
    heads: Heads,
) -> Result<[Tensor; 3], ShimError> {
    let (mut q, mut k, mut v) = (std::ptr::null_mut(), std::ptr::null_mut(), std::ptr::null_mut());
    #[expect(unsafe_code, reason = "see the extern block")]
    // SAFETY: the handles are alive for the call; the outputs are written on success alone.
    let status = unsafe {
        pm_split_rotate(
            qkv.as_ptr(),
            cos_te.as_ptr(),
            sin_te.as_ptr(),
            heads.query,
            heads.key_value,
            heads.width,
            &raw mut q,
            &raw mut k,
            &raw mut v,
        )
    };
    check(status, "rotary embedding")?;
    Ok([adopt(q), adopt(k), adopt(v)])
}

/// Bytes of scratch each thread needs in [`attention`] of `kind` with `units` units and heads of
/// `head_width`.
pub fn attention_scratch_bytes(units: i64, head_width: i64, kind: Kind) -> u64 {
    let is_bf16 = c_int::from(kind == Kind::BFloat16);
    #[expect(unsafe_code, reason = "see the extern block")]
    // SAFETY: numbers in, a number out.
    let bytes = unsafe { pm_attention_scratch_bytes(units, head_width, is_bf16) };
    u64::try_from(bytes).expect("sizes are not negative")
}

/// Causal attention on the CPU, `[b, t, h e]`, from merged rows `[b, t, (h + 2 g) e]`. Queries and
/// keys are rotated by the rotary tables `[t, e / 2]`. Sums are in fp32. So are factors, except for
/// bf16 where the processor multiplies it.
pub fn attention(
    qkv: &Tensor,
    cos_te: &Tensor,
    sin_te: &Tensor,
    heads: Heads,
) -> Result<Tensor, ShimError> {
    let mut out = std::ptr::null_mut();
    #[expect(unsafe_code, reason = "see the extern block")]
    // SAFETY: the handles are alive for the call; `out` is written on success alone.
    let status = unsafe {
        pm_attention(
            qkv.as_ptr(),
            cos_te.as_ptr(),
            sin_te.as_ptr(),
            heads.query,
            heads.key_value,
            heads.width,
            &raw mut out,
        )
    };
    check(status, "attention")?;
    Ok(adopt(out))
}

/// Keeps the memory freed by tensors on the CPU for later tensors, instead of mapping it anew in
/// each step.
pub fn keep_freed_memory() -> Result<(), ShimError> {
    #[expect(unsafe_code, reason = "see the extern block")]
    // SAFETY: takes no arguments; glibc guards its own settings.
    let status = unsafe { pm_keep_freed_memory() };
    check(status, "allocator settings")
}

/// Makes `grad` the gradient of `leaf`; backward passes add to it in place.
pub fn set_grad(leaf: &Tensor, grad: &Tensor) -> Result<(), ShimError> {
    #[expect(unsafe_code, reason = "see the extern block")]
    // SAFETY: both handles are alive for the call; the leaf keeps its own reference to the
    // gradient.
    let status = unsafe { pm_set_grad(leaf.as_ptr(), grad.as_ptr()) };
    check(status, "set gradient")
}

/// L2 norm of a flat fp32 tensor, summed in fp64; fp32, `[]`, on the tensor's device. Its bits do
/// not depend on the number of threads. A GPU sums parts of `part_elements`.
pub fn norm(flat: &Tensor, part_elements: i64) -> Result<Tensor, ShimError> {
    let mut norm = std::ptr::null_mut();
    #[expect(unsafe_code, reason = "see the extern block")]
    // SAFETY: the handle is alive for the call; `norm` is written on success alone.
    let status = unsafe { pm_norm(flat.as_ptr(), part_elements, &raw mut norm) };
    check(status, "norm")?;
    Ok(adopt(norm))
}

/// Fills a dense fp32 tensor from N(0, `std`), by its own generator on the CPU.
pub fn fill_normal(out: &mut Tensor, std: f64, seed: u64) -> Result<(), ShimError> {
    #[expect(unsafe_code, reason = "see the extern block")]
    // SAFETY: the handle is alive for the call.
    let status = unsafe { pm_fill_normal(out.as_mut_ptr(), std, seed) };
    check(status, "normal fill")
}

/// Version of the libtorch this program was built against, such as `2.13.0`.
pub fn torch_version() -> &'static str {
    #[expect(unsafe_code, reason = "see the extern block")]
    // SAFETY: a string literal of the shim.
    let version = unsafe { CStr::from_ptr(pm_torch_version()) };
    version.to_str().expect("a version is ASCII")
}

fn check(status: c_int, operation: &'static str) -> Result<(), ShimError> {
    if status == 0 {
        return Ok(());
    }
    #[expect(unsafe_code, reason = "see the extern block")]
    // SAFETY: a failed call has just set this thread's text, which lives until the thread's next
    // failure.
    let message = unsafe { CStr::from_ptr(pm_last_error()) }.to_string_lossy().into_owned();
    Err(ShimError { operation, message })
}

/// libtorch's number of a device: -1 for the CPU.
fn device_index(device: Device) -> c_int {
    match device {
        Device::Cuda(index) => c_int::try_from(index).expect("a machine has few devices"),
        _ => -1,
    }
}

fn adopt(tensor: *mut C_tensor) -> Tensor {
    assert!(!tensor.is_null(), "a shim call that succeeds hands out a tensor");
    #[expect(unsafe_code, reason = "see the extern block")]
    // SAFETY: a new C++ handle with no other owner.
    unsafe {
        Tensor::from_ptr(tensor)
    }
}
