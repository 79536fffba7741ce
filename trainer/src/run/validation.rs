//! The validation corpus of a run: loss, perplexity and a sample of text.
//!
//! **Invariant:** `eval/loss` is always token level (K = 1, windows of T tokens), so it is
//! comparable across phases and runs.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use encoder::Encoder;
use pipeline::corpus::Corpus;
use pipeline::run_file::check_same_tokenizer;
use schemas::run::RunFile;

use crate::console::stop::StopFlag;
use crate::model::eval::{EvalShape, Evaluation, Evaluator};
use crate::model::generate::{self, Sampling};
use crate::model::llama::Llama;
use crate::ranks::process_group::ProcessGroup;
use crate::run::report::{Sample, Validation, unigram_perplexity};

/// Minimum number of tokens read at once.
const READ_TOKENS: usize = 1 << 16;
/// Most tokens of a sample's prompt.
const PROMPT_TOKENS: u64 = 16;
/// Most tokens of a sample's continuation.
const SAMPLE_TOKENS: u64 = 96;

/// The validation corpus does not fill one window.
#[derive(Debug, thiserror::Error)]
#[error(
    "the validation corpus in {} has {tokens} tokens; \
     a window takes {window_tokens}: give it more text",
    path.display()
)]
pub struct ValidationTooShort {
    /// The validation corpus.
    pub path: PathBuf,
    /// Its tokens.
    pub tokens: u64,
    /// T tokens.
    pub window_tokens: u64,
}

/// An open validation corpus.
pub struct ValidationSet {
    corpus: Corpus,
    window_units: u64,
    micro_batch_windows: u64,
    unigram_perplexity: f64,
}

impl ValidationSet {
    /// Opens the corpus in `dir`, which must have the tokenizer of the training corpus and at least
    /// one window.
    pub fn open(dir: &Path, training: &Corpus, config: &RunFile) -> Result<ValidationSet> {
        let corpus = Corpus::open(dir, config.loader.io)?;
        check_same_tokenizer(training.manifest(), corpus.manifest())?;
        let window_units = config.plan.window_units;
        if corpus.token_count() < window_units {
            let (tokens, window_tokens) = (corpus.token_count(), window_units);
            bail!(ValidationTooShort { path: dir.to_owned(), tokens, window_tokens });
        }
        let vocab_size = usize::try_from(corpus.vocab_size()).context("vocabulary size")?;
        let mut counts = vec![0; vocab_size];
        for_each_piece(&corpus, 1, |ids| {
            ids.iter().for_each(|&id| counts[id as usize] += 1);
            Ok(())
        })?;
        Ok(ValidationSet {
            corpus,
            window_units,
            micro_batch_windows: config.train.micro_batch_windows,
            unigram_perplexity: unigram_perplexity(&counts),
        })
    }

    /// The corpus's identity.
    pub fn fingerprint(&self) -> &str {
        &self.corpus.manifest().fingerprint
    }

    /// Token-level figures of `model`; `None` if somebody asked to stop before they were complete.
    pub fn evaluate(
        &self,
        model: &Llama,
        stop: &StopFlag,
        group: &ProcessGroup,
    ) -> Result<Option<Validation>> {
        let text_bytes = self.corpus.manifest().totals.text_bytes;
        let found = evaluate_corpus(model, &self.corpus, self.shape(1), text_bytes, stop, group)?;
        Ok(found.map(|found| Validation {
            loss: found.loss,
            perplexity: found.perplexity,
            unigram_perplexity: self.unigram_perplexity,
            bits_per_byte: found.bits_per_byte.unwrap_or(f64::NAN),
        }))
    }

    /// Loss of predicting the next patch of `patch_size` tokens; `None` if the corpus does not fill
    /// one window of patches, or if somebody asked to stop.
    pub fn patch_loss(
        &self,
        model: &Llama,
        patch_size: u64,
        stop: &StopFlag,
        group: &ProcessGroup,
    ) -> Result<Option<f64>> {
        if self.corpus.token_count() < self.window_units * patch_size {
            return Ok(None);
        }
        let found = evaluate_corpus(model, &self.corpus, self.shape(patch_size), 0, stop, group)?;
        Ok(found.map(|found| found.loss))
    }

    fn shape(&self, patch_size: u64) -> EvalShape {
        let (window_units, micro_batch_windows) = (self.window_units, self.micro_batch_windows);
        EvalShape { window_units, patch_size, micro_batch_windows }
    }

    /// A continuation of the first tokens of one of the corpus's documents.
    pub fn sample(&self, model: &Llama) -> Result<Sample> {
        let record = &self.corpus.manifest().tokenizer;
        let encoder = Encoder::of_corpus(self.corpus.dir(), record)?;
        let prompt = self.prompt(&encoder, model.compute().position_count)?;
        let end_ids: Vec<u32> =
            record.eos.iter().chain(&record.bos).map(|token| token.id).collect();
        let sampling = Sampling::TopP { temperature: 0.7, top_p: 0.9, seed: 1 };
        let found = generate::generate(model, &prompt, SAMPLE_TOKENS, &end_ids, sampling)?;
        let whole = encoder.decode_document(&[prompt.as_slice(), found.text_ids()].concat())?;
        let prompt = encoder.decode_document(&prompt)?;
        let continuation = whole.strip_prefix(&prompt).unwrap_or(&whole).to_owned();
        Ok(Sample { prompt, continuation })
    }

    /// The first tokens of the document in the middle of the corpus, up to one that ends a
    /// character.
    fn prompt(&self, encoder: &Encoder, position_count: u64) -> Result<Vec<u32>> {
        let middle = self.corpus.document_at(self.corpus.token_count() / 2)?;
        let document = self.corpus.document_tokens(middle)?;
        let token_count =
            (document.end - document.start).min(PROMPT_TOKENS).min(position_count / 2);
        let mut prompt = vec![0u32; usize::try_from(token_count.max(1))?];
        self.corpus.read(document.start, &mut prompt)?;
        while prompt.len() > 1 && encoder.decode_document(&prompt)?.ends_with('\u{fffd}') {
            prompt.pop();
        }
        Ok(prompt)
    }
}

/// Evaluates `model` on a whole corpus, or until somebody asks one of the ranks to stop (`None`).
/// `text_bytes` is 0 where bits per byte are meaningless. The ranks take turns with the batches and
/// get the same result.
pub fn evaluate_corpus(
    model: &Llama,
    corpus: &Corpus,
    shape: EvalShape,
    text_bytes: u64,
    stop: &StopFlag,
    group: &ProcessGroup,
) -> Result<Option<Evaluation>> {
    let mut evaluator = Evaluator::new(model, shape)?;
    let batch_tokens = shape.window_units * shape.patch_size * shape.micro_batch_windows;
    let batch_tokens = usize::try_from(batch_tokens).context("tokens of a micro-batch")?;
    let mut turns = (0..group.world_size()).cycle();
    for_each_piece(corpus, batch_tokens, |ids| {
        for batch in ids.chunks(batch_tokens) {
            if turns.next() == Some(group.rank()) && !stop.is_requested() {
                evaluator.push(batch)?;
            }
        }
        Ok(())
    })?;
    if group.any_rank(stop.is_requested())? {
        return Ok(None);
    }
    Ok(Some(evaluator.finish_all_reduced(Some(text_bytes), group)?))
}

/// Reads the whole corpus, some batches of `batch_tokens` at a time.
fn for_each_piece(
    corpus: &Corpus,
    batch_tokens: usize,
    mut take: impl FnMut(&[u32]) -> Result<()>,
) -> Result<()> {
    let piece_tokens = READ_TOKENS.next_multiple_of(batch_tokens);
    let mut buffer = vec![0u32; piece_tokens];
    let mut next = 0;
    while next < corpus.token_count() {
        let length = (corpus.token_count() - next).min(piece_tokens as u64);
        let piece = &mut buffer[..usize::try_from(length)?];
        corpus.read(next, piece)?;
        take(piece)?;
        next += length;
    }
    Ok(())
}
