//! The streams of a plan: the tokens of the corpus each takes, and the order in which its blocks
//! are chosen.
//!
//! **Invariant:** streams follow each other without a gap, in the order of the spec's sets.

use std::ops::Range;

use schemas::run::Shuffle;

use crate::mixture::StreamBlocks;
use crate::permutation::{Permutation, PermutationKey, Purpose};
use crate::spec::PlanSpec;

/// A part of the corpus with its own passes: a set of a mixture, or the whole corpus.
#[derive(Clone, Debug)]
pub struct Stream {
    pub(crate) name: Option<String>,
    pub(crate) first_token: u64,
    pub(crate) token_count: u64,
    pub(crate) block_tokens: u64,
    pub(crate) blocks: StreamBlocks,
    /// Of all whole blocks of the stream; the subset is the image of the first ones.
    pub(crate) subset: Permutation,
}

impl Stream {
    /// The set's name; `None` for a corpus that is one stream.
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Places of the corpus it takes.
    pub fn tokens(&self) -> Range<u64> {
        self.first_token..self.first_token + self.token_count
    }

    /// Tokens a pass reads: whole blocks.
    pub fn subset_tokens(&self) -> u64 {
        self.blocks.subset * self.block_tokens
    }

    /// Tokens of it an epoch of the run reads, in any number of passes.
    pub fn epoch_tokens(&self) -> u64 {
        self.blocks.epoch * self.block_tokens
    }

    /// Tokens at the end that fill no block and are never read.
    pub fn tail_tokens(&self) -> u64 {
        self.token_count % self.block_tokens
    }
}

/// The streams of a spec, with their blocks.
pub(crate) fn streams(spec: &PlanSpec, block_tokens: u64, blocks: &[StreamBlocks]) -> Vec<Stream> {
    let stream = |name: Option<&str>, first_token, token_count, blocks: StreamBlocks| {
        // When all blocks are taken there is nothing to choose, and groups of the order are those
        // of the corpus.
        let is_chosen =
            blocks.subset < blocks.stream || !matches!(spec.shuffle, Shuffle::Blocked { .. });
        let subset = if is_chosen {
            permutation(spec, name, Purpose::Subset, blocks.stream, 1)
        } else {
            Permutation::identity(blocks.stream)
        };
        let name = name.map(str::to_owned);
        Stream { name, first_token, token_count, block_tokens, blocks, subset }
    };
    if spec.sets.is_empty() {
        return vec![stream(None, 0, spec.corpus_tokens, blocks[0])];
    }
    let mut first_token = 0;
    let mut streams = Vec::with_capacity(spec.sets.len());
    for (set, blocks) in spec.sets.iter().zip(blocks) {
        streams.push(stream(Some(&set.name), first_token, set.tokens, *blocks));
        first_token += set.tokens; // their sum was checked
    }
    streams
}

/// The permutation of `count` windows, `block_windows` to a block.
pub(crate) fn permutation(
    spec: &PlanSpec,
    set_name: Option<&str>,
    purpose: Purpose,
    count: u64,
    block_windows: u64,
) -> Permutation {
    let key = || match set_name {
        Some(name) => PermutationKey::derive_for_set(spec.seed, name, purpose),
        None => PermutationKey::derive(spec.seed, purpose),
    };
    match spec.shuffle {
        Shuffle::Global => Permutation::keyed(key(), count),
        Shuffle::Blocked { group_blocks } => {
            Permutation::blocked(key(), count, group_blocks.saturating_mul(block_windows))
        }
        Shuffle::None => Permutation::identity(count),
    }
}
