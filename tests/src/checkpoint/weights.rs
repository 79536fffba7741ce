//! Hugging Face directories: ours read back, a foreign one reproduced, damaged ones refused.

use std::fs;
use std::path::Path;

use schemas::run::Dtype;
use tch::{Device, Kind};
use trainer::checkpoint::hf_config::ModelNotes;
use trainer::checkpoint::tensor_file;
use trainer::checkpoint::weights;
use trainer::model::eval::{self, EvalError, EvalShape};
use trainer::model::generate::{self, GenerateError, Sampling, Stop};
use trainer::model::llama::{KeyValueCache, Llama};

use crate::support::inputs::shared;
use crate::support::models::{assert_close, golden_config, golden_model, on_cpu, tokens_btk};

fn notes() -> ModelNotes {
    ModelNotes { position_count: 16, patch_size: 4, bos_token_id: Some(1), eos_token_ids: vec![2] }
}

fn load(dir: &Path) -> Result<(Llama, ModelNotes), weights::WeightsError> {
    weights::load_model(dir, Dtype::Fp32, Device::Cpu)
}

/// A model in a folder of its own.
fn saved(model: &Llama) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    weights::save_model(folder.path(), model, &notes()).unwrap();
    folder
}

#[test]
fn a_saved_model_loads_bit_for_bit_and_saves_to_the_same_bytes() {
    for tied in [false, true] {
        let mut config = golden_config();
        (config.tie_word_embeddings, config.num_key_value_heads) = (tied, 2);
        let model = Llama::new(&config, on_cpu(Dtype::Fp32), 3).unwrap();
        let folder = saved(&model);
        let (loaded, loaded_notes) = load(folder.path()).unwrap();
        assert_eq!((loaded.config(), loaded_notes), (&config, notes()));
        assert!(loaded.parameters().masters().equal(model.parameters().masters()));
        let again = saved(&loaded);
        for name in weights::MODEL_FILES {
            let [a, b] =
                [&folder, &again].map(|folder| fs::read(folder.path().join(name)).unwrap());
            assert!(a == b, "{name}");
        }
        let names = tensor_file::TensorFile::open(&folder.path().join("model.safetensors"))
            .unwrap()
            .names();
        assert_eq!(names.contains(&"lm_head.weight".to_owned()), !tied);
    }
}

#[test]
fn weights_of_half_precision_and_in_several_files_load() {
    let model = golden_model(Dtype::Fp32);
    let folder = saved(&model);
    let path = folder.path().join("model.safetensors");
    let tensors = tensor_file::TensorFile::open(&path).unwrap().read_all().unwrap();
    let halves: Vec<_> =
        tensors.into_iter().map(|(name, tensor)| (name, tensor.to_kind(Kind::BFloat16))).collect();
    fs::remove_file(&path).unwrap();
    let (first, second) = halves.split_at(7);
    tensor_file::write(&folder.path().join("model-1.safetensors"), first).unwrap();
    tensor_file::write(&folder.path().join("model-2.safetensors"), second).unwrap();
    let places = [(first, "model-1.safetensors"), (second, "model-2.safetensors")];
    let map: serde_json::Map<String, serde_json::Value> = places
        .iter()
        .flat_map(|(part, file)| part.iter().map(|(name, _)| (name.clone(), (*file).into())))
        .collect();
    let index = serde_json::json!({ "weight_map": map }).to_string();
    fs::write(folder.path().join("model.safetensors.index.json"), index).unwrap();
    let (loaded, _) = load(folder.path()).unwrap();
    let expected = model.parameters().masters().to_kind(Kind::BFloat16).to_kind(Kind::Float);
    assert!(loaded.parameters().masters().equal(&expected));
}

#[test]
fn tensors_that_do_not_fit_are_listed_all_at_once() {
    let folder = saved(&golden_model(Dtype::Fp32));
    let path = folder.path().join("model.safetensors");
    let mut tensors = tensor_file::TensorFile::open(&path).unwrap().read_all().unwrap();
    fs::remove_file(&path).unwrap();
    for (name, tensor) in &mut tensors {
        match name.as_str() {
            "model.norm.weight" => *tensor = tensor.narrow(0, 0, 63),
            "lm_head.weight" => *name = "lm_head.bias".to_owned(),
            "model.embed_tokens.weight" => *tensor = tensor.to_kind(Kind::Int64),
            _ => {}
        }
    }
    tensor_file::write(&path, &tensors).unwrap();
    let error = load(folder.path()).unwrap_err().to_string();
    let (_, problems) = error.split_once("do not fit the model: ").unwrap();
    assert_eq!(
        problems,
        "model.embed_tokens.weight is of kind Int64, expected Float, BFloat16 or Half; \
         lm_head.weight is missing; \
         model.norm.weight has shape [63], expected [64]; lm_head.bias is unexpected"
    );
}

#[test]
fn a_weight_file_of_any_other_length_is_refused() {
    let folder = saved(&golden_model(Dtype::Fp32));
    let path = folder.path().join("model.safetensors");
    let whole = fs::read(&path).unwrap();
    let header_end =
        8 + usize::try_from(u64::from_le_bytes(whole[..8].try_into().unwrap())).unwrap();
    for length in [0, 7, 8, header_end - 1, header_end, whole.len() - 1] {
        fs::write(&path, &whole[..length]).unwrap();
        let error = load(folder.path()).unwrap_err().to_string();
        assert!(error.contains(&format!("file is {length} bytes; its header promises")), "{error}");
    }
    fs::write(&path, [&whole[..], &[0]].concat()).unwrap();
    assert!(load(folder.path()).unwrap_err().to_string().contains("so it is truncated or damaged"));
    let mut huge = whole;
    huge[7] = 0x7f;
    fs::write(&path, &huge).unwrap();
    assert!(load(folder.path()).unwrap_err().to_string().contains("hardly a safetensors file"));
}

#[test]
fn weights_of_another_architecture_are_refused_by_field() {
    let folder = saved(&golden_model(Dtype::Fp32));
    let mut config = golden_config();
    // The tensors keep their shapes.
    (config.num_attention_heads, config.num_key_value_heads) = (2, 2);
    // Does not affect the weights.
    config.initializer_range = 0.5;
    let model = Llama::new(&config, on_cpu(Dtype::Fp32), 1).unwrap();
    let error = weights::load_weights(folder.path(), &model).unwrap_err().to_string();
    let (_, differences) = error.split_once("holds another model: ").unwrap();
    assert_eq!(
        differences,
        "num_attention_heads is 4, expected 2; num_key_value_heads is 4, expected 2"
    );
}

#[test]
fn a_model_is_never_written_over_another() {
    let model = golden_model(Dtype::Fp32);
    let folder = saved(&model);
    let error = weights::save_model(folder.path(), &model, &notes()).unwrap_err().to_string();
    assert!(error.contains("config.json: File exists"), "{error}");
}

#[test]
fn the_foreign_model_stories260k_is_reproduced() {
    let Some(dir) = shared("evaldata/checkpoints/stories260K/hf") else { return };
    let golden = fs::read_to_string(dir.join("golden.json")).unwrap();
    let golden: serde_json::Value = serde_json::from_str(&golden).unwrap();
    let ids: Vec<u32> = serde_json::from_value(golden["token_ids"].clone()).unwrap();
    let (model, notes) = load(&dir).unwrap();
    assert!(model.config().tie_word_embeddings);
    assert_eq!((model.config().num_attention_heads, model.config().num_key_value_heads), (8, 4));

    let new_tokens = ids.len() as u64 - 1;
    let found =
        generate::generate(&model, &ids[..1], new_tokens, &notes.eos_token_ids, Sampling::Greedy)
            .unwrap();
    assert_eq!(found.token_ids, ids[1..]);
    assert_eq!(found.stop, Stop::TokenLimit);

    // 64 predictions.
    let shape = EvalShape { window_units: 65, patch_size: 1, micro_batch_windows: 1 };
    let evaluation = eval::evaluate(&model, &ids[..65], shape, None).unwrap();
    let expected = golden["loss_first_64"].as_f64().unwrap();
    assert!((evaluation.loss - expected).abs() < 1e-5, "{} against {expected}", evaluation.loss);

    let logits: Vec<f64> =
        serde_json::from_value(golden["logits_last_of_first_16"].clone()).unwrap();
    let first_16: Vec<i64> = ids[..16].iter().map(|&id| i64::from(id)).collect();
    let tokens_btk = tch::Tensor::from_slice(&first_16).view([1, 16, 1]);
    let hidden_btd = tch::no_grad(|| model.forward_hidden(&tokens_btk));
    let found = model.logits(&hidden_btd.select(1, 15).squeeze_dim(0));
    assert_close("logits", &found, &tch::Tensor::from_slice(&logits), 2e-5);
}

#[test]
fn a_cache_changes_no_hidden_state() {
    for dtype in [Dtype::Fp32, Dtype::Bf16] {
        let mut config = golden_config();
        config.num_key_value_heads = 2;
        let model = Llama::new(&config, on_cpu(dtype), 3).unwrap();
        let tokens_btk = tokens_btk(2, 1, 8);
        let _no_grad = tch::no_grad_guard();
        let whole_btd = model.forward_hidden(&tokens_btk);
        let mut cache = KeyValueCache::new(&model);
        let mut parts = vec![model.forward_cached(&tokens_btk.narrow(1, 0, 5), &mut cache)];
        for position in 5..16 {
            parts.push(model.forward_cached(&tokens_btk.narrow(1, position, 1), &mut cache));
        }
        let tolerance = if dtype == Dtype::Fp32 { 2e-5 } else { 5e-2 };
        assert_close("hidden", &tch::Tensor::cat(&parts, 1), &whole_btd, tolerance);
    }
}

#[test]
fn generation_is_a_function_of_its_seed_and_stops_where_it_must() {
    let model = golden_model(Dtype::Fp32);
    let draw = |seed| {
        let sampling = Sampling::TopP { temperature: 1.0, top_p: 0.9, seed };
        generate::generate(&model, &[1, 2, 3], 10, &[], sampling).unwrap()
    };
    assert_eq!(draw(1), draw(1));
    assert_ne!(draw(1), draw(2));
    let greedy = |prompt: &[u32], new_tokens_max, end_ids: &[u32]| {
        generate::generate(&model, prompt, new_tokens_max, end_ids, Sampling::Greedy)
    };
    let free = greedy(&[1, 2, 3], 100, &[]).unwrap();
    // 16 positions.
    assert_eq!((free.token_ids.len(), free.stop), (13, Stop::ContextLimit));
    let third = free.token_ids[2];
    let first_at = free.token_ids.iter().position(|&id| id == third).unwrap();
    let ended = greedy(&[1, 2, 3], 100, &[third]).unwrap();
    assert_eq!((ended.token_ids.len(), ended.stop), (first_at + 1, Stop::EndOfText));
    assert_eq!(greedy(&[1], 2, &[]).unwrap().stop, Stop::TokenLimit);
    assert_eq!(greedy(&[], 2, &[]).unwrap_err(), GenerateError::EmptyPrompt);
    let too_long = GenerateError::PromptTooLong { prompt_tokens: 16, position_count: 16 };
    assert_eq!(greedy(&[1; 16], 2, &[]).unwrap_err(), too_long);
    assert!(matches!(greedy(&[256], 2, &[]).unwrap_err(), GenerateError::Batch(_)));
}

#[test]
fn evaluation_weighs_every_predicted_token_alike() {
    let model = golden_model(Dtype::Fp32);
    let ids: Vec<u32> = Vec::<i64>::try_from(tokens_btk(5, 4, 2).flatten(0, -1))
        .unwrap()
        .into_iter()
        .map(|id| u32::try_from(id).unwrap())
        .collect();
    for patch_size in [1, 4] {
        let shape = EvalShape { window_units: 8, patch_size, micro_batch_windows: 3 };
        let whole = eval::evaluate(&model, &ids[..317], shape, Some(1000)).unwrap();
        let window_tokens = 8 * patch_size;
        let windows = 317 / window_tokens;
        assert_eq!((whole.windows, whole.tokens), (windows, windows * window_tokens));
        assert_eq!(whole.dropped_tokens, 317 % window_tokens);
        assert_eq!(whole.predicted_tokens, windows * 7 * patch_size);
        let single = EvalShape { micro_batch_windows: 1, ..shape };
        let losses = (0..windows).map(|window| {
            let first = usize::try_from(window * window_tokens).unwrap();
            let part = &ids[first..first + usize::try_from(window_tokens).unwrap()];
            eval::evaluate(&model, part, single, None).unwrap().loss
        });
        let mean = losses.sum::<f64>() / windows as f64;
        assert!((whole.loss - mean).abs() < 1e-6);
        assert_eq!(whole.perplexity, whole.loss.exp());
        let bits = whole.loss / std::f64::consts::LN_2 * 317.0 / 1000.0;
        assert!((whole.bits_per_byte.unwrap() - bits).abs() < 1e-12);
    }
    let shape = EvalShape { window_units: 8, patch_size: 1, micro_batch_windows: 3 };
    let error = eval::evaluate(&model, &ids[..7], shape, None).unwrap_err();
    assert_eq!(error, EvalError::TooShort { tokens: 7, window_tokens: 8 });
    let shape = EvalShape { window_units: 17, ..shape };
    let error = eval::evaluate(&model, &ids, shape, None).unwrap_err();
    assert_eq!(error, EvalError::Window { window_units: 17, position_count: 16 });
}

#[test]
fn a_model_that_can_not_be_placed_is_an_error() {
    let mut config = golden_config();
    config.hidden_size = 66;
    assert!(Llama::new(&config, on_cpu(Dtype::Fp32), 1).is_err());
}
