//! One training step against the matrix products that it can't do without.
//!
//!     step_account --vocab 32000 --dtype bf16 --patch-size 4 --steps 10
//!
//! Prints one JSON object: the step's time, split; and the time of the model's own products, alone, interleaved with
//! the steps.

#![expect(clippy::print_stdout, reason = "a program that reports")]

use std::time::Instant;

use clap::Parser;
use schemas::run::{Dtype, ModelConfig, Nonfinite, OptimizerConfig, OptimizerKind};
use serde_json::json;
use tch::{Device, Kind, Tensor};
use trainer::model::{Compute, Llama};
use trainer::optim::AdamW;
use trainer::shim::ShimError;
use trainer::step::train_step;

#[derive(clap::Parser)]
struct Args {
    #[arg(long, default_value_t = 32_000)]
    vocab: u64,
    #[arg(long, default_value = "bf16")]
    dtype: String,
    #[arg(long, default_value_t = 4)]
    patch_size: i64,
    #[arg(long, default_value_t = 10)]
    steps: usize,
    #[arg(long, default_value_t = 8)]
    windows: i64,
    #[arg(long, default_value_t = 256)]
    window_units: i64,
    #[arg(long, default_value_t = 2)]
    threads: i32,
    /// Leave the allocator as it is.
    #[arg(long)]
    map_anew: bool,
    /// Print a profile of that many more steps.
    #[arg(long, default_value_t = 0)]
    profile: usize,
}

fn median(values: &mut [f64]) -> [f64; 3] {
    values.sort_by(f64::total_cmp);
    [values[values.len() / 2], values[0], values[values.len() - 1]]
}

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    if !args.map_anew {
        trainer::shim::keep_freed_memory()?;
    }
    tch::set_num_threads(args.threads);
    let config = ModelConfig {
        vocab_size: args.vocab,
        hidden_size: 256,
        intermediate_size: 688,
        num_hidden_layers: 6,
        num_attention_heads: 4,
        num_key_value_heads: 4,
        rms_norm_eps: 1e-6,
        rope_theta: 10000.0,
        tie_word_embeddings: false,
        initializer_range: 0.02,
    };
    let dtype = if args.dtype == "fp32" { Dtype::Fp32 } else { Dtype::Bf16 };
    let compute = Compute { dtype, device: Device::Cpu, position_count: args.window_units as u64 };
    let model = Llama::new(&config, compute, 1)?;
    let optimizer_config = OptimizerConfig {
        kind: OptimizerKind::Adamw,
        betas: [0.9, 0.95],
        eps: 1e-8,
        weight_decay: 0.1,
        clip_norm: 1.0,
        nonfinite: Nonfinite::Stop,
        spike: None,
    };
    let mut optimizer = AdamW::new(model.parameters(), &optimizer_config)?;
    let shape = [args.windows, args.window_units, args.patch_size];
    let batches: Vec<Tensor> = (0..4)
        .map(|_| Tensor::randint(args.vocab as i64, shape, (Kind::Int64, Device::Cpu)))
        .collect();
    let mut products = Products::new(
        &args,
        &config,
        if args.dtype == "fp32" { Kind::Float } else { Kind::BFloat16 },
    );
    let (mut steps_ms, mut products_ms) = (Vec::new(), Vec::new());
    for step in 0..args.steps + 3 {
        let started = Instant::now();
        let batch = batches[step % 4].shallow_clone();
        let output = train_step(
            &model,
            &mut optimizer,
            std::iter::once(Ok::<_, ShimError>(batch)),
            1,
            3e-4,
        )?;
        let report = output.read();
        let step_ms = started.elapsed().as_secs_f64() * 1e3;
        anyhow::ensure!(report.updated);
        let started = Instant::now();
        products.run();
        let product_ms = started.elapsed().as_secs_f64() * 1e3;
        if step >= 3 {
            steps_ms.push(step_ms);
            products_ms.push(product_ms);
        }
    }
    let (step, product) = (median(&mut steps_ms), median(&mut products_ms));
    let tokens = (args.windows * args.window_units * args.patch_size) as f64;
    println!(
        "{}",
        json!({"vocab": args.vocab, "dtype": args.dtype, "patch_size": args.patch_size,
        "step_ms": step, "products_ms": product, "share": product[0] / step[0],
        "tokens_per_sec": tokens / step[0] * 1e3, "peak_mb": peak_mb()})
    );
    let (_, rows) = trainer::shim::profile(|| {
        for step in 0..args.profile {
            let batch = batches[step % 4].shallow_clone();
            let output = train_step(
                &model,
                &mut optimizer,
                std::iter::once(Ok::<_, ShimError>(batch)),
                1,
                3e-4,
            );
            output.expect("libtorch computes").read();
        }
    })?;
    for row in rows.iter().take(30) {
        println!(
            "{:>9.2} ms {:>6} {}",
            row.seconds * 1e3 / args.profile as f64,
            row.calls as usize / args.profile,
            row.name
        );
    }
    Ok(())
}

fn peak_mb() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap_or("0 0");
    line.split_whitespace().nth(1).and_then(|kb| kb.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}

struct Products {
    /// (x [n, i], w [o, i], g [n, o], how often)
    list: Vec<(Tensor, Tensor, Tensor, u64)>,
}

impl Products {
    fn new(args: &Args, config: &ModelConfig, kind: Kind) -> Products {
        let n = args.windows * args.window_units;
        let (d, f, v) =
            (config.hidden_size as i64, config.intermediate_size as i64, config.vocab_size as i64);
        let layers = config.num_hidden_layers;
        let chunk = ((1i64 << 24) / v).max(128);
        let rows = args.windows * (args.window_units - 1);
        let make = |n: i64, i: i64, o: i64, count: u64| {
            let options = (kind, Device::Cpu);
            (
                Tensor::randn([n, i], options),
                Tensor::randn([o, i], options),
                Tensor::randn([n, o], options),
                count,
            )
        };
        let mut list = vec![
            make(n, d, 3 * d, layers),
            make(n, d, d, layers),
            make(n, d, 2 * f, layers),
            make(n, f, d, layers),
        ];
        if rows / chunk > 0 {
            list.push(make(chunk, d, v, (rows / chunk) as u64));
        }
        if rows % chunk > 0 {
            list.push(make(rows % chunk, d, v, 1));
        }
        Products { list }
    }

    fn run(&mut self) {
        let _no_grad = tch::no_grad_guard();
        for (x, w, g, count) in &self.list {
            for _ in 0..*count {
                let _ = x.matmul(&w.tr());
                let _ = g.matmul(w);
                let _ = g.tr().matmul(x);
            }
        }
    }
}
