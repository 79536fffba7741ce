//! The architecture of a LLaMA: its parameters by name and shape, and the requirements on a
//! configuration.
//!
//! The linear maps at the ends of a model (the paper's §3.7: `input_map`, `output_map`) belong to
//! a phase. They are in the flat storage of the phase's model, so clipping and the fused update
//! cover them. In a checkpoint they are in the optimizer's file, so `model.safetensors` stays a
//! plain LLaMA. At the switch the model is rebuilt without them, which briefly takes the memory of
//! both. Token-level evaluation, every patch size but the phase's own, and `eval` of a checkpoint
//! do without maps.
//!
//! **Invariant:** a configuration accepted by [`check_config`] makes a model whose sizes divide as
//! required, fit `i64` and overflow nothing.

use schemas::run::ModelConfig;

use crate::device::extent;
use crate::model::params::ParameterSpec;
use crate::shim::ShimError;

/// Largest size of a model's dimensions, so a crafted configuration cannot overflow or exhaust
/// anything.
const SIZE_MAX: u64 = 1 << 24;
/// Maximum number of layers.
const LAYERS_MAX: u64 = 4096;
/// Maximum number of positions: the rotary tables cover all of them.
const POSITIONS_MAX: u64 = 1 << 20;
/// Maximum number of parameters: 4 TiB of master weights.
const PARAMETERS_MAX: u128 = 1 << 40;

/// Why a model cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A size is 0, or larger than in any real model.
    #[error("model.{field} is {found}; expected 1 to {max}")]
    Size {
        /// The field of the configuration.
        field: &'static str,
        /// Its value.
        found: u64,
        /// The largest legal value.
        max: u64,
    },
    /// Sizes that are legal individually make a model too large for any machine.
    #[error("the model has {found} parameters; at most {PARAMETERS_MAX} are supported")]
    TooLarge {
        /// The number of scalars in all matrices.
        found: u128,
    },
    /// One size does not divide another.
    #[error("model.{field} is {found}, which model.{divisor_field} = {divisor} does not divide")]
    Divide {
        /// The field that must be a multiple.
        field: &'static str,
        /// Its value.
        found: u64,
        /// The field that must divide it.
        divisor_field: &'static str,
        /// Its value.
        divisor: u64,
    },
    /// A head has an odd width, but rotary embedding rotates pairs.
    #[error(
        "a head is hidden_size / num_attention_heads = {found} wide; rotary embedding needs an \
         even width"
    )]
    OddHead {
        /// The width of a head.
        found: u64,
    },
    /// A number must be finite and positive (or not negative), but is not.
    #[error("model.{field} is {found}; expected a finite number {expected}")]
    Number {
        /// The field of the configuration.
        field: &'static str,
        /// Its value.
        found: f64,
        /// The legal values.
        expected: &'static str,
    },
    /// libtorch failed, for instance for lack of memory.
    #[error(transparent)]
    Shim(#[from] ShimError),
}

/// The token embedding.
pub(crate) const EMBEDDING: &str = "model.embed_tokens.weight";
/// The gain of the final norm.
pub(crate) const FINAL_NORM: &str = "model.norm.weight";
/// The head, unless it is tied to the embedding.
pub(crate) const HEAD: &str = "lm_head.weight";

/// Queries, keys and values: stored as one matrix, in this order.
pub(crate) const QKV: [&str; 3] = [Q_PROJ, K_PROJ, V_PROJ];
/// Gate and up of the MLP: stored as one matrix, in this order.
pub(crate) const GATE_UP: [&str; 2] = [GATE_PROJ, UP_PROJ];

const Q_PROJ: &str = "self_attn.q_proj.weight";
const K_PROJ: &str = "self_attn.k_proj.weight";
const V_PROJ: &str = "self_attn.v_proj.weight";
const GATE_PROJ: &str = "mlp.gate_proj.weight";
const UP_PROJ: &str = "mlp.up_proj.weight";

/// Maps (`[d, k·d]`) the K token embeddings of a patch, one after the other, to its input.
pub const INPUT_MAP: &str = "input_map.weight";
/// Maps (`[k·d, d]`) the last hidden state to K hidden states, slot after slot.
pub const OUTPUT_MAP: &str = "output_map.weight";

/// The linear maps at both ends of a model in a patch phase (paper §3.7). They belong to the
/// phase, not to the model: Hugging Face's weights do not have them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PatchMaps {
    /// The maps' K; other patch sizes do without maps.
    pub patch_size: u64,
    /// Whether [`INPUT_MAP`] exists.
    pub input: bool,
    /// Whether [`OUTPUT_MAP`] exists.
    pub output: bool,
}

impl PatchMaps {
    /// No maps.
    pub const NONE: PatchMaps = PatchMaps { patch_size: 1, input: false, output: false };
}

/// Whether a parameter is a phase's map, not the model's own.
pub fn is_map(name: &str) -> bool {
    name == INPUT_MAP || name == OUTPUT_MAP
}

/// The maps' parameters. Weight decay applies to them, as to all matrices.
pub(crate) fn map_specs(config: &ModelConfig, maps: PatchMaps) -> Vec<ParameterSpec> {
    let (d, kd) = (extent(config.hidden_size), extent(config.hidden_size * maps.patch_size));
    let mut specs = Vec::new();
    for (is_there, name, shape) in
        [(maps.input, INPUT_MAP, [d, kd]), (maps.output, OUTPUT_MAP, [kd, d])]
    {
        if is_there {
            specs.push(ParameterSpec {
                name: name.to_owned(),
                shape: shape.to_vec(),
                decayed: true,
                joined: false,
            });
        }
    }
    specs
}

/// Every parameter, in the order of the forward pass.
pub(crate) fn parameter_specs(config: &ModelConfig) -> Vec<ParameterSpec> {
    let [v, d, f] = [config.vocab_size, config.hidden_size, config.intermediate_size].map(extent);
    let head_width = d / extent(config.num_attention_heads);
    let kv = extent(config.num_key_value_heads) * head_width;
    let spec = |name: String, shape: &[i64]| ParameterSpec {
        shape: shape.to_vec(),
        decayed: shape.len() > 1,
        // Decayed parameters are stored in this order, so k and v follow q, and up follows gate.
        joined: [K_PROJ, V_PROJ, UP_PROJ].iter().any(|part| name.ends_with(part)),
        name,
    };
    let mut specs = vec![spec(EMBEDDING.to_owned(), &[v, d])];
    for index in 0..config.num_hidden_layers {
        let parts: [(&str, &[i64]); 9] = [
            ("input_layernorm.weight", &[d]),
            (Q_PROJ, &[d, d]),
            (K_PROJ, &[kv, d]),
            (V_PROJ, &[kv, d]),
            ("self_attn.o_proj.weight", &[d, d]),
            ("post_attention_layernorm.weight", &[d]),
            (GATE_PROJ, &[f, d]),
            (UP_PROJ, &[f, d]),
            ("mlp.down_proj.weight", &[d, f]),
        ];
        specs
            .extend(parts.map(|(name, shape)| spec(format!("model.layers.{index}.{name}"), shape)));
    }
    specs.push(spec(FINAL_NORM.to_owned(), &[d]));
    if !config.tie_word_embeddings {
        specs.push(spec(HEAD.to_owned(), &[v, d]));
    }
    specs
}

/// Checks a model's requirements on a configuration, without building anything.
pub fn check_config(config: &ModelConfig) -> Result<(), ModelError> {
    let sizes = [
        ("vocab_size", config.vocab_size, SIZE_MAX),
        ("hidden_size", config.hidden_size, SIZE_MAX),
        ("intermediate_size", config.intermediate_size, SIZE_MAX),
        ("num_hidden_layers", config.num_hidden_layers, LAYERS_MAX),
        ("num_attention_heads", config.num_attention_heads, SIZE_MAX),
        ("num_key_value_heads", config.num_key_value_heads, SIZE_MAX),
    ];
    sizes.into_iter().try_for_each(|(field, found, max)| check_size(field, found, max))?;
    let heads = config.num_attention_heads;
    let divide = |field, found: u64, divisor_field, divisor: u64| {
        if found.is_multiple_of(divisor) {
            Ok(())
        } else {
            Err(ModelError::Divide { field, found, divisor_field, divisor })
        }
    };
    divide("hidden_size", config.hidden_size, "num_attention_heads", heads)?;
    divide("num_attention_heads", heads, "num_key_value_heads", config.num_key_value_heads)?;
    if !(config.hidden_size / heads).is_multiple_of(2) {
        return Err(ModelError::OddHead { found: config.hidden_size / heads });
    }
    check_parameter_count(config)?;
    let positive = "above 0";
    let numbers = [
        ("rms_norm_eps", config.rms_norm_eps, 0.0 < config.rms_norm_eps, positive),
        ("rope_theta", config.rope_theta, 0.0 < config.rope_theta, positive),
        (
            "initializer_range",
            config.initializer_range,
            0.0 <= config.initializer_range,
            "of 0 or more",
        ),
    ];
    match numbers.into_iter().find(|(_, found, legal, _)| !(found.is_finite() && *legal)) {
        Some((field, found, _, expected)) => Err(ModelError::Number { field, found, expected }),
        None => Ok(()),
    }
}

/// Checks the number of positions of the rotary tables.
pub(crate) fn check_position_count(found: u64) -> Result<(), ModelError> {
    check_size("max_position_embeddings", found, POSITIONS_MAX)
}

fn check_size(field: &'static str, found: u64, max: u64) -> Result<(), ModelError> {
    if 0 < found && found <= max { Ok(()) } else { Err(ModelError::Size { field, found, max }) }
}

fn check_parameter_count(config: &ModelConfig) -> Result<(), ModelError> {
    check_map_sizes(config, PatchMaps::NONE)
}

/// Checks the size of a checked model together with a phase's maps.
pub(crate) fn check_map_sizes(config: &ModelConfig, maps: PatchMaps) -> Result<(), ModelError> {
    let [v, d, f, layers] =
        [config.vocab_size, config.hidden_size, config.intermediate_size, config.num_hidden_layers]
            .map(u128::from);
    // Computed as if nothing were tied or grouped.
    let of_model = 2 * v * d + layers * (4 * d * d + 3 * d * f);
    let of_map = u128::from(maps.patch_size) * d * d;
    let found = of_model + (u128::from(maps.input) + u128::from(maps.output)) * of_map;
    if found <= PARAMETERS_MAX { Ok(()) } else { Err(ModelError::TooLarge { found }) }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A small model with grouped queries, for the tests of several modules.
    pub(crate) fn small() -> ModelConfig {
        ModelConfig {
            vocab_size: 64,
            hidden_size: 32,
            intermediate_size: 48,
            num_hidden_layers: 2,
            num_attention_heads: 4,
            num_key_value_heads: 2,
            rms_norm_eps: 1e-6,
            rope_theta: 10000.0,
            tie_word_embeddings: false,
            initializer_range: 0.02,
        }
    }

    #[test]
    fn a_wrong_configuration_names_the_field() {
        let check = |change: fn(&mut ModelConfig), expected: &str| {
            let mut config = small();
            change(&mut config);
            assert_eq!(check_config(&config).unwrap_err().to_string(), expected);
        };
        check(|c| c.vocab_size = 0, "model.vocab_size is 0; expected 1 to 16777216");
        check(
            |c| (c.hidden_size, c.intermediate_size) = (1 << 20, 1 << 20),
            "the model has 15393297006592 parameters; at most 1099511627776 are supported",
        );
        check(
            |c| c.hidden_size = 33,
            "model.hidden_size is 33, which model.num_attention_heads = 4 does not divide",
        );
        check(
            |c| c.num_key_value_heads = 3,
            "model.num_attention_heads is 4, which model.num_key_value_heads = 3 does not divide",
        );
        check(
            |c| c.hidden_size = 12,
            "a head is hidden_size / num_attention_heads = 3 wide; rotary embedding needs an even \
             width",
        );
        check(|c| c.rope_theta = 0.0, "model.rope_theta is 0; expected a finite number above 0");
        check(
            |c| c.initializer_range = f64::NAN,
            "model.initializer_range is NaN; expected a finite number of 0 or more",
        );
    }
}
