//! Errors of commands that the library below them cannot have.
//!
//! **Invariant:** each has an exit code of its own kind in `exit`.

/// A corpus whose ids mean something else to the model.
#[derive(Debug, thiserror::Error)]
pub enum CorpusMismatch {
    /// Ids that the model's embedding does not have.
    #[error("the corpus has a vocabulary of {found}; the model's vocab_size is {expected}")]
    Vocabulary {
        /// Of the corpus.
        found: u64,
        /// Of the model.
        expected: u64,
    },
    /// Made by another tokenizer than the model's.
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

/// A phase that has nothing to measure.
#[derive(Debug, thiserror::Error)]
#[error("phases.{index} {found}; {wanted}")]
pub struct NotMeasurable {
    /// Of the phase.
    pub index: usize,
    /// Why there is nothing.
    pub found: String,
    /// What there could be.
    pub wanted: String,
}

/// Tokens of a micro-batch at most: more than any memory holds, and few enough that no sum
/// overflows.
pub(crate) const TOKENS_MAX: u64 = 1 << 24;

/// A step that a run could not make either.
#[derive(Debug, thiserror::Error)]
#[error(
    "phases.{index}: a step of {step_tokens} tokens (plan.step_tokens) does not split into micro-batches of \
     {windows} windows (train.micro_batch_windows) of {units} units (window_units, at least 2) of {patch_size} tokens \
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
