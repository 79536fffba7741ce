//! The choice among libtorch's implementations of attention.
//!
//! The one used is the fastest by measurement on the phase's shape. FlashAttention is preferred
//! where another is less than 3 % faster, so that near ties always fall alike. The CPU is not
//! affected: its results never depend on timing.
//!
//! **Invariant:** on the CPU nothing is measured or changed: results there do not depend on timing.

use std::time::Instant;

use schemas::run::{Dtype, ModelConfig};
use tch::{Device, Kind, TchError, Tensor};

use crate::device::{self, extent};
use crate::shim::ShimError;
use crate::shim::context::{AttentionBackend, set_attention_backends};
use crate::shim::cuda;

/// All backends, in order of preference when they are hardly faster than each other.
const BACKENDS: [AttentionBackend; 4] = [
    AttentionBackend::Flash,
    AttentionBackend::CuDnn,
    AttentionBackend::Efficient,
    AttentionBackend::Math,
];
/// Passes before timing starts: some backends compile or tune in them.
const WARM_UP_PASSES: usize = 3;
/// Timed passes; the median counts.
const TIMED_PASSES: usize = 9;
/// A backend must be this much faster than one listed before it in `BACKENDS`, so that near ties
/// fall alike at each start.
const GAIN_MIN: f64 = 0.03;

/// The shape of attention in a phase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionShape {
    /// Windows per micro-batch.
    pub windows: i64,
    /// Query heads.
    pub heads: i64,
    /// Key and value heads.
    pub key_value_heads: i64,
    /// T.
    pub units: i64,
    /// Width of a head.
    pub head_width: i64,
    /// Compute dtype.
    pub kind: Kind,
}

impl AttentionShape {
    /// The shape for a micro-batch of `windows` windows of `units` units.
    pub fn new(model: &ModelConfig, windows: u64, units: u64, dtype: Dtype) -> AttentionShape {
        AttentionShape {
            windows: extent(windows),
            heads: extent(model.num_attention_heads),
            key_value_heads: extent(model.num_key_value_heads),
            units: extent(units),
            head_width: extent(model.hidden_size / model.num_attention_heads),
            kind: device::kind(dtype),
        }
    }
}

/// The measurements, and the order used from now on.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// Backends in order: the first that supports a shape is used.
    pub order: Vec<AttentionBackend>,
    /// Median milliseconds of a forward and a backward pass; `None` for a backend that does not
    /// support the shape.
    pub pass_ms: Vec<(AttentionBackend, Option<f64>)>,
}

impl Choice {
    /// A line for the log.
    pub fn text(&self) -> String {
        let times = self.pass_ms.iter().map(|(backend, ms)| match ms {
            Some(ms) => format!("{backend:?} {ms:.3} ms"),
            None => format!("{backend:?} cannot"),
        });
        let times: Vec<String> = times.collect();
        let used = self.order.first().map_or("none".to_owned(), |first| format!("{first:?}"));
        format!("attention: {used} (forward + backward: {})", times.join(", "))
    }
}

/// Measures all backends on `device`, a GPU, and makes libtorch use the fastest; does nothing on
/// the CPU.
pub fn choose(shape: AttentionShape, device: Device) -> Result<Option<Choice>, ShimError> {
    if !device.is_cuda() {
        return Ok(None);
    }
    let choice = measure(shape, device, &BACKENDS)?;
    set_attention_backends(&choice.order)?;
    Ok(Some(choice))
}

/// Measures each of `backends` alone. Afterwards libtorch may use all of them, in the order of
/// [`Choice::order`] or any other.
pub fn measure(
    shape: AttentionShape,
    device: Device,
    backends: &[AttentionBackend],
) -> Result<Choice, ShimError> {
    let mut pass_ms = Vec::new();
    for &backend in backends {
        set_attention_backends(&[backend])?;
        pass_ms.push((backend, median_ms(shape, device)));
    }
    set_attention_backends(backends)?;
    Ok(Choice { order: order(&pass_ms), pass_ms })
}

/// The backends that support the shape, best first. The best is the fastest, unless one listed
/// before it is hardly slower.
fn order(pass_ms: &[(AttentionBackend, Option<f64>)]) -> Vec<AttentionBackend> {
    let mut left: Vec<(AttentionBackend, f64)> =
        pass_ms.iter().filter_map(|&(backend, ms)| ms.map(|ms| (backend, ms))).collect();
    let mut order = Vec::new();
    while !left.is_empty() {
        let fastest_ms = left.iter().map(|(_, ms)| *ms).fold(f64::INFINITY, f64::min);
        let best = left.iter().position(|(_, ms)| ms * (1.0 - GAIN_MIN) <= fastest_ms);
        order.push(left.remove(best.expect("the fastest is as fast as itself")).0);
    }
    order
}

/// Returns `None` if the current backend refuses the shape.
fn median_ms(shape: AttentionShape, device: Device) -> Option<f64> {
    let AttentionShape { windows, heads, key_value_heads, units, head_width, kind } = shape;
    let random = |heads: i64| {
        let options = (kind, device);
        Tensor::f_rand([windows, heads, units, head_width], options)
            .map(|tensor| tensor.set_requires_grad(true))
    };
    let inputs = [heads, key_value_heads, key_value_heads].map(random);
    let [Ok(q), Ok(k), Ok(v)] = inputs else { return None };
    let pass = || -> Result<(), TchError> {
        let out = Tensor::f_scaled_dot_product_attention::<&Tensor>(
            &q,
            &k,
            &v,
            None,
            0.0,
            true,
            None,
            heads != key_value_heads,
        )?;
        Tensor::f_run_backward(&[out.f_sum(Kind::Float)?], &[&q, &k, &v], false, false)?;
        Ok(())
    };
    let wait = || match device {
        Device::Cuda(index) => cuda::synchronize(index).is_ok(),
        _ => true,
    };
    let mut times_ms = Vec::new();
    for index in 0..WARM_UP_PASSES + TIMED_PASSES {
        let started = Instant::now();
        if pass().is_err() || !wait() {
            return None;
        }
        if WARM_UP_PASSES <= index {
            times_ms.push(1e3 * started.elapsed().as_secs_f64());
        }
    }
    times_ms.sort_by(f64::total_cmp);
    Some(times_ms[times_ms.len() / 2])
}

#[cfg(test)]
mod tests {
    use super::AttentionBackend::{CuDnn, Efficient, Flash, Math};
    use super::*;

    #[test]
    fn the_fastest_comes_first_but_for_near_ties() {
        let times = |flash, cudnn, efficient| {
            order(&[(Flash, flash), (CuDnn, cudnn), (Efficient, efficient), (Math, Some(9.0))])
        };
        assert_eq!(times(Some(1.0), Some(0.98), Some(2.0)), [Flash, CuDnn, Efficient, Math]);
        assert_eq!(times(Some(1.0), Some(0.90), Some(2.0)), [CuDnn, Flash, Efficient, Math]);
        assert_eq!(times(None, None, Some(2.0)), [Efficient, Math]);
    }

    #[test]
    fn what_the_cpu_has_is_measured_and_the_rest_cannot() {
        let shape = AttentionShape {
            windows: 1,
            heads: 2,
            key_value_heads: 2,
            units: 8,
            head_width: 8,
            kind: Kind::Float,
        };
        let choice = measure(shape, Device::Cpu, &[Flash, Math]).unwrap();
        assert!(choice.pass_ms.iter().all(|(_, ms)| ms.is_some_and(|ms| 0.0 < ms)), "{choice:?}");
        assert!(choice.text().contains("Flash") && choice.text().contains(" ms"));
        assert_eq!(choose(shape, Device::Cpu).unwrap(), None);
    }
}
