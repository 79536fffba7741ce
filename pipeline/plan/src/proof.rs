//! Walks a whole plan, in parallel, and proves that every pass reads each token of its subset
//! exactly once.
//!
//! Every part of every window is looked up and must be found at the very step and slot that reads
//! it. A look-up is a function of pass and token, so two windows of a pass cannot share a token and
//! both be found. The tokens of each pass are counted: they are distinct and lie in the subset, so
//! a pass whose count is that of the subset has read all of it, once. No window is remembered, so
//! memory does not grow with the plan.
//!
//! **Invariant:** a [`Proof`] comes from a walk over every window of every step.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crate::plan::Plan;
use crate::window::{Reading, Window};

/// Steps a thread takes at a time.
const CHUNK_STEPS: u64 = 4;

/// The result of the walk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// Windows looked up.
    pub windows: u64,
    /// Their tokens: all the run reads.
    pub tokens: u64,
    /// Whole passes over each stream, in the plan's order.
    pub whole_passes: Vec<u64>,
    /// Tokens of each stream read beyond its whole passes.
    pub partial_tokens: Vec<u64>,
}

/// A plan that breaks its invariant: a defect of this program.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanFault {
    /// A window outside its stream, or off its grid.
    #[error(
        "step {step}, window {slot}: {window:?} does not lie in its stream, \
         at a multiple of its length"
    )]
    Place {
        /// Step of the run.
        step: u64,
        /// Window of the step.
        slot: u64,
        /// The window it reads.
        window: Window,
    },
    /// A token that is read twice or cannot be found.
    #[error(
        "step {step}, window {slot} reads token {token} in pass {epoch}; looked up, it is {found:?}"
    )]
    LookUp {
        /// Step of the run.
        step: u64,
        /// Window of the step.
        slot: u64,
        /// Offset in the corpus.
        token: u64,
        /// The pass.
        epoch: u64,
        /// Where the look-up found it.
        found: Option<Reading>,
    },
    /// A pass that omits tokens.
    #[error(
        "pass {epoch} over stream {stream_index} reads {found_tokens} tokens; \
         expected {expected_tokens}"
    )]
    Count {
        /// Position in the plan's list.
        stream_index: usize,
        /// The pass.
        epoch: u64,
        /// Tokens it reads.
        found_tokens: u64,
        /// Tokens of the subset, or the rest of the run.
        expected_tokens: u64,
    },
}

/// Tokens read from a stream, by pass.
type Counts = BTreeMap<(usize, u64), u64>;

/// Walks `plan` on this many threads; `progress` is called now and then with the number of steps
/// finished since.
pub fn walk(
    plan: &Plan,
    threads: usize,
    progress: &(impl Fn(u64) + Sync),
) -> Result<Proof, PlanFault> {
    let (next_chunk, failed) = (AtomicU64::new(0), AtomicBool::new(false));
    let work = || {
        let mut counts = Counts::new();
        // Relaxed: the counter hands out numbers and the flag saves work; neither publishes other
        // memory.
        while !failed.load(Ordering::Relaxed) {
            let first = next_chunk.fetch_add(1, Ordering::Relaxed) * CHUNK_STEPS;
            if first >= plan.step_count() {
                break;
            }
            let end = (first + CHUNK_STEPS).min(plan.step_count());
            let walked = (first..end).try_for_each(|step| walk_step(plan, step, &mut counts));
            if walked.is_err() {
                failed.store(true, Ordering::Relaxed);
            }
            walked?;
            progress(end - first);
        }
        Ok(counts)
    };
    let parts: Vec<Result<Counts, PlanFault>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads.max(1)).map(|_| scope.spawn(work)).collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined.map(|part| part.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    let mut counts = Counts::new();
    for part in parts {
        for (pass, tokens) in part? {
            *counts.entry(pass).or_default() += tokens;
        }
    }
    prove(plan, &counts)
}

/// Looks up every part of every window of a step.
fn walk_step(plan: &Plan, step: u64, counts: &mut Counts) -> Result<(), PlanFault> {
    let unit_tokens = plan.unit_tokens();
    let phase_index = plan.phase_index_of(step);
    let (mut windows, mut look_ups) = (plan.cursor(), plan.cursor());
    for slot in 0..plan.phases()[phase_index].windows_per_step {
        let window = windows.window(step, slot);
        let Window { epoch, stream_index, first_token, token_count, .. } = window;
        let tokens = plan.streams()[stream_index].tokens();
        let inside = tokens.start <= first_token && first_token + token_count <= tokens.end;
        if !inside || !(first_token - tokens.start).is_multiple_of(token_count) {
            return Err(PlanFault::Place { step, slot, window });
        }
        let mut token = first_token;
        while token < first_token + token_count {
            let found = look_ups.find(epoch, token);
            if found != Some(Reading { phase_index, step, slot }) {
                return Err(PlanFault::LookUp { step, slot, token, epoch, found });
            }
            token += unit_tokens;
        }
        *counts.entry((stream_index, epoch)).or_default() += token_count;
    }
    Ok(())
}

fn prove(plan: &Plan, counts: &Counts) -> Result<Proof, PlanFault> {
    let mut proof = Proof {
        windows: plan.window_count(),
        tokens: counts.values().sum(),
        whole_passes: Vec::new(),
        partial_tokens: Vec::new(),
    };
    for (stream_index, stream) in plan.streams().iter().enumerate() {
        let mut left = plan.stream_read_tokens(stream_index);
        let mut whole_passes = 0;
        let mut partial_tokens = 0;
        for epoch in 0..plan.pass_count(stream_index) {
            let expected_tokens = left.min(stream.subset_tokens());
            let found_tokens = counts.get(&(stream_index, epoch)).copied().unwrap_or(0);
            if found_tokens != expected_tokens {
                return Err(PlanFault::Count {
                    stream_index,
                    epoch,
                    found_tokens,
                    expected_tokens,
                });
            }
            left -= expected_tokens;
            if expected_tokens == stream.subset_tokens() {
                whole_passes += 1;
            } else {
                partial_tokens += expected_tokens;
            }
        }
        proof.whole_passes.push(whole_passes);
        proof.partial_tokens.push(partial_tokens);
    }
    Ok(proof)
}
