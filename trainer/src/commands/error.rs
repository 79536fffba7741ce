//! Errors of commands that the library below them cannot have.
//!
//! **Invariant:** each class of error has an exit code of its own in `exit`.

/// A corpus whose ids have another meaning in the model.
#[derive(Debug, thiserror::Error)]
pub enum CorpusMismatch {
    /// Ids missing from the model's embedding.
    #[error("the corpus has a vocabulary of {found}; the model's vocab_size is {expected}")]
    Vocabulary {
        /// Of the corpus.
        found: u64,
        /// Of the model.
        expected: u64,
    },
    /// The corpus was made by another tokenizer than the model's.
    #[error(
        "the corpus was made by the tokenizer {found}; the model's tokenizer.json is {expected}: \
         tokenize the text with that one, or give the text itself as --data"
    )]
    Tokenizer {
        /// BLAKE3 of the corpus' tokenizer.json.
        found: String,
        /// BLAKE3 of the one in the model's folder.
        expected: String,
    },
}

/// A phase with nothing to measure.
#[derive(Debug, thiserror::Error)]
#[error("phases.{index} {found}; {wanted}")]
pub struct NotMeasurable {
    /// Of the phase.
    pub index: usize,
    /// The reason there is nothing.
    pub found: String,
    /// The possible values.
    pub wanted: String,
}

/// Most tokens of a micro-batch: more than any memory holds, and few enough for no sum to overflow.
pub(crate) const TOKENS_MAX: u64 = 1 << 24;

/// A step no run could make either.
#[derive(Debug, thiserror::Error)]
#[error(
    "phases.{index}: a step of {step_tokens} tokens (plan.step_tokens) \
     does not split into micro-batches of \
     {windows} windows (train.micro_batch_windows) of {units} units \
     (window_units, at least 2) of {patch_size} tokens \
     (patch_size); a micro-batch has at most {TOKENS_MAX} tokens"
)]
pub struct WrongStep {
    /// Of the phase.
    pub index: usize,
    /// Of a step.
    pub step_tokens: u64,
    /// Of a micro-batch.
    pub windows: u64,
    /// T.
    pub units: u64,
    /// K.
    pub patch_size: u64,
}
