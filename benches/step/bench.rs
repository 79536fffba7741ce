//! The training step, token level and patch level, by dtype: `just bench step`.
//!
//! Estimate for 2 cores of a Zen 4 server at 142 GFLOP/s fp32 and 353 bf16 (2048³ products): a step
//! of 2,048 units costs 6 · 5.79 M parameters that are multiplied · 2,048 + attention ≈ 75 GFLOP,
//! so at least 0.53 s in fp32 and 0.21 s in bf16, and as much for K = 4, which reads four times the
//! tokens.
//!
//! **Invariant:** one fixed batch, learned by heart: the loss after the timed steps is below the
//! one before.

use std::hint::black_box;
use std::path::Path;

use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use pipeline::run_file::Run;
use schemas::run::{ActivationCheckpointing, Dtype, ModelConfig, RunFile};
use tch::{Device, Tensor};
use trainer::model::llama::{Compute, Llama};
use trainer::shim::ShimError;
use trainer::step::adamw::AdamW;
use trainer::step::train_step;

const WINDOWS: i64 = 8;
const WINDOW_UNITS: u64 = 256;
const RATE: f64 = 1e-3;

/// The fixtures' run, whose optimizer is the paper's.
fn fixtures_run() -> RunFile {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/pretrain.toml");
    Run::load(&path, &[]).expect("the fixtures' run file is legal").file
}

fn config(run: &RunFile) -> ModelConfig {
    let (hidden_size, intermediate_size, num_hidden_layers) = (256, 688, 6);
    ModelConfig { hidden_size, intermediate_size, num_hidden_layers, ..run.model.clone() }
}

fn tokens_btk(patch_size: i64) -> Tensor {
    let units = i64::try_from(WINDOW_UNITS).expect("a small constant");
    let ids: Vec<i64> = (0..WINDOWS * units * patch_size)
        .map(|index| index.wrapping_mul(2_654_435_761) >> 7 & 4095)
        .collect();
    Tensor::from_slice(&ids).view([WINDOWS, units, patch_size])
}

fn step(criterion: &mut Criterion) {
    trainer::shim::keep_freed_memory().expect("glibc takes the settings"); // as the program does
    let run = fixtures_run();
    let mut group = criterion.benchmark_group("step");
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
    for (dtype, dtype_name) in [(Dtype::Fp32, "fp32"), (Dtype::Bf16, "bf16")] {
        for patch_size in [1, 4] {
            let compute = Compute {
                dtype,
                device: Device::Cpu,
                position_count: WINDOW_UNITS,
                activation_checkpointing: ActivationCheckpointing::None,
            };
            let model = Llama::new(&config(&run), compute, 1).expect("the configuration is legal");
            let mut optimizer =
                AdamW::new(model.parameters(), &run.optimizer).expect("the configuration is legal");
            let tokens_btk = tokens_btk(patch_size);
            group.throughput(Throughput::Elements(tokens_btk.numel() as u64));
            let mut losses = Vec::new();
            group.bench_function(format!("{dtype_name}/K={patch_size}"), |bencher| {
                bencher.iter(|| {
                    let batch = std::iter::once(Ok::<_, ShimError>(tokens_btk.shallow_clone()));
                    let output = train_step(&model, &mut optimizer, batch, 1, RATE)
                        .expect("libtorch computes");
                    losses.push(black_box(output.read()).loss);
                });
            });
            if let [first, .., last] = losses[..] {
                assert!(last < first, "the loss rose: {losses:?}");
            }
        }
    }
}

criterion_group!(benches, step);
criterion_main!(benches);
