//! The run file: one TOML file, read by both binaries.
//!
//! The run file holds everything that changes a result. It has no hidden defaults. An unknown key
//! is refused, with the nearest known one in the error, and the resolved copy is saved next to the
//! run. Where possible the types rule out wrong values: a share is a fraction of integers, so 2/3
//! is 2/3.
//!
//! Model fields carry Hugging Face's `config.json` names. Paths are relative to the run file's
//! folder.
//!
//! **Invariant:** a [`RunFile`] holds no unknown key and only values that are legal on their own;
//! anything that depends on several fields at once is checked where the value is built (`Plan`,
//! `Llama`).

pub mod data_order;
pub mod schedule;
pub(crate) mod share;

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub use crate::run::data_order::{Passes, SetAmount, Shuffle};
pub use crate::run::schedule::{Carry, Decay, Schedule};

pub use share::Share;

/// A whole run file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RunFile {
    /// Which corpora are read.
    pub data: DataConfig,
    /// The order in which the training corpus is read.
    pub plan: PlanConfig,
    /// The phases of training, in order; their shares add up to 1.
    pub phases: Vec<PhaseConfig>,
    /// The architecture, by its Hugging Face names.
    pub model: ModelConfig,
    /// The optimizer.
    pub optimizer: OptimizerConfig,
    /// How the run is executed, logged and saved.
    pub train: TrainConfig,
    /// How windows are read; never changes what is read.
    pub loader: LoaderConfig,
}

/// Which corpora are read.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DataConfig {
    /// Training corpus: a folder with `manifest.json`.
    pub corpus: String,
    /// Validation corpus, of the same form.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub validation: Option<String>,
    /// Tokens of the random subset an epoch reads; the whole corpus when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subset_tokens: Option<u64>,
    /// How much of each set an epoch reads, for a corpus with separate sets (`tokenize --by-set`).
    /// Every set of the corpus must be named; `""` is the set of documents without a set name. One
    /// stream when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sets: Option<BTreeMap<String, SetAmount>>,
}

/// The order in which the training corpus is read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PlanConfig {
    /// T: positions a model sees at once, patches or tokens.
    pub window_units: u64,
    /// Tokens read per optimizer step, in every phase.
    pub step_tokens: u64,
    /// E: passes over the subset.
    pub epochs: u64,
    /// Seed of all permutations.
    pub seed: u64,
    /// How the order is mixed.
    pub shuffle: Shuffle,
}

/// One phase of training.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PhaseConfig {
    /// K: tokens per patch; 1 is token-level training.
    pub patch_size: u64,
    /// This phase's own T, where it differs from the plan's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window_units: Option<u64>,
    /// Share of the run's tokens read by this phase.
    pub share: Share,
    /// The learning rate over the steps of this phase.
    pub schedule: Schedule,
    /// State taken over from the phase before.
    pub carry: Carry,
    /// Whether a linear map of a patch's K token embeddings, one after the other, makes its input
    /// in place of their mean (paper §3.7). Trained in this phase, discarded at its end. False
    /// when absent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub input_map: bool,
    /// Whether a linear map of the last hidden state makes K states, each of which predicts one
    /// token of the next patch through the one head (paper §3.7). Trained in this phase, discarded
    /// at its end. False when absent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub output_map: bool,
}

/// A LLaMA, by its Hugging Face names.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelConfig {
    /// V: entries of the embedding and of the head.
    pub vocab_size: u64,
    /// D: width of the residual stream.
    pub hidden_size: u64,
    /// Width of the gated MLP.
    pub intermediate_size: u64,
    /// Transformer blocks.
    pub num_hidden_layers: u64,
    /// Query heads; divides `hidden_size`.
    pub num_attention_heads: u64,
    /// Key and value heads; divides `num_attention_heads` (fewer of them is grouped-query
    /// attention).
    pub num_key_value_heads: u64,
    /// Added to the mean square in RMSNorm.
    pub rms_norm_eps: f64,
    /// Base of the rotary position embedding.
    pub rope_theta: f64,
    /// Whether the head is the embedding matrix.
    pub tie_word_embeddings: bool,
    /// Standard deviation of the initial matrices and embeddings.
    pub initializer_range: f64,
}

/// The optimizer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OptimizerConfig {
    /// The update rule.
    pub kind: OptimizerKind,
    /// Decay rates of the two moments.
    pub betas: [f64; 2],
    /// Added to the root of the second moment.
    pub eps: f64,
    /// Decoupled decay of matrices and embeddings; norm gains have none.
    pub weight_decay: f64,
    /// Largest global L2 norm of the gradient.
    pub clip_norm: f64,
    /// The action on a loss or gradient that is not finite.
    pub nonfinite: Nonfinite,
    /// The action on a sudden rise of the loss; none when absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub spike: Option<Spike>,
}

/// Which losses are spikes, and the action on them.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Spike {
    /// Number of last losses of the phase a loss is compared with, 2 to 65,536; before there are as
    /// many, no loss is a spike.
    pub window_steps: u64,
    /// A spike lies more than this many standard deviations above their mean.
    pub sigma: f64,
    /// The action on a spike.
    pub action: SpikeAction,
}

/// The action on a spike of the loss.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SpikeAction {
    /// Stop before the update, with exit code 3.
    Stop,
    /// Leave the weights as they are and continue with the next step.
    Skip,
}

/// The update rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerKind {
    /// Adam with decoupled weight decay.
    Adamw,
}

/// The action on a loss or gradient norm that is not finite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Nonfinite {
    /// Stop before the update, with exit code 3.
    Stop,
    /// Leave the weights as they are and continue with the next step.
    Skip,
}

/// How the run is executed, logged and saved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TrainConfig {
    /// Seed of the initial weights.
    pub init_seed: u64,
    /// Start from the weights in this Hugging Face directory instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub init_from: Option<String>,
    /// `"ignore"` accepts weights trained with another tokenizer than the corpus's; refused when
    /// absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init_tokenizer: Option<InitTokenizer>,
    /// Where tensors live.
    pub device: Device,
    /// Activations recomputed in the backward pass instead of kept: less memory for more time, and
    /// the same result.
    pub activation_checkpointing: ActivationCheckpointing,
    /// Dtype of the compute; master weights and moments stay fp32.
    pub dtype: Dtype,
    /// Whether a GPU replays each phase's passes from a CUDA graph; false when absent. No effect on
    /// the CPU.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cuda_graphs: Option<bool>,
    /// Windows (T units each) per rank and micro-step; a step must split evenly.
    pub micro_batch_windows: u64,
    /// Folder of the run: checkpoints, metrics, the resolved run file.
    pub output: String,
    /// Steps between checkpoints.
    pub checkpoint_every_steps: u64,
    /// Newest checkpoints kept, at least 1.
    pub keep_checkpoints: u64,
    /// Checkpoints at multiples of this many steps are kept for good; 0 for none.
    pub keep_every_steps: u64,
    /// Steps between evaluations; 0 evaluates only at the ends of phases.
    pub eval_every_steps: u64,
    /// Steps between lines of the log and of the metrics.
    pub log_every_steps: u64,
}

/// What to do with weights of another tokenizer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum InitTokenizer {
    /// Take them.
    Ignore,
}

/// Where tensors live. Written as `"auto"`, `"cpu"`, `"cuda"` or `"cuda:1"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Device {
    /// The first CUDA device if there is one, else the CPU.
    Auto,
    /// The CPU.
    Cpu,
    /// A CUDA device by its index.
    Cuda(usize),
}

impl TryFrom<String> for Device {
    type Error = String;

    fn try_from(text: String) -> Result<Device, String> {
        match text.as_str() {
            "auto" => Ok(Device::Auto),
            "cpu" => Ok(Device::Cpu),
            "cuda" => Ok(Device::Cuda(0)),
            other => other.strip_prefix("cuda:").and_then(|index| index.parse().ok()).map_or_else(
                || {
                    Err(format!(
                        "device is {other:?}, \
                         expected \"auto\", \"cpu\", \"cuda\" or \"cuda:INDEX\""
                    ))
                },
                |index| Ok(Device::Cuda(index)),
            ),
        }
    }
}

impl From<Device> for String {
    fn from(device: Device) -> String {
        match device {
            Device::Auto => "auto".to_owned(),
            Device::Cpu => "cpu".to_owned(),
            Device::Cuda(index) => format!("cuda:{index}"),
        }
    }
}

impl JsonSchema for Device {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Device".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "pattern": "^(auto|cpu|cuda(:[0-9]+)?)$" })
    }
}

/// Activations recomputed in the backward pass instead of kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ActivationCheckpointing {
    /// Keep every activation.
    None,
    /// Recompute the attention of each block; its normalized input is kept.
    Attention,
    /// Recompute each block; its input is kept: least memory.
    Block,
}

/// Dtype of the compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// IEEE single precision.
    Fp32,
    /// bfloat16, with fp32 master weights.
    Bf16,
}

/// How windows are read; never changes what is read.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LoaderConfig {
    /// Reading threads, at least 1.
    pub workers: usize,
    /// How shards are read.
    pub io: ReadBackend,
    /// Memory of all rings together, in bytes.
    pub ring_bytes: u64,
    /// Bytes of the shards the system is asked to read ahead while reading is slow; 16 MiB when
    /// absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub read_ahead_bytes: Option<u64>,
}

/// How shards are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum ReadBackend {
    /// Memory-mapped files: fastest on local disks.
    Mmap,
    /// `pread`: for network file systems and for files that may shrink.
    Pread,
}

/// Why a run file was refused.
#[derive(Debug, thiserror::Error)]
pub enum RunFileError {
    /// Not TOML, or not in the run file's form.
    #[error("{message}{}", suggest(.message))]
    Form {
        /// The parser's message, with the place.
        message: String,
    },
    /// An override not in the form `key.path=value`.
    #[error("override {found:?} is not of the form section.key=value, such as train.dtype=fp32")]
    Override {
        /// The override as given.
        found: String,
    },
    /// An override whose path leads through a value that is neither a table nor a list.
    #[error("override {found:?}: there is no {missing:?} in the run file")]
    OverridePath {
        /// The override as given.
        found: String,
        /// The part of the path that does not exist.
        missing: String,
    },
}

/// Parses a run file's text, with `--set` overrides (`"train.dtype=fp32"`, `"phases.0.share=1/2"`)
/// laid over it.
pub fn parse(text: &str, overrides: &[String]) -> Result<RunFile, RunFileError> {
    let form =
        |err: toml::de::Error| RunFileError::Form { message: err.to_string().trim().to_owned() };
    if overrides.is_empty() {
        return toml::from_str(text).map_err(form); // keeps line and column in the message
    }
    let mut root: toml::Value = toml::Value::Table(toml::from_str(text).map_err(form)?);
    for found in overrides {
        set(&mut root, found)?;
    }
    RunFile::deserialize(root).map_err(form)
}

/// The JSON Schema of a run file, pretty-printed, with a final newline.
pub fn json_schema() -> String {
    let schema = schemars::schema_for!(RunFile);
    serde_json::to_string_pretty(&schema).expect("a schema is plain data") + "\n"
}

/// Keys whose values are text, so `train.output=100` names a folder.
const TEXT_KEYS: [&str; 4] = ["data.corpus", "data.validation", "train.init_from", "train.output"];

/// Lays one `path.to.key=value` over `root`. The value is TOML if it parses as TOML and the key is
/// not one of text, else a string.
fn set(root: &mut toml::Value, found: &str) -> Result<(), RunFileError> {
    let bad = || RunFileError::Override { found: found.to_owned() };
    let (path, text) = found.split_once('=').ok_or_else(bad)?;
    let keys: Vec<&str> = path.trim().split('.').collect();
    let (last, parents) = keys.split_last().ok_or_else(bad)?;
    if keys.iter().any(|key| key.is_empty()) || parents.is_empty() {
        return Err(bad());
    }
    let missing =
        |key: &str| RunFileError::OverridePath { found: found.to_owned(), missing: key.to_owned() };
    let mut place = root;
    for key in parents {
        place = match place {
            toml::Value::Table(table) => table.get_mut(*key),
            toml::Value::Array(list) => key.parse::<usize>().ok().and_then(|at| list.get_mut(at)),
            _ => None,
        }
        .ok_or_else(|| missing(key))?;
    }
    let value = match override_value(text.trim()) {
        value if value.is_str() || !TEXT_KEYS.contains(&path.trim()) => value,
        _ => toml::Value::String(text.trim().to_owned()),
    };
    match place {
        toml::Value::Table(table) => {
            table.insert((*last).to_owned(), value);
        }
        toml::Value::Array(list) => {
            let at = last.parse::<usize>().ok().and_then(|at| list.get_mut(at));
            *at.ok_or_else(|| missing(last))? = value;
        }
        _ => return Err(missing(last)),
    }
    Ok(())
}

fn override_value(text: &str) -> toml::Value {
    match toml::from_str::<toml::Table>(&format!("value = {text}")) {
        Ok(mut table) if table.len() == 1 => {
            table.remove("value").unwrap_or_else(|| toml::Value::String(text.to_owned()))
        }
        _ => toml::Value::String(text.to_owned()),
    }
}

/// "; did you mean …?" when the parser met an unknown key close to a known one.
fn suggest(message: &str) -> String {
    let Some((_, rest)) = message.split_once("unknown field `") else { return String::new() };
    let Some((found, rest)) = rest.split_once('`') else { return String::new() };
    let known = rest.split('`').skip(1).step_by(2);
    known
        .map(|name| (strsim::jaro_winkler(found, name), name))
        .filter(|(score, _)| *score > 0.75)
        .max_by(|a, b| a.0.total_cmp(&b.0))
        .map(|(_, name)| format!("\ndid you mean `{name}`?"))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_text_are_those_of_the_schema() {
        let schema: serde_json::Value = serde_json::from_str(&json_schema()).unwrap();
        let is_text = |property: &serde_json::Value| {
            let kind = &property["type"];
            kind == "string"
                || kind.as_array().is_some_and(|kinds| kinds.contains(&"string".into()))
        };
        let mut found = Vec::new();
        for (section, property) in schema["properties"].as_object().unwrap() {
            let Some(path) = property["$ref"].as_str() else { continue };
            let properties = schema.pointer(&format!("{}/properties", &path[1..])).unwrap();
            for (key, property) in properties.as_object().unwrap() {
                if is_text(property) && property["enum"].is_null() {
                    found.push(format!("{section}.{key}"));
                }
            }
        }
        found.sort();
        assert_eq!(found, TEXT_KEYS);
    }
}
