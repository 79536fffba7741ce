//! Hugging Face model directories: `config.json`, `generation_config.json`, `model.safetensors`.
//!
//! **Invariant:** a saved and reloaded model has the same bits; a successful load has set every
//! parameter and left no tensor of the file unread.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use pipeline::disk::source::read_text;
use schemas::run::{ActivationCheckpointing, Dtype, ModelConfig};
use tch::{Device, Kind, Tensor};

use crate::checkpoint::hf_config::{self, HfConfigError, ModelNotes};
use crate::checkpoint::tensor_file::{self, TensorFile, TensorFileError};
use crate::model::architecture::{EMBEDDING, HEAD, ModelError};
use crate::model::llama::{Compute, Llama};

/// The architecture.
pub const CONFIG_FILE: &str = "config.json";
/// Defaults of generation.
pub const GENERATION_CONFIG_FILE: &str = "generation_config.json";
/// The weights.
pub const WEIGHTS_FILE: &str = "model.safetensors";
/// Maps each tensor to its file, where the weights are split over several.
pub const WEIGHTS_INDEX_FILE: &str = "model.safetensors.index.json";
/// The files that [`save_model`] writes, in byte order.
pub const MODEL_FILES: [&str; 3] = [CONFIG_FILE, GENERATION_CONFIG_FILE, WEIGHTS_FILE];

/// Largest configuration that is read; real ones have some kilobytes.
const CONFIG_BYTES_MAX: u64 = 1 << 20;
/// Largest index; one of a model of 100,000 tensors has some 10 MB.
const INDEX_BYTES_MAX: u64 = 1 << 26;
/// Weights by PyTorch's pickle, which are not read.
const PICKLE_FILES: [&str; 2] = ["pytorch_model.bin", "pytorch_model.bin.index.json"];
/// Tables stored in old checkpoints and computed here.
const ROTARY_BUFFER: &str = ".rotary_emb.inv_freq";

/// The reason a model directory cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum WeightsError {
    /// The operating system reported an error.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A refused `config.json`.
    #[error("{}: {source}", path.display())]
    Config {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: HfConfigError,
    },
    /// A safetensors file that cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: TensorFileError,
    },
    /// Weights in a form that may run code.
    #[error(
        "{}: weights in PyTorch's pickle, which may run code, are not read; convert them to \
         {WEIGHTS_FILE}, for example with transformers' save_pretrained",
        path.display()
    )]
    Pickle {
        /// The file.
        path: PathBuf,
    },
    /// A weight that is NaN or infinite.
    #[error(
        "{}: {name}{index:?} is {found}; a model with such a weight computes nothing",
        path.display()
    )]
    NotFinite {
        /// The file.
        path: PathBuf,
        /// The tensor.
        name: String,
        /// The element, by its index in each dimension.
        index: Vec<i64>,
        /// NaN, or an infinity.
        found: f64,
    },
    /// A malformed index of several weight files.
    #[error(
        "{}: expected {{\"weight_map\": {{tensor: file name}}}} with file names of this folder",
        path.display()
    )]
    Index {
        /// The file.
        path: PathBuf,
    },
    /// The tensors do not fit the model.
    #[error("{}: the tensors do not fit the model: {problems}", path.display())]
    Tensors {
        /// The directory.
        path: PathBuf,
        /// Every missing, unexpected or malformed tensor.
        problems: String,
    },
    /// The directory holds another model.
    #[error("{}: holds another model: {differences}", path.display())]
    Architecture {
        /// The file.
        path: PathBuf,
        /// Each field that differs, with both values.
        differences: String,
    },
    /// A configuration that gives no valid model.
    #[error("{}: {source}", path.display())]
    Model {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: ModelError,
    },
}

/// Reads the model in `dir`, any of fp32, bf16 and fp16, into fp32 master weights on `device`.
pub fn load_model(
    dir: &Path,
    dtype: Dtype,
    device: Device,
) -> Result<(Llama, ModelNotes), WeightsError> {
    let (config, notes) = load_config(dir)?;
    let compute = Compute {
        dtype,
        device,
        position_count: notes.position_count,
        activation_checkpointing: ActivationCheckpointing::None,
    };
    let model = Llama::zeroed(&config, compute)
        .map_err(|source| WeightsError::Model { path: dir.join(CONFIG_FILE), source })?;
    fill(dir, &model)?;
    Ok((model, notes))
}

/// Sets the weights of `model` to those in `dir`, which must hold the same architecture.
///
/// `initializer_range` and `max_position_embeddings` may differ: they do not affect the weights.
pub fn load_weights(dir: &Path, model: &Llama) -> Result<(), WeightsError> {
    let (mut found, _) = load_config(dir)?;
    found.initializer_range = model.config().initializer_range;
    let differences = config_differences(&found, model.config());
    if !differences.is_empty() {
        return Err(WeightsError::Architecture { path: dir.join(CONFIG_FILE), differences });
    }
    fill(dir, model)
}

/// Reads `config.json` in `dir`.
pub fn load_config(dir: &Path) -> Result<(ModelConfig, ModelNotes), WeightsError> {
    let path = dir.join(CONFIG_FILE);
    let text = read_text(&path, CONFIG_BYTES_MAX)
        .map_err(|source| WeightsError::Io { path: path.clone(), source })?;
    hf_config::parse(&text).map_err(|source| WeightsError::Config { path, source })
}

/// Writes [`MODEL_FILES`] into `dir`, in fp32, and waits until each is on the disk. Existing files
/// are an error.
///
/// `dir` itself is neither created nor synced: publishing the folder as a whole is left to the
/// caller.
pub fn save_model(dir: &Path, model: &Llama, notes: &ModelNotes) -> Result<(), WeightsError> {
    write_json(&dir.join(CONFIG_FILE), &hf_config::config_json(model.config(), notes))?;
    write_json(&dir.join(GENERATION_CONFIG_FILE), &hf_config::generation_config_json(notes))?;
    let tensors: Vec<(String, Tensor)> = model
        .own_parameters()
        .map(|parameter| (parameter.name().to_owned(), parameter.leaf().detach()))
        .collect();
    let path = dir.join(WEIGHTS_FILE);
    tensor_file::write(&path, &tensors).map_err(|source| WeightsError::File { path, source })
}

fn write_json(path: &Path, value: &serde_json::Value) -> Result<(), WeightsError> {
    let text = format!("{value:#}\n");
    File::create_new(path)
        .and_then(|mut file| file.write_all(text.as_bytes()).and_then(|()| file.sync_all()))
        .map_err(|source| WeightsError::Io { path: path.to_owned(), source })
}

fn config_differences(found: &ModelConfig, expected: &ModelConfig) -> String {
    let fields = |config: &ModelConfig| match serde_json::to_value(config) {
        Ok(serde_json::Value::Object(fields)) => fields,
        _ => unreachable!("a struct serializes to an object"),
    };
    let expected = fields(expected);
    let differing = fields(found).into_iter().filter(|(field, value)| expected[field] != *value);
    let named = differing
        .map(|(field, value)| format!("{field} is {value}, expected {}", expected[&field]));
    named.collect::<Vec<_>>().join("; ")
}

/// The weight files of a directory, and which of them holds each tensor.
struct WeightFiles {
    files: Vec<(PathBuf, TensorFile)>,
    place: BTreeMap<String, usize>,
}

impl WeightFiles {
    fn open(dir: &Path) -> Result<WeightFiles, WeightsError> {
        let mut files = Vec::new();
        let mut place = BTreeMap::new();
        for path in weight_paths(dir)? {
            let file = TensorFile::open(&path)
                .map_err(|source| WeightsError::File { path: path.clone(), source })?;
            place.extend(file.names().into_iter().map(|name| (name, files.len())));
            files.push((path, file));
        }
        Ok(WeightFiles { files, place })
    }

    fn form(&self, name: &str) -> Option<Result<(Vec<i64>, Kind), TensorFileError>> {
        self.place.get(name).map(|&index| self.files[index].1.form(name))
    }

    fn read(&mut self, name: &str) -> Result<Tensor, WeightsError> {
        let (path, file) = &mut self.files[self.place[name]];
        let tensor =
            file.read(name).map_err(|source| WeightsError::File { path: path.clone(), source })?;
        match first_not_finite(&tensor) {
            None => Ok(tensor),
            Some((index, found)) => {
                let (path, name) = (path.clone(), name.to_owned());
                Err(WeightsError::NotFinite { path, name, index, found })
            }
        }
    }
}

/// The first element that is NaN or infinite.
fn first_not_finite(tensor: &Tensor) -> Option<(Vec<i64>, f64)> {
    let is_finite = tensor.isfinite();
    if is_finite.all().int64_value(&[]) != 0 {
        return None;
    }
    let first = is_finite.logical_not().nonzero().get(0);
    let index: Vec<i64> = first.try_into().expect("indices are int64");
    let found = tensor.double_value(&index);
    Some((index, found))
}

/// The only weight file, or the files an index names.
pub fn weight_paths(dir: &Path) -> Result<Vec<PathBuf>, WeightsError> {
    let index_path = dir.join(WEIGHTS_INDEX_FILE);
    if dir.join(WEIGHTS_FILE).exists() || !index_path.exists() {
        let pickle = PICKLE_FILES.map(|name| dir.join(name)).into_iter().find(|path| path.exists());
        return match pickle.filter(|_| !dir.join(WEIGHTS_FILE).exists()) {
            Some(path) => Err(WeightsError::Pickle { path }),
            None => Ok(vec![dir.join(WEIGHTS_FILE)]),
        };
    }
    let text = read_text(&index_path, INDEX_BYTES_MAX)
        .map_err(|source| WeightsError::Io { path: index_path.clone(), source })?;
    let plain_name = |value: &serde_json::Value| {
        let name = value.as_str()?;
        let plain = !name.is_empty() && !name.contains(['/', '\\']) && !name.starts_with('.');
        plain.then(|| name.to_owned())
    };
    let root: Option<serde_json::Value> = serde_json::from_str(&text).ok();
    let names: Option<Vec<String>> = root
        .as_ref()
        .and_then(|root| root.get("weight_map")?.as_object())
        .and_then(|map| map.values().map(plain_name).collect());
    let mut names = names.ok_or(WeightsError::Index { path: index_path })?;
    names.sort();
    names.dedup();
    Ok(names.into_iter().map(|name| dir.join(name)).collect())
}

fn fill(dir: &Path, model: &Llama) -> Result<(), WeightsError> {
    let mut files = WeightFiles::open(dir)?;
    let problems = form_problems(&files, model);
    if !problems.is_empty() {
        let problems = problems.join("; ");
        return Err(WeightsError::Tensors { path: dir.to_owned(), problems });
    }
    let _no_grad = tch::no_grad_guard();
    for parameter in model.own_parameters() {
        parameter.leaf().shallow_clone().copy_(&files.read(parameter.name())?);
    }
    if model.config().tie_word_embeddings && files.place.contains_key(HEAD) {
        let same = files.read(HEAD)?.equal(&files.read(EMBEDDING)?);
        if !same {
            let problems = format!("tie_word_embeddings is true, but {HEAD} is not {EMBEDDING}");
            return Err(WeightsError::Tensors { path: dir.to_owned(), problems });
        }
    }
    Ok(())
}

/// Every tensor that is missing, unexpected, or has another shape or dtype than the model's.
fn form_problems(files: &WeightFiles, model: &Llama) -> Vec<String> {
    let mut problems = Vec::new();
    for parameter in model.own_parameters() {
        let name = parameter.name();
        match files.form(name) {
            None => problems.push(format!("{name} is missing")),
            Some(Err(err)) => problems.push(err.to_string()),
            Some(Ok((shape, _))) if shape != parameter.shape() => {
                problems
                    .push(format!("{name} has shape {shape:?}, expected {:?}", parameter.shape()));
            }
            Some(Ok((_, Kind::Float | Kind::BFloat16 | Kind::Half))) => {}
            Some(Ok((_, kind))) => {
                problems
                    .push(format!("{name} is of kind {kind:?}, expected Float, BFloat16 or Half"));
            }
        }
    }
    let tied = model.config().tie_word_embeddings;
    let known = |name: &str| {
        model.own_parameters().any(|own| own.name() == name)
            || name.ends_with(ROTARY_BUFFER)
            || (tied && name == HEAD)
    };
    let unexpected = files.place.keys().filter(|name| !known(name));
    problems.extend(unexpected.map(|name| format!("{name} is unexpected")));
    problems
}
