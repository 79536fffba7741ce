//! `patchmill-train plan-memory`: a run's memory estimate for a device, from its run file alone.
//!
//! The process's memory besides a step's tensors is measured with a step of a model that has almost
//! no tensors: libtorch's code, its own objects, and the data its products keep.
//!
//! **Invariant:** no data is read, and no part of the run's model is built.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use pipeline::run_file;
use schemas::run::{self, ModelConfig, RunFile};
use serde_json::json;
use tch::{Device, Kind, Tensor};

use crate::commands::error::{TOKENS_MAX, WrongStep};
use crate::console::progress::print;
use crate::cost::flops::probe_bytes;
use crate::cost::memory::{MemoryEstimate, StepShape, scratch_bytes};
use crate::device::memory;
use crate::device::{self, extent};
use crate::model::architecture::{self, PatchMaps};
use crate::model::llama::{Compute, Llama};
use crate::step::adamw::AdamW;
use crate::step::train_step;
use pipeline::commands::values::local_path;

/// Arguments of `plan-memory`.
#[derive(Args)]
pub struct PlanMemoryArgs {
    /// The run file. Its corpus may be missing.
    #[arg(value_parser = local_path())]
    run: PathBuf,
    /// Replaces a value of the run file, such as train.activation_checkpointing=block.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    overrides: Vec<String>,
    /// Print the report as one JSON object.
    #[arg(long)]
    json: bool,
}

/// `plan-memory`: a table on stdout, a column for each phase.
pub fn plan_memory(args: &PlanMemoryArgs) -> Result<ExitCode> {
    let file = run_file::Run::load(&args.run, &args.overrides)?;
    let config = &file.file;
    architecture::check_config(&config.model)?;
    plan::check_shares(&run_file::plan_spec(config, 0, None).phases)?;
    let is_composed = match config.train.device {
        // The device may be missing.
        run::Device::Cuda(_) => true,
        device => device::resolve(device)?.is_cuda(),
    };
    let program = if is_composed { 0 } else { program_bytes(config)? };
    let phases = config.phases.iter().enumerate().filter(|(_, phase)| phase.share.numer() > 0);
    let phases = phases.map(|(index, _)| {
        let shape = shape_of(config, index, is_composed);
        check_step(&shape, index, config.plan.step_tokens)?;
        architecture::check_map_sizes(&shape.model, shape.maps)?;
        let scratch = if is_composed { 0 } else { scratch_bytes(&shape) };
        Ok((index, MemoryEstimate::new(&shape), scratch))
    });
    let phases: Vec<_> = phases.collect::<Result<_>>()?;
    let host = (!is_composed).then(|| Host {
        program_bytes: program,
        ring_bytes: config.loader.ring_bytes,
        probe_bytes: probe_bytes(config.train.dtype),
    });
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
                "process_bytes": host.as_ref().map(|host| host.process_bytes(found, *scratch)),
            })
        });
        let phases: Vec<_> = phases.collect();
        let device = if is_composed { "cuda" } else { "cpu" };
        let report = json!({
            "device": device,
            "program_bytes": program,
            "ring_bytes": config.loader.ring_bytes,
            "probe_bytes": host.as_ref().map(|host| host.probe_bytes),
            "phases": phases,
        });
        return print(&format!("{report}\n"));
    }
    print(&text(config, &phases, host.as_ref())?)
}

/// Memory of a process on a CPU besides a step's tensors.
struct Host {
    program_bytes: u64,
    ring_bytes: u64,
    /// Taken before the first step, to measure the peak performance for MFU.
    probe_bytes: u64,
}

impl Host {
    /// The process at its peak, in a step or while the probe runs.
    fn process_bytes(&self, found: &MemoryEstimate, scratch: u64) -> u64 {
        let tensors = (found.total() + scratch).max(found.between_steps() + self.probe_bytes);
        self.program_bytes + self.ring_bytes + tensors
    }
}

/// Memory of the process on a CPU besides a step's tensors, in bytes: resident memory after a step
/// of this compute dtype on a model of a few thousand scalars.
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
fn shape_of(config: &RunFile, index: usize, is_composed: bool) -> StepShape {
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
    phases: &[(usize, MemoryEstimate, u64)],
    host: Option<&Host>,
) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    let mut line = |label: &str, value: &dyn Fn(usize, &MemoryEstimate, u64) -> String| {
        let values: String = phases
            .iter()
            .map(|(index, found, scratch)| format!("{:>14}", value(*index, found, *scratch)))
            .collect();
        writeln!(text, "{label:<36}{values}")
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
    if let Some(host) = host {
        line("attention's scratch", &|_, _, scratch| mb(scratch))?;
        line("program and libtorch", &|_, _, _| mb(host.program_bytes))?;
        line("loader's rings, at most", &|_, _, _| mb(host.ring_bytes))?;
        line("MFU's probe, before the first step", &|_, _, _| mb(host.probe_bytes))?;
        line("process at its peak", &|_, found, scratch| mb(host.process_bytes(found, scratch)))?;
    }
    Ok(text)
}
