//! The first checks for a machine with a GPU: `just test-cuda`, in the order of the tests' names.
//! Without a GPU each test prints that it was skipped.
//!
//! `PATCHMILL_TEST_DEVICE=cpu` runs the tests that need no GPU features on the CPU, which tests the
//! tests.

use std::path::Path;
use std::time::Instant;

use pipeline::run_file;
use schemas::run::{ActivationCheckpointing, Dtype, ModelConfig};
use tch::{Device, Kind, Tensor};
use trainer::data::batch::BatchShape;
use trainer::data::prefetch::Prefetcher;
use trainer::device;
use trainer::device::attention;
use trainer::device::cuda;
use trainer::model::llama::{Compute, Llama};
use trainer::model::patch;
use trainer::ranks::environment::Rendezvous;
use trainer::ranks::process_group::{ProcessGroup, WaitLimits};
use trainer::shim::{self, ShimError};
use trainer::step::adamw::AdamW;
use trainer::step::graph::Stepper;
use trainer::step::{StepReport, train_step};

use crate::support::models::{
    Golden, RECOMPUTING, adamw_config, assert_close, golden_model_with, max_abs, on_cpu, tokens_btk,
};

/// The first GPU, or the device the environment names in its place; `None`, and a message, without
/// either.
fn test_device() -> Option<Device> {
    if std::env::var("PATCHMILL_TEST_DEVICE").is_ok_and(|name| name == "cpu") {
        return Some(Device::Cpu);
    }
    gpu().map(Device::Cuda)
}

fn gpu() -> Option<usize> {
    cuda::set_defaults().unwrap();
    if tch::Cuda::is_available() {
        return Some(0);
    }
    eprintln!("skipped: there is no GPU: {}", cuda::why_missing());
    None
}

fn on_host(tensor: &Tensor) -> Tensor {
    tensor.to_device(Device::Cpu)
}

fn random_on(device: Device, shape: &[i64], seed: u64) -> Tensor {
    let mut values = Tensor::empty(shape, (Kind::Float, Device::Cpu));
    shim::fill_normal(&mut values, 1.0, seed).unwrap();
    values.to_device(device)
}

/// Loss and gradients of the golden batch of `patch_size`, on the host.
fn golden_pass(compute: Compute, patch_size: i64) -> (Tensor, Vec<(String, Tensor)>) {
    let device = compute.device;
    let io = Golden::open(&format!("k{patch_size}_io.safetensors"));
    let model = golden_model_with(compute);
    let loss = model.loss(
        &io.get("input_ids").to_device(device).to_kind(Kind::Int64).view([2, -1, patch_size]),
    );
    loss.backward();
    let gradients = model.parameters().gradients();
    let views = model
        .parameters()
        .iter()
        .map(|parameter| (parameter.name().to_owned(), on_host(&parameter.view_of(gradients))));
    (on_host(&loss.detach()), views.collect())
}

#[test]
fn a_golden_loss_and_gradients_agree_in_fp32() {
    let Some(device) = test_device() else { return };
    let recomputing = RECOMPUTING.map(|setting| (4, setting));
    let keeping = [1, 2, 4, 8].map(|patch_size| (patch_size, ActivationCheckpointing::None));
    for (patch_size, activation_checkpointing) in keeping.into_iter().chain(recomputing) {
        let golden = Golden::open(&format!("k{patch_size}_grads.safetensors"));
        let io = Golden::open(&format!("k{patch_size}_io.safetensors"));
        let compute = Compute { device, activation_checkpointing, ..on_cpu(Dtype::Fp32) };
        let (loss, gradients) = golden_pass(compute, patch_size);
        assert_close("loss", &loss, io.get("loss"), 1e-5);
        for (name, found) in &gradients {
            let expected = golden.get(name);
            assert_close(name, found, expected, 1e-5 * max_abs(expected) + 1e-7);
        }
    }
}

#[test]
fn b_golden_loss_and_gradients_agree_in_bf16_within_the_measured_spread() {
    let Some(device) = test_device() else { return };
    for patch_size in [1, 4] {
        let golden = Golden::open(&format!("k{patch_size}_grads.safetensors"));
        let io = Golden::open(&format!("k{patch_size}_io.safetensors"));
        let (loss, gradients) = golden_pass(Compute { device, ..on_cpu(Dtype::Bf16) }, patch_size);
        assert_close("loss", &loss, io.get("loss"), 5e-3);
        for (name, found) in &gradients {
            let (found, expected) = (found.flatten(0, -1), golden.get(name).flatten(0, -1));
            let cosine = found.dot(&expected) / (found.norm() * expected.norm());
            assert!(cosine.double_value(&[]) >= 0.999, "{name}: {cosine}");
        }
    }
}

/// Two steps of two micro-batches.
fn steps_by(stepper: &mut Stepper, model: &Llama, optimizer: &mut AdamW) -> Vec<StepReport> {
    let device = model.compute().device;
    let step = |seed: u64| {
        let batches = [seed, 100 + seed].map(|seed| tokens_btk(2, 4, seed).to_device(device));
        let batches = batches.into_iter().map(Ok::<_, ShimError>);
        stepper
            .train_step(model, optimizer, batches, 2, 1e-3, &ProcessGroup::single())
            .unwrap()
            .read()
    };
    (0..4).map(step).collect()
}

#[test]
fn c_an_update_that_is_not_finite_changes_nothing() {
    let Some(device) = test_device() else { return };
    let model = golden_model_with(Compute { device, ..on_cpu(Dtype::Fp32) });
    let mut optimizer = AdamW::new(model.parameters(), &adamw_config()).unwrap();
    let mut step = |seed| {
        let batch = std::iter::once(Ok::<_, ShimError>(tokens_btk(2, 1, seed).to_device(device)));
        let report = train_step(&model, &mut optimizer, batch, 1, 1e-3).unwrap().read();
        let state = optimizer.export(model.parameters()).into_iter().map(|(_, tensor)| tensor);
        let state = state.chain([model.parameters().masters().shallow_clone()]);
        (report, state.map(|tensor| tensor.copy()).collect::<Vec<Tensor>>())
    };
    assert!(step(1).0.updated);
    let gain = model.parameters().get("model.norm.weight").unwrap().leaf();
    let _ = tch::no_grad(|| gain.shallow_clone().narrow(0, 0, 1).fill_(f64::INFINITY));
    let (first, before) = step(2);
    let (second, after) = step(3);
    assert!(!first.updated && !second.updated);
    assert!(before.iter().zip(&after).all(|(a, b)| a.equal(b)));
}

#[test]
fn d_embedding_a_patch_is_the_mean_of_its_tokens_forward_and_backward() {
    let Some(device) = test_device() else { return };
    let tokens_btk = tokens_btk(2, 4, 3).to_device(device);
    let gradient = |embed: &dyn Fn(&Tensor) -> Tensor| {
        let weight_vd = random_on(device, &[256, 24], 9).set_requires_grad(true);
        let emb_btd = embed(&weight_vd);
        (emb_btd.square() * random_on(device, &[16, 24], 4)).sum(Kind::Float).backward();
        (emb_btd.detach(), weight_vd.grad())
    };
    let found = gradient(&|weight_vd| patch::embed_patches(weight_vd, &tokens_btk, Kind::Float));
    let expected = gradient(&|weight_vd| {
        patch::fold_patches(&Tensor::embedding(weight_vd, &tokens_btk, -1, false, false))
    });
    assert_close("embedding", &found.0, &expected.0, 1e-6);
    assert_close("gradient", &found.1, &expected.1, 1e-5);
}

/// If the head's gradient were summed in bf16, each of 512 chunks would round the sum, and it would
/// be off by several percent.
#[test]
fn e_the_heads_gradient_is_summed_in_fp32_over_bf16_chunks() {
    let Some(device) = test_device() else { return };
    let x_nd = random_on(device, &[4096, 24], 1).to_kind(Kind::BFloat16);
    let y_nk = random_on(device, &[4096, 4], 2).abs().multiply_scalar(64.0).to_kind(Kind::Int64);
    let y_nk = y_nk.clamp_max(255);
    let w_vd = random_on(device, &[256, 24], 3).set_requires_grad(true);
    shim::linear_cross_entropy(&x_nd, &w_vd, &y_nk, 8).unwrap().backward();
    let found = w_vd.grad().to_kind(Kind::Double);

    let w_vd = w_vd.detach().to_kind(Kind::BFloat16).to_kind(Kind::Double).set_requires_grad(true);
    let logp_nv = x_nd.to_kind(Kind::Double).matmul(&w_vd.tr()).log_softmax(-1, Kind::Double);
    (-logp_nv.gather(1, &y_nk, false).mean(Kind::Double)).backward();
    let off = (&found - w_vd.grad()).norm() / w_vd.grad().norm();
    assert!(off.double_value(&[]) < 4e-3, "off by {off}");
}

#[test]
fn f_a_replayed_graph_is_the_eager_step_bit_for_bit() {
    let Some(index) = gpu() else { return };
    let recomputing = RECOMPUTING.map(|setting| (Dtype::Bf16, setting));
    let keeping = [Dtype::Fp32, Dtype::Bf16].map(|dtype| (dtype, ActivationCheckpointing::None));
    for (dtype, activation_checkpointing) in keeping.into_iter().chain(recomputing) {
        let run = |cuda_graphs: bool| {
            let device = Device::Cuda(index);
            let compute = Compute { device, activation_checkpointing, ..on_cpu(dtype) };
            let model = golden_model_with(compute);
            let mut optimizer = AdamW::new(model.parameters(), &adamw_config()).unwrap();
            let mut stepper = Stepper::new(cuda_graphs, device).unwrap();
            assert_eq!(stepper.is_graphed(), cuda_graphs);
            let reports = steps_by(&mut stepper, &model, &mut optimizer);
            (reports, on_host(model.parameters().masters()))
        };
        let (eager, replayed) = (run(false), run(true));
        assert_eq!(eager.0, replayed.0, "{dtype:?}, {activation_checkpointing:?}");
        assert!(
            eager.1.equal(&replayed.1),
            "{dtype:?}, {activation_checkpointing:?}: weights differ"
        );
    }
}

#[test]
fn g_ids_sent_ahead_from_pinned_memory_are_those_of_the_corpus() {
    let Some(index) = gpu() else { return };
    for vocab_size in [1 << 16, 70_000] {
        let dir = tempfile::tempdir().unwrap();
        let spec = crate::loader::prefetch::spec(dir.path(), vocab_size, 4, 3);
        let shape = BatchShape { window_units: 16, patch_size: 4, vocab_size };
        let mut plain = Prefetcher::start(spec.clone(), shape, Device::Cpu).unwrap();
        let mut ahead = Prefetcher::start(spec, shape, Device::Cuda(index)).unwrap();
        while let Some((place, expected)) = plain.next_micro_batch().unwrap() {
            let (found_place, found) = ahead.next_micro_batch().unwrap().unwrap();
            assert_eq!(place, found_place);
            assert!(on_host(&found).equal(&expected), "{place:?}");
        }
        assert!(ahead.next_micro_batch().unwrap().is_none());
    }
}

#[test]
fn h_a_step_waits_for_nothing() {
    let Some(index) = gpu() else { return };
    for (dtype, patch_size, activation_checkpointing) in [
        (Dtype::Fp32, 1, ActivationCheckpointing::None),
        (Dtype::Bf16, 1, ActivationCheckpointing::None),
        (Dtype::Bf16, 4, ActivationCheckpointing::None),
        (Dtype::Bf16, 4, ActivationCheckpointing::Attention),
        (Dtype::Bf16, 4, ActivationCheckpointing::Block),
    ] {
        let device = Device::Cuda(index);
        let model =
            golden_model_with(Compute { device, activation_checkpointing, ..on_cpu(dtype) });
        let mut optimizer = AdamW::new(model.parameters(), &adamw_config()).unwrap();
        let tokens_btk = tokens_btk(2, patch_size, 1).to_device(Device::Cuda(index));
        let mut step = || {
            let batch = std::iter::once(Ok::<_, ShimError>(tokens_btk.shallow_clone()));
            train_step(&model, &mut optimizer, batch, 1, 1e-3).unwrap()
        };
        // Libraries initialize themselves.
        step().read();
        shim::cuda::forbid_waits(true).unwrap();
        // Panics where it waits.
        let output = step();
        shim::cuda::forbid_waits(false).unwrap();
        assert!(output.read().updated);
    }
}

/// FLOPs of a forward and a backward pass for each unit: six for each weight of a product, plus
/// attention's two products over all T positions (PaLM's count) or over those a causal mask leaves.
fn flops_per_unit(config: &ModelConfig, parameter_count: u64, units: u64, causal: bool) -> f64 {
    // The embedding is a look-up.
    let products = parameter_count - config.vocab_size * config.hidden_size;
    let attention = 12 * config.num_hidden_layers * config.hidden_size * units;
    6.0 * products as f64 + attention as f64 * if causal { 0.5 } else { 1.0 }
}

/// For the 370M preset, with 8 micro-batches of its 64 or 256 a step: prints the figures, and
/// asserts those any GPU reaches.
#[test]
fn i_speed_of_the_370m_preset_in_both_phases() {
    let Some(index) = gpu() else { return };
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../trainer/presets/370m-360b.toml");
    let config = run_file::Run::load(&path, &[]).unwrap().file;
    let (gpu, units) = (Device::Cuda(index), config.plan.window_units);
    let properties = shim::cuda::properties(index).unwrap();
    let compute = Compute {
        dtype: config.train.dtype,
        device: gpu,
        position_count: units,
        activation_checkpointing: ActivationCheckpointing::None,
    };
    let peak = cuda::peak(&properties.name, compute.dtype);
    eprintln!("{properties:?}, peak {peak:?}");
    let shape = attention::AttentionShape {
        windows: config.train.micro_batch_windows.cast_signed(),
        heads: config.model.num_attention_heads.cast_signed(),
        key_value_heads: config.model.num_key_value_heads.cast_signed(),
        units: units.cast_signed(),
        head_width: (config.model.hidden_size / config.model.num_attention_heads).cast_signed(),
        kind: device::kind(compute.dtype),
    };
    eprintln!("{}", attention::choose(shape, gpu).unwrap().unwrap().text());
    for (patch_size, cuda_graphs) in [(4, false), (1, false), (4, true), (1, true)] {
        let model = Llama::new(&config.model, compute, 1).unwrap();
        let mut optimizer = AdamW::new(model.parameters(), &config.optimizer).unwrap();
        let mut stepper = Stepper::new(cuda_graphs, gpu).unwrap();
        let size = [shape.windows, shape.units, patch_size];
        let vocab_size = config.model.vocab_size.cast_signed();
        let ids = Tensor::randint(vocab_size, size, (Kind::Int64, gpu));
        let mut step = || {
            let batches = (0..8).map(|_| Ok::<_, ShimError>(ids.shallow_clone()));
            stepper
                .train_step(&model, &mut optimizer, batches, 8, 3e-4, &ProcessGroup::single())
                .unwrap()
        };
        step().read();
        shim::cuda::reset_peaks(index).unwrap();
        let started = Instant::now();
        for _ in 0..4 {
            step();
        }
        let report = step().read();
        let units_per_sec =
            5.0 * 8.0 * (shape.windows * shape.units) as f64 / started.elapsed().as_secs_f64();
        let mfu = |causal| {
            let flops =
                flops_per_unit(&config.model, model.parameters().scalar_count(), units, causal);
            peak.map_or(f64::NAN, |peak| 100.0 * units_per_sec * flops / peak.flops_per_sec)
        };
        eprintln!(
            "370M K = {patch_size}, graphs {cuda_graphs}: {:.0} tokens/s, \
             MFU {:.1} % (PaLM), {:.1} % (causal), peak {} MiB",
            units_per_sec * patch_size as f64,
            mfu(false),
            mfu(true),
            shim::cuda::memory(index).unwrap().allocated_peak_bytes >> 20
        );
        assert!(report.updated && 0.0 < units_per_sec);
    }
}

/// A group of one meets like a group of many; NCCL moves its tensors, in the stream and without a
/// wait of the host.
#[test]
fn j_a_gpu_takes_part_in_collectives() {
    let Some(device) = test_device() else { return };
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let host = "127.0.0.1".to_owned();
    let (is_served, attempt, variables) = (false, String::new(), ["RANK", "WORLD_SIZE"]);
    let (rank, world_size, local_rank) = (0, 1, 0);
    let rendezvous =
        Rendezvous { rank, world_size, local_rank, host, port, is_served, attempt, variables };
    let group = ProcessGroup::init(
        &rendezvous,
        Some(std::os::fd::IntoRawFd::into_raw_fd(listener)),
        WaitLimits::default(),
    )
    .unwrap();
    let expected = random_on(device, &[1 << 20], 1);
    let mut tensor = expected.copy();
    group.all_reduce(&mut tensor).unwrap();
    group.broadcast(&mut tensor).unwrap();
    assert_eq!(max_abs(&on_host(&(tensor - expected))), 0.0);
    assert!(group.any_rank(true).unwrap() && !group.any_rank(false).unwrap());
}
