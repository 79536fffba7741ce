//! Text from a model, token by token.
//!
//! **Invariant:** equal model, prompt and sampling give equal ids on one machine, without ambient
//! randomness.

use tch::{Device, Kind, Tensor};

use crate::data::batch::{self, BatchError, BatchShape};
use crate::model::llama::{KeyValueCache, Llama};

/// How the next token is chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sampling {
    /// The most likely token; among equally likely ones, the lowest id.
    Greedy,
    /// Drawn from the most likely tokens that together reach the probability `top_p`.
    TopP {
        /// Divides the logits; above 0.
        temperature: f64,
        /// Above 0, at most 1.
        top_p: f64,
        /// Key of the random numbers.
        seed: u64,
    },
}

/// Why generation stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The model ended the text; the last id is the end token.
    EndOfText,
    /// All requested tokens were generated.
    TokenLimit,
    /// Prompt and new tokens fill the model's positions.
    ContextLimit,
}

/// The result of generation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    /// New ids, without the prompt.
    pub token_ids: Vec<u32>,
    /// Why generation ended here.
    pub stop: Stop,
}

impl Generation {
    /// The new ids without the end token.
    pub fn text_ids(&self) -> &[u32] {
        let end_count = usize::from(self.stop == Stop::EndOfText);
        &self.token_ids[..self.token_ids.len() - end_count]
    }
}

/// Why nothing can be generated.
#[derive(Debug, PartialEq, thiserror::Error)]
pub enum GenerateError {
    /// The prompt is empty.
    #[error("prompt has no tokens; give a text, or a tokenizer with a document-start token")]
    EmptyPrompt,
    /// The prompt leaves no position.
    #[error(
        "prompt is {prompt_tokens} tokens; the model's context is {position_count}, and one \
         must be left to generate"
    )]
    PromptTooLong {
        /// Tokens of the prompt.
        prompt_tokens: usize,
        /// Positions of the model.
        position_count: u64,
    },
    /// A sampling parameter is out of range.
    #[error("{field} is {found}; expected {expected}")]
    Sampling {
        /// `temperature` or `top_p`.
        field: &'static str,
        /// Its value.
        found: f64,
        /// The legal values.
        expected: &'static str,
    },
    /// Some ids are not tokens of the model.
    #[error(transparent)]
    Batch(#[from] BatchError),
}

/// Generates up to `new_tokens_max` tokens after `prompt`; one of `end_ids` ends the text early.
pub fn generate(
    model: &Llama,
    prompt: &[u32],
    new_tokens_max: u64,
    end_ids: &[u32],
    sampling: Sampling,
) -> Result<Generation, GenerateError> {
    let position_count = model.compute().position_count;
    let room = position_count.checked_sub(prompt.len() as u64).filter(|&room| 0 < room);
    let room =
        room.ok_or(GenerateError::PromptTooLong { prompt_tokens: prompt.len(), position_count })?;
    if prompt.is_empty() {
        return Err(GenerateError::EmptyPrompt);
    }
    let mut chooser = Sampler::new(sampling)?;
    let mut cache = KeyValueCache::new(model);
    let _no_grad = tch::no_grad_guard();
    let mut token_ids = Vec::new();
    let mut unseen = prompt.to_vec();
    while (token_ids.len() as u64) < new_tokens_max.min(room) {
        let id = chooser.choose(&next_logits(model, &unseen, &mut cache)?);
        token_ids.push(id);
        if end_ids.contains(&id) {
            return Ok(Generation { token_ids, stop: Stop::EndOfText });
        }
        unseen = vec![id];
    }
    let stop = if new_tokens_max <= room { Stop::TokenLimit } else { Stop::ContextLimit };
    Ok(Generation { token_ids, stop })
}

/// The logits of the token after `unseen`, on the host (host-device synchronisation).
fn next_logits(
    model: &Llama,
    unseen: &[u32],
    cache: &mut KeyValueCache,
) -> Result<Vec<f32>, GenerateError> {
    let ids: Vec<i64> = unseen.iter().map(|&id| i64::from(id)).collect();
    let vocab_size = model.config().vocab_size;
    let shape = BatchShape { window_units: ids.len() as u64, patch_size: 1, vocab_size };
    let tokens_btk = batch::tokens_btk(&ids, shape, model.compute().device)?;
    let hidden_btd = model.forward_cached(&tokens_btk, cache);
    let last_btd = hidden_btd.narrow(1, hidden_btd.size()[1] - 1, 1);
    let logits_v: Tensor = model.logits(&last_btd).flatten(0, -1).to_device(Device::Cpu);
    assert!(logits_v.kind() == Kind::Float, "logits are fp32 whatever the compute dtype");
    let mut logits = vec![0.0; logits_v.numel()];
    logits_v.copy_data(&mut logits, logits_v.numel());
    Ok(logits)
}

/// Chooses tokens with its own stream of random numbers.
struct Sampler {
    sampling: Sampling,
    random: blake3::OutputReader,
}

impl Sampler {
    fn new(sampling: Sampling) -> Result<Sampler, GenerateError> {
        let mut seed_bytes = [0; 8];
        if let Sampling::TopP { temperature, top_p, seed } = sampling {
            if !(temperature.is_finite() && 0.0 < temperature) {
                let expected = "a finite number above 0; greedy sampling needs none";
                return Err(GenerateError::Sampling {
                    field: "temperature",
                    found: temperature,
                    expected,
                });
            }
            if !(0.0 < top_p && top_p <= 1.0) {
                let expected = "above 0 and at most 1";
                return Err(GenerateError::Sampling { field: "top_p", found: top_p, expected });
            }
            seed_bytes = seed.to_le_bytes();
        }
        Ok(Sampler { sampling, random: blake3::Hasher::new().update(&seed_bytes).finalize_xof() })
    }

    fn choose(&mut self, logits: &[f32]) -> u32 {
        let index = match self.sampling {
            Sampling::Greedy => argmax(logits),
            Sampling::TopP { temperature, top_p, .. } => {
                let uniform = self.uniform();
                draw(logits, temperature, top_p, uniform)
            }
        };
        u32::try_from(index).expect("the vocabulary fits u32")
    }

    /// The next random number in [0, 1), with 53 bits.
    fn uniform(&mut self) -> f64 {
        let mut bytes = [0; 8];
        self.random.fill(&mut bytes);
        (u64::from_le_bytes(bytes) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

fn argmax(logits: &[f32]) -> usize {
    let better =
        |best: usize, index: usize| if logits[best] < logits[index] { index } else { best };
    (0..logits.len()).reduce(better).expect("the vocabulary is not empty")
}

/// The index selected by `uniform`, in [0, 1), among the most likely tokens that together reach
/// `top_p`.
fn draw(logits: &[f32], temperature: f64, top_p: f64, uniform: f64) -> usize {
    let highest = f64::from(logits[argmax(logits)]);
    let mut weights: Vec<(f64, usize)> = logits
        .iter()
        .enumerate()
        .map(|(index, &logit)| (((f64::from(logit) - highest) / temperature).exp(), index))
        .collect();
    weights.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
    let total: f64 = weights.iter().map(|(weight, _)| weight).sum();
    let mut kept = 0.0;
    let mut count = 0;
    while count < weights.len() && (count == 0 || kept < top_p * total) {
        kept += weights[count].0;
        count += 1;
    }
    let mut left = uniform * kept;
    for (weight, index) in &weights[..count] {
        left -= weight;
        if left < 0.0 {
            return *index;
        }
    }
    weights[count - 1].1 // rounding left a remainder
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 4] = [0.0, 2.0, 1.0, -3.0];

    #[test]
    fn of_equally_likely_tokens_the_greedy_choice_is_the_lowest_id() {
        assert_eq!(argmax(&[1.0, 3.0, 3.0]), 1);
    }

    #[test]
    fn draws_follow_the_probabilities_in_order_of_likelihood() {
        // softmax: id 1 has 0.662, id 2 0.244, id 0 0.090, id 3 0.004
        let check = |uniform: f64, expected: usize| {
            assert_eq!(draw(&LOGITS, 1.0, 1.0, uniform), expected, "{uniform}");
        };
        check(0.0, 1);
        check(0.66, 1);
        check(0.67, 2);
        check(0.90, 2);
        check(0.91, 0);
        check(0.998, 3);
        check(1.0 - f64::EPSILON, 3);
    }

    #[test]
    fn top_p_keeps_the_fewest_tokens_that_reach_it() {
        let last = 1.0 - f64::EPSILON;
        assert_eq!(draw(&LOGITS, 1.0, 0.5, last), 1);
        assert_eq!(draw(&LOGITS, 1.0, 0.7, last), 2);
        assert_eq!(draw(&LOGITS, 0.01, 1.0, 0.999), 1); // cold: the best alone
    }

    #[test]
    fn sampling_numbers_out_of_range_are_refused() {
        let refused = |temperature, top_p| {
            Sampler::new(Sampling::TopP { temperature, top_p, seed: 0 }).is_err()
        };
        assert!(
            refused(0.0, 1.0) && refused(f64::NAN, 1.0) && refused(1.0, 0.0) && refused(1.0, 1.1)
        );
        assert!(!refused(0.8, 0.95));
    }
}
