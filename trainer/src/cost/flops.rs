//! The matrix products of a training step: their FLOPs, and their share of a device's peak.
//!
//! **Invariant:** exactly the model's products are counted: the embedding is a lookup, and the last
//! position of a window predicts nothing.

use std::time::Instant;

use schemas::run::{Dtype, ModelConfig};
use tch::{Device, Kind, Tensor};

use crate::device::cuda;
use crate::device::timing::synchronize;
use crate::device::{self, extent};
use crate::model::architecture::PatchMaps;
use crate::model::patch;
use crate::shim::cuda as gpu;
use crate::shim::{self, ShimError};

/// Rows and columns of the product that measures a CPU's peak.
const PEAK_SIZE: i64 = 2048;
/// Number of tries after a first one, unless one takes long.
const PEAK_TRIES: usize = 3;
/// Size of the scores allocated to measure attention's products.
const SCORES_BYTES_MAX: u64 = 1 << 27;
/// A try longer than this, in seconds, is the last.
const PEAK_SECONDS: f64 = 0.5;

/// `[rows, inner] · [inner, columns]`, `count` times in the forward pass of a micro-batch. For
/// each, the backward pass computes two products of the same FLOPs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatrixProduct {
    /// The matrices of the model.
    pub name: &'static str,
    /// Units or targets.
    pub rows: u64,
    /// Input width.
    pub inner: u64,
    /// Output width.
    pub columns: u64,
    /// The number of products.
    pub count: u64,
}

impl MatrixProduct {
    fn flops(self) -> f64 {
        2.0 * self.rows as f64 * self.inner as f64 * self.columns as f64 * self.count as f64
    }
}

/// How attention's FLOPs are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlopsConvention {
    /// Every query with every key, as if nothing were masked: the convention of the PaLM paper
    /// (appendix B).
    Palm,
    /// Every query with the keys visible to it: half.
    Causal,
}

/// The products of one forward and backward pass over a micro-batch.
#[derive(Clone, Debug, PartialEq)]
pub struct PassFlops {
    /// Products with the model's matrices.
    pub products: Vec<MatrixProduct>,
    /// Forward FLOPs of the products of queries with keys and of scores with values, in all layers,
    /// unmasked.
    attention_flops: f64,
    attention: AttentionSize,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct AttentionSize {
    layers: u64,
    heads: u64,
    units: u64,
    head_width: u64,
}

impl PassFlops {
    /// Counts `windows` windows of `units` units of `maps.patch_size` tokens.
    pub fn new(model: &ModelConfig, maps: PatchMaps, windows: u64, units: u64) -> PassFlops {
        let [d, f, v] = [model.hidden_size, model.intermediate_size, model.vocab_size];
        let (layers, k) = (model.num_hidden_layers, maps.patch_size);
        let rows = windows * units;
        let qkv = d + 2 * d / model.num_attention_heads * model.num_key_value_heads;
        let product =
            |name, rows, inner, columns, count| MatrixProduct { name, rows, inner, columns, count };
        let mut products = vec![
            product("qkv", rows, d, qkv, layers),
            product("o_proj", rows, d, d, layers),
            product("gate_up", rows, d, 2 * f, layers),
            product("down_proj", rows, f, d, layers),
        ];
        if maps.input {
            products.push(product("input_map", rows, k * d, d, 1));
        }
        let mut predictions = windows * (units - 1);
        if maps.output {
            products.push(product("output_map", rows, d, k * d, 1));
            predictions *= k;
        }
        let chunk = patch::chunk_rows(extent(v)).cast_unsigned();
        for (rows, count) in [(chunk, predictions / chunk), (predictions % chunk, 1)] {
            if rows > 0 && count > 0 {
                products.push(product("lm_head", rows, d, v, count));
            }
        }
        let attention_flops = 4.0 * (layers * windows * units) as f64 * (units * d) as f64;
        let heads = windows * model.num_attention_heads;
        let head_width = d / model.num_attention_heads;
        let attention = AttentionSize { layers, heads, units, head_width };
        PassFlops { products, attention_flops, attention }
    }

    /// FLOPs of the forward and backward pass; an addition counts as one. Recomputation by
    /// activation checkpointing is not counted.
    pub fn total(&self, convention: FlopsConvention) -> f64 {
        let linear: f64 = self.products.iter().map(|product| product.flops()).sum();
        let seen = match convention {
            FlopsConvention::Palm => 1.0,
            FlopsConvention::Causal => 0.5,
        };
        3.0 * (linear + seen * self.attention_flops)
    }

    /// Seconds for the products with the model's matrices alone, forward and backward, in `dtype`
    /// on `device`: a lower bound of a step. Attention's products are measured by
    /// [`PassFlops::measure_attention`].
    pub fn measure_products(&self, dtype: Dtype, device: Device) -> Result<f64, ShimError> {
        let _no_grad = tch::no_grad_guard();
        let options = (device::kind(dtype), device);
        let operands = self.products.iter().map(|product| {
            let [n, i, o] = [product.rows, product.inner, product.columns].map(extent);
            let random = |size: [i64; 2]| Tensor::rand(size, options);
            (random([n, i]), random([o, i]), random([n, o]), product.count)
        });
        let operands: Vec<_> = operands.collect();
        synchronize(device)?;
        let started = Instant::now();
        for (x_ni, w_oi, grad_no, count) in &operands {
            for _ in 0..*count {
                let _ = shim::product(x_ni, &w_oi.tr())?;
                let _ = shim::product(grad_no, w_oi)?;
                let _ = shim::product(&grad_no.tr(), x_ni)?;
            }
        }
        synchronize(device)?;
        Ok(started.elapsed().as_secs_f64())
    }

    /// Seconds for attention's products alone, forward and backward: every query with every key, in
    /// `dtype` on `device`. For long windows, whose scores no step holds as a whole, only as many
    /// heads are measured as fit into 128 MiB.
    pub fn measure_attention(&self, dtype: Dtype, device: Device) -> Result<f64, ShimError> {
        let _no_grad = tch::no_grad_guard();
        let AttentionSize { layers, heads, units, head_width } = self.attention;
        let options = (device::kind(dtype), device);
        let head_bytes = units * units * options.0.elt_size_in_bytes() as u64;
        let measured_heads = (SCORES_BYTES_MAX / head_bytes).clamp(1, heads);
        let [h, t, e] = [measured_heads, units, head_width].map(extent);
        let failed = |err| ShimError::of("measure attention's products", &err);
        let random = |size: [i64; 3]| Tensor::f_rand(size, options).map_err(failed);
        let (rows, scores) = (random([h, t, e])?, random([h, t, t])?);
        let product = |x: &Tensor, y: &Tensor| shim::product(x, y).map(drop);
        let across = rows.transpose(1, 2);
        synchronize(device)?;
        let started = Instant::now();
        for _ in 0..layers {
            for _ in 0..2 {
                product(&rows, &across)?; // scores, and the gradient of the weights
                product(&scores, &rows)?; // the result, and the gradient of the queries
                product(&scores.transpose(1, 2), &rows)?; // the gradients of keys and of values
            }
        }
        synchronize(device)?;
        Ok(started.elapsed().as_secs_f64() * heads as f64 / measured_heads as f64)
    }
}

/// The peak of a device, and the source of the figure.
#[derive(Clone, Debug, PartialEq)]
pub struct Peak {
    /// FLOPs of dense products per second.
    pub flops_per_sec: f64,
    /// A datasheet, or the method of measurement.
    pub source: String,
}

/// The peak of `device` in `dtype`. For a GPU it is its maker's figure, `None` if the GPU is not in
/// the table; for a CPU it is measured with a large product.
pub fn peak(dtype: Dtype, device: Device) -> Result<Option<Peak>, ShimError> {
    if let Device::Cuda(index) = device {
        let found = cuda::peak(&gpu::properties(index)?.name, dtype);
        return Ok(found.map(|peak| Peak {
            flops_per_sec: peak.flops_per_sec,
            source: peak.source.to_owned(),
        }));
    }
    let kind = device::kind(dtype);
    let _no_grad = tch::no_grad_guard();
    let [x, w] = [0; 2].map(|_| Tensor::rand([PEAK_SIZE, PEAK_SIZE], (kind, device)));
    let mut best_seconds = f64::INFINITY;
    for _ in 0..=PEAK_TRIES {
        let started = Instant::now();
        let _ = shim::product(&x, &w)?;
        best_seconds = best_seconds.min(started.elapsed().as_secs_f64());
        if best_seconds > PEAK_SECONDS {
            break;
        }
    }
    let flops = 2.0 * (PEAK_SIZE as f64).powi(3);
    let dtype = if kind == Kind::Float { "fp32" } else { "bf16" };
    let source = format!(
        "measured here: a {dtype} product of {PEAK_SIZE} x {PEAK_SIZE} on {} threads",
        tch::get_num_threads()
    );
    Ok(Some(Peak { flops_per_sec: flops / best_seconds, source }))
}

/// Bytes [`peak`] takes for its measurement on a CPU, before a run's first step: two factors and
/// their product.
pub fn probe_bytes(dtype: Dtype) -> u64 {
    let scalars = 3 * PEAK_SIZE.pow(2).cast_unsigned();
    scalars * device::kind(dtype).elt_size_in_bytes() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::architecture::tests::small;

    fn model() -> ModelConfig {
        ModelConfig {
            vocab_size: 1000,
            hidden_size: 64,
            intermediate_size: 96,
            num_hidden_layers: 3,
            ..small()
        }
    }

    /// 6 N T for the matrices N, and 12 L D T² for attention, for each window (PaLM, appendix B).
    #[test]
    fn operations_are_those_of_the_formula() {
        let (windows, units) = (5u64, 8u64);
        let maps = PatchMaps { patch_size: 4, input: false, output: false };
        let pass = PassFlops::new(&model(), maps, windows, units);
        let layer = 64 * (64 + 2 * 32) + 64 * 64 + 3 * 64 * 96;
        let linear = 6 * windows * (units * 3 * layer + (units - 1) * 64 * 1000);
        let attention = 12 * 3 * 64 * units * units * windows;
        assert_eq!(pass.total(FlopsConvention::Palm), (linear + attention) as f64);
        assert_eq!(pass.total(FlopsConvention::Causal), (linear + attention / 2) as f64);
    }

    #[test]
    fn the_maps_of_a_phase_are_counted_too() {
        let flops = |input, output| {
            let maps = PatchMaps { patch_size: 4, input, output };
            PassFlops::new(&model(), maps, 5, 8).total(FlopsConvention::Palm)
        };
        let map = 6.0 * (5 * 8 * 4 * 64 * 64) as f64;
        assert_eq!(flops(true, false) - flops(false, false), map);
        let three_more_heads = 6.0 * (3 * 5 * 7 * 64 * 1000) as f64;
        assert_eq!(flops(false, true) - flops(false, false), map + three_more_heads);
    }

    #[test]
    fn the_head_is_multiplied_in_the_chunks_of_the_loss() {
        let model = ModelConfig { vocab_size: 1 << 17, ..model() };
        let pass = PassFlops::new(&model, PatchMaps::NONE, 1, 300);
        let heads = pass.products.iter().filter(|product| product.name == "lm_head");
        assert_eq!(
            heads.map(|head| (head.rows, head.count)).collect::<Vec<_>>(),
            [(128, 2), (43, 1)]
        );
    }

    #[test]
    fn a_cpu_has_a_peak() {
        let peak = peak(Dtype::Fp32, Device::Cpu).unwrap().unwrap();
        assert!(peak.flops_per_sec > 1e8, "{peak:?}");
    }
}
