//! The estimates of `plan-memory` for a step, against the tensors alive in one.

use schemas::run::{ActivationCheckpointing, Dtype, ModelConfig};
use tch::{Device, Kind, Tensor};
use trainer::cost::memory::{MemoryEstimate, StepShape};
use trainer::model::architecture::PatchMaps;
use trainer::model::llama::{Compute, Llama};
use trainer::shim::ShimError;
use trainer::shim::memory::peak_bytes;
use trainer::step::adamw::AdamW;
use trainer::step::train_step;

use crate::support::models::{adamw_config, golden_config};

/// Largest allowed difference between estimate and measurement.
const TOLERANCE: f64 = 0.1;

fn shape() -> StepShape {
    StepShape {
        model: ModelConfig { vocab_size: 512, num_hidden_layers: 6, ..golden_config() },
        maps: PatchMaps { patch_size: 4, input: false, output: false },
        windows: 8,
        units: 64,
        dtype: Dtype::Bf16,
        checkpointing: ActivationCheckpointing::None,
        is_composed: false,
    }
}

/// Bytes of tensors at the peak of two complete steps.
fn measured(shape: &StepShape) -> u64 {
    let compute = Compute {
        dtype: shape.dtype,
        device: Device::Cpu,
        position_count: shape.units,
        activation_checkpointing: shape.checkpointing,
    };
    // With AMX and several threads oneDNN keeps partial sums of its own, up to 2.5 MB here, which
    // the estimate leaves out.
    tch::set_num_threads(1);
    let steps = || {
        let model = Llama::zeroed_with(&shape.model, compute, shape.maps).unwrap();
        let mut optimizer = AdamW::new(model.parameters(), &adamw_config()).unwrap();
        let sizes = [shape.windows, shape.units, shape.maps.patch_size];
        let sizes = sizes.map(|size| i64::try_from(size).unwrap());
        for _ in 0..2 {
            let vocab_size = i64::try_from(shape.model.vocab_size).unwrap();
            let tokens_btk = Tensor::randint(vocab_size, sizes, (Kind::Int64, Device::Cpu));
            let batch = std::iter::once(Ok::<_, ShimError>(tokens_btk));
            train_step(&model, &mut optimizer, batch, 1, 1e-3).unwrap();
        }
    };
    peak_bytes(steps).unwrap().1
}

fn check(name: &str, change: impl Fn(&mut StepShape)) {
    use ActivationCheckpointing::{Attention, Block, None};
    for dtype in [Dtype::Fp32, Dtype::Bf16] {
        for checkpointing in [None, Attention, Block] {
            let mut shape = StepShape { dtype, checkpointing, ..shape() };
            change(&mut shape);
            let (planned, found) = (MemoryEstimate::new(&shape), measured(&shape));
            let ratio = planned.total() as f64 / found as f64;
            assert!(
                (ratio - 1.0).abs() <= TOLERANCE,
                "{name}, {dtype:?}, {checkpointing:?}: \
                 {} planned, {found} measured, {ratio:.3}: {planned:?}",
                planned.total(),
            );
        }
    }
}

#[test]
fn the_sum_is_what_lives_where_activations_are_most() {
    check("activations", |_| ());
}

#[test]
fn the_sum_is_what_lives_where_the_vocabulary_is_large() {
    check("vocabulary", |shape| shape.model.vocab_size = 32_000);
}

#[test]
fn the_sum_is_what_lives_with_grouped_heads_and_a_tied_head() {
    check("grouped, tied", |shape| {
        shape.model.num_key_value_heads = 1;
        shape.model.tie_word_embeddings = true;
    });
}

#[test]
fn the_sum_is_what_lives_at_token_level_with_one_window() {
    check("tokens", |shape| (shape.maps.patch_size, shape.windows) = (1, 1));
}

#[test]
fn the_sum_is_what_lives_with_the_maps_of_a_phase() {
    check("input map", |shape| shape.maps.input = true);
    check("output map", |shape| shape.maps.output = true);
}
