//! The plan: which window of the corpus each slot of each optimizer step reads.
//!
//! The corpus is one stream of N tokens, cut into aligned *blocks* of the largest window of all phases.
//! M blocks of it are the subset, and E passes over the subset, one after the other, are the *run*: a
//! stream of `E * M * block` tokens. Step `s` reads the run's tokens from `s * step_tokens` on, in windows
//! of its phase. Within an epoch each phase is a *level*. Level 0 is a permutation of the subset's
//! windows. A phase that begins inside the epoch takes what the level below has not read, cuts it into
//! its own windows and permutes those; `r` windows of level k lie in one of level k - 1.
//!
//! Everything here is pure: numbers in, numbers out, on every machine the same.
//!
//! **Invariant:** in every epoch each token of the subset is read exactly once, in one phase, but for
//! the unread rest of the last epoch, which is less than a step.

use std::collections::BTreeMap;
use std::ops::Range;

use schemas::run::{Share, Shuffle};
use serde_json::Value;

use crate::permute::{COUNT_MAX, Permutation, PermutationKey, Purpose};

/// Changes whenever equal specs come to give another order.
pub const ALGORITHM_VERSION: u64 = 1;

/// All that the order depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlanSpec {
    /// N: tokens of the corpus.
    pub corpus_tokens: u64,
    /// The manifest's fingerprint; `None` when the corpus is only assumed.
    pub corpus_fingerprint: Option<String>,
    /// Tokens of the subset at most; the whole corpus when `None`.
    pub subset_tokens: Option<u64>,
    /// Tokens read per optimizer step, in every phase.
    pub step_tokens: u64,
    /// E: passes over the subset.
    pub epochs: u64,
    /// Seed of all permutations.
    pub seed: u64,
    /// How the order is mixed.
    pub shuffle: Shuffle,
    /// In order; the shares add up to 1.
    pub phases: Vec<PhaseSpec>,
}

/// A phase as it is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PhaseSpec {
    /// K: tokens per patch.
    pub patch_size: u64,
    /// T: patches or tokens per window.
    pub window_units: u64,
    /// Share of the run's tokens.
    pub share: Share,
}

/// A phase as it comes out: whole steps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Phase {
    /// K: tokens per patch.
    pub patch_size: u64,
    /// T: patches or tokens per window.
    pub window_units: u64,
    /// K * T.
    pub window_tokens: u64,
    /// Share that was asked for.
    pub share: Share,
    /// The first step of the run that is of this phase; the next phase's when there are no steps.
    pub first_step: u64,
    /// Steps; 0 only for a share of 0.
    pub steps: u64,
    /// Windows that a step reads.
    pub windows_per_step: u64,
    /// Windows of the run before this phase.
    pub first_window: u64,
    /// Windows of this phase.
    pub windows: u64,
    /// Tokens of this phase.
    pub tokens: u64,
}

impl Phase {
    /// The steps of the run that are of this phase.
    pub fn step_range(&self) -> Range<u64> {
        self.first_step..self.first_step + self.steps
    }
}

/// A run of tokens of the corpus that a model sees at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The pass over the subset, from 0.
    pub epoch: u64,
    /// Position of the phase in the plan's list.
    pub phase_index: usize,
    /// Offset in the corpus.
    pub first_token: u64,
    /// K * T of the phase.
    pub token_count: u64,
}

/// When a token is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reading {
    /// Position of the phase in the plan's list.
    pub phase_index: usize,
    /// Step of the run.
    pub step: u64,
    /// Window of the step.
    pub slot: u64,
}

/// Why there is no plan for a spec.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// A size that must not be 0.
    #[error("{field} is 0; expected at least 1")]
    Zero {
        /// Its name in the run file.
        field: String,
    },
    /// No phases at all.
    #[error("there are no phases; expected at least one")]
    NoPhases,
    /// Numbers beyond what the plan computes with.
    #[error("{what} exceeds 2^62 tokens")]
    Overflow {
        /// Which product or sum.
        what: String,
    },
    /// Shares whose common denominator is too large to add exactly.
    #[error("shares have no common denominator below 2^64; write them as simpler fractions")]
    ShareDenominator,
    /// Shares that do not make up the run.
    #[error("shares add up to {sum_numer}/{sum_denom}; expected exactly 1 ({shares})")]
    ShareSum {
        /// Of the sum, reduced.
        sum_numer: u64,
        /// Of the sum, reduced.
        sum_denom: u64,
        /// As they stand in the run file, with plus signs.
        shares: String,
    },
    /// A window that does not divide the largest one.
    #[error(
        "phase {phase_index} has windows of {window_tokens} tokens, which do not divide the largest window, {block_tokens} tokens; \
         choose patch_size and window_units so that they do"
    )]
    WindowBlock {
        /// From 0.
        phase_index: usize,
        /// K * T of the phase.
        window_tokens: u64,
        /// The largest K * T.
        block_tokens: u64,
    },
    /// A step that is no whole number of windows.
    #[error(
        "step_tokens is {step_tokens}, which is no multiple of the {window_tokens}-token windows of phase {phase_index}; \
         the nearest values that suit every phase are {}", nearest(*below, *above)
    )]
    StepTokens {
        /// As asked for.
        step_tokens: u64,
        /// From 0.
        phase_index: usize,
        /// K * T of the phase.
        window_tokens: u64,
        /// The largest smaller value that suits, if there is one.
        below: Option<u64>,
        /// The smallest larger value that suits.
        above: u64,
    },
    /// More asked for than there is.
    #[error("subset_tokens is {subset_tokens}; the corpus has {corpus_tokens} tokens")]
    Subset {
        /// As asked for.
        subset_tokens: u64,
        /// Of the corpus.
        corpus_tokens: u64,
    },
    /// Not one block.
    #[error(
        "{what} has {found_tokens} tokens, less than one block of {block_tokens} (the largest patch_size * window_units)"
    )]
    NoBlock {
        /// "the corpus" or "the subset".
        what: &'static str,
        /// Its tokens.
        found_tokens: u64,
        /// The largest K * T.
        block_tokens: u64,
    },
    /// Not one step.
    #[error(
        "the run has {run_tokens} tokens ({epochs} epochs of {subset_tokens}), less than one step of {step_tokens}; \
         lower step_tokens or take more data"
    )]
    NoStep {
        /// Of all epochs.
        run_tokens: u64,
        /// As asked for.
        epochs: u64,
        /// Of the blocks of the subset.
        subset_tokens: u64,
        /// As asked for.
        step_tokens: u64,
    },
    /// A share that is too small for a step.
    #[error(
        "phase {phase_index} has share {share} of {run_tokens} tokens, which comes to no step of {step_tokens}; \
         raise the share, or make it \"0/1\""
    )]
    NoPhaseStep {
        /// From 0.
        phase_index: usize,
        /// As asked for.
        share: Share,
        /// Of all epochs.
        run_tokens: u64,
        /// As asked for.
        step_tokens: u64,
    },
    /// A switch inside an epoch to windows that do not divide those before.
    #[error(
        "phase {phase_index} begins at step {step}, inside epoch {epoch}, with windows of {window_tokens} tokens; inside an epoch \
         they must divide the {before_tokens}-token windows of the phase before (or choose shares that put the switch between epochs)"
    )]
    Switch {
        /// From 0.
        phase_index: usize,
        /// First step of the phase.
        step: u64,
        /// From 0.
        epoch: u64,
        /// K * T of the phase.
        window_tokens: u64,
        /// K * T of the phase before.
        before_tokens: u64,
    },
}

fn nearest(below: Option<u64>, above: u64) -> String {
    below.map_or_else(|| above.to_string(), |below| format!("{below} and {above}"))
}

/// The data order of a whole run, as a value: equal specs give equal plans on every machine.
#[derive(Clone, Debug)]
pub struct Plan {
    spec: PlanSpec,
    block_tokens: u64,
    subset_blocks: u64,
    /// Of all whole blocks of the corpus; the subset is what `0..subset_blocks` go to.
    subset: Permutation,
    phases: Vec<Phase>,
    step_count: u64,
}

impl Plan {
    /// Makes the plan, or says why there is none.
    pub fn new(spec: &PlanSpec) -> Result<Plan, PlanError> {
        check_sizes(spec)?;
        let block_tokens = block_tokens(spec)?;
        check_steps(spec)?;
        let cumulative = cumulative_shares(&spec.phases)?;
        let subset_blocks = subset_blocks(spec, block_tokens)?;
        let run_tokens = run_tokens(spec, subset_blocks * block_tokens)?;
        let phases = phases(spec, &cumulative, run_tokens)?;
        let corpus_blocks = spec.corpus_tokens / block_tokens;
        let subset = permutation(spec, Purpose::Subset, corpus_blocks);
        let step_count = run_tokens / spec.step_tokens;
        let spec = spec.clone();
        let plan = Plan { spec, block_tokens, subset_blocks, subset, phases, step_count };
        plan.check_switches()?;
        Ok(plan)
    }

    /// What the plan was made of.
    pub fn spec(&self) -> &PlanSpec {
        &self.spec
    }

    /// The phases, in order, those without steps too.
    pub fn phases(&self) -> &[Phase] {
        &self.phases
    }

    /// Steps of the run.
    pub fn step_count(&self) -> u64 {
        self.step_count
    }

    /// Tokens of a block, the largest window.
    pub fn block_tokens(&self) -> u64 {
        self.block_tokens
    }

    /// Tokens that an epoch reads: whole blocks.
    pub fn subset_tokens(&self) -> u64 {
        self.subset_blocks * self.block_tokens
    }

    /// Tokens at the end of the corpus that fill no block and are never read.
    pub fn tail_tokens(&self) -> u64 {
        self.spec.corpus_tokens % self.block_tokens
    }

    /// Tokens of all epochs, the unread rest included.
    pub fn run_tokens(&self) -> u64 {
        self.spec.epochs * self.subset_tokens()
    }

    /// Tokens of the last epoch that fill no step; less than `step_tokens`.
    pub fn unread_tokens(&self) -> u64 {
        self.run_tokens() % self.spec.step_tokens
    }

    /// Windows that the run reads.
    pub fn window_count(&self) -> u64 {
        self.phases.iter().map(|phase| phase.windows).sum()
    }

    /// Units that a model processes per token read: 1 for token-level training, less with patches.
    pub fn relative_cost(&self) -> f64 {
        let tokens: u64 = self.phases.iter().map(|phase| phase.tokens).sum();
        let units: u64 = self.phases.iter().map(|phase| phase.tokens / phase.patch_size).sum();
        units as f64 / tokens as f64
    }

    /// Position of the phase that `step` is of.
    ///
    /// # Panics
    /// Unless `step < step_count`.
    pub fn phase_index_of(&self, step: u64) -> usize {
        assert!(step < self.step_count, "step {step} of {}", self.step_count);
        let phase = self.phases.iter().position(|phase| phase.step_range().contains(&step));
        phase.expect("the phases' steps add up to those of the plan")
    }

    /// The phase that `step` is of.
    ///
    /// # Panics
    /// Unless `step < step_count`.
    pub fn phase_of(&self, step: u64) -> &Phase {
        &self.phases[self.phase_index_of(step)]
    }

    /// The windows of `step`, in order. O(1) to seek, so resuming is `plan.step(saved_step)`.
    ///
    /// # Panics
    /// Unless `step < step_count`.
    pub fn step(&self, step: u64) -> impl Iterator<Item = Window> + use<'_> {
        self.windows(step, 0..self.phase_of(step).windows_per_step)
    }

    /// The windows in the `slots` of `step`, in order.
    ///
    /// # Panics
    /// Unless `step < step_count` and the slots are below the step's number of windows.
    pub fn windows(&self, step: u64, slots: Range<u64>) -> impl Iterator<Item = Window> + use<'_> {
        let phase_index = self.phase_index_of(step);
        let phase = &self.phases[phase_index];
        assert!(slots.end <= phase.windows_per_step, "slots {slots:?} of {phase:?}");
        let epoch_tokens = self.subset_tokens();
        let mut order: Option<EpochOrder> = None;
        slots.map(move |slot| {
            let position = step * self.spec.step_tokens + slot * phase.window_tokens;
            let epoch = position / epoch_tokens;
            if order.as_ref().is_none_or(|order| order.epoch != epoch) {
                order = Some(EpochOrder::new(self, epoch));
            }
            let order = order.as_ref().expect("it was just made");
            let subset_offset = order.subset_offset(phase_index, position % epoch_tokens);
            Window {
                epoch,
                phase_index,
                first_token: self.corpus_offset(subset_offset),
                token_count: phase.window_tokens,
            }
        })
    }

    /// The window in `slot` of `step`.
    ///
    /// # Panics
    /// Unless `step < step_count` and `slot` is below the step's number of windows.
    pub fn window(&self, step: u64, slot: u64) -> Window {
        self.windows(step, slot..slot + 1).next().expect("one slot has one window")
    }

    /// Number of a window in the run, counted over all steps and ranks.
    pub fn window_number(&self, step: u64, slot: u64) -> u64 {
        let phase = self.phase_of(step);
        phase.first_window + (step - phase.first_step) * phase.windows_per_step + slot
    }

    /// When `epoch` reads `token` of the corpus; `None` if it does not: the token lies outside the
    /// subset, in the tail, or in the unread rest.
    pub fn find(&self, epoch: u64, token: u64) -> Option<Reading> {
        let block = token / self.block_tokens;
        if epoch >= self.spec.epochs || block >= self.subset.count() {
            return None;
        }
        let subset_block = self.subset.invert(block);
        if subset_block >= self.subset_blocks {
            return None;
        }
        let subset_offset = subset_block * self.block_tokens + token % self.block_tokens;
        let (phase_index, epoch_offset) = EpochOrder::new(self, epoch).find(subset_offset)?;
        let position = epoch * self.subset_tokens() + epoch_offset;
        let (step, in_step) = (position / self.spec.step_tokens, position % self.spec.step_tokens);
        let slot = in_step / self.phases[phase_index].window_tokens;
        Some(Reading { phase_index, step, slot })
    }

    /// Everything that the order depends on, by name: those of the run file where it has one. Sizes are
    /// the ones in use, so that specs with the same order have the same identity.
    pub fn identity(&self) -> BTreeMap<String, Value> {
        let spec = &self.spec;
        let mut identity = BTreeMap::from([
            ("plan.algorithm".to_owned(), Value::from(ALGORITHM_VERSION)),
            ("data.corpus.tokens".to_owned(), spec.corpus_tokens.into()),
            ("data.corpus.fingerprint".to_owned(), spec.corpus_fingerprint.clone().into()),
            ("data.subset_tokens".to_owned(), self.subset_tokens().into()),
            ("plan.step_tokens".to_owned(), spec.step_tokens.into()),
            ("plan.epochs".to_owned(), spec.epochs.into()),
            ("plan.seed".to_owned(), spec.seed.into()),
            ("plan.shuffle".to_owned(), shuffle_name(spec.shuffle).into()),
        ]);
        for (index, phase) in spec.phases.iter().enumerate() {
            let (numer, denom) = (phase.share.numer(), phase.share.denom());
            let divisor = gcd(numer.into(), denom.into()) as u64;
            let share = format!("{}/{}", numer / divisor, denom / divisor);
            identity.insert(format!("phases.{index}.patch_size"), phase.patch_size.into());
            identity.insert(format!("phases.{index}.window_units"), phase.window_units.into());
            identity.insert(format!("phases.{index}.share"), share.into());
        }
        identity
    }

    /// BLAKE3 in hex of [`Plan::identity`], one `name=value` a line: equal exactly if the order is.
    pub fn fingerprint(&self) -> String {
        let mut hasher = blake3::Hasher::new();
        for (name, value) in self.identity() {
            hasher.update(format!("{name}={value}\n").as_bytes());
        }
        hasher.finalize().to_hex().to_string()
    }

    fn corpus_offset(&self, subset_offset: u64) -> u64 {
        let block = self.subset.apply(subset_offset / self.block_tokens);
        block * self.block_tokens + subset_offset % self.block_tokens
    }

    /// Positions in the run that a phase reads.
    fn positions(&self, phase: &Phase) -> Range<u64> {
        let steps = phase.step_range();
        steps.start * self.spec.step_tokens..steps.end * self.spec.step_tokens
    }

    fn check_switches(&self) -> Result<(), PlanError> {
        let used: Vec<_> = self.phases.iter().enumerate().filter(|(_, p)| p.steps > 0).collect();
        for pair in used.windows(2) {
            let [(_, before), (phase_index, phase)] = *pair else { unreachable!("pairs") };
            let position = self.positions(phase).start;
            let inside_epoch = !position.is_multiple_of(self.subset_tokens());
            if inside_epoch && !before.window_tokens.is_multiple_of(phase.window_tokens) {
                return Err(PlanError::Switch {
                    phase_index,
                    step: phase.first_step,
                    epoch: position / self.subset_tokens(),
                    window_tokens: phase.window_tokens,
                    before_tokens: before.window_tokens,
                });
            }
        }
        Ok(())
    }
}

/// The order of one epoch: its levels, the first phase's at the bottom.
struct EpochOrder {
    epoch: u64,
    levels: Vec<Level>,
}

/// What one phase reads of one epoch.
struct Level {
    phase_index: usize,
    window_tokens: u64,
    /// Tokens of the epoch that were read before.
    first_offset: u64,
    /// Windows that the phase reads of this epoch; `order` permutes all that it could.
    windows: u64,
    order: Permutation,
}

impl EpochOrder {
    fn new(plan: &Plan, epoch: u64) -> EpochOrder {
        let epoch_tokens = plan.subset_tokens();
        let in_epoch = epoch * epoch_tokens..(epoch + 1) * epoch_tokens;
        let mut levels: Vec<Level> = Vec::new();
        for (phase_index, phase) in plan.phases.iter().enumerate() {
            let positions = plan.positions(phase);
            let first = positions.start.max(in_epoch.start);
            let end = positions.end.min(in_epoch.end);
            if first >= end {
                continue;
            }
            let (first_offset, level) = (first - in_epoch.start, levels.len() as u64);
            let unread_windows = (epoch_tokens - first_offset) / phase.window_tokens;
            levels.push(Level {
                phase_index,
                window_tokens: phase.window_tokens,
                first_offset,
                windows: (end - first) / phase.window_tokens,
                order: permutation(&plan.spec, Purpose::Order { epoch, level }, unread_windows),
            });
        }
        EpochOrder { epoch, levels }
    }

    /// Where in the subset the phase's window lies that stands at `epoch_offset` in reading order.
    fn subset_offset(&self, phase_index: usize, epoch_offset: u64) -> u64 {
        let top = self.levels.iter().position(|level| level.phase_index == phase_index);
        let mut depth = top.expect("the phase reads at this place of the epoch");
        let mut index = self.levels[depth].index_of(epoch_offset);
        let mut offset_in_window = 0;
        loop {
            let level = &self.levels[depth];
            let place = level.order.apply(index);
            if depth == 0 {
                return place * level.window_tokens + offset_in_window;
            }
            let below = &self.levels[depth - 1];
            let parts = below.window_tokens / level.window_tokens;
            offset_in_window += place % parts * level.window_tokens;
            index = below.index_of(level.first_offset) + place / parts;
            depth -= 1;
        }
    }

    /// The phase that reads a place of the subset, and where its window stands in reading order; `None`
    /// for the unread rest.
    fn find(&self, subset_offset: u64) -> Option<(usize, u64)> {
        let (mut place, mut offset_in_window) = (0, subset_offset);
        let mut below: Option<&Level> = None;
        for level in &self.levels {
            // `place` is a window of the level below, counted from the first one that it left unread.
            let parts = below.map_or(0, |below| below.window_tokens / level.window_tokens);
            place = place * parts + offset_in_window / level.window_tokens;
            offset_in_window %= level.window_tokens;
            let index = level.order.invert(place);
            if index < level.windows {
                let epoch_offset = level.first_offset + index * level.window_tokens;
                return Some((level.phase_index, epoch_offset));
            }
            place = index - level.windows;
            below = Some(level);
        }
        None
    }
}

impl Level {
    /// Number of the level's window that stands at `epoch_offset`, from the level's first one.
    fn index_of(&self, epoch_offset: u64) -> u64 {
        (epoch_offset - self.first_offset) / self.window_tokens
    }
}

fn permutation(spec: &PlanSpec, purpose: Purpose, count: u64) -> Permutation {
    match spec.shuffle {
        Shuffle::Global => Permutation::keyed(PermutationKey::derive(spec.seed, purpose), count),
        Shuffle::None => Permutation::identity(count),
    }
}

fn shuffle_name(shuffle: Shuffle) -> &'static str {
    match shuffle {
        Shuffle::Global => "global",
        Shuffle::None => "none",
    }
}

fn check_sizes(spec: &PlanSpec) -> Result<(), PlanError> {
    if spec.phases.is_empty() {
        return Err(PlanError::NoPhases);
    }
    let mut fields = vec![
        ("data.corpus.tokens".to_owned(), spec.corpus_tokens),
        ("plan.step_tokens".to_owned(), spec.step_tokens),
        ("plan.epochs".to_owned(), spec.epochs),
    ];
    fields.extend(spec.subset_tokens.map(|tokens| ("data.subset_tokens".to_owned(), tokens)));
    for (index, phase) in spec.phases.iter().enumerate() {
        fields.push((format!("phases.{index}.patch_size"), phase.patch_size));
        fields.push((format!("phases.{index}.window_units"), phase.window_units));
    }
    match fields.into_iter().find(|(_, value)| *value == 0) {
        Some((field, _)) => Err(PlanError::Zero { field }),
        None => Ok(()),
    }
}

fn window_tokens(spec: &PlanSpec, phase_index: usize) -> Result<u64, PlanError> {
    let phase = &spec.phases[phase_index];
    let what = || format!("patch_size * window_units of phase {phase_index}");
    let tokens = phase.patch_size.checked_mul(phase.window_units);
    tokens.filter(|&tokens| tokens <= COUNT_MAX).ok_or_else(|| PlanError::Overflow { what: what() })
}

/// The largest window, which all others divide.
fn block_tokens(spec: &PlanSpec) -> Result<u64, PlanError> {
    let mut windows = Vec::with_capacity(spec.phases.len());
    for phase_index in 0..spec.phases.len() {
        windows.push(window_tokens(spec, phase_index)?);
    }
    let block_tokens = windows.iter().copied().max().ok_or(PlanError::NoPhases)?;
    match windows.iter().position(|window| !block_tokens.is_multiple_of(*window)) {
        Some(phase_index) => {
            let window_tokens = windows[phase_index];
            Err(PlanError::WindowBlock { phase_index, window_tokens, block_tokens })
        }
        None => Ok(block_tokens),
    }
}

/// Every phase's window divides the step.
fn check_steps(spec: &PlanSpec) -> Result<(), PlanError> {
    let step_tokens = spec.step_tokens;
    let mut common = 1;
    let mut misfit = None;
    for phase_index in 0..spec.phases.len() {
        let window = window_tokens(spec, phase_index)?;
        common = common / gcd(common.into(), window.into()) as u64 * window; // divides the block
        if misfit.is_none() && !step_tokens.is_multiple_of(window) {
            misfit = Some((phase_index, window));
        }
    }
    let Some((phase_index, window_tokens)) = misfit else { return Ok(()) };
    let below = step_tokens / common * common;
    let above = below.saturating_add(common);
    let below = Some(below).filter(|&below| below > 0);
    Err(PlanError::StepTokens { step_tokens, phase_index, window_tokens, below, above })
}

/// An exact fraction with room for sums.
#[derive(Clone, Copy)]
struct Fraction {
    numer: u128,
    denom: u128,
}

/// The sum of the shares up to and with each phase; the last one is 1.
fn cumulative_shares(phases: &[PhaseSpec]) -> Result<Vec<Fraction>, PlanError> {
    let mut sum = Fraction { numer: 0, denom: 1 };
    let mut sums = Vec::with_capacity(phases.len());
    for phase in phases {
        let (numer, denom) = (u128::from(phase.share.numer()), u128::from(phase.share.denom()));
        // Each factor is below 2^64 but for the numerator, which the number of phases bounds.
        let added = (sum.numer * denom).checked_add(numer * sum.denom);
        let numer = added.ok_or(PlanError::ShareDenominator)?;
        let denom = sum.denom * denom;
        let divisor = gcd(numer, denom);
        sum = Fraction { numer: numer / divisor, denom: denom / divisor };
        if sum.denom > u128::from(u64::MAX) || sum.numer > u128::from(u64::MAX) {
            return Err(PlanError::ShareDenominator);
        }
        sums.push(sum);
    }
    if sum.numer == sum.denom {
        return Ok(sums);
    }
    let shares: Vec<String> = phases.iter().map(|phase| phase.share.to_string()).collect();
    Err(PlanError::ShareSum {
        sum_numer: sum.numer as u64,
        sum_denom: sum.denom as u64,
        shares: shares.join(" + "),
    })
}

/// M: whole blocks of the subset.
fn subset_blocks(spec: &PlanSpec, block_tokens: u64) -> Result<u64, PlanError> {
    let corpus_tokens = spec.corpus_tokens;
    if corpus_tokens > COUNT_MAX {
        return Err(PlanError::Overflow { what: "the corpus".to_owned() });
    }
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

/// Tokens of all epochs, at least a step.
fn run_tokens(spec: &PlanSpec, subset_tokens: u64) -> Result<u64, PlanError> {
    let (epochs, step_tokens) = (spec.epochs, spec.step_tokens);
    let run_tokens = epochs
        .checked_mul(subset_tokens)
        .filter(|&tokens| tokens <= COUNT_MAX)
        .ok_or_else(|| PlanError::Overflow { what: "epochs * subset".to_owned() })?;
    if run_tokens < step_tokens {
        return Err(PlanError::NoStep { run_tokens, epochs, subset_tokens, step_tokens });
    }
    Ok(run_tokens)
}

/// Whole steps for each phase: phase i ends at step `floor(cumulative_i * run_tokens / step_tokens)`.
fn phases(
    spec: &PlanSpec,
    cumulative: &[Fraction],
    run_tokens: u64,
) -> Result<Vec<Phase>, PlanError> {
    let step_tokens = spec.step_tokens;
    let (mut first_step, mut first_window) = (0, 0);
    let mut phases = Vec::with_capacity(spec.phases.len());
    for (phase_index, (phase, sum)) in spec.phases.iter().zip(cumulative).enumerate() {
        // floor(floor(a / b) / c) = floor(a / (b * c)), and 2^62 * 2^64 fits.
        let end = u128::from(run_tokens) * sum.numer / sum.denom / u128::from(step_tokens);
        let end = u64::try_from(end).expect("a sum of shares up to here is at most 1");
        let steps = end - first_step;
        if steps == 0 && phase.share.numer() > 0 {
            let share = phase.share;
            return Err(PlanError::NoPhaseStep { phase_index, share, run_tokens, step_tokens });
        }
        let window_tokens = window_tokens(spec, phase_index)?;
        let windows_per_step = step_tokens / window_tokens;
        let PhaseSpec { patch_size, window_units, share } = *phase;
        let (windows, tokens) = (steps * windows_per_step, steps * step_tokens);
        phases.push(Phase {
            patch_size,
            window_units,
            window_tokens,
            share,
            first_step,
            steps,
            windows_per_step,
            first_window,
            windows,
            tokens,
        });
        (first_step, first_window) = (end, first_window + windows);
    }
    Ok(phases)
}

/// Greatest common divisor; `gcd(0, n)` is `n`.
fn gcd(mut a: u128, mut b: u128) -> u128 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a
}
