//! `patchmill-train plan-memory`: what a run takes of a device's memory, from its run file alone.
//!
//! The sums follow the step as it is made: what autograd keeps of each block, what the loss holds beside it, what the backward
//! pass makes. On a CPU a test compares them with the tensors that live at a time: in fp32 they agree to the percent, in bf16 they
//! leave out what libtorch's products take for themselves, about 1 MB. On a GPU they are an estimate.
//!
//! What the process takes besides is found by a step of a model that has next to no tensors: libtorch's code, its own objects, and
//! what its products keep. Left out are holes between tensors, where memory that was freed does not fit the next one (2 to 8 % in
//! models of 7M to 21M parameters), and the pages of a mapped corpus, which the system takes back when others need them.
//!
//! **Invariant:** no data is read, and of the run's model nothing is made.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use pipeline::{plan, run_file};
use schemas::run::{self, ActivationCheckpointing, Dtype, ModelConfig, RunFile};
use serde_json::json;
use tch::{Device, Kind, Tensor};

use crate::architecture::{self, PatchMaps};
use crate::device::{self, extent};
use crate::memory;
use crate::model::{Compute, Llama};
use crate::optim::AdamW;
use crate::params;
use crate::patch;
use crate::progress::print;
use crate::shim;
use crate::step::train_step;

const FP32_BYTES: u64 = 4;

/// Arguments of `plan-memory`.
#[derive(Args)]
pub struct PlanMemoryArgs {
    /// The run file. Its corpus need not be there.
    run: PathBuf,
    /// Replaces a value of the run file, such as train.activation_checkpointing=block.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Print the report as one JSON object.
    #[arg(long)]
    json: bool,
}

/// Tokens of a micro-batch at most: more than any memory holds, and few enough that no sum overflows.
const TOKENS_MAX: u64 = 1 << 24;

/// A step that a run could not make either.
#[derive(Debug, thiserror::Error)]
#[error(
    "phases.{index}: a step of {step_tokens} tokens (plan.step_tokens) does not split into micro-batches of \
     {windows} windows (train.micro_batch_windows) of {units} units (window_units, at least 2) of {patch_size} tokens \
     (patch_size); a micro-batch has at most {TOKENS_MAX} tokens"
)]
pub struct WrongStep {
    index: usize,
    step_tokens: u64,
    windows: u64,
    units: u64,
    patch_size: u64,
}

/// What a step is made of, as far as memory is concerned.
#[derive(Clone, Debug)]
pub struct StepShape {
    /// The architecture.
    pub model: ModelConfig,
    /// Of the phase, its K among them.
    pub maps: PatchMaps,
    /// Windows of a micro-batch.
    pub windows: u64,
    /// T.
    pub units: u64,
    /// Compute kind.
    pub dtype: Dtype,
    /// What is made again.
    pub checkpointing: ActivationCheckpointing,
    /// Whether the parts of a block are composed of libtorch's operations, as they are on a GPU.
    pub is_composed: bool,
}

/// Bytes on the device at the peak of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Footprint {
    /// Masters.
    pub parameters: u64,
    /// Gradients, flat.
    pub gradients: u64,
    /// Both of AdamW.
    pub moments: u64,
    /// What the forward pass keeps for the backward pass.
    pub activations: u64,
    /// What lives beside them at the peak: the loss with a chunk of logits, or the backward pass of a block.
    pub working: u64,
    /// Of that, the chunk of logits.
    pub logits: u64,
}

impl Footprint {
    /// Of a step of this shape.
    pub fn new(shape: &StepShape) -> Footprint {
        let mut specs = architecture::parameter_specs(&shape.model);
        specs.extend(architecture::map_specs(&shape.model, shape.maps));
        let flat = FP32_BYTES * params::storage(&specs).1.cast_unsigned();
        let sizes = Sizes::new(shape);
        let logits = sizes.logits();
        Footprint {
            parameters: flat,
            gradients: flat,
            moments: 2 * flat,
            activations: sizes.kept(),
            working: sizes.loss().max(sizes.block_backward()),
            logits,
        }
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.parameters + self.gradients + self.moments + self.activations + self.working
    }
}

/// Lengths of a step's tensors: n units, d and f widths, kv width of keys, v vocabulary; s bytes of the compute kind.
struct Sizes<'a> {
    shape: &'a StepShape,
    s: u64,
    n: u64,
    d: u64,
    f: u64,
    kv: u64,
    v: u64,
    /// Of a scalar of a matrix as it is multiplied, where that is not the master.
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

    /// Scalars of a block's matrices.
    fn attention_matrices(&self) -> u64 {
        self.d * (2 * self.d + 2 * self.kv)
    }

    fn mlp_matrices(&self) -> u64 {
        3 * self.d * self.f
    }

    /// A norm and the sum before it: the sum, what it is divided by, and the result.
    fn norm(&self) -> u64 {
        let fp32_sum = if self.shape.is_composed && self.s < 4 { 4 * self.d } else { 0 };
        self.n * (2 * self.d * self.s + 4 + fp32_sum)
    }

    /// Of attention behind its norm: queries, keys and values, the result, and the logarithms of the sums.
    fn attention(&self) -> u64 {
        let heads = self.shape.model.num_attention_heads;
        self.n * ((2 * self.d + 2 * self.kv) * self.s + 4 * heads)
            + self.cast * self.attention_matrices()
    }

    /// Of the MLP behind its norm: gate and up, and their product.
    fn mlp(&self) -> u64 {
        let silu = if self.shape.is_composed { self.f } else { 0 };
        self.n * (3 * self.f + silu) * self.s + self.cast * self.mlp_matrices()
    }

    /// What the forward pass keeps.
    fn kept(&self) -> u64 {
        let layers = self.shape.model.num_hidden_layers;
        let block = match self.shape.checkpointing {
            ActivationCheckpointing::None => 2 * self.norm() + self.attention() + self.mlp(),
            ActivationCheckpointing::Attention => 2 * self.norm() + self.mlp(),
            ActivationCheckpointing::Block => 2 * self.n * self.d * self.s,
        };
        let k = self.shape.maps.patch_size;
        let mut ends = self.n * 8 * k + self.norm(); // ids, and the last norm
        if self.shape.maps.input {
            ends += self.n * k * self.d * self.s + self.cast * k * self.d * self.d;
        }
        if self.shape.maps.output {
            ends += self.n * k * self.d * self.s + self.cast * k * self.d * self.d;
        }
        layers * block + ends
    }

    /// Rows that predict.
    fn predictions(&self) -> u64 {
        let slots = if self.shape.maps.output { self.shape.maps.patch_size } else { 1 };
        self.shape.windows * (self.shape.units - 1) * slots
    }

    fn logits(&self) -> u64 {
        let chunk = patch::chunk_rows(extent(self.v)).cast_unsigned().min(self.predictions());
        let copies = if self.shape.is_composed { self.s + 8 } else { self.s };
        chunk * self.v * copies
    }

    /// The loss: its rows and their gradient, the head as it is multiplied, its gradient, a product of that, a chunk of
    /// logits.
    fn loss(&self) -> u64 {
        let rows = self.predictions();
        let targets = rows * 8 * self.shape.maps.patch_size;
        2 * rows * self.d * self.s
            + self.v * self.d * (2 * self.cast + FP32_BYTES)
            + targets
            + self.logits()
    }

    /// The backward pass of the last block, where it begins: what is made again, and the gradients of the residual stream
    /// and of the MLP. What the last norm kept is gone then, and before attention is made again so is what the MLP kept.
    fn block_backward(&self) -> u64 {
        let gradients = self.n * (self.d + 2 * self.f) * self.s + self.cast * 2 * self.d * self.f;
        let again = match self.shape.checkpointing {
            ActivationCheckpointing::None => 0,
            ActivationCheckpointing::Attention => self.attention().saturating_sub(self.mlp()),
            ActivationCheckpointing::Block => 2 * self.norm() + self.attention() + self.mlp(),
        };
        (gradients + again).saturating_sub(self.norm())
    }
}

/// `plan-memory`: a table on stdout, a column for each phase.
pub fn plan_memory(args: &PlanMemoryArgs) -> Result<ExitCode> {
    let file = run_file::Run::load(&args.run, &args.overrides)?;
    let config = &file.file;
    architecture::check_config(&config.model)?;
    plan::check_shares(&run_file::plan_spec(config, 0, None).phases)?;
    let is_composed = match config.train.device {
        run::Device::Cuda(_) => true, // which need not be here
        device => device::resolve(device)?.is_cuda(),
    };
    let program = if is_composed { 0 } else { program_bytes(config)? };
    let phases = config.phases.iter().enumerate().filter(|(_, phase)| phase.share.numer() > 0);
    let phases = phases.map(|(index, _)| {
        let shape = shape_of(config, index, is_composed);
        check_step(&shape, index, config.plan.step_tokens)?;
        architecture::check_map_sizes(&shape.model, shape.maps)?;
        let scratch = if is_composed { 0 } else { scratch_bytes(&shape) };
        Ok((index, Footprint::new(&shape), scratch))
    });
    let phases: Vec<_> = phases.collect::<Result<_>>()?;
    if args.json {
        let phases = phases.iter().map(|(index, found, scratch)| {
            json!({
                "index": index,
                "patch_size": config.phases[*index].patch_size,
                "parameters_bytes": found.parameters,
                "gradients_bytes": found.gradients,
                "moments_bytes": found.moments,
                "activations_bytes": found.activations,
                "working_bytes": found.working,
                "logits_bytes": found.logits,
                "total_bytes": found.total(),
                "attention_scratch_bytes": scratch,
            })
        });
        let phases: Vec<_> = phases.collect();
        let device = if is_composed { "cuda" } else { "cpu" };
        let report = json!({
            "device": device,
            "program_bytes": program,
            "ring_bytes": config.loader.ring_bytes,
            "phases": phases,
        });
        return print(&format!("{report}\n"));
    }
    print(&text(config, &phases, (!is_composed).then_some(program))?)
}

/// What the process holds on a CPU besides a step's tensors, in bytes: what is resident behind a step of this compute kind on a
/// model of a few thousand scalars.
fn program_bytes(config: &RunFile) -> Result<u64> {
    let width = 64;
    let model = ModelConfig {
        vocab_size: 8 * width,
        hidden_size: width,
        intermediate_size: 2 * width,
        num_hidden_layers: 1,
        num_attention_heads: 1,
        num_key_value_heads: 1,
        ..config.model.clone()
    };
    let compute = Compute {
        dtype: config.train.dtype,
        device: Device::Cpu,
        position_count: width,
        activation_checkpointing: config.train.activation_checkpointing,
    };
    let model = Llama::zeroed(&model, compute)?;
    let mut optimizer = AdamW::new(model.parameters(), &config.optimizer)?;
    let ids = Tensor::zeros([1, extent(width), 1], (Kind::Int64, Device::Cpu));
    train_step(&model, &mut optimizer, std::iter::once(anyhow::Ok(ids)), 1, 0.0)?;
    Ok(memory::resident_memory_bytes().unwrap_or(0))
}

/// What attention takes on the threads of a CPU besides tensors that are handed on.
fn scratch_bytes(shape: &StepShape) -> u64 {
    let StepShape { model, windows, units, dtype, .. } = shape;
    let threads = device::thread_count().min(windows * model.num_key_value_heads);
    let head_width = model.hidden_size / model.num_attention_heads;
    threads
        * shim::attention_scratch_bytes(extent(*units), extent(head_width), device::kind(*dtype))
}

fn check_step(shape: &StepShape, index: usize, step_tokens: u64) -> Result<(), WrongStep> {
    let StepShape { windows, units, maps: PatchMaps { patch_size, .. }, .. } = *shape;
    let tokens = windows.checked_mul(units).and_then(|units| units.checked_mul(patch_size));
    let is_legal =
        |tokens: u64| 0 < tokens && tokens <= TOKENS_MAX && step_tokens.is_multiple_of(tokens);
    if units >= 2 && tokens.is_some_and(is_legal) {
        Ok(())
    } else {
        Err(WrongStep { index, step_tokens, windows, units, patch_size })
    }
}

/// The step of phase `index`.
pub fn shape_of(config: &RunFile, index: usize, is_composed: bool) -> StepShape {
    let phase = &config.phases[index];
    StepShape {
        model: config.model.clone(),
        maps: PatchMaps {
            patch_size: phase.patch_size,
            input: phase.input_map,
            output: phase.output_map,
        },
        windows: config.train.micro_batch_windows,
        units: phase.window_units.unwrap_or(config.plan.window_units),
        dtype: config.train.dtype,
        checkpointing: config.train.activation_checkpointing,
        is_composed,
    }
}

fn text(
    config: &RunFile,
    phases: &[(usize, Footprint, u64)],
    program: Option<u64>,
) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    let mut line = |label: &str, value: &dyn Fn(usize, &Footprint, u64) -> String| {
        let values: String = phases
            .iter()
            .map(|(index, found, scratch)| format!("{:>14}", value(*index, found, *scratch)))
            .collect();
        writeln!(text, "{label:<34}{values}")
    };
    let mb = |bytes: u64| format!("{:.1}", bytes as f64 / 1e6);
    line("MB", &|index, _, _| format!("phases.{index} K={}", config.phases[index].patch_size))?;
    line("parameters, fp32", &|_, found, _| mb(found.parameters))?;
    line("gradients, fp32", &|_, found, _| mb(found.gradients))?;
    line("moments, fp32", &|_, found, _| mb(found.moments))?;
    line("activations kept", &|_, found, _| mb(found.activations))?;
    line("working set at the peak", &|_, found, _| mb(found.working))?;
    line("  logits of a chunk", &|_, found, _| mb(found.logits))?;
    line("tensors in all", &|_, found, _| mb(found.total()))?;
    if let Some(program) = program {
        line("attention's scratch", &|_, _, scratch| mb(scratch))?;
        line("program and libtorch", &|_, _, _| mb(program))?;
        let rings = config.loader.ring_bytes;
        line("loader's rings, at most", &|_, _, _| mb(rings))?;
        line("process at its peak", &|_, found, scratch| {
            mb(found.total() + scratch + program + rings)
        })?;
    }
    Ok(text)
}
