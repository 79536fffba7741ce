//! Delivers the plan's windows as batches, in plan order, read ahead by worker threads.
//!
//! A step's windows are cut into micro-batches. Worker `i mod N` reads micro-batch `i` into its own
//! bounded ring (the crate `ring`), and the rings are read in turn, so the order needs no sorting
//! and no result depends on the timing of threads. Buffers travel back and are reused, the last one
//! first, because its memory is the likeliest to be cached; once every ring has been full, nothing
//! is allocated. A large ring therefore costs memory bandwidth only when the trainer lags.
//!
//! Ids are widened once, into the buffer the trainer takes (`u16`, `u32`, `i32` or `i64`). A
//! trainer may have each buffer pinned.
//!
//! Rings that fit into the third-level cache are faster than larger ones. When the scheduler takes
//! the reader's core for a slice, large rings fill up, and whatever exceeds the cache goes through
//! memory. On two cores, two workers with windows of 8,192 tokens read 2.1 times as much with 16 MB
//! as with 64 MB.
//!
//! Workers read ahead of delivery; a run resumes after the last batch *delivered*
//! ([`Loader::next_place`]).
//!
//! **Invariant:** the same batches in the same order for any number of workers and either read back
//! end; the ranks of any world size read each window of a step exactly once between them.

mod digest;
mod error;
mod ids;
mod worker;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ring::{Consumer, Parker, ring};

use crate::corpus::{Corpus, OutId};
use plan::Plan;

pub use digest::{Digest, window_hash};
pub use error::LoaderError;
pub use ids::{Ids, Pin, Pinned};
use worker::Schedule;

/// A ring has at most this many slots, however much memory it may take.
const SLOTS_MAX: u64 = 1024;
/// More threads than this are a mistake: each takes its own address space, and none of them makes a
/// run faster.
const WORKERS_MAX: usize = 1024;
/// Bytes the system is asked to read ahead, for all workers together, unless the run file sets
/// them.
pub const READ_AHEAD_BYTES: u64 = 16 << 20;

/// The windows to read, and how to read them.
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
    /// Which part of each step: number `rank` of `world_size` contiguous ones.
    pub rank: u64,
    /// Number of parts a step is cut into.
    pub world_size: u64,
    /// Windows in a batch.
    pub micro_batch_windows: u64,
    /// Reading threads.
    pub workers: usize,
    /// Memory of all rings together, in bytes.
    pub ring_bytes: u64,
    /// Bytes of the files the system is asked to read ahead of all workers while reading is slow; 0
    /// for none.
    pub read_ahead_bytes: u64,
    /// Prepares each buffer for a device.
    pub pin: Option<Pin>,
}

impl LoaderSpec {
    /// Returns the error [`Loader::start`] would return for ids of this type; starts nothing.
    pub fn check<T: OutId>(&self) -> Result<(), LoaderError> {
        check(self, size_of::<T>() as u64).map(|_slots| ())?;
        let (vocab_size, output_max) = (self.corpus.vocab_size(), T::VOCAB_SIZE_MAX);
        if vocab_size > output_max {
            let dir = self.corpus.dir().to_owned();
            return Err(LoaderError::Output { output: T::NAME, output_max, vocab_size, dir });
        }
        Ok(())
    }

    /// Tokens of the largest batch.
    fn batch_tokens(&self) -> u64 {
        let used = self.plan.phases().iter().filter(|phase| phase.steps > 0);
        used.map(|phase| phase.window_tokens).max().unwrap_or(0) * self.micro_batch_windows
    }
}

/// One micro-batch.
#[derive(Debug)]
pub struct Batch<T> {
    /// Step of the run.
    pub step: u64,
    /// Position of the phase in the plan's list.
    pub phase_index: usize,
    /// Position among the micro-batches of this rank's part of the step.
    pub micro_index: u64,
    /// Number of the step's window that comes first in `ids`.
    pub first_slot: u64,
    /// Tokens of a window, K * T.
    pub window_tokens: u64,
    /// Ids of `micro_batch_windows` windows, one after the other.
    pub ids: Ids<T>,
    ring_index: usize,
}

/// An item in a ring.
type Item<T> = Result<Batch<T>, LoaderError>;

/// Threads that read ahead, and the rings they fill. Dropping it stops and joins them.
///
/// Ids come as `T`: `u16` or `u32` as the corpus has them, `i32` or `i64` as tensors want them.
#[derive(Debug)]
pub struct Loader<T: OutId> {
    rings: Vec<Consumer<Item<T>, Ids<T>>>,
    threads: Vec<JoinHandle<()>>,
    schedule: Schedule,
    /// Number of micro-batches delivered, and the number to deliver.
    delivered: u64,
    end: u64,
    parker: Parker,
    waited: Duration,
}

impl<T: OutId> Loader<T> {
    /// Starts the threads, which begin to read batches.
    pub fn start(spec: LoaderSpec) -> Result<Loader<T>, LoaderError> {
        spec.check::<T>()?;
        let slots = check(&spec, size_of::<T>() as u64)?;
        let mut loader = Loader::empty(Schedule::new(&spec));
        let spec = Arc::new(spec);
        for worker in 0..spec.workers {
            let (spec, schedule) = (Arc::clone(&spec), loader.schedule.clone());
            let workers = spec.workers;
            let spawned = loader.spawn(slots, move |producer| {
                worker::run(&spec, &schedule, (worker, buffers_of(slots)), producer);
            });
            // On an error, dropping `loader` stops the threads already started.
            spawned.map_err(|source| LoaderError::Thread { worker, workers, source })?;
        }
        Ok(loader)
    }

    fn empty(schedule: Schedule) -> Loader<T> {
        Loader {
            rings: Vec::new(),
            threads: Vec::new(),
            end: schedule.len(),
            schedule,
            delivered: 0,
            parker: Parker::new(),
            waited: Duration::ZERO,
        }
    }

    fn spawn(
        &mut self,
        slots: usize,
        work: impl FnOnce(&ring::Producer<Item<T>, Ids<T>>) + Send + 'static,
    ) -> std::io::Result<()> {
        let (producer, consumer) = ring(slots, buffers_of(slots), self.parker.unparker().clone());
        let name = format!("loader-{}", self.rings.len());
        let thread = std::thread::Builder::new().name(name).spawn(move || work(&producer))?;
        self.rings.push(consumer);
        self.threads.push(thread);
        Ok(())
    }

    /// Waits for the next batch in plan order; `None` after the last one, and after an error.
    pub fn next_batch(&mut self) -> Result<Option<Batch<T>>, LoaderError> {
        if self.delivered == self.end {
            return Ok(None);
        }
        let consumer = &self.rings[(self.delivered % self.rings.len() as u64) as usize];
        let item = match consumer.take() {
            Some(item) => item,
            None => {
                let started = Instant::now();
                let item = consumer.wait(&self.parker);
                self.waited += started.elapsed();
                item.expect("a worker ends only after its last batch or an error")
            }
        };
        self.delivered += 1;
        if item.is_err() {
            self.end = self.delivered;
        }
        item.map(Some)
    }

    /// Step and micro-batch [`Loader::next_batch`] delivers next, where a run resumes, however far
    /// workers have read. `None` after the last one, and after an error.
    pub fn next_place(&self) -> Option<(u64, u64)> {
        let next = (self.delivered < self.end).then(|| self.schedule.get(self.delivered))??;
        Some((next.step, next.micro_index))
    }

    /// Gives the buffer of a used-up batch back to the worker that filled it.
    pub fn recycle(&self, batch: Batch<T>) {
        if let Some(consumer) = self.rings.get(batch.ring_index) {
            consumer.give_back(batch.ids);
        }
    }

    /// Total time [`Loader::next_batch`] has waited for workers.
    pub fn waited(&self) -> Duration {
        self.waited
    }
}

impl<T: OutId> Drop for Loader<T> {
    fn drop(&mut self) {
        self.rings.clear(); // stops the workers
        for thread in self.threads.drain(..) {
            let joined = thread.join();
            assert!(joined.is_ok() || std::thread::panicking(), "a worker's panics are caught");
        }
    }
}

/// Buffers of a ring: its own, one held by the worker and one by the reader.
fn buffers_of(slots: usize) -> usize {
    slots + 2
}

/// Checks a spec and returns the number of slots of a ring for ids of `id_bytes`.
fn check(spec: &LoaderSpec, id_bytes: u64) -> Result<usize, LoaderError> {
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
    if workers > WORKERS_MAX {
        return Err(LoaderError::Workers { workers, workers_max: WORKERS_MAX });
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
    let batch_bytes = spec.batch_tokens().saturating_mul(id_bytes);
    let needed_bytes = batch_bytes.saturating_mul(workers as u64);
    let slots = spec.ring_bytes / needed_bytes.max(1);
    if slots == 0 {
        let ring_bytes = spec.ring_bytes;
        return Err(LoaderError::Ring { ring_bytes, workers, batch_bytes, needed_bytes });
    }
    Ok(usize::try_from(slots.min(SLOTS_MAX)).expect("at most SLOTS_MAX"))
}

/// Checks that every step of `plan` splits evenly into micro-batches on `world_size` ranks.
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

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use schemas::run::{Share, Shuffle};

    use super::*;
    use plan::{PhaseSpec, PlanSpec};

    /// A hundred steps of one batch.
    fn schedule() -> Schedule {
        let share = Share::new(1, 1).unwrap();
        let plan = Plan::new(&PlanSpec {
            corpus_tokens: 100,
            corpus_fingerprint: None,
            subset_tokens: None,
            step_tokens: 1,
            epochs: 1,
            seed: 1,
            shuffle: Shuffle::None,
            sets: Vec::new(),
            phases: vec![PhaseSpec { patch_size: 1, window_units: 1, share }],
        });
        Schedule::of(Arc::new(plan.unwrap()), 0..100)
    }

    fn batch(step: u64, ring_index: usize) -> Batch<i64> {
        let (phase_index, micro_index, first_slot) = (0, 0, 0);
        let (window_tokens, ids) = (1, Ids::new(1, None).unwrap());
        Batch { step, phase_index, micro_index, first_slot, window_tokens, ids, ring_index }
    }

    #[test]
    fn a_panic_of_a_worker_arrives_after_the_good_batches() {
        for case in 0..100 {
            let (rings, slots, panics_at) = (1 + case % 3, 1 + case % 4, case / 2 % 9);
            let mut loader = Loader::empty(schedule());
            for ring_index in 0..rings {
                let spawned = loader.spawn(slots, move |producer| {
                    worker::guarded(ring_index, producer, || {
                        for turn in 0.. {
                            let step = turn * rings + ring_index;
                            assert!(step != panics_at, "at step {step}");
                            if producer.push(Ok(batch(step as u64, ring_index))).is_err() {
                                break;
                            }
                        }
                        Ok(())
                    });
                });
                spawned.unwrap();
            }
            for step in 0..panics_at as u64 {
                assert_eq!(loader.next_place(), Some((step, 0)));
                assert_eq!(loader.next_batch().unwrap().unwrap().step, step);
            }
            let err = loader.next_batch().unwrap_err();
            let (worker, message) = (panics_at % rings, format!("at step {panics_at}"));
            assert_eq!(err.to_string(), format!("reading thread {worker} panicked: {message}"));
            assert!(loader.next_batch().unwrap().is_none());
            assert_eq!(loader.next_place(), None);
        }
    }

    #[test]
    fn dropping_a_loader_joins_workers_that_wait_for_room() {
        let mut loader = Loader::empty(schedule());
        let ended = Arc::new(AtomicBool::new(false));
        let seen = ended.clone();
        let spawned = loader.spawn(2, move |producer| {
            while producer.push(Ok(batch(0, 0))).is_ok() {}
            seen.store(true, Ordering::Release);
        });
        spawned.unwrap();
        loader.next_batch().unwrap().unwrap();
        drop(loader);
        assert!(ended.load(Ordering::Acquire));
    }

    #[test]
    fn a_buffer_is_pinned_once_and_let_go_before_its_memory() {
        struct Guard(Arc<AtomicBool>);
        impl Drop for Guard {
            fn drop(&mut self) {
                self.0.store(false, Ordering::Relaxed);
            }
        }
        let is_pinned = Arc::new(AtomicBool::new(false));
        let flag = is_pinned.clone();
        let pin = Pin::new(move |bytes| {
            assert!(bytes.len() == 800 && (bytes.as_ptr() as usize).is_multiple_of(4096));
            assert!(!flag.swap(true, Ordering::Relaxed), "pinned twice");
            Ok(Box::new(Guard(flag.clone())))
        });
        let mut ids: Ids<i64> = Ids::new(100, Some(&pin)).unwrap();
        ids.set_len(100);
        ids.fill(7);
        assert!(is_pinned.load(Ordering::Relaxed) && ids[..] == [7; 100]);
        drop(ids);
        assert!(!is_pinned.load(Ordering::Relaxed));
        let refused = Pin::new(|_| Err(std::io::ErrorKind::OutOfMemory.into()));
        assert!(Ids::<i64>::new(100, Some(&refused)).is_err());
    }
}
