//! How many blocks of each stream an epoch reads: the subset of a corpus, or the parts of a
//! mixture.
//!
//! A mixture's epoch has P blocks. A set with `epochs = e` gives `e` times its subset of M blocks.
//! Each set with a share gets that part of P. `subset_tokens` sets P. Without it, P is such that
//! the sets with epochs, read in full, make up the part the shares leave over; if all sets have
//! shares, P is the most that reads no set twice.
//!
//! **Invariant:** a stream's blocks of an epoch are the whole blocks inside its part, rounded down.

use schemas::run::{Passes, SetAmount, Share};

use crate::error::PlanError;
use crate::permutation::COUNT_MAX;
use crate::sizes::Fraction;
use crate::spec::{PlanSpec, SetSpec};

/// Blocks of one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StreamBlocks {
    /// n: whole blocks of the stream.
    pub(crate) stream: u64,
    /// M: blocks of its subset.
    pub(crate) subset: u64,
    /// Blocks of it an epoch of the run reads.
    pub(crate) epoch: u64,
}

/// The blocks of every stream, in the order of the sets; one stream without sets.
pub(crate) fn stream_blocks(
    spec: &PlanSpec,
    block_tokens: u64,
) -> Result<Vec<StreamBlocks>, PlanError> {
    if spec.corpus_tokens > COUNT_MAX {
        return Err(PlanError::Overflow { what: "the corpus".to_owned() });
    }
    if spec.sets.is_empty() {
        let subset = subset_blocks(spec, block_tokens)?;
        let stream = spec.corpus_tokens / block_tokens;
        return Ok(vec![StreamBlocks { stream, subset, epoch: subset }]);
    }
    check_sets(spec)?;
    let blocks = Mixture::new(spec, block_tokens)?.blocks()?;
    for (set, blocks) in spec.sets.iter().zip(&blocks) {
        let asked = match set.amount {
            SetAmount::Share(share) => share.numer(),
            SetAmount::Epochs(passes) => passes.numer(),
        };
        if asked > 0 && (blocks.epoch == 0 || blocks.subset == 0) {
            let (name, set_tokens) = (set.name.clone(), set.tokens);
            return Err(PlanError::NoSetBlock { name, set_tokens, block_tokens });
        }
    }
    Ok(blocks)
}

/// M of a corpus that is one stream.
fn subset_blocks(spec: &PlanSpec, block_tokens: u64) -> Result<u64, PlanError> {
    let corpus_tokens = spec.corpus_tokens;
    let no_block = |what, found_tokens| PlanError::NoBlock { what, found_tokens, block_tokens };
    if corpus_tokens < block_tokens {
        return Err(no_block("the corpus", corpus_tokens));
    }
    match spec.subset_tokens {
        Some(subset_tokens) if subset_tokens > corpus_tokens => {
            Err(PlanError::Subset { subset_tokens, corpus_tokens })
        }
        Some(subset_tokens) if subset_tokens < block_tokens => {
            Err(no_block("the subset", subset_tokens))
        }
        subset_tokens => Ok(subset_tokens.unwrap_or(corpus_tokens) / block_tokens),
    }
}

fn check_sets(spec: &PlanSpec) -> Result<(), PlanError> {
    let names: Vec<String> = spec.sets.iter().map(|set| set.name.clone()).collect();
    let found_tokens = spec.sets.iter().fold(0u64, |sum, set| sum.saturating_add(set.tokens));
    if names.is_sorted_by(|a, b| a < b) && found_tokens == spec.corpus_tokens {
        return Ok(());
    }
    Err(PlanError::Sets { names, found_tokens, corpus_tokens: spec.corpus_tokens })
}

struct Mixture<'a> {
    sets: &'a [SetSpec],
    block_tokens: u64,
    /// Sum of the shares, at most 1.
    shares: Fraction,
    /// Blocks of an epoch if all of each set with epochs is read; 0 if no set has any.
    with_epochs: u64,
    /// P as far as `subset_tokens` sets it.
    epoch_max: Option<u64>,
}

impl<'a> Mixture<'a> {
    fn new(spec: &'a PlanSpec, block_tokens: u64) -> Result<Mixture<'a>, PlanError> {
        let (mut shares, mut with_epochs) = (Fraction::ZERO, 0u64);
        for set in &spec.sets {
            match set.amount {
                SetAmount::Share(share) => shares = shares.plus(share)?,
                SetAmount::Epochs(passes) => {
                    let blocks = times(set.tokens / block_tokens, passes);
                    let sum = blocks.and_then(|blocks| with_epochs.checked_add(blocks));
                    let overflow =
                        || PlanError::Overflow { what: "epochs * tokens of data.sets".to_owned() };
                    with_epochs =
                        sum.filter(|&sum| sum <= COUNT_MAX / block_tokens).ok_or_else(overflow)?;
                }
            }
        }
        let expected = match (with_epochs > 0, shares.numer.cmp(&shares.denom)) {
            (true, std::cmp::Ordering::Less) | (false, std::cmp::Ordering::Equal) => None,
            (true, _) => Some("less than 1, so that something is left for the sets with epochs"),
            (false, _) => Some("exactly 1, as no set has epochs"),
        };
        if let Some(expected) = expected {
            let (sum_numer, sum_denom) = (shares.numer as u64, shares.denom as u64);
            return Err(PlanError::SetShares { sum_numer, sum_denom, expected });
        }
        let epoch_max = spec.subset_tokens.map(|tokens| tokens / block_tokens);
        Ok(Mixture { sets: &spec.sets, block_tokens, shares, with_epochs, epoch_max })
    }

    fn blocks(&self) -> Result<Vec<StreamBlocks>, PlanError> {
        let Fraction { numer, denom } = self.shares;
        // The part shares leave over: all of P without shares, 0 if every set has one.
        let rest = |epoch: u64| narrow(u128::from(epoch) * (denom - numer) / denom);
        let (epoch, allowed) = match self.epoch_max {
            Some(epoch) => (epoch, Some(rest(epoch))),
            None if self.with_epochs > 0 => {
                let epoch = u128::from(self.with_epochs) * denom / (denom - numer);
                let overflow = || PlanError::Overflow { what: "an epoch of data.sets".to_owned() };
                let max = u128::from(COUNT_MAX / self.block_tokens);
                (narrow(Some(epoch).filter(|&epoch| epoch <= max).ok_or_else(overflow)?), None)
            }
            None => (self.most_without_repeats(), None),
        };
        if let Some(allowed) = allowed
            && allowed > self.with_epochs
            && self.with_epochs > 0
        {
            let wanted_tokens = allowed.saturating_mul(self.block_tokens);
            let found_tokens = self.with_epochs * self.block_tokens;
            return Err(PlanError::SetSubset { wanted_tokens, found_tokens });
        }
        Ok(self.sets.iter().map(|set| self.blocks_of(set, epoch, allowed)).collect())
    }

    /// P when every set has a share and none may be read twice in an epoch.
    fn most_without_repeats(&self) -> u64 {
        let most = self.sets.iter().filter_map(|set| match set.amount {
            SetAmount::Share(share) if share.numer() > 0 => {
                let blocks = u128::from(set.tokens / self.block_tokens);
                Some(blocks * u128::from(share.denom()) / u128::from(share.numer()))
            }
            _ => None,
        });
        narrow(most.min().unwrap_or(0).min(u128::from(COUNT_MAX / self.block_tokens)))
    }

    fn blocks_of(&self, set: &SetSpec, epoch: u64, allowed: Option<u64>) -> StreamBlocks {
        let stream = set.tokens / self.block_tokens;
        let of_epoch = |share: Share| {
            narrow(u128::from(epoch) * u128::from(share.numer()) / u128::from(share.denom()))
        };
        match (set.amount, allowed) {
            (SetAmount::Share(share), _) => {
                let epoch = of_epoch(share);
                StreamBlocks { stream, subset: stream.min(epoch), epoch }
            }
            (SetAmount::Epochs(passes), _) if passes.numer() == 0 => {
                StreamBlocks { stream, subset: 0, epoch: 0 }
            }
            (SetAmount::Epochs(passes), Some(allowed)) if allowed < self.with_epochs => {
                let whole = times(stream, passes).expect("the sum over all sets was checked");
                let part = u128::from(allowed) * u128::from(whole) / u128::from(self.with_epochs);
                let subset = part * u128::from(passes.denom()) / u128::from(passes.numer());
                let subset = narrow(subset.min(stream.into()));
                StreamBlocks { stream, subset, epoch: times(subset, passes).unwrap_or(0) }
            }
            (SetAmount::Epochs(passes), _) => {
                let epoch = times(stream, passes).expect("the sum over all sets was checked");
                StreamBlocks { stream, subset: stream, epoch }
            }
        }
    }
}

/// `blocks * passes`, rounded down.
fn times(blocks: u64, passes: Passes) -> Option<u64> {
    let product = u128::from(blocks) * u128::from(passes.numer()) / u128::from(passes.denom());
    u64::try_from(product).ok()
}

fn narrow(number: u128) -> u64 {
    u64::try_from(number).expect("a number of blocks")
}
