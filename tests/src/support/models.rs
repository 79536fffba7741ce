//! The golden model, and tensors compared.

use schemas::run::{
    ActivationCheckpointing, Dtype, ModelConfig, Nonfinite, OptimizerConfig, OptimizerKind,
};
use tch::{Device, Kind, Tensor};
use trainer::checkpoint::tensor_file::TensorFile;
use trainer::model::llama::{Compute, Llama};

use crate::support::inputs::fixtures;

/// The named tensors of one golden file.
pub(crate) struct Golden(pub(crate) Vec<(String, Tensor)>);

impl Golden {
    pub(crate) fn open(name: &str) -> Golden {
        let path = fixtures().join("golden").join(name);
        Golden(TensorFile::open(&path).unwrap().read_all().unwrap())
    }

    pub(crate) fn get(&self, name: &str) -> &Tensor {
        let found = self.0.iter().find(|(other, _)| other == name);
        &found.unwrap_or_else(|| panic!("no golden tensor {name}")).1
    }
}

/// The architecture of the golden model.
pub(crate) fn golden_config() -> ModelConfig {
    ModelConfig {
        vocab_size: 256,
        hidden_size: 64,
        intermediate_size: 172,
        num_hidden_layers: 2,
        num_attention_heads: 4,
        num_key_value_heads: 4,
        rms_norm_eps: 1e-6,
        rope_theta: 10000.0,
        tie_word_embeddings: false,
        initializer_range: 0.02,
    }
}

/// 16 positions on the CPU.
pub(crate) fn on_cpu(dtype: Dtype) -> Compute {
    let activation_checkpointing = ActivationCheckpointing::None;
    Compute { dtype, device: Device::Cpu, position_count: 16, activation_checkpointing }
}

/// The activations a training pass may recompute instead of keeping.
pub(crate) const RECOMPUTING: [ActivationCheckpointing; 2] =
    [ActivationCheckpointing::Attention, ActivationCheckpointing::Block];

/// The golden model: weights of `weights.safetensors`.
pub(crate) fn golden_model(dtype: Dtype) -> Llama {
    golden_model_with(on_cpu(dtype))
}

pub(crate) fn golden_model_with(compute: Compute) -> Llama {
    let model = Llama::zeroed(&golden_config(), compute).unwrap();
    let weights = Golden::open("weights.safetensors");
    assert_eq!(weights.0.len(), model.parameters().iter().count());
    let _no_grad = tch::no_grad_guard();
    for parameter in model.parameters().iter() {
        parameter.leaf().shallow_clone().copy_(weights.get(parameter.name()));
    }
    model
}

/// The paper's AdamW.
pub(crate) fn adamw_config() -> OptimizerConfig {
    OptimizerConfig {
        kind: OptimizerKind::Adamw,
        betas: [0.9, 0.95],
        eps: 1e-8,
        weight_decay: 0.1,
        clip_norm: 1.0,
        nonfinite: Nonfinite::Stop,
        spike: None,
    }
}

/// Ids below 256 that depend on `seed` alone, as `[windows, 16, patch_size]`.
pub(crate) fn tokens_btk(windows: i64, patch_size: i64, seed: u64) -> Tensor {
    let mut state = seed;
    let ids: Vec<i64> = (0..windows * 16 * patch_size)
        .map(|_| {
            state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            i64::from((state >> 56) as u8)
        })
        .collect();
    Tensor::from_slice(&ids).view([windows, 16, patch_size])
}

pub(crate) fn max_abs(tensor: &Tensor) -> f64 {
    tensor.abs().max().double_value(&[])
}

#[track_caller]
pub(crate) fn assert_close(name: &str, found: &Tensor, expected: &Tensor, tolerance: f64) {
    assert_eq!(found.size(), expected.size(), "{name}");
    let difference = max_abs(&(found.to_kind(Kind::Double) - expected.to_kind(Kind::Double)));
    assert!(difference <= tolerance, "{name} differs by {difference:e}, tolerance {tolerance:e}");
}
