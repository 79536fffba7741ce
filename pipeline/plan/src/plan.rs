//! The plan: which window of the corpus each slot of each optimizer step reads.
//!
//! The corpus is one stream of N tokens, cut into aligned *blocks* of the largest window of all
//! phases. M of its blocks are the subset. E passes over the subset, one after the other, are the
//! *run*: a stream of `E * M * block` tokens. Step `s` reads the run's tokens from
//! `s * step_tokens` on, in windows of its phase. Inside an epoch each phase takes the rest the one
//! before left (`epoch_order`).
//!
//! A *mixture* has a stream for each set, with its own blocks, subset and passes, as if it were a
//! corpus. An epoch of the run is a number of blocks of each stream (`mixture`). The streams are
//! interleaved block by block in exactly that proportion ([`crate::interleave`]). A stream that
//! gives its subset twice an epoch makes two passes; one that gives half of it makes half a pass
//! and continues in the next epoch where it stopped. Phases cut every stream at the place it has
//! reached. The places of a mixture's corpus are counted over its streams, one after the other, in
//! byte order of their names.
//!
//! Everything here is pure: numbers in, numbers out, the same on every machine.
//!
//! **Invariant:** every pass over a stream reads each token of its subset exactly once, in one
//! phase, except the unread rest of the last passes, which is less than a step in all.

use std::collections::BTreeMap;
use std::ops::Range;

use serde_json::Value;

use crate::epoch_order::{EpochOrder, PhaseReads};
use crate::error::PlanError;
use crate::interleave::Interleave;
use crate::mixture;
use crate::permutation::{COUNT_MAX, Purpose};
use crate::sizes;
use crate::spec::{PhaseSpec, PlanSpec};
use crate::stream::Stream;
use crate::stream::{permutation, streams};
use crate::window::{Phase, Reading, Window};

/// Changes whenever equal specs give another order.
pub const ALGORITHM_VERSION: u64 = 1;

/// The data order of a whole run, as a value: equal specs give equal plans on every machine.
#[derive(Clone, Debug)]
pub struct Plan {
    spec: PlanSpec,
    block_tokens: u64,
    streams: Vec<Stream>,
    /// Interleaves the streams, a block a slot; its period is an epoch.
    interleave: Interleave,
    phases: Vec<Phase>,
    step_count: u64,
}

/// Checks that the shares of phases add up to 1, which needs no corpus.
pub fn check_shares(phases: &[PhaseSpec]) -> Result<(), PlanError> {
    sizes::cumulative_shares(phases).map(|_sums| ())
}

impl Plan {
    /// Makes the plan, or returns the reason it cannot.
    pub fn new(spec: &PlanSpec) -> Result<Plan, PlanError> {
        sizes::check_sizes(spec)?;
        let block_tokens = sizes::block_tokens(spec)?;
        sizes::check_steps(spec)?;
        let cumulative = sizes::cumulative_shares(&spec.phases)?;
        let blocks = mixture::stream_blocks(spec, block_tokens)?;
        let epoch_blocks =
            blocks.iter().try_fold(0u64, |sum, blocks| sum.checked_add(blocks.epoch));
        let epoch_tokens = epoch_blocks.and_then(|blocks| blocks.checked_mul(block_tokens));
        let epoch_tokens = epoch_tokens.filter(|&tokens| tokens <= COUNT_MAX);
        let overflow = || PlanError::Overflow { what: "an epoch".to_owned() };
        let run_tokens = sizes::run_tokens(spec, epoch_tokens.ok_or_else(overflow)?)?;
        let plan = Plan {
            spec: spec.clone(),
            block_tokens,
            streams: streams(spec, block_tokens, &blocks),
            interleave: Interleave::new(&blocks.iter().map(|b| b.epoch).collect::<Vec<u64>>()),
            phases: sizes::phases(spec, &cumulative, run_tokens)?,
            step_count: run_tokens / spec.step_tokens,
        };
        plan.check_switches()?;
        Ok(plan)
    }

    /// The spec the plan was made from.
    pub fn spec(&self) -> &PlanSpec {
        &self.spec
    }

    /// Tokens of the longest unit that divides every window of every phase. A window's units lie at
    /// multiples of it in its stream.
    pub fn unit_tokens(&self) -> u64 {
        let windows = self.phases.iter().map(|phase| u128::from(phase.window_tokens));
        windows.fold(0, sizes::gcd) as u64 // divides each of them
    }

    /// The phases in order, including those without steps.
    pub fn phases(&self) -> &[Phase] {
        &self.phases
    }

    /// The streams: one for each set of a mixture, including those that are not read; else one for
    /// the whole corpus.
    pub fn streams(&self) -> &[Stream] {
        &self.streams
    }

    /// Steps of the run.
    pub fn step_count(&self) -> u64 {
        self.step_count
    }

    /// Tokens of a block, the largest window.
    pub fn block_tokens(&self) -> u64 {
        self.block_tokens
    }

    /// Tokens an epoch reads: whole blocks, and for a mixture repeated ones too.
    pub fn subset_tokens(&self) -> u64 {
        self.interleave.period() * self.block_tokens
    }

    /// Tokens at the ends of the streams that fill no block and are never read.
    pub fn tail_tokens(&self) -> u64 {
        self.streams.iter().map(Stream::tail_tokens).sum()
    }

    /// Tokens of all epochs, the unread rest included.
    pub fn run_tokens(&self) -> u64 {
        self.spec.epochs * self.subset_tokens()
    }

    /// Tokens of the last epoch that fill no step; less than `step_tokens`.
    pub fn unread_tokens(&self) -> u64 {
        self.run_tokens() % self.spec.step_tokens
    }

    /// Tokens of a stream read by the run.
    ///
    /// # Panics
    /// If there is no such stream.
    pub fn stream_read_tokens(&self, stream_index: usize) -> u64 {
        self.stream_position(stream_index, self.step_count)
    }

    /// Passes over a stream in all epochs, including an incomplete last one.
    ///
    /// # Panics
    /// If there is no such stream.
    pub fn pass_count(&self, stream_index: usize) -> u64 {
        let blocks = self.streams[stream_index].blocks;
        if blocks.subset == 0 {
            0
        } else {
            (self.spec.epochs * blocks.epoch).div_ceil(blocks.subset)
        }
    }

    /// Position of the stream that holds `token`; `None` past the last one.
    pub fn stream_index_of(&self, token: u64) -> Option<usize> {
        let next = self.streams.partition_point(|stream| stream.first_token <= token);
        let index = next.checked_sub(1)?;
        self.streams[index].tokens().contains(&token).then_some(index)
    }

    /// Windows the run reads.
    pub fn window_count(&self) -> u64 {
        self.phases.iter().map(|phase| phase.windows).sum()
    }

    /// Units a model processes per token read: 1 for token-level training, less with patches.
    pub fn relative_cost(&self) -> f64 {
        let tokens: u64 = self.phases.iter().map(|phase| phase.tokens).sum();
        let units: u64 = self.phases.iter().map(|phase| phase.tokens / phase.patch_size).sum();
        units as f64 / tokens as f64
    }

    /// Position of the phase `step` belongs to.
    ///
    /// # Panics
    /// Unless `step < step_count`.
    pub fn phase_index_of(&self, step: u64) -> usize {
        assert!(step < self.step_count, "step {step} of {}", self.step_count);
        let phase = self.phases.iter().position(|phase| phase.step_range().contains(&step));
        phase.expect("the phases' steps add up to those of the plan")
    }

    /// The phase `step` belongs to.
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
        let phase = self.phase_of(step);
        assert!(slots.end <= phase.windows_per_step, "slots {slots:?} of {phase:?}");
        let mut cursor = self.cursor();
        slots.map(move |slot| cursor.window(step, slot))
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

    /// When pass `epoch` over its stream reads `token` of the corpus. `None` if it never does: the
    /// token lies outside the subset, in the tail, or in the unread rest.
    pub fn find(&self, epoch: u64, token: u64) -> Option<Reading> {
        self.cursor().find(epoch, token)
    }

    /// A cursor, which looks up many windows and tokens in a row.
    pub fn cursor(&self) -> Cursor<'_> {
        Cursor { plan: self, orders: self.streams.iter().map(|_| None).collect() }
    }

    /// Everything the order depends on, by name: the run file's name where it has one. Sizes are
    /// the ones in use, so specs with the same order have the same identity.
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
            (
                "plan.shuffle".to_owned(),
                serde_json::to_value(spec.shuffle).expect("a name or a small table"),
            ),
        ]);
        for stream in &self.streams {
            let Some(name) = &stream.name else { continue };
            let of = |what: &str| format!("data.sets.{}.{what}", name.escape_debug());
            identity.insert(of("tokens"), stream.token_count.into());
            identity.insert(of("subset_tokens"), stream.subset_tokens().into());
            identity.insert(of("epoch_tokens"), stream.epoch_tokens().into());
        }
        for (index, phase) in spec.phases.iter().enumerate() {
            let (numer, denom) = (phase.share.numer(), phase.share.denom());
            let divisor = sizes::gcd(numer.into(), denom.into()) as u64;
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

    /// Blocks a step reads, whatever its windows.
    fn step_blocks(&self) -> u64 {
        self.spec.step_tokens / self.block_tokens // exact: the block is a window of some phase
    }

    /// Blocks of a stream read by the steps before `step`.
    fn stream_blocks_before(&self, stream_index: usize, step: u64) -> u64 {
        self.interleave.count_before(stream_index, step * self.step_blocks())
    }

    /// The stream and pass of the window in `slot` of `step`, and its offset in the pass's reading
    /// order. Its place in the corpus is left open.
    fn place(&self, phase_index: usize, step: u64, slot: u64) -> (Window, u64) {
        let Phase { window_tokens, windows_per_step, .. } = self.phases[phase_index];
        assert!(slot < windows_per_step, "slot {slot} of {windows_per_step}");
        // The step's blocks lie in the order of the interleave. Their windows are taken round by
        // round, one of each block. In that order each stream's windows of the step are numbered,
        // and so continue its order.
        let step_blocks = self.step_blocks();
        let (round, in_round) = (slot / step_blocks, slot % step_blocks);
        let (stream_index, rank) = self.interleave.locate(step * step_blocks + in_round);
        let first_block = self.stream_blocks_before(stream_index, step);
        let blocks = self.stream_blocks_before(stream_index, step + 1) - first_block;
        let in_step = round * blocks + (rank - first_block);
        let position = first_block * self.block_tokens + in_step * window_tokens;
        let epoch_tokens = self.streams[stream_index].subset_tokens();
        let epoch = position / epoch_tokens;
        let window =
            Window { epoch, phase_index, stream_index, first_token: 0, token_count: window_tokens };
        (window, position % epoch_tokens)
    }

    /// Tokens of a stream read by the steps before `step`.
    fn stream_position(&self, stream_index: usize, step: u64) -> u64 {
        self.stream_blocks_before(stream_index, step) * self.block_tokens
    }

    fn epoch_order(&self, stream_index: usize, epoch: u64) -> EpochOrder {
        let stream = &self.streams[stream_index];
        let phases = self.phases.iter().enumerate().map(|(phase_index, phase)| PhaseReads {
            phase_index,
            window_tokens: phase.window_tokens,
            positions: self.stream_position(stream_index, phase.first_step)
                ..self.stream_position(stream_index, phase.first_step + phase.steps),
        });
        EpochOrder::new(epoch, stream.subset_tokens(), phases, |level, windows, window_tokens| {
            let purpose = Purpose::Order { epoch, level };
            let name = stream.name.as_deref();
            permutation(&self.spec, name, purpose, windows, self.block_tokens / window_tokens)
        })
    }

    fn check_switches(&self) -> Result<(), PlanError> {
        let used: Vec<_> = self.phases.iter().enumerate().filter(|(_, p)| p.steps > 0).collect();
        for pair in used.windows(2) {
            let [(_, before), (phase_index, phase)] = *pair else { unreachable!("pairs") };
            if before.window_tokens.is_multiple_of(phase.window_tokens) {
                continue;
            }
            for (stream_index, stream) in self.streams.iter().enumerate() {
                let position = self.stream_position(stream_index, phase.first_step);
                if !position.is_multiple_of(stream.subset_tokens().max(1)) {
                    return Err(PlanError::Switch {
                        phase_index,
                        step: phase.first_step,
                        epoch: position / stream.subset_tokens(),
                        window_tokens: phase.window_tokens,
                        before_tokens: before.window_tokens,
                    });
                }
            }
        }
        Ok(())
    }
}

/// Windows a [`Cursor`] looks up together.
const CHUNK: usize = 64;

/// Looks up windows and tokens of a plan. For each stream it keeps the order of the last pass it
/// was asked for.
pub struct Cursor<'a> {
    plan: &'a Plan,
    orders: Vec<Option<EpochOrder>>,
}

impl Cursor<'_> {
    /// The window in `slot` of `step`.
    ///
    /// # Panics
    /// Unless `step < step_count` and `slot` is below the step's number of windows.
    pub fn window(&mut self, step: u64, slot: u64) -> Window {
        let phase_index = self.plan.phase_index_of(step);
        let (window, epoch_offset) = self.plan.place(phase_index, step, slot);
        let mut windows = [window];
        self.find_places(&mut windows, &[epoch_offset; CHUNK]);
        windows[0]
    }

    /// Replaces the content of `windows` by the windows in the `slots` of `step`, in order: as
    /// [`Plan::windows`], several times as fast.
    ///
    /// # Panics
    /// Unless `step < step_count` and the slots are below the step's number of windows.
    pub fn windows(&mut self, step: u64, slots: Range<u64>, windows: &mut Vec<Window>) {
        windows.clear();
        self.add_windows(slots.map(|slot| (step, slot)), windows);
    }

    /// Appends the windows of these steps and slots.
    ///
    /// # Panics
    /// Unless the steps and slots are the plan's.
    pub fn add_windows(
        &mut self,
        places: impl IntoIterator<Item = (u64, u64)>,
        windows: &mut Vec<Window>,
    ) {
        let mut places = places.into_iter().peekable();
        let (mut steps_phase, plan) = (None, self.plan);
        while places.peek().is_some() {
            let first = windows.len();
            let mut offsets = [0; CHUNK];
            for (offset, (step, slot)) in offsets.iter_mut().zip(&mut places) {
                let phase_index = match steps_phase {
                    Some((known, phase_index)) if known == step => phase_index,
                    _ => plan.phase_index_of(step),
                };
                steps_phase = Some((step, phase_index));
                let (window, epoch_offset) = plan.place(phase_index, step, slot);
                windows.push(window);
                *offset = epoch_offset;
            }
            self.find_places(&mut windows[first..], &offsets);
        }
    }

    /// Fills in the places of windows with these offsets in their pass's reading order. Those of
    /// one phase and one pass over one stream are looked up together.
    fn find_places(&mut self, windows: &mut [Window], offsets: &[u64; CHUNK]) {
        let plan = self.plan;
        let key = |window: &Window| (window.phase_index, window.epoch, window.stream_index);
        let (mut open, mut same, mut at) = (windows.len(), [0; CHUNK], [0; CHUNK]);
        let mut is_done = [false; CHUNK];
        while open > 0 {
            let first = is_done.iter().position(|done| !done).expect("one is open");
            let (phase_index, epoch, stream_index) = key(&windows[first]);
            let mut count = 0;
            for (index, window) in windows.iter().enumerate().skip(first) {
                if key(window) == (phase_index, epoch, stream_index) {
                    (same[count], at[count], is_done[index]) = (offsets[index], index, true);
                    count += 1;
                }
            }
            let stream = &plan.streams[stream_index];
            self.order(stream_index, epoch).subset_offsets(phase_index, &mut same[..count]);
            let mut blocks = same.map(|offset| offset / plan.block_tokens);
            stream.subset.apply_all(&mut blocks[..count]);
            for lane in 0..count {
                let in_block = same[lane] % plan.block_tokens;
                windows[at[lane]].first_token =
                    stream.first_token + blocks[lane] * plan.block_tokens + in_block;
            }
            open -= count;
        }
    }

    /// When pass `epoch` over its stream reads `token`; as [`Plan::find`].
    pub fn find(&mut self, epoch: u64, token: u64) -> Option<Reading> {
        let plan = self.plan;
        let stream_index = plan.stream_index_of(token)?;
        let stream = &plan.streams[stream_index];
        let in_stream = token - stream.first_token;
        let block = in_stream / plan.block_tokens;
        if epoch >= plan.pass_count(stream_index) || block >= stream.subset.count() {
            return None;
        }
        let subset_block = stream.subset.invert(block);
        if subset_block >= stream.blocks.subset {
            return None;
        }
        let offset = subset_block * plan.block_tokens + in_stream % plan.block_tokens;
        let (phase_index, epoch_offset) = self.order(stream_index, epoch).find(offset)?;
        let position = epoch * stream.subset_tokens() + epoch_offset;
        // From the place in the stream back to the step that reads the block there, and to the
        // slot.
        let rank = position / plan.block_tokens;
        let step_blocks = plan.step_blocks();
        let step = plan.interleave.slot_of(stream_index, rank) / step_blocks;
        let first_block = plan.stream_blocks_before(stream_index, step);
        let blocks = plan.stream_blocks_before(stream_index, step + 1) - first_block;
        let window_tokens = plan.phases[phase_index].window_tokens;
        let in_step = (position - first_block * plan.block_tokens) / window_tokens;
        let (round, in_round) = (in_step / blocks, in_step % blocks);
        let block_slot = plan.interleave.slot_of(stream_index, first_block + in_round);
        let slot = round * step_blocks + (block_slot - step * step_blocks);
        Some(Reading { phase_index, step, slot })
    }

    fn order(&mut self, stream_index: usize, epoch: u64) -> &EpochOrder {
        let order = &mut self.orders[stream_index];
        if order.as_ref().is_none_or(|order| order.epoch != epoch) {
            *order = Some(self.plan.epoch_order(stream_index, epoch));
        }
        order.as_ref().expect("it was just made")
    }
}
