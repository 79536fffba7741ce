//! Delivers the plan's windows as batches, in plan order, read ahead by worker threads.
//!
//! A step's windows are cut into micro-batches. Micro-batch `i` of the loader is read by worker `i mod N`
//! into its own bounded ring, and the rings are read in turn, so that order holds by construction and no
//! result depends on the timing of threads. Buffers go back to their worker when they are used up.
//!
//! **Invariant:** the same batches in the same order for any number of workers and either read back end;
//! the ranks of any world size read each window of a step exactly once between them.

use std::any::Any;
use std::collections::VecDeque;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::queue::ArrayQueue;
use crossbeam::sync::{Parker, Unparker};

use crate::corpus::{Corpus, CorpusError};
use crate::plan::{Plan, Window};

/// Micro-batches for which a worker asks the system to read ahead.
const READ_AHEAD: usize = 4;
/// A ring has no more slots than this, however much memory it may take.
const SLOTS_MAX: u64 = 1024;
/// Looks at a ring before its reader goes to sleep: some microseconds.
const SPINS: u32 = 256;

/// What to read and how.
#[derive(Clone, Debug)]
pub struct LoaderSpec {
    /// Where the tokens are.
    pub corpus: Arc<Corpus>,
    /// Which windows each step reads; it must be the plan of this corpus.
    pub plan: Arc<Plan>,
    /// The first step to deliver.
    pub from_step: u64,
    /// The step after the last one.
    pub end_step: u64,
    /// Which part of each step: the `rank`-th of `world_size` contiguous ones.
    pub rank: u64,
    /// Parts that a step is cut into.
    pub world_size: u64,
    /// Windows in a batch.
    pub micro_batch_windows: u64,
    /// Reading threads.
    pub workers: usize,
    /// Memory of all rings together, in bytes.
    pub ring_bytes: u64,
}

impl LoaderSpec {
    /// What [`Loader::start`] would refuse; starts nothing.
    pub fn check(&self) -> Result<(), LoaderError> {
        check(self).map(|_slots| ())
    }
}

/// One micro-batch.
#[derive(Debug)]
pub struct Batch {
    /// Step of the run.
    pub step: u64,
    /// Position of the phase in the plan's list.
    pub phase_index: usize,
    /// Position among the micro-batches of this rank's part of the step.
    pub micro_index: u64,
    /// Window of the step that comes first in `ids`.
    pub first_slot: u64,
    /// Tokens of a window, K * T.
    pub window_tokens: u64,
    /// Ids of `micro_batch_windows` windows, one after the other.
    pub ids: Vec<i64>,
    lane: usize,
}

/// Why batches cannot be delivered.
#[derive(Debug, thiserror::Error)]
pub enum LoaderError {
    /// A count that must not be 0.
    #[error("{field} is 0; expected at least 1")]
    Zero {
        /// Its name.
        field: &'static str,
    },
    /// A rank that the world does not have.
    #[error("rank is {rank}; the world has {world_size} ranks, numbered from 0")]
    Rank {
        /// As asked for.
        rank: u64,
        /// As asked for.
        world_size: u64,
    },
    /// Steps that the plan does not have.
    #[error("steps {from_step}..{end_step} are wanted; the plan has {step_count}")]
    Steps {
        /// As asked for.
        from_step: u64,
        /// As asked for.
        end_step: u64,
        /// Of the plan.
        step_count: u64,
    },
    /// A plan that was made for another corpus.
    #[error("the plan is for a corpus with {field} {planned}; {} has {found}", dir.display())]
    OtherCorpus {
        /// Its name.
        field: &'static str,
        /// In the plan.
        planned: String,
        /// In the corpus.
        found: String,
        /// The corpus.
        dir: std::path::PathBuf,
    },
    /// A step that does not split evenly.
    #[error(
        "a step of phase {phase_index} has {windows_per_step} windows, which do not split into micro-batches of \
         {micro_batch_windows} windows (train.micro_batch_windows) on {world_size} ranks; \
         micro_batch_windows times ranks must divide {windows_per_step}"
    )]
    Split {
        /// From 0.
        phase_index: usize,
        /// Of the phase.
        windows_per_step: u64,
        /// As asked for.
        micro_batch_windows: u64,
        /// As asked for.
        world_size: u64,
    },
    /// No room for a batch.
    #[error(
        "loader.ring_bytes is {ring_bytes}; {workers} workers with batches of {batch_bytes} bytes need at least {needed_bytes}"
    )]
    Ring {
        /// As asked for.
        ring_bytes: u64,
        /// As asked for.
        workers: usize,
        /// Of the largest batch.
        batch_bytes: u64,
        /// One batch a worker.
        needed_bytes: u64,
    },
    /// A window could not be read.
    #[error("step {step}, window {slot}: {source}")]
    Read {
        /// Step of the run.
        step: u64,
        /// Window of the step.
        slot: u64,
        /// Why.
        source: CorpusError,
    },
    /// A thread could not be started.
    #[error("cannot start reading thread {worker} of {workers}: {source}")]
    Thread {
        /// From 0.
        worker: usize,
        /// As asked for.
        workers: usize,
        /// What the system said.
        source: std::io::Error,
    },
    /// A defect of the loader itself.
    #[error("reading thread {worker} panicked: {message}")]
    Panic {
        /// From 0.
        worker: usize,
        /// What it panicked with.
        message: String,
    },
}

impl LoaderError {
    /// Whether the plan is of other data.
    pub fn is_mismatch(&self) -> bool {
        matches!(self, LoaderError::OtherCorpus { .. })
    }

    /// Whether what was asked for is to be changed.
    pub fn is_usage(&self) -> bool {
        use LoaderError::{Rank, Ring, Split, Steps, Zero};
        matches!(self, Rank { .. } | Ring { .. } | Split { .. } | Steps { .. } | Zero { .. })
    }
}

/// Threads that read ahead, and the rings that they fill. Dropping it stops and joins them.
#[derive(Debug)]
pub struct Loader {
    lanes: Vec<Lane>,
    /// Micro-batches that are still to come.
    remaining: u64,
    next_lane: usize,
    parker: Parker,
    waited: Duration,
}

impl Loader {
    /// Starts the threads; batches are read from now on.
    pub fn start(spec: LoaderSpec) -> Result<Loader, LoaderError> {
        let slots = check(&spec)?;
        let reader = Arc::new(Reader { spec });
        let workers = reader.spec.workers;
        let mut loader = Loader::empty(reader.micro_batch_count());
        for worker in 0..workers {
            let reader = reader.clone();
            let lane =
                Lane::spawn(worker, slots, loader.parker.unparker().clone(), move |outlet| {
                    reader.work(outlet);
                });
            // On an error, what has been started is stopped by the drop of `loader`.
            let lane = lane.map_err(|source| LoaderError::Thread { worker, workers, source })?;
            loader.lanes.push(lane);
        }
        Ok(loader)
    }

    fn empty(remaining: u64) -> Loader {
        let (parker, waited) = (Parker::new(), Duration::ZERO);
        Loader { lanes: Vec::new(), remaining, next_lane: 0, parker, waited }
    }

    /// The next batch in plan order, waited for; `None` after the last one, and after an error.
    pub fn next_batch(&mut self) -> Result<Option<Batch>, LoaderError> {
        if self.remaining == 0 {
            return Ok(None);
        }
        let lane = &self.lanes[self.next_lane];
        let item = match lane.take() {
            Some(item) => item,
            None => {
                let started = Instant::now();
                let item = lane.wait(&self.parker);
                self.waited += started.elapsed();
                item
            }
        };
        self.next_lane = (self.next_lane + 1) % self.lanes.len();
        self.remaining = if item.is_ok() { self.remaining - 1 } else { 0 };
        item.map(Some)
    }

    /// Gives the buffer of a used-up batch back to the worker that filled it.
    pub fn recycle(&self, batch: Batch) {
        if let Some(lane) = self.lanes.get(batch.lane) {
            let _dropped_when_full = lane.ring.empty.push(batch.ids);
        }
    }

    /// How long [`Loader::next_batch`] has waited for workers in all.
    pub fn waited(&self) -> Duration {
        self.waited
    }
}

impl Drop for Loader {
    fn drop(&mut self) {
        for lane in &self.lanes {
            lane.ring.stopped.store(true, Ordering::Release);
            lane.unparker.unpark();
        }
        for lane in &mut self.lanes {
            if let Some(thread) = lane.thread.take() {
                let joined = thread.join();
                assert!(joined.is_ok() || std::thread::panicking(), "a worker's panics are caught");
            }
        }
    }
}

/// One worker, seen from the reader's side.
#[derive(Debug)]
struct Lane {
    ring: Arc<Ring>,
    unparker: Unparker,
    thread: Option<JoinHandle<()>>,
}

/// What a worker and the reader share: one producer and one consumer in each direction.
#[derive(Debug)]
struct Ring {
    full: ArrayQueue<Result<Batch, LoaderError>>,
    /// Buffers on their way back.
    empty: ArrayQueue<Vec<i64>>,
    /// Set once by the reader, with Release, before it wakes the worker, which loads it with Acquire:
    /// a worker that was woken by the reader's end sees it.
    stopped: AtomicBool,
    /// Set once by the worker's end, with Release, after its last push; the reader's Acquire load sees
    /// all that was pushed before.
    closed: AtomicBool,
}

impl Lane {
    fn spawn(
        worker: usize,
        slots: usize,
        reader: Unparker,
        work: impl FnOnce(&Outlet) + Send + 'static,
    ) -> std::io::Result<Lane> {
        let ring = Arc::new(Ring {
            full: ArrayQueue::new(slots),
            empty: ArrayQueue::new(slots + 2), // one more in the worker's hand, one in the reader's
            stopped: AtomicBool::new(false),
            closed: AtomicBool::new(false),
        });
        let parker = Parker::new();
        let unparker = parker.unparker().clone();
        let outlet = Outlet { worker, ring: ring.clone(), parker, reader };
        let thread =
            std::thread::Builder::new().name(format!("loader-{worker}")).spawn(move || {
                if let Err(panic) = catch_unwind(AssertUnwindSafe(|| work(&outlet))) {
                    let message = panic_message(panic.as_ref());
                    outlet.push(Err(LoaderError::Panic { worker, message }));
                }
                outlet.ring.closed.store(true, Ordering::Release);
                outlet.reader.unpark();
            })?;
        Ok(Lane { ring, unparker, thread: Some(thread) })
    }

    /// The next item, if it is ready; its slot is free again.
    fn take(&self) -> Option<Result<Batch, LoaderError>> {
        let item = self.ring.full.pop()?;
        self.unparker.unpark();
        Some(item)
    }

    fn wait(&self, parker: &Parker) -> Result<Batch, LoaderError> {
        for _ in 0..SPINS {
            if let Some(item) = self.take() {
                return item;
            }
            std::hint::spin_loop();
        }
        loop {
            let closed = self.ring.closed.load(Ordering::Acquire); // before the look into the ring
            if let Some(item) = self.take() {
                return item;
            }
            assert!(!closed, "a worker ends only after its last batch or an error");
            parker.park(); // a wake-up since the last park is remembered
        }
    }
}

/// A worker's end of its ring.
struct Outlet {
    worker: usize,
    ring: Arc<Ring>,
    parker: Parker,
    /// Wakes the loader's reader.
    reader: Unparker,
}

impl Outlet {
    /// Puts `item` into the ring, waiting for room; false when the loader was stopped.
    fn push(&self, mut item: Result<Batch, LoaderError>) -> bool {
        loop {
            if self.ring.stopped.load(Ordering::Acquire) {
                return false;
            }
            match self.ring.full.push(item) {
                Ok(()) => {
                    self.reader.unpark();
                    return true;
                }
                Err(back) => item = back,
            }
            self.parker.park();
        }
    }

    fn buffer(&self) -> Vec<i64> {
        self.ring.empty.pop().unwrap_or_default()
    }
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

/// Which windows make up a batch.
struct MicroBatch {
    step: u64,
    micro_index: u64,
    slots: Range<u64>,
}

/// What the workers share; nothing in it changes.
struct Reader {
    spec: LoaderSpec,
}

impl Reader {
    fn micro_batches_of_step(&self, step: u64) -> u64 {
        let windows_per_step = self.spec.plan.phase_of(step).windows_per_step;
        windows_per_step / (self.spec.world_size * self.spec.micro_batch_windows) // exact, see `check`
    }

    fn micro_batch_count(&self) -> u64 {
        let steps = self.spec.from_step..self.spec.end_step;
        self.spec.plan.phases().iter().fold(0, |count, phase| {
            let first = phase.first_step.max(steps.start);
            let end = phase.step_range().end.min(steps.end);
            if first < end {
                count + (end - first) * self.micro_batches_of_step(first)
            } else {
                count
            }
        })
    }

    fn micro_batches(&self) -> impl Iterator<Item = MicroBatch> {
        let windows = self.spec.micro_batch_windows;
        (self.spec.from_step..self.spec.end_step).flat_map(move |step| {
            let micro_batches = self.micro_batches_of_step(step);
            let first_slot = self.spec.rank * micro_batches * windows;
            (0..micro_batches).map(move |micro_index| {
                let slot = first_slot + micro_index * windows;
                MicroBatch { step, micro_index, slots: slot..slot + windows }
            })
        })
    }

    /// Reads every micro-batch of the outlet's worker until the last one, an error or a stop.
    fn work(&self, outlet: &Outlet) {
        let mut mine = self.micro_batches().skip(outlet.worker).step_by(self.spec.workers);
        let mut ahead: VecDeque<(MicroBatch, Vec<Window>)> = VecDeque::with_capacity(READ_AHEAD);
        loop {
            while ahead.len() < READ_AHEAD
                && let Some(micro_batch) = mine.next()
            {
                let windows = self.spec.plan.windows(micro_batch.step, micro_batch.slots.clone());
                let windows: Vec<Window> = windows.collect();
                for window in &windows {
                    self.spec.corpus.will_need(window.first_token, window.token_count);
                }
                ahead.push_back((micro_batch, windows));
            }
            let Some((micro_batch, windows)) = ahead.pop_front() else { return };
            let batch = self.read(&micro_batch, &windows, outlet);
            let failed = batch.is_err();
            if !outlet.push(batch) || failed {
                return;
            }
        }
    }

    fn read(
        &self,
        micro_batch: &MicroBatch,
        windows: &[Window],
        outlet: &Outlet,
    ) -> Result<Batch, LoaderError> {
        let step = micro_batch.step;
        let window_tokens = windows[0].token_count; // a step is of one phase
        let mut ids = outlet.buffer();
        ids.resize(windows.len() * window_tokens as usize, 0);
        let parts = ids.chunks_exact_mut(window_tokens as usize);
        for ((slot, window), part) in micro_batch.slots.clone().zip(windows).zip(parts) {
            let read = self.spec.corpus.read(window.first_token, part);
            read.map_err(|source| LoaderError::Read { step, slot, source })?;
        }
        Ok(Batch {
            step,
            phase_index: windows[0].phase_index,
            micro_index: micro_batch.micro_index,
            first_slot: micro_batch.slots.start,
            window_tokens,
            ids,
            lane: outlet.worker,
        })
    }
}

/// Checks a spec and gives the number of slots of a ring.
fn check(spec: &LoaderSpec) -> Result<usize, LoaderError> {
    let LoaderSpec { plan, rank, world_size, micro_batch_windows, workers, .. } = spec;
    let (rank, world_size, workers) = (*rank, *world_size, *workers);
    for (field, count) in [
        ("world_size", world_size),
        ("train.micro_batch_windows", *micro_batch_windows),
        ("loader.workers", workers as u64),
    ] {
        if count == 0 {
            return Err(LoaderError::Zero { field });
        }
    }
    if rank >= world_size {
        return Err(LoaderError::Rank { rank, world_size });
    }
    let (from_step, end_step, step_count) = (spec.from_step, spec.end_step, plan.step_count());
    if from_step > end_step || end_step > step_count {
        return Err(LoaderError::Steps { from_step, end_step, step_count });
    }
    check_corpus(spec)?;
    check_split(plan, *micro_batch_windows, world_size)?;
    let used = plan.phases().iter().filter(|phase| phase.steps > 0);
    let window_tokens = used.map(|phase| phase.window_tokens).max().unwrap_or(0);
    let batch_bytes = window_tokens * micro_batch_windows * size_of::<i64>() as u64;
    let needed_bytes = batch_bytes.saturating_mul(workers as u64);
    let slots = spec.ring_bytes / needed_bytes.max(1);
    if slots == 0 {
        let ring_bytes = spec.ring_bytes;
        return Err(LoaderError::Ring { ring_bytes, workers, batch_bytes, needed_bytes });
    }
    Ok(usize::try_from(slots.min(SLOTS_MAX)).expect("at most SLOTS_MAX"))
}

/// Whether every step of `plan` splits evenly into micro-batches on `world_size` ranks.
pub fn check_split(
    plan: &Plan,
    micro_batch_windows: u64,
    world_size: u64,
) -> Result<(), LoaderError> {
    let part = micro_batch_windows.checked_mul(world_size);
    for (phase_index, phase) in plan.phases().iter().enumerate() {
        let windows_per_step = phase.windows_per_step;
        let even = part.is_some_and(|part| part > 0 && windows_per_step.is_multiple_of(part));
        if phase.steps > 0 && !even {
            return Err(LoaderError::Split {
                phase_index,
                windows_per_step,
                micro_batch_windows,
                world_size,
            });
        }
    }
    Ok(())
}

fn check_corpus(spec: &LoaderSpec) -> Result<(), LoaderError> {
    let (planned, corpus) = (spec.plan.spec(), &spec.corpus);
    let other = |field, planned, found| {
        Err(LoaderError::OtherCorpus { field, planned, found, dir: corpus.dir().to_owned() })
    };
    let (tokens, fingerprint) = (corpus.token_count(), &corpus.manifest().fingerprint);
    if planned.corpus_tokens != tokens {
        return other("tokens", planned.corpus_tokens.to_string(), tokens.to_string());
    }
    let name = |(name, tokens): (&str, u64)| format!("{name:?} {tokens}");
    let list = |sets: Vec<String>| match sets.join(", ") {
        none if none.is_empty() => "(all in one stream)".to_owned(),
        sets => sets,
    };
    let wanted: Vec<String> =
        planned.sets.iter().map(|set| name((&set.name, set.tokens))).collect();
    let there: Vec<String> =
        corpus.sets().iter().map(|set| name((&set.name, set.tokens))).collect();
    if wanted != there {
        return other("sets", list(wanted), list(there));
    }
    match &planned.corpus_fingerprint {
        Some(planned) if planned != fingerprint => {
            other("fingerprint", planned.clone(), fingerprint.clone())
        }
        _ => Ok(()),
    }
}

/// What a reader has read, as one number: the sum, modulo 2^64, of a hash of each window's number in the
/// run ([`Plan::window_number`]) and its ids. So the parts that several ranks or restarts read add up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Digest(pub u64);

impl Digest {
    /// Adds the windows of `batch`.
    pub fn add(&mut self, plan: &Plan, batch: &Batch) {
        let first_number = plan.window_number(batch.step, batch.first_slot);
        let windows = batch.ids.chunks_exact(batch.window_tokens as usize);
        for (number, ids) in (first_number..).zip(windows) {
            self.0 = self.0.wrapping_add(window_hash(number, ids));
        }
    }
}

/// First 8 bytes, little-endian, of the BLAKE3 of the window's number as `u64` and its ids as `u32`, all
/// little-endian.
pub fn window_hash(number: u64, ids: &[i64]) -> u64 {
    let mut bytes = Vec::with_capacity(8 + 4 * ids.len());
    bytes.extend_from_slice(&number.to_le_bytes());
    for &id in ids {
        let id = u32::try_from(id).expect("ids come from a corpus, which has u32");
        bytes.extend_from_slice(&id.to_le_bytes());
    }
    let hash = blake3::hash(&bytes);
    let (words, _) = hash.as_bytes().as_chunks::<8>();
    u64::from_le_bytes(words[0])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(step: u64, lane: usize) -> Batch {
        let (phase_index, micro_index, first_slot) = (0, 0, 0);
        let (window_tokens, ids) = (1, vec![0]);
        Batch { step, phase_index, micro_index, first_slot, window_tokens, ids, lane }
    }

    #[test]
    fn a_panic_of_a_worker_arrives_after_the_good_batches() {
        let mut loader = Loader::empty(100);
        for lane in 0..2 {
            let reader = loader.parker.unparker().clone();
            let spawned = Lane::spawn(lane, 1, reader, move |outlet| {
                for turn in 0..3 {
                    assert!(lane == 0 || turn < 2, "no third batch");
                    outlet.push(Ok(batch(turn * 2 + lane as u64, lane)));
                }
            });
            loader.lanes.push(spawned.unwrap());
        }
        for step in 0..5 {
            assert_eq!(loader.next_batch().unwrap().unwrap().step, step);
        }
        let err = loader.next_batch().unwrap_err();
        assert_eq!(err.to_string(), "reading thread 1 panicked: no third batch");
        assert!(loader.next_batch().unwrap().is_none());
    }

    #[test]
    fn dropping_a_loader_joins_workers_that_wait_for_room() {
        let mut loader = Loader::empty(100);
        let ended = Arc::new(AtomicBool::new(false));
        let (reader, seen) = (loader.parker.unparker().clone(), ended.clone());
        let lane = Lane::spawn(0, 2, reader, move |outlet| {
            while outlet.push(Ok(batch(0, 0))) {}
            seen.store(true, Ordering::Release);
        });
        loader.lanes.push(lane.unwrap());
        loader.next_batch().unwrap().unwrap();
        drop(loader);
        assert!(ended.load(Ordering::Acquire));
    }
}
