//! LLaMA over units, which are patches or tokens. Token-level training is K = 1; nothing here
//! depends on which it is.
//!
//! RMSNorm, rotate-half RoPE on unit positions, SwiGLU, grouped-query attention, no biases. Master
//! weights are fp32; matrices are cast to the compute dtype in each forward pass. RMSNorm, patch
//! embedding, logits and loss are computed in fp32.
//!
//! The residual stream has the dtype of the computation, bf16 in bf16, as in the authors' training
//! code. At 3e-4, the paper's learning rate, losses in bf16 stay within 3e-4 of those in fp32 over
//! 200 steps of the fixtures' run. At the run's own 2e-3 they stay within 3.1e-3, or 7.6e-3 with
//! the sums in another order (`just bench-bf16 WORK`). With other weights and windows, 4 of the 200
//! steps were up to 1.7e-2 apart.
//!
//! This requires a run that does not amplify rounding. With 20 steps of warm-up instead of 100,
//! fp32 with its sums in another order diverged from itself by 6e-3 (now 2e-6), and bf16 by 0.3,
//! where a spike came earlier in one of them. A residual stream in fp32, logits in fp32, and both
//! were no closer. The longer warm-up also trains better: validation perplexity 102 instead of 133
//! over two epochs.
//!
//! **Invariant:** parameters have the names and the meaning of those in Hugging Face's
//! `LlamaForCausalLM`.

// Shapes: b windows, t positions, k tokens per patch, d width, v vocabulary, h query heads, g key
// and value heads, e width of a head, f width of the MLP.

use std::sync::Mutex;

use schemas::run::{ActivationCheckpointing, Dtype, ModelConfig};
use tch::{Device, Kind, Tensor};

use crate::device::{self, extent};
use crate::model::architecture::{
    self, EMBEDDING, FINAL_NORM, HEAD, INPUT_MAP, ModelError, OUTPUT_MAP, PatchMaps, is_map,
};
use crate::model::params::{Parameter, Parameters};
use crate::model::patch;
use crate::shim::checkpoint::checkpoint;
use crate::shim::{self, Heads, ShimError};

/// Why the shim cannot refuse.
const OWN_SHAPES: &str = "shapes and dtypes are the model's own";

/// How a model computes: settings that may change between runs without changing the model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Compute {
    /// Dtype of activations, and of matrices in products.
    pub dtype: Dtype,
    /// The device of all tensors.
    pub device: Device,
    /// Largest T, the size of the rotary tables: `max_position_embeddings`.
    pub position_count: u64,
    /// Parts of a training pass that are recomputed instead of kept; changes no bit of the CPU's
    /// results.
    pub activation_checkpointing: ActivationCheckpointing,
}

/// A LLaMA with its fp32 master weights and gradients.
#[derive(Debug)]
pub struct Llama {
    config: ModelConfig,
    compute: Compute,
    parameters: Parameters,
    embed_tokens_vd: Tensor,
    layers: Vec<Layer>,
    norm_d: Tensor,
    lm_head_vd: Tensor,
    rotary: Rotary,
    maps: PatchMaps,
    input_map: Option<Tensor>,  // [d, k·d]
    output_map: Option<Tensor>, // [k·d, d]
}

impl Llama {
    /// A model with matrices and embeddings from N(0, `initializer_range`) and gains of 1.
    ///
    /// The values depend only on the configuration and `seed`. Each parameter has its own
    /// generator, keyed by its name, which draws on the CPU for every device.
    pub fn new(config: &ModelConfig, compute: Compute, seed: u64) -> Result<Llama, ModelError> {
        let model = Llama::zeroed(config, compute)?;
        let jobs: Vec<(Tensor, u64)> = model
            .parameters
            .iter()
            .map(|parameter| {
                (parameter.leaf().shallow_clone(), parameter_seed(seed, parameter.name()))
            })
            .collect();
        let thread_count = std::thread::available_parallelism().map_or(1, usize::from);
        let jobs = Mutex::new(jobs.into_iter());
        std::thread::scope(|scope| {
            let work = || initialize(&jobs, config.initializer_range);
            let threads: Vec<_> = (0..thread_count).map(|_| scope.spawn(work)).collect();
            threads
                .into_iter()
                .try_for_each(|thread| thread.join().expect("an initializer does not panic"))
        })?;
        Ok(model)
    }

    /// A model with all parameters zero, for weights to be read from a file.
    pub fn zeroed(config: &ModelConfig, compute: Compute) -> Result<Llama, ModelError> {
        Llama::zeroed_with(config, compute, PatchMaps::NONE)
    }

    /// The same with a phase's maps at its ends, also zero.
    pub fn zeroed_with(
        config: &ModelConfig,
        compute: Compute,
        maps: PatchMaps,
    ) -> Result<Llama, ModelError> {
        architecture::check_config(config)?;
        architecture::check_map_sizes(config, maps)?;
        architecture::check_position_count(compute.position_count)?;
        let mut specs = architecture::parameter_specs(config);
        specs.extend(architecture::map_specs(config, maps));
        let parameters = Parameters::new(specs, compute.device)?;
        let leaf = |name: String| {
            let parameter = parameters.get(&name).expect("parameter_specs names every parameter");
            parameter.leaf().shallow_clone()
        };
        let kind = device::kind(compute.dtype);
        let layers = (0..config.num_hidden_layers)
            .map(|index| Layer::new(config, compute, &parameters, index))
            .collect::<Result<_, _>>()?;
        let embed_tokens_vd = leaf(EMBEDDING.to_owned());
        let lm_head_vd = if config.tie_word_embeddings {
            embed_tokens_vd.shallow_clone()
        } else {
            leaf(HEAD.to_owned())
        };
        let norm_d = leaf(FINAL_NORM.to_owned());
        let rotary = Rotary::new(
            compute.position_count,
            config.hidden_size / config.num_attention_heads,
            config.rope_theta,
            (kind, compute.device),
        );
        Ok(Llama {
            config: config.clone(),
            compute,
            embed_tokens_vd,
            layers,
            norm_d,
            lm_head_vd,
            rotary,
            maps,
            input_map: maps.input.then(|| leaf(INPUT_MAP.to_owned())),
            output_map: maps.output.then(|| leaf(OUTPUT_MAP.to_owned())),
            parameters,
        })
    }

    /// Training loss, `[]` in fp32: mean cross-entropy of each position against the K tokens of the
    /// next patch.
    pub fn loss(&self, tokens_btk: &Tensor) -> Tensor {
        let hidden_btd = self.forward_hidden(tokens_btk);
        match self.map_slots(&hidden_btd, tokens_btk.size()[2]) {
            Some(slots_btkd) => patch::chunked_slot_loss(&slots_btkd, &self.lm_head_vd, tokens_btk),
            None => patch::chunked_patch_loss(&hidden_btd, &self.lm_head_vd, tokens_btk),
        }
    }

    /// The hidden state of each token of the next patch, `[b, t, k, d]`, by the output map; `None`
    /// without one for K = `k`.
    pub fn map_slots(&self, hidden_btd: &Tensor, k: i64) -> Option<Tensor> {
        let map = self.output_map.as_ref().filter(|_| k == extent(self.maps.patch_size))?;
        Some(linear(hidden_btd, map).unflatten(2, [k, -1]))
    }

    /// Hidden states after the last norm, in the compute dtype. K and T come from the shape of
    /// `tokens_btk` (int64).
    pub fn forward_hidden(&self, tokens_btk: &Tensor) -> Tensor {
        self.backbone(&self.embed_patches(tokens_btk), None)
    }

    /// Mean of the K token embeddings of each patch, or their image under the input map, in the
    /// compute dtype; K = 1 is the embedding itself.
    pub fn embed_patches(&self, tokens_btk: &Tensor) -> Tensor {
        let k = tokens_btk.size()[2];
        if let Some(map) = self.input_map.as_ref().filter(|_| k == extent(self.maps.patch_size)) {
            let emb_btkd = Tensor::embedding(&self.embed_tokens_vd, tokens_btk, -1, false, false);
            return linear(&emb_btkd.to_kind(self.kind()).flatten(2, 3), map);
        }
        patch::embed_patches(&self.embed_tokens_vd, tokens_btk, self.kind())
    }

    /// fp32 logits of hidden states in the compute dtype: `[.., d]` to `[.., v]`.
    pub fn logits(&self, hidden_btd: &Tensor) -> Tensor {
        linear(hidden_btd, &self.lm_head_vd).to_kind(Kind::Float)
    }

    /// Hidden states of the next units of a sequence with its earlier units in `cache`. The new
    /// units are appended to the cache.
    pub fn forward_cached(&self, tokens_btk: &Tensor, cache: &mut KeyValueCache) -> Tensor {
        self.backbone(&self.embed_patches(tokens_btk), Some(cache))
    }

    /// The architecture.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// The settings of its computation.
    pub fn compute(&self) -> Compute {
        self.compute
    }

    /// Master weights and gradients.
    pub fn parameters(&self) -> &Parameters {
        &self.parameters
    }

    /// The parameters of Hugging Face's model: all but the phase's maps.
    pub fn own_parameters(&self) -> impl Iterator<Item = &Parameter> {
        self.parameters.iter().filter(|parameter| !is_map(parameter.name()))
    }

    /// The maps at the model's ends.
    pub fn maps(&self) -> PatchMaps {
        self.maps
    }

    /// A model with copies of this model's weights, but other maps. The maps are drawn from N(0,
    /// `initializer_range`), determined by `seed` alone.
    pub fn with_maps(&self, maps: PatchMaps, seed: u64) -> Result<Llama, ModelError> {
        let model = Llama::zeroed_with(&self.config, self.compute, maps)?;
        let mut jobs = Vec::new();
        let _no_grad = tch::no_grad_guard();
        for parameter in model.parameters.iter() {
            let mut leaf = parameter.leaf().shallow_clone();
            match self.parameters.get(parameter.name()).filter(|old| !is_map(old.name())) {
                Some(old) => leaf.copy_(old.leaf()),
                None => jobs.push((leaf, parameter_seed(seed, parameter.name()))),
            }
        }
        initialize(&Mutex::new(jobs.into_iter()), self.config.initializer_range)?;
        Ok(model)
    }

    /// Rotary tables `(cos_te, sin_te)`, each half of a head wide, in the compute dtype.
    pub fn rotary_tables(&self) -> (&Tensor, &Tensor) {
        (&self.rotary.cos_te, &self.rotary.sin_te)
    }

    fn kind(&self) -> Kind {
        device::kind(self.compute.dtype)
    }

    fn backbone(&self, emb_btd: &Tensor, mut cache: Option<&mut KeyValueCache>) -> Tensor {
        let first_position = cache.as_ref().map_or(0, |cache| cache.position_count());
        let rotary = self.rotary.slice(first_position, emb_btd.size()[1]);
        // The sum of a block's output and its input is computed where it is normalized: at the
        // start of the next block.
        let mut x_btd = emb_btd.shallow_clone();
        let mut delta_btd: Option<Tensor> = None;
        for (index, layer) in self.layers.iter().enumerate() {
            let past = cache.as_mut().map(|cache| &mut cache.layers[index]);
            let (sum_btd, out_btd) = layer.forward(&x_btd, delta_btd.as_ref(), &rotary, past);
            (x_btd, delta_btd) = (sum_btd, Some(out_btd));
        }
        add_norm(&x_btd, delta_btd.as_ref(), &self.norm_d, self.config.rms_norm_eps).1
    }
}

/// Keys and values of the units seen so far, for generation.
#[derive(Debug)]
pub struct KeyValueCache {
    /// Keys and values of each layer, `[b, g, t, e]`.
    layers: Vec<Option<(Tensor, Tensor)>>,
}

impl KeyValueCache {
    /// An empty cache for `model`.
    pub fn new(model: &Llama) -> KeyValueCache {
        KeyValueCache { layers: model.layers.iter().map(|_| None).collect() }
    }

    /// The number of units seen.
    pub fn position_count(&self) -> i64 {
        self.layers.first().and_then(Option::as_ref).map_or(0, |(keys_bgte, _)| keys_bgte.size()[2])
    }
}

/// One transformer block.
#[derive(Debug)]
struct Layer {
    input_layernorm_d: Tensor,
    /// The three projections, one below the other.
    qkv: Tensor,
    o_proj: Tensor,
    post_attention_layernorm_d: Tensor,
    /// The two projections, one below the other.
    gate_up: Tensor,
    down_proj_df: Tensor,
    heads: Heads,
    rms_norm_eps: f64,
    checkpointing: ActivationCheckpointing,
}

impl Layer {
    fn new(
        config: &ModelConfig,
        compute: Compute,
        parameters: &Parameters,
        index: u64,
    ) -> Result<Layer, ShimError> {
        let full = |name: &str| format!("model.layers.{index}.{name}");
        let leaf = |name: &str| {
            let parameter = parameters.get(&full(name)).expect("every parameter is specified");
            parameter.leaf().shallow_clone()
        };
        Ok(Layer {
            input_layernorm_d: leaf("input_layernorm.weight"),
            qkv: parameters.merged(&architecture::QKV.map(full))?,
            o_proj: leaf("self_attn.o_proj.weight"),
            post_attention_layernorm_d: leaf("post_attention_layernorm.weight"),
            gate_up: parameters.merged(&architecture::GATE_UP.map(full))?,
            down_proj_df: leaf("mlp.down_proj.weight"),
            heads: Heads {
                query: extent(config.num_attention_heads),
                key_value: extent(config.num_key_value_heads),
                width: extent(config.hidden_size / config.num_attention_heads),
            },
            rms_norm_eps: config.rms_norm_eps,
            checkpointing: compute.activation_checkpointing,
        })
    }

    /// A clone sharing the parameters, for a part of the pass that is recomputed after this borrow
    /// ends.
    fn shallow_clone(&self) -> Layer {
        Layer {
            input_layernorm_d: self.input_layernorm_d.shallow_clone(),
            qkv: self.qkv.shallow_clone(),
            o_proj: self.o_proj.shallow_clone(),
            post_attention_layernorm_d: self.post_attention_layernorm_d.shallow_clone(),
            gate_up: self.gate_up.shallow_clone(),
            down_proj_df: self.down_proj_df.shallow_clone(),
            ..*self
        }
    }

    /// The residual stream after attention, and the MLP's contribution to it.
    fn forward(
        &self,
        x_btd: &Tensor,
        delta_btd: Option<&Tensor>,
        rotary: &Rotary,
        past: Option<&mut Past>,
    ) -> (Tensor, Tensor) {
        if self.checkpointing != ActivationCheckpointing::Block || past.is_some() {
            return self.block(x_btd, delta_btd, rotary, past);
        }
        let (layer, rotary) = (self.shallow_clone(), rotary.shallow_clone());
        let inputs: Vec<&Tensor> = std::iter::once(x_btd).chain(delta_btd).collect();
        let [x_btd, out_btd] = checkpoint(&inputs, move |inputs| {
            layer.block(&inputs[0], inputs.get(1), &rotary, None).into()
        })
        .expect(OWN_SHAPES);
        (x_btd, out_btd)
    }

    fn block(
        &self,
        x_btd: &Tensor,
        delta_btd: Option<&Tensor>,
        rotary: &Rotary,
        past: Option<&mut Past>,
    ) -> (Tensor, Tensor) {
        let eps = self.rms_norm_eps;
        let (x_btd, normed_btd) = add_norm(x_btd, delta_btd, &self.input_layernorm_d, eps);
        let attended_btd =
            if self.checkpointing == ActivationCheckpointing::Attention && past.is_none() {
                let (layer, rotary) = (self.shallow_clone(), rotary.shallow_clone());
                let body = move |inputs: &[Tensor]| [layer.attention(&inputs[0], &rotary, None)];
                let [attended_btd] = checkpoint(&[&normed_btd], body).expect(OWN_SHAPES);
                attended_btd
            } else {
                self.attention(&normed_btd, rotary, past)
            };
        let gain_d = &self.post_attention_layernorm_d;
        let (x_btd, normed_btd) = add_norm(&x_btd, Some(&attended_btd), gain_d, eps);
        (x_btd, self.mlp(&normed_btd))
    }

    fn attention(&self, x_btd: &Tensor, rotary: &Rotary, past: Option<&mut Past>) -> Tensor {
        let qkv = linear(x_btd, &self.qkv);
        if past.is_none() && qkv.device() == Device::Cpu {
            let (cos_te, sin_te) = (&rotary.cos_te, &rotary.sin_te);
            let out_btd = shim::attention(&qkv, cos_te, sin_te, self.heads).expect(OWN_SHAPES);
            return linear(&out_btd, &self.o_proj);
        }
        let [q_bhte, mut k_bgte, mut v_bgte] =
            shim::split_rotate(&qkv, &rotary.cos_te, &rotary.sin_te, self.heads).expect(OWN_SHAPES);
        let mut causal = true;
        if let Some(past) = past {
            if let Some((past_k_bgte, past_v_bgte)) = past.as_ref() {
                assert!(
                    x_btd.size()[1] == 1,
                    "after the first call a cache grows by one unit at a time"
                );
                // The only query is at the last position and sees all keys.
                causal = false;
                k_bgte = Tensor::cat(&[past_k_bgte, &k_bgte], 2);
                v_bgte = Tensor::cat(&[past_v_bgte, &v_bgte], 2);
            }
            *past = Some((k_bgte.shallow_clone(), v_bgte.shallow_clone()));
        }
        let grouped = self.heads.key_value != self.heads.query;
        let out_bhte = Tensor::scaled_dot_product_attention::<&Tensor>(
            &q_bhte, &k_bgte, &v_bgte, None, 0.0, causal, None, grouped,
        );
        linear(&out_bhte.transpose(1, 2).flatten(2, 3), &self.o_proj)
    }

    fn mlp(&self, x_btd: &Tensor) -> Tensor {
        let gate_up = linear(x_btd, &self.gate_up);
        linear(&shim::swiglu(&gate_up).expect(OWN_SHAPES), &self.down_proj_df)
    }
}

type Past = Option<(Tensor, Tensor)>;

/// Tables of the rotary position embedding. A head's two halves rotate by the same angles, so the
/// tables hold one half.
#[derive(Debug)]
struct Rotary {
    cos_te: Tensor,
    sin_te: Tensor,
}

impl Rotary {
    /// Computes frequencies and angles in fp32, as Hugging Face does, then casts.
    fn new(
        position_count: u64,
        head_width: u64,
        theta: f64,
        (kind, device): (Kind, Device),
    ) -> Rotary {
        let options = (Kind::Float, device);
        let exponents_e = Tensor::arange_start_step(0, extent(head_width), 2, options)
            / extent(head_width) as f64;
        let frequencies_e = Tensor::pow_scalar(theta, &exponents_e).reciprocal();
        let angles_te = Tensor::arange(extent(position_count), options).outer(&frequencies_e);
        Rotary { cos_te: angles_te.cos().to_kind(kind), sin_te: angles_te.sin().to_kind(kind) }
    }

    fn slice(&self, first_position: i64, count: i64) -> Rotary {
        let positions = self.cos_te.size()[0];
        let end = first_position + count;
        assert!(end <= positions, "position {end} of a model built for {positions}");
        let part = |table_te: &Tensor| table_te.narrow(0, first_position, count);
        Rotary { cos_te: part(&self.cos_te), sin_te: part(&self.sin_te) }
    }

    fn shallow_clone(&self) -> Rotary {
        Rotary { cos_te: self.cos_te.shallow_clone(), sin_te: self.sin_te.shallow_clone() }
    }
}

/// Returns `x + delta` (or `x`), and this sum scaled to unit root mean square times the gain. Sums
/// are in fp32, results in the dtype of `x`.
fn add_norm(x: &Tensor, delta: Option<&Tensor>, gain_d: &Tensor, eps: f64) -> (Tensor, Tensor) {
    match delta {
        Some(delta) => shim::add_rms_norm(x, delta, gain_d, eps).expect(OWN_SHAPES),
        None => (x.shallow_clone(), shim::rms_norm(x, gain_d, eps).expect(OWN_SHAPES)),
    }
}

/// `x · weightᵀ` in the dtype of `x`; `weight` is an fp32 master weight.
fn linear(x: &Tensor, weight: &Tensor) -> Tensor {
    shim::linear(x, weight).expect(OWN_SHAPES)
}

/// Sets gains to 1 and draws matrices from N(0, `std`), parameter after parameter until `jobs` is
/// empty. The assignment of parameters to threads makes no difference: each parameter has its own
/// seed.
fn initialize(jobs: &Mutex<std::vec::IntoIter<(Tensor, u64)>>, std: f64) -> Result<(), ShimError> {
    let _no_grad = tch::no_grad_guard();
    let next = || jobs.lock().expect("no initializer panics").next();
    while let Some((mut leaf, seed)) = next() {
        if leaf.dim() == 1 {
            let _ = leaf.fill_(1.0);
        } else {
            shim::fill_normal(&mut leaf, std, seed)?;
        }
    }
    Ok(())
}

/// The seed of one parameter's generator.
fn parameter_seed(seed: u64, name: &str) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&seed.to_le_bytes()).update(name.as_bytes());
    let mut bytes = [0; 8];
    hasher.finalize_xof().fill(&mut bytes);
    u64::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::architecture::tests::small;

    fn compute() -> Compute {
        let activation_checkpointing = ActivationCheckpointing::None;
        let (dtype, device) = (Dtype::Fp32, Device::Cpu);
        Compute { dtype, device, position_count: 8, activation_checkpointing }
    }

    #[test]
    fn initial_weights_depend_on_seed_and_name_alone() {
        let first = Llama::new(&small(), compute(), 7).unwrap();
        tch::manual_seed(99); // ambient state takes no part
        let mut deeper = small();
        deeper.num_hidden_layers = 3;
        let second = Llama::new(&deeper, compute(), 7).unwrap();
        for parameter in first.parameters().iter() {
            let other = second.parameters().get(parameter.name()).unwrap();
            assert!(parameter.leaf().equal(other.leaf()), "{}", parameter.name());
        }
        let third = Llama::new(&small(), compute(), 8).unwrap();
        assert!(!first.parameters().masters().equal(third.parameters().masters()));
    }

    #[test]
    fn initial_weights_have_the_configured_spread_and_unit_gains() {
        let mut config = small();
        config.vocab_size = 4096;
        let model = Llama::new(&config, compute(), 1).unwrap();
        let embedding = model.parameters().get("model.embed_tokens.weight").unwrap().leaf();
        assert!((embedding.std(true).double_value(&[]) - 0.02).abs() < 2e-4);
        assert!(embedding.mean(Kind::Double).double_value(&[]).abs() < 2e-4);
        let gain = model.parameters().get("model.norm.weight").unwrap().leaf();
        assert!(gain.equal(&gain.ones_like()));
    }
}
