//! The laws of activation checkpointing: recomputed values are the same, nothing else is kept, and
//! failures are errors.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use schemas::run::{ActivationCheckpointing, Dtype, ModelConfig};
use tch::{Device, Kind, Tensor};
use trainer::model::architecture::PatchMaps;
use trainer::model::eval::{self, EvalShape};
use trainer::model::generate::{self, Sampling};
use trainer::model::llama::{Compute, Llama};
use trainer::shim::checkpoint::checkpoint;
use trainer::shim::memory::peak_bytes;

use crate::support::models::{
    Golden, RECOMPUTING, assert_close, golden_config, golden_model_with, max_abs, on_cpu,
    tokens_btk,
};

fn compute(dtype: Dtype, activation_checkpointing: ActivationCheckpointing) -> Compute {
    Compute { activation_checkpointing, ..on_cpu(dtype) }
}

/// Losses of two micro-batches, and the flat gradient of both.
fn two_passes(model: &Llama, patch_size: i64) -> [Tensor; 3] {
    let losses = [1, 2].map(|seed| {
        let loss = model.loss(&tokens_btk(2, patch_size, seed));
        loss.backward();
        loss.detach()
    });
    let [first, second] = losses;
    [first, second, model.parameters().gradients().copy()]
}

/// Whether the bits are the same, those of zeros and NaN included.
fn same_bits(a: &Tensor, b: &Tensor) -> bool {
    a.view_dtype(Kind::Int).equal(&b.view_dtype(Kind::Int))
}

/// Grouped queries, and one block more than the two at the ends.
fn grouped() -> ModelConfig {
    ModelConfig { num_key_value_heads: 2, num_hidden_layers: 3, ..golden_config() }
}

fn bits_are_those_without_it(threads: i32) {
    // Of this thread alone.
    tch::set_num_threads(threads);
    let all_maps = PatchMaps { patch_size: 4, input: true, output: true };
    for dtype in [Dtype::Fp32, Dtype::Bf16] {
        for (patch_size, config, maps) in [
            (1, golden_config(), PatchMaps::NONE),
            (4, golden_config(), PatchMaps::NONE),
            (1, grouped(), PatchMaps::NONE),
            (4, grouped(), all_maps),
        ] {
            let passes = |setting| {
                let model = Llama::new(&config, compute(dtype, setting), 5).unwrap();
                two_passes(&model.with_maps(maps, 6).unwrap(), patch_size)
            };
            let expected = passes(ActivationCheckpointing::None);
            for setting in RECOMPUTING {
                let same = passes(setting).iter().zip(&expected).all(|(a, b)| same_bits(a, b));
                assert!(same, "{setting:?}, {dtype:?}, K = {patch_size}, {threads} threads");
            }
        }
    }
}

#[test]
fn loss_and_gradients_have_the_same_bits_on_one_thread() {
    bits_are_those_without_it(1);
}

#[test]
fn loss_and_gradients_have_the_same_bits_on_two_threads() {
    bits_are_those_without_it(2);
}

#[test]
fn golden_gradients_agree() {
    for patch_size in [1, 4] {
        let golden = Golden::open(&format!("k{patch_size}_grads.safetensors"));
        let io = Golden::open(&format!("k{patch_size}_io.safetensors"));
        for setting in RECOMPUTING {
            let model = golden_model_with(compute(Dtype::Fp32, setting));
            let loss = model.loss(&io.get("input_ids").view([2, -1, patch_size]));
            loss.backward();
            assert_close("loss", &loss, io.get("loss"), 1e-5);
            for parameter in model.parameters().iter() {
                let expected = golden.get(parameter.name());
                let found = parameter.view_of(model.parameters().gradients());
                assert_close(parameter.name(), &found, expected, 1e-5 * max_abs(expected) + 1e-7);
            }
        }
    }
}

#[test]
fn without_gradients_it_changes_nothing() {
    let ids: Vec<u32> = (0..64).map(|at| at * 7 % 256).collect();
    let shape = EvalShape { window_units: 16, patch_size: 1, micro_batch_windows: 2 };
    let outcome = |setting| {
        let model = golden_model_with(compute(Dtype::Fp32, setting));
        let loss = eval::evaluate(&model, &ids, shape, None).unwrap().loss;
        let text = generate::generate(&model, &ids[..4], 8, &[], Sampling::Greedy).unwrap();
        let gradients = model.parameters().gradients();
        assert!(gradients.equal(&gradients.zeros_like()));
        (loss.to_bits(), text)
    };
    let expected = outcome(ActivationCheckpointing::None);
    for setting in RECOMPUTING {
        assert_eq!(outcome(setting), expected, "{setting:?}");
    }
}

/// The most memory a training pass of 8 blocks holds: with `block`, two tensors of the residual
/// stream's size for each block.
#[test]
fn the_peak_of_memory_falls() {
    let config = ModelConfig { num_hidden_layers: 8, ..golden_config() };
    for dtype in [Dtype::Fp32, Dtype::Bf16] {
        let peak = |setting| {
            let model = Llama::new(&config, compute(dtype, setting), 1).unwrap();
            let tokens_btk = tokens_btk(32, 4, 1);
            let ((), bytes) = peak_bytes(|| model.loss(&tokens_btk).backward()).unwrap();
            bytes as f64
        };
        let [none, attention, block] = [
            ActivationCheckpointing::None,
            ActivationCheckpointing::Attention,
            ActivationCheckpointing::Block,
        ]
        .map(peak);
        assert!(attention < 0.8 * none, "{dtype:?}: {attention} of {none} bytes");
        assert!(block < 0.4 * none, "{dtype:?}: {block} of {none} bytes");
    }
}

fn leaf() -> Tensor {
    Tensor::from_slice(&[1f32, 2.0, 3.0]).set_requires_grad(true)
}

#[test]
fn an_output_may_be_an_input_and_may_go_unused() {
    let (x, held) = (leaf(), leaf());
    // An input with a history of its own.
    let y = &x * 2.0;
    let parameter = held.shallow_clone();
    let [same, product, _unused] = checkpoint(&[&y], move |inputs| {
        let [y] = inputs else { panic!("one input") };
        [y.shallow_clone(), y * &parameter, y.exp()]
    })
    .unwrap();
    assert!(same.equal(&y) && product.requires_grad());
    (same + product).sum(Kind::Float).backward();
    assert!(x.grad().equal(&Tensor::from_slice(&[4f32, 6.0, 8.0])), "2 (1 + p)");
    assert!(held.grad().equal(&Tensor::from_slice(&[2f32, 4.0, 6.0])), "2 x");
}

#[test]
fn inputs_without_a_gradient_have_none_and_do_not_stop_that_of_others() {
    let (x, held) = (leaf(), leaf());
    let (ids, parameter) = (Tensor::from_slice(&[2_i64, 0]), held.shallow_clone());
    let pick = move |inputs: &[Tensor]| {
        [inputs[0].index_select(0, &inputs[1]) * 2.0 + &parameter.narrow(0, 0, 2)]
    };
    let [picked] = checkpoint(&[&x, &ids], pick).unwrap();
    picked.sum(Kind::Float).backward();
    assert!(x.grad().equal(&Tensor::from_slice(&[2f32, 0.0, 2.0])));
    assert!(held.grad().equal(&Tensor::from_slice(&[1f32, 1.0, 0.0])));
    // Without such an input the body is called in the ordinary way: the tensors it holds still get
    // their gradients.
    let parameter = held.shallow_clone();
    let [product] = checkpoint(&[&x.detach()], move |inputs| [&inputs[0] * &parameter]).unwrap();
    product.sum(Kind::Float).backward();
    assert!(held.grad().equal(&Tensor::from_slice(&[2f32, 3.0, 3.0])));
}

/// Records when it is dropped, and panics at the call with this number.
struct Witness {
    calls: Arc<AtomicUsize>,
    ends: Arc<AtomicUsize>,
    panics_at: usize,
}

impl Witness {
    fn new(panics_at: usize) -> (Witness, Arc<AtomicUsize>, Arc<AtomicUsize>) {
        let (calls, ends) = (Arc::default(), Arc::default());
        (Witness { calls: Arc::clone(&calls), ends: Arc::clone(&ends), panics_at }, calls, ends)
    }

    fn call(&self, inputs: &[Tensor]) -> [Tensor; 1] {
        let call = 1 + self.calls.fetch_add(1, Ordering::Relaxed);
        assert!(call != self.panics_at, "call {call} went\0wrong");
        [&inputs[0] * 2.0]
    }
}

impl Drop for Witness {
    fn drop(&mut self) {
        self.ends.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn a_body_is_called_twice_and_dropped_once_with_the_graph() {
    let (witness, calls, ends) = Witness::new(0);
    let count = |of: &AtomicUsize| of.load(Ordering::Relaxed);
    let x = leaf();
    let [y] = checkpoint(&[&x], move |inputs| witness.call(inputs)).unwrap();
    assert_eq!((count(&calls), count(&ends)), (1, 0));
    let loss = y.sum(Kind::Float);
    loss.backward();
    assert_eq!(count(&calls), 2);
    let again = loss.f_backward().unwrap_err();
    assert!(again.to_string().contains("second time"), "{again}");
    assert!(x.grad().equal(&Tensor::from_slice(&[2f32, 2.0, 2.0])));
    drop((y, loss));
    assert_eq!((count(&calls), count(&ends)), (2, 1));
    let (witness, calls, ends) = Witness::new(0);
    drop(checkpoint(&[&x], move |inputs| witness.call(inputs)).unwrap());
    assert_eq!((count(&calls), count(&ends)), (1, 1), "without a backward pass, too");
}

#[test]
fn a_panic_of_the_body_is_an_error_of_either_pass() {
    let (witness, _, ends) = Witness::new(1);
    let error = checkpoint(&[&leaf()], move |inputs| witness.call(inputs)).unwrap_err();
    assert_eq!(error.to_string(), "libtorch: activation checkpointing: call 1 wentwrong");
    assert_eq!(ends.load(Ordering::Relaxed), 1);

    let (witness, _, ends) = Witness::new(2);
    let [y] = checkpoint(&[&leaf()], move |inputs| witness.call(inputs)).unwrap();
    let error = y.sum(Kind::Float).f_backward().unwrap_err();
    assert!(error.to_string().contains("call 2 wentwrong"), "{error}");
    drop(y);
    assert_eq!(ends.load(Ordering::Relaxed), 1);

    // An error of libtorch is a panic of tch.
    let mismatched =
        |inputs: &[Tensor]| [inputs[0].matmul(&Tensor::ones([5, 5], (Kind::Float, Device::Cpu)))];
    let error = checkpoint(&[&leaf()], mismatched).unwrap_err();
    assert!(error.message.contains("shapes cannot be multiplied"), "{error}");
}
