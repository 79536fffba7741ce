//! The memory estimate of a training step, part by part, without running it.
//!
//! The sums follow the step: the activations autograd keeps of each block, the additional tensors
//! of the loss, the temporaries of the backward pass. On a CPU a test compares them with the
//! tensors alive at a time: in fp32 they agree to the percent. In bf16 they omit memory taken by
//! libtorch's products, about 1 MB. On a GPU they are an estimate.
//!
//! A test compares the estimate with the tensors counted in two steps: both dtypes, each kind of
//! activation checkpointing, grouped heads, tied head, large vocabulary, maps. `just bench-trainer`
//! compares it with the process's peak.
//!
//! The estimate omits holes between tensors, where freed memory does not fit the next tensor (2 to
//! 8 % in models of 7M to 21M parameters), and the pages of a mapped corpus, which the system
//! reclaims when others need memory.
//!
//! **Invariant:** nothing is allocated: a configuration goes in, numbers come out.

use schemas::run::{ActivationCheckpointing, Dtype, ModelConfig};

use crate::device::{self, extent};
use crate::model::architecture::{self, PatchMaps};
use crate::model::params;
use crate::model::patch;
use crate::shim;

const FP32_BYTES: u64 = 4;

/// The properties of a step that determine its memory.
#[derive(Clone, Debug)]
pub struct StepShape {
    /// The architecture.
    pub model: ModelConfig,
    /// The phase's maps, including its K.
    pub maps: PatchMaps,
    /// Windows per micro-batch.
    pub windows: u64,
    /// T.
    pub units: u64,
    /// Compute dtype.
    pub dtype: Dtype,
    /// The parts that are recomputed.
    pub checkpointing: ActivationCheckpointing,
    /// Whether the parts of a block are composed of libtorch's operations, as on a GPU.
    pub is_composed: bool,
}

/// Bytes on the device at the peak of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryEstimate {
    /// Master weights.
    pub parameters: u64,
    /// Gradients, flat.
    pub gradients: u64,
    /// Both moments of AdamW.
    pub moments: u64,
    /// Activations kept by the forward pass for the backward pass.
    pub activations: u64,
    /// Further memory at the peak: the loss with a chunk of logits, or the backward pass of a
    /// block.
    pub working: u64,
    /// The part of `working` for the chunk of logits.
    pub logits: u64,
}

impl MemoryEstimate {
    /// The estimate for a step of this shape.
    pub fn new(shape: &StepShape) -> MemoryEstimate {
        let mut specs = architecture::parameter_specs(&shape.model);
        specs.extend(architecture::map_specs(&shape.model, shape.maps));
        let flat = FP32_BYTES * params::storage(&specs).1.cast_unsigned();
        let sizes = Sizes::new(shape);
        let logits = sizes.logits();
        MemoryEstimate {
            parameters: flat,
            gradients: flat,
            moments: 2 * flat,
            activations: sizes.activations(),
            working: sizes.loss_pass().max(sizes.block_backward()),
            logits,
        }
    }

    /// The sum of all parts.
    pub fn total(&self) -> u64 {
        self.between_steps() + self.activations + self.working
    }

    /// The parts that stay from step to step.
    pub fn between_steps(&self) -> u64 {
        self.parameters + self.gradients + self.moments
    }
}

/// Sizes of a step's tensors: n units, d and f widths, kv width of keys, v vocabulary; s bytes of
/// the compute dtype.
struct Sizes<'a> {
    shape: &'a StepShape,
    s: u64,
    n: u64,
    d: u64,
    f: u64,
    kv: u64,
    v: u64,
    /// Bytes per scalar of a matrix in a product, if it is not the master weight itself.
    cast: u64,
}

impl Sizes<'_> {
    fn new(shape: &StepShape) -> Sizes<'_> {
        let model = &shape.model;
        let d = model.hidden_size;
        let (s, cast) = match shape.dtype {
            Dtype::Fp32 => (4, 0),
            Dtype::Bf16 => (2, 2),
        };
        Sizes {
            shape,
            s,
            n: shape.windows * shape.units,
            d,
            f: model.intermediate_size,
            kv: d / model.num_attention_heads * model.num_key_value_heads,
            v: model.vocab_size,
            cast,
        }
    }

    /// Scalars in the matrices of a block's attention.
    fn attention_matrices(&self) -> u64 {
        self.d * (2 * self.d + 2 * self.kv)
    }

    fn mlp_matrices(&self) -> u64 {
        3 * self.d * self.f
    }

    /// A norm and the sum before it: the sum, its divisor, and the result.
    fn norm(&self) -> u64 {
        let fp32_sum = if self.shape.is_composed && self.s < 4 { 4 * self.d } else { 0 };
        self.n * (2 * self.d * self.s + 4 + fp32_sum)
    }

    /// Attention after its norm: queries, keys and values, the result, and the logarithms of the
    /// sums.
    fn attention(&self) -> u64 {
        let heads = self.shape.model.num_attention_heads;
        self.n * ((2 * self.d + 2 * self.kv) * self.s + 4 * heads)
            + self.cast * self.attention_matrices()
    }

    /// The MLP after its norm: gate and up, and their product.
    fn mlp(&self) -> u64 {
        let silu = if self.shape.is_composed { self.f } else { 0 };
        self.n * (3 * self.f + silu) * self.s + self.cast * self.mlp_matrices()
    }

    /// Everything the forward pass keeps.
    fn activations(&self) -> u64 {
        let layers = self.shape.model.num_hidden_layers;
        let block = match self.shape.checkpointing {
            ActivationCheckpointing::None => 2 * self.norm() + self.attention() + self.mlp(),
            ActivationCheckpointing::Attention => 2 * self.norm() + self.mlp(),
            ActivationCheckpointing::Block => 2 * self.n * self.d * self.s,
        };
        let k = self.shape.maps.patch_size;
        let mut ends = self.n * 8 * k + self.norm(); // ids and the last norm
        if self.shape.maps.input {
            ends += self.n * k * self.d * self.s + self.cast * k * self.d * self.d;
        }
        if self.shape.maps.output {
            ends += self.n * k * self.d * self.s + self.cast * k * self.d * self.d;
        }
        layers * block + ends
    }

    /// The number of predicting rows.
    fn predictions(&self) -> u64 {
        let slots = if self.shape.maps.output { self.shape.maps.patch_size } else { 1 };
        self.shape.windows * (self.shape.units - 1) * slots
    }

    fn logits(&self) -> u64 {
        let chunk = patch::chunk_rows(extent(self.v)).cast_unsigned().min(self.predictions());
        let copies = if self.shape.is_composed { self.s + 8 } else { self.s };
        chunk * self.v * copies
    }

    /// The loss: its rows and their gradient, the head as a factor, its gradient, a product for the
    /// gradient, a chunk of logits.
    fn loss_pass(&self) -> u64 {
        let rows = self.predictions();
        let targets = rows * 8 * self.shape.maps.patch_size;
        2 * rows * self.d * self.s
            + self.v * self.d * (2 * self.cast + FP32_BYTES)
            + targets
            + self.logits()
    }

    /// The start of the backward pass of the last block: its recomputed part, and the gradients of
    /// the residual stream and of the MLP. By then the tensors kept by the last norm are freed.
    /// Those kept by the MLP are freed before attention is recomputed.
    fn block_backward(&self) -> u64 {
        let gradients = self.n * (self.d + 2 * self.f) * self.s + self.cast * 2 * self.d * self.f;
        let recomputed = match self.shape.checkpointing {
            ActivationCheckpointing::None => 0,
            ActivationCheckpointing::Attention => self.attention().saturating_sub(self.mlp()),
            ActivationCheckpointing::Block => 2 * self.norm() + self.attention() + self.mlp(),
        };
        (gradients + recomputed).saturating_sub(self.norm())
    }
}

/// Scratch memory of attention on the threads of a CPU, besides the tensors it passes on.
pub fn scratch_bytes(shape: &StepShape) -> u64 {
    let StepShape { model, windows, units, dtype, .. } = shape;
    let threads = device::thread_count().min(windows * model.num_key_value_heads);
    let head_width = model.hidden_size / model.num_attention_heads;
    threads
        * shim::attention_scratch_bytes(extent(*units), extent(head_width), device::kind(*dtype))
}
