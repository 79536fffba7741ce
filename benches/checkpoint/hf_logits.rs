//! Logits of a model directory, for `hf_logits.sh` to compare with those of `transformers`.
//!
//! `hf_logits DIR OUT` loads the model in DIR and writes `input_ids` and `logits` to OUT.
//! `hf_logits --new KIND DIR` makes a small random model in DIR first; KIND is `plain` or
//! `grouped-tied`.
//!
//! **Invariant:** ids depend on the vocabulary alone, so both sides read the same text.

use std::path::Path;

use anyhow::{Context, Result, bail};
use schemas::run::{ActivationCheckpointing, Dtype, ModelConfig};
use tch::{Device, Tensor};
use trainer::checkpoint::hf_config::ModelNotes;
use trainer::checkpoint::tensor_file;
use trainer::checkpoint::weights;
use trainer::model::llama::{Compute, Llama};

const WINDOWS: i64 = 2;
const WINDOW_TOKENS_MAX: u64 = 256;

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--new", kind, dir] => make_model(kind, Path::new(dir)),
        [dir, out] => write_logits(Path::new(dir), Path::new(out)),
        _ => bail!("usage: hf_logits DIR OUT | hf_logits --new plain|grouped-tied DIR"),
    }
}

fn make_model(kind: &str, dir: &Path) -> Result<()> {
    let grouped_tied = match kind {
        "plain" => false,
        "grouped-tied" => true,
        other => bail!("kind is {other:?}, expected plain or grouped-tied"),
    };
    let config = ModelConfig {
        vocab_size: 4096,
        hidden_size: 256,
        intermediate_size: 688,
        num_hidden_layers: 6,
        num_attention_heads: 8,
        num_key_value_heads: if grouped_tied { 2 } else { 8 },
        rms_norm_eps: 1e-6,
        rope_theta: 10000.0,
        tie_word_embeddings: grouped_tied,
        initializer_range: 0.05, // wider than a real run's, so that logits spread
    };
    let compute = Compute {
        dtype: Dtype::Fp32,
        device: Device::Cpu,
        position_count: 512,
        activation_checkpointing: ActivationCheckpointing::None,
    };
    let model = Llama::new(&config, compute, 1)?;
    let notes = ModelNotes {
        position_count: 512,
        patch_size: 1,
        bos_token_id: Some(1),
        eos_token_ids: vec![2],
    };
    std::fs::create_dir(dir).with_context(|| format!("make {}", dir.display()))?;
    Ok(weights::save_model(dir, &model, &notes)?)
}

fn write_logits(dir: &Path, out: &Path) -> Result<()> {
    let (model, notes) = weights::load_model(dir, Dtype::Fp32, Device::Cpu)?;
    let window_tokens = i64::try_from(notes.position_count.min(WINDOW_TOKENS_MAX))?;
    let mut state = 1_u64;
    let ids: Vec<i64> = (0..WINDOWS * window_tokens)
        .map(|_| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            i64::try_from((state >> 33) % model.config().vocab_size).expect("an id fits")
        })
        .collect();
    let input_ids = Tensor::from_slice(&ids).view([WINDOWS, window_tokens]);
    let logits_btv = tch::no_grad(|| model.logits(&model.forward_hidden(&input_ids.unsqueeze(2))));
    let tensors = [("input_ids".to_owned(), input_ids), ("logits".to_owned(), logits_btv)];
    tensor_file::write(out, &tensors).with_context(|| format!("write {}", out.display()))
}
