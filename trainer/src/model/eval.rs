//! Loss and perplexity of a token stream, as defined by the paper's authors.
//!
//! Evaluation is always at token level: K = 1, windows of T that do not overlap and start cold, the
//! tail dropped and reported. A patch loss (K > 1) is another quantity and not a perplexity. A
//! patch phase shows both.
//!
//! **Invariant:** each predicted token has the same weight, no matter how windows are batched.

use crate::data::batch::{self, BatchError, BatchShape};
use crate::model::llama::Llama;
use crate::ranks::process_group::ProcessGroup;
use crate::shim::ShimError;

/// How a stream is cut and read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EvalShape {
    /// T: units per window, at least 2.
    pub window_units: u64,
    /// K: 1 for token-level loss and perplexity.
    pub patch_size: u64,
    /// Windows computed at once; this bounds memory and does not affect the result.
    pub micro_batch_windows: u64,
}

/// The result of an evaluation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Evaluation {
    /// Mean negative log-likelihood per predicted token, in nats.
    pub loss: f64,
    /// exp(loss).
    pub perplexity: f64,
    /// Tokens in whole windows, all of which were read.
    pub tokens: u64,
    /// Predicted tokens: all but the first unit of each window.
    pub predicted_tokens: u64,
    /// Windows.
    pub windows: u64,
    /// Tokens of the tail, shorter than a window.
    pub dropped_tokens: u64,
    /// Bits per byte of text, if the size of the stream's text is known: the mean loss, applied to
    /// every token of the stream, divided by the stream's bytes.
    pub bits_per_byte: Option<f64>,
}

/// Why nothing could be evaluated.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum EvalError {
    /// The stream is shorter than one window.
    #[error("{tokens} tokens do not fill one window of {window_tokens}")]
    TooShort {
        /// Tokens of the stream.
        tokens: u64,
        /// Tokens of a window.
        window_tokens: u64,
    },
    /// Windows have no prediction, or are longer than the model's tables.
    #[error(
        "windows have {window_units} units; expected 2 to the model's {position_count} positions"
    )]
    Window {
        /// T.
        window_units: u64,
        /// Largest T of the model.
        position_count: u64,
    },
    /// Some ids are not tokens of the model.
    #[error(transparent)]
    Batch(#[from] BatchError),
    /// The other ranks are lost.
    #[error(transparent)]
    Shim(#[from] ShimError),
}

/// Evaluates a whole stream of ids; see [`Evaluator`] for streams read in pieces.
pub fn evaluate(
    model: &Llama,
    ids: &[u32],
    shape: EvalShape,
    text_bytes: Option<u64>,
) -> Result<Evaluation, EvalError> {
    let mut evaluator = Evaluator::new(model, shape)?;
    evaluator.push(ids)?;
    evaluator.finish(text_bytes)
}

/// An evaluation in progress: takes a stream of ids in pieces of any size.
pub struct Evaluator<'a> {
    model: &'a Llama,
    shape: EvalShape,
    pending: Vec<i64>, // less than a micro-batch
    nll_sum: f64,
    predicted_tokens: u64,
    windows: u64,
    stream_tokens: u64,
}

impl<'a> Evaluator<'a> {
    /// An evaluation before its first ids.
    pub fn new(model: &'a Llama, shape: EvalShape) -> Result<Evaluator<'a>, EvalError> {
        let position_count = model.compute().position_count;
        let window_units = shape.window_units;
        if !(2 <= window_units && window_units <= position_count) {
            return Err(EvalError::Window { window_units, position_count });
        }
        assert!(0 < shape.patch_size && 0 < shape.micro_batch_windows, "counts from 1: {shape:?}");
        Ok(Evaluator {
            model,
            shape,
            pending: Vec::new(),
            nll_sum: 0.0,
            predicted_tokens: 0,
            windows: 0,
            stream_tokens: 0,
        })
    }

    /// Takes the next ids of the stream.
    pub fn push(&mut self, ids: &[u32]) -> Result<(), EvalError> {
        let batch_tokens = self.window_tokens() * to_usize(self.shape.micro_batch_windows);
        let mut rest = ids;
        while !rest.is_empty() {
            let (head, tail) = rest.split_at(rest.len().min(batch_tokens - self.pending.len()));
            self.pending.extend(head.iter().map(|&id| i64::from(id)));
            self.stream_tokens += head.len() as u64;
            rest = tail;
            if self.pending.len() == batch_tokens {
                self.run(batch_tokens)?;
            }
        }
        Ok(())
    }

    /// The result over all whole windows. `text_bytes`: the size of the text of the whole stream.
    pub fn finish(self, text_bytes: Option<u64>) -> Result<Evaluation, EvalError> {
        self.finish_all_reduced(text_bytes, &ProcessGroup::single())
    }

    /// The result over the streams of all ranks, returned on each of them; `text_bytes` covers all
    /// streams.
    pub fn finish_all_reduced(
        mut self,
        text_bytes: Option<u64>,
        group: &ProcessGroup,
    ) -> Result<Evaluation, EvalError> {
        let window_tokens = self.window_tokens();
        let whole = self.pending.len() / window_tokens * window_tokens;
        if 0 < whole {
            self.run(whole)?;
        }
        let counts =
            [self.predicted_tokens, self.windows, self.stream_tokens, self.pending.len() as u64];
        let [nll_sum] = group.all_reduce_sums([self.nll_sum])?;
        // A double represents counts below 2^53 exactly.
        let [predicted_tokens, windows, stream_tokens, dropped_tokens] =
            group.all_reduce_sums(counts.map(|count| count as f64))?.map(|count| count as u64);
        let window_tokens = window_tokens as u64;
        if windows == 0 {
            return Err(EvalError::TooShort { tokens: stream_tokens, window_tokens });
        }
        let loss = nll_sum / predicted_tokens as f64;
        let bits_per_token = loss / std::f64::consts::LN_2;
        let bits_per_byte = text_bytes
            .filter(|&bytes| 0 < bytes)
            .map(|bytes| bits_per_token * stream_tokens as f64 / bytes as f64);
        Ok(Evaluation {
            loss,
            perplexity: loss.exp(),
            tokens: windows * window_tokens,
            predicted_tokens,
            windows,
            dropped_tokens,
            bits_per_byte,
        })
    }

    fn window_tokens(&self) -> usize {
        to_usize(self.shape.window_units * self.shape.patch_size)
    }

    /// Evaluates the first `tokens` pending ids, which are whole windows (host-device
    /// synchronisation).
    fn run(&mut self, tokens: usize) -> Result<(), EvalError> {
        let EvalShape { window_units, patch_size, .. } = self.shape;
        let vocab_size = self.model.config().vocab_size;
        let shape = BatchShape { window_units, patch_size, vocab_size };
        let tokens_btk =
            batch::tokens_btk(&self.pending[..tokens], shape, self.model.compute().device)?;
        let loss = tch::no_grad(|| self.model.loss(&tokens_btk)).double_value(&[]);
        let windows = (tokens / self.window_tokens()) as u64;
        let predicted_tokens = windows * (window_units - 1) * patch_size;
        self.nll_sum += loss * predicted_tokens as f64;
        self.predicted_tokens += predicted_tokens;
        self.windows += windows;
        self.pending.drain(..tokens);
        Ok(())
    }
}

fn to_usize(count: u64) -> usize {
    usize::try_from(count).expect("a window fits memory")
}
