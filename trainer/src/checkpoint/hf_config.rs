//! `config.json` and `generation_config.json` of a Hugging Face model directory.
//!
//! **Invariant:** an accepted configuration describes exactly the model `model::llama` builds.
//! Unsupported features (scaled RoPE, biases, other activations) are refused with the reason, never
//! ignored.

use schemas::run::ModelConfig;
use serde_json::{Map, Value, json};

/// Facts from a model directory besides the architecture.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelNotes {
    /// Largest T: `max_position_embeddings`.
    pub position_count: u64,
    /// K of the phase the weights come from; 1 for a token-level model.
    pub patch_size: u64,
    /// Token that opens a document.
    pub bos_token_id: Option<u32>,
    /// Tokens that end a document.
    pub eos_token_ids: Vec<u32>,
}

impl ModelNotes {
    /// Tokens at which a generated document ends: those that end a document, and the one that opens
    /// the next, because a corpus without EOS has no other sign.
    pub fn end_ids(&self) -> Vec<u32> {
        self.eos_token_ids.iter().copied().chain(self.bos_token_id).collect()
    }
}

/// Why a `config.json` is refused.
#[derive(Debug, thiserror::Error)]
pub enum HfConfigError {
    /// Not JSON.
    #[error(transparent)]
    Json(#[from] serde_json::Error),
    /// A required field is missing or has another type.
    #[error("{field} is {found}; expected {expected}")]
    Field {
        /// Its name.
        field: String,
        /// Its value, as JSON.
        found: String,
        /// The legal values.
        expected: &'static str,
    },
    /// A feature this trainer's LLaMA does not have.
    #[error("{field} is {found}; this trainer supports {supported} alone")]
    Unsupported {
        /// Its name.
        field: String,
        /// Its value, as JSON.
        found: String,
        /// The supported values.
        supported: &'static str,
    },
}

/// Reads a `config.json`. Absent fields get the defaults of `transformers`' `LlamaConfig`.
pub fn parse(text: &str) -> Result<(ModelConfig, ModelNotes), HfConfigError> {
    let root: Map<String, Value> = serde_json::from_str(text)?;
    let fields = Fields { root: &root };
    let rope_theta = check_supported(&fields)?;
    let heads = fields.count("num_attention_heads")?;
    let model = ModelConfig {
        vocab_size: fields.count("vocab_size")?,
        hidden_size: fields.count("hidden_size")?,
        intermediate_size: fields.count("intermediate_size")?,
        num_hidden_layers: fields.count("num_hidden_layers")?,
        num_attention_heads: heads,
        num_key_value_heads: fields.count_or("num_key_value_heads", heads)?,
        rms_norm_eps: fields.number_or("rms_norm_eps", 1e-6)?,
        rope_theta,
        tie_word_embeddings: fields.flag_or("tie_word_embeddings", false)?,
        initializer_range: fields.number_or("initializer_range", 0.02)?,
    };
    if let Some(head_dim) = fields.present("head_dim")
        && (heads == 0 || head_dim.as_u64() != Some(model.hidden_size / heads))
    {
        return Err(unsupported("head_dim", head_dim, "hidden_size / num_attention_heads"));
    }
    let notes = ModelNotes {
        position_count: fields.count_or("max_position_embeddings", 2048)?,
        patch_size: fields.count_or("patch_size", 1)?,
        bos_token_id: fields.token_ids("bos_token_id")?.first().copied(),
        eos_token_ids: fields.token_ids("eos_token_id")?,
    };
    Ok((model, notes))
}

/// The `config.json` of `model`, for fp32 weights.
pub fn config_json(model: &ModelConfig, notes: &ModelNotes) -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": model.vocab_size,
        "hidden_size": model.hidden_size,
        "intermediate_size": model.intermediate_size,
        "num_hidden_layers": model.num_hidden_layers,
        "num_attention_heads": model.num_attention_heads,
        "num_key_value_heads": model.num_key_value_heads,
        "max_position_embeddings": notes.position_count,
        "rms_norm_eps": model.rms_norm_eps,
        "rope_theta": model.rope_theta,
        "rope_scaling": null,
        "hidden_act": "silu",
        "attention_bias": false,
        "attention_dropout": 0.0,
        "mlp_bias": false,
        "tie_word_embeddings": model.tie_word_embeddings,
        "initializer_range": model.initializer_range,
        "bos_token_id": notes.bos_token_id,
        "eos_token_id": eos_json(&notes.eos_token_ids),
        "pad_token_id": null,
        "use_cache": true,
        "torch_dtype": "float32",
        "patch_size": notes.patch_size,
    })
}

/// The `generation_config.json` of a model: generation ends where ours does, also at a BOS, which
/// opens the next document where documents have no EOS.
pub fn generation_config_json(notes: &ModelNotes) -> Value {
    json!({
        "bos_token_id": notes.bos_token_id,
        "eos_token_id": eos_json(&notes.end_ids()),
    })
}

fn eos_json(ids: &[u32]) -> Value {
    match ids {
        [] => Value::Null,
        [id] => json!(id),
        ids => json!(ids),
    }
}

/// Refuses unsupported features. Returns the base of the rotary embedding, which has two places.
fn check_supported(fields: &Fields<'_>) -> Result<f64, HfConfigError> {
    let only: [(&str, Value, &str); 8] = [
        ("model_type", json!("llama"), "\"llama\""),
        ("hidden_act", json!("silu"), "\"silu\""),
        ("attention_bias", json!(false), "false"),
        ("mlp_bias", json!(false), "false"),
        ("rope_scaling", Value::Null, "null, plain rotary embedding"),
        ("pretraining_tp", json!(1), "1"),
        ("quantization_config", Value::Null, "null, plain weights"),
        ("sliding_window", Value::Null, "null, full attention"),
    ];
    for (field, expected, supported) in only {
        if let Some(found) = fields.present(field)
            && *found != expected
            && !is_plain_rope(field, found)
        {
            return Err(unsupported(field, found, supported));
        }
    }
    if fields.present("model_type").is_none() {
        return Err(unsupported("model_type", &Value::Null, "\"llama\""));
    }
    if let Some(found) = fields.present("architectures")
        && *found != json!(["LlamaForCausalLM"])
    {
        return Err(unsupported("architectures", found, "[\"LlamaForCausalLM\"]"));
    }
    let Some(parameters) = fields.present("rope_parameters") else {
        return fields.number_or("rope_theta", 10000.0);
    };
    if !is_plain_rope("rope_scaling", parameters) {
        return Err(unsupported("rope_parameters", parameters, "rope_type \"default\""));
    }
    let object = parameters.as_object().expect("plain RoPE is an object");
    Fields { root: object }.number_or("rope_theta", fields.number_or("rope_theta", 10000.0)?)
}

/// Whether this `rope_scaling` (or `rope_parameters`) scales nothing.
fn is_plain_rope(field: &str, found: &Value) -> bool {
    let Some(object) = found.as_object().filter(|_| field == "rope_scaling") else { return false };
    object.iter().all(|(key, value)| match key.as_str() {
        "rope_type" | "type" => value == "default",
        "rope_theta" => true,
        "partial_rotary_factor" => value.as_f64() == Some(1.0),
        _ => false,
    })
}

fn unsupported(field: &str, found: &Value, supported: &'static str) -> HfConfigError {
    HfConfigError::Unsupported { field: field.to_owned(), found: found.to_string(), supported }
}

/// The fields of a JSON object; `null` counts as absent.
struct Fields<'a> {
    root: &'a Map<String, Value>,
}

impl Fields<'_> {
    fn present(&self, field: &str) -> Option<&Value> {
        self.root.get(field).filter(|value| !value.is_null())
    }

    fn error(&self, field: &str, expected: &'static str) -> HfConfigError {
        let found = self.root.get(field).map_or("absent".to_owned(), Value::to_string);
        HfConfigError::Field { field: field.to_owned(), found, expected }
    }

    fn count(&self, field: &str) -> Result<u64, HfConfigError> {
        let found = self.present(field).and_then(Value::as_u64);
        found.ok_or_else(|| self.error(field, "a whole number of 0 or more"))
    }

    fn count_or(&self, field: &str, default: u64) -> Result<u64, HfConfigError> {
        if self.present(field).is_some() { self.count(field) } else { Ok(default) }
    }

    fn number_or(&self, field: &str, default: f64) -> Result<f64, HfConfigError> {
        let Some(found) = self.present(field) else { return Ok(default) };
        found.as_f64().ok_or_else(|| self.error(field, "a number"))
    }

    fn flag_or(&self, field: &str, default: bool) -> Result<bool, HfConfigError> {
        let Some(found) = self.present(field) else { return Ok(default) };
        found.as_bool().ok_or_else(|| self.error(field, "true or false"))
    }

    /// One id, a list of ids, or none.
    fn token_ids(&self, field: &str) -> Result<Vec<u32>, HfConfigError> {
        let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
        let ids = match self.present(field) {
            None => Some(Vec::new()),
            Some(Value::Array(list)) => list.iter().map(id).collect(),
            Some(value) => id(value).map(|id| vec![id]),
        };
        ids.ok_or_else(|| self.error(field, "a token id or a list of them"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::architecture::tests::small;

    fn example() -> Value {
        let model = ModelConfig {
            rms_norm_eps: 1e-5,
            rope_theta: 500000.0,
            tie_word_embeddings: true,
            initializer_range: 0.01,
            ..small()
        };
        let notes = ModelNotes {
            position_count: 128,
            patch_size: 4,
            bos_token_id: Some(1),
            eos_token_ids: vec![2, 3],
        };
        config_json(&model, &notes)
    }

    fn parse_with(field: &str, value: Value) -> Result<(ModelConfig, ModelNotes), HfConfigError> {
        let mut config = example();
        config[field] = value;
        parse(&config.to_string())
    }

    #[test]
    fn what_is_written_is_read_back() {
        let (model, notes) = parse(&example().to_string()).unwrap();
        assert_eq!(config_json(&model, &notes), example());
    }

    #[test]
    fn rope_theta_may_lie_in_rope_parameters() {
        let plain = json!({"rope_theta": 123.0, "rope_type": "default"});
        assert_eq!(parse_with("rope_parameters", plain).unwrap().0.rope_theta, 123.0);
    }

    #[test]
    fn what_the_model_can_not_do_is_refused_by_name() {
        let check = |field: &str, value: Value, expected: &str| {
            assert_eq!(parse_with(field, value).unwrap_err().to_string(), expected);
        };
        check(
            "rope_scaling",
            json!({"rope_type": "llama3", "factor": 8.0}),
            "rope_scaling is {\"rope_type\":\"llama3\",\"factor\":8.0}; \
             this trainer supports null, plain rotary embedding alone",
        );
        check(
            "rope_parameters",
            json!({"rope_type": "linear", "factor": 2.0}),
            "rope_parameters is {\"rope_type\":\"linear\",\"factor\":2.0}; this trainer supports \
             rope_type \"default\" alone",
        );
        check(
            "attention_bias",
            json!(true),
            "attention_bias is true; this trainer supports false alone",
        );
        check(
            "model_type",
            json!("qwen2"),
            "model_type is \"qwen2\"; this trainer supports \"llama\" alone",
        );
        check(
            "model_type",
            Value::Null,
            "model_type is null; this trainer supports \"llama\" alone",
        );
        check(
            "head_dim",
            json!(16),
            "head_dim is 16; this trainer supports hidden_size / num_attention_heads alone",
        );
        check(
            "vocab_size",
            Value::Null,
            "vocab_size is null; expected a whole number of 0 or more",
        );
        check(
            "eos_token_id",
            json!(-1),
            "eos_token_id is -1; expected a token id or a list of them",
        );
    }
}
