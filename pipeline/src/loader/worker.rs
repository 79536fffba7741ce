//! A reading thread, which reads its share of the micro-batches, one after the other.
//!
//! Windows are looked up 64 at a time, which lets the permutation use vector operations.
//!
//! A worker asks the system to read ahead only where a device makes it wait, which it detects by
//! counting: page faults answered by a device in a mapping, sleeps by `pread`. Time alone does not
//! show it, nor do sleeps in a mapping: a worker's first batches wait for locks of the process. On
//! data in memory each `madvise` costs a good part of the copy it is about: two workers read 3.2
//! instead of 6.4 billion tokens a second. A batch below 500 MB/s during which its thread slept
//! turns reading ahead on, first for a second, then longer.
//!
//! **Invariant:** a worker ends after its last micro-batch, an error it handed over, or a stop.

use std::any::Any;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ring::Producer;

use super::ids::Ids;
use super::{Batch, Item, LoaderError, LoaderSpec};
use crate::corpus::{OutId, Reader};
use crate::disk::source::waits_of_thread;
use plan::{Cursor, Plan, Window};

/// Windows looked up together.
const LOOKED_UP_WINDOWS: u64 = 64;
/// How often a worker checks that the files it read from are unchanged.
const CHECK_EVERY: Duration = Duration::from_millis(200);
/// Reading below this speed waits for a disk or a network: memory is several times as fast.
const SLOW_BYTES_PER_SEC: f64 = 500e6;
/// How long reading ahead lasts after a slow batch, at first and at most.
const AHEAD_FIRST: Duration = Duration::from_secs(1);
const AHEAD_MAX: Duration = Duration::from_secs(64);

/// The windows of a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct MicroBatch {
    pub(super) step: u64,
    pub(super) micro_index: u64,
    pub(super) slots: Range<u64>,
}

/// The micro-batches a loader delivers.
#[derive(Clone, Debug)]
pub(super) struct Schedule {
    plan: Arc<Plan>,
    steps: Range<u64>,
    rank: u64,
    world_size: u64,
    micro_batch_windows: u64,
}

impl Schedule {
    /// Takes a spec that was checked.
    pub(super) fn new(spec: &LoaderSpec) -> Schedule {
        Schedule {
            plan: Arc::clone(&spec.plan),
            steps: spec.from_step..spec.end_step,
            rank: spec.rank,
            world_size: spec.world_size,
            micro_batch_windows: spec.micro_batch_windows,
        }
    }

    /// One window a step.
    #[cfg(test)]
    pub(super) fn of(plan: Arc<Plan>, steps: Range<u64>) -> Schedule {
        Schedule { plan, steps, rank: 0, world_size: 1, micro_batch_windows: 1 }
    }

    /// First step, steps, and micro-batches per step, for each phase that has any.
    fn parts(&self) -> impl Iterator<Item = (u64, u64, u64)> {
        self.plan.phases().iter().filter_map(|phase| {
            let first = phase.first_step.max(self.steps.start);
            let end = phase.step_range().end.min(self.steps.end);
            let per_step = phase.windows_per_step / (self.world_size * self.micro_batch_windows);
            (first < end).then(|| (first, end - first, per_step)) // exact, see `check_split`
        })
    }

    /// How many there are.
    pub(super) fn len(&self) -> u64 {
        self.parts().map(|(_, steps, per_step)| steps * per_step).sum()
    }

    /// Micro-batch number `index`; `None` past the last one. O(1): a walk over the phases.
    pub(super) fn get(&self, index: u64) -> Option<MicroBatch> {
        let mut rest = index;
        for (first_step, steps, per_step) in self.parts() {
            if rest < steps * per_step {
                let (step, micro_index) = (first_step + rest / per_step, rest % per_step);
                let windows = self.micro_batch_windows;
                let first_slot = (self.rank * per_step + micro_index) * windows;
                let slots = first_slot..first_slot + windows;
                return Some(MicroBatch { step, micro_index, slots });
            }
            rest -= steps * per_step;
        }
        None
    }
}

/// Runs one reading thread with at most this many buffers in use; however it ends, the reader
/// learns it.
pub(super) fn run<T: OutId>(
    spec: &LoaderSpec,
    schedule: &Schedule,
    (ring_index, buffers): (usize, usize),
    producer: &Producer<Item<T>, Ids<T>>,
) {
    guarded(ring_index, producer, || {
        Worker::new(spec, schedule, (ring_index, buffers), producer).work()
    });
}

/// Hands over the error `work` ends with, or its panic.
pub(super) fn guarded<T: OutId>(
    worker: usize,
    producer: &Producer<Item<T>, Ids<T>>,
    work: impl FnOnce() -> Result<(), LoaderError>,
) {
    let err = match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(())) => return,
        Ok(Err(err)) => err,
        Err(panic) => LoaderError::Panic { worker, message: panic_message(panic.as_ref()) },
    };
    let _nobody_wants_it = producer.push(Err(err));
}

fn panic_message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "no message".to_owned())
}

struct Worker<'a, T> {
    spec: &'a LoaderSpec,
    schedule: &'a Schedule,
    ring_index: usize,
    producer: &'a Producer<Item<T>, Ids<T>>,
    reader: Reader<'a>,
    upcoming: Upcoming<'a>,
    ahead: Ahead<'a>,
    /// Returned buffers. The last one is used first: its memory is the likeliest to be cached.
    buffers: Vec<Ids<T>>,
}

impl<'a, T: OutId> Worker<'a, T> {
    fn new(
        spec: &'a LoaderSpec,
        schedule: &'a Schedule,
        (ring_index, buffers): (usize, usize),
        producer: &'a Producer<Item<T>, Ids<T>>,
    ) -> Worker<'a, T> {
        Worker {
            spec,
            schedule,
            ring_index,
            producer,
            reader: spec.corpus.reader(),
            upcoming: Upcoming::new(spec, schedule, ring_index),
            ahead: Ahead::new(spec, schedule, ring_index),
            buffers: Vec::with_capacity(buffers),
        }
    }

    fn work(&mut self) -> Result<(), LoaderError> {
        let (mut index, end) = (self.ring_index as u64, self.schedule.len());
        let mut checked = Instant::now();
        while let Some(micro_batch) = self.schedule.get(index) {
            self.ahead.ask(index);
            index += self.spec.workers as u64;
            self.ahead.start();
            let batch = self.read(&micro_batch)?;
            let now = self.ahead.judge(batch.ids.len() as u64);
            if now - checked >= CHECK_EVERY || index >= end {
                checked = now;
                let (step, slot) = (micro_batch.step, micro_batch.slots.start);
                let check = self.reader.check_unchanged();
                check.map_err(|source| LoaderError::Read { step, slot, source })?;
            }
            if self.producer.push(Ok(batch)).is_err() {
                return Ok(());
            }
        }
        Ok(())
    }

    fn read(&mut self, micro_batch: &MicroBatch) -> Result<Batch<T>, LoaderError> {
        let MicroBatch { step, micro_index, ref slots } = *micro_batch;
        let mut ids = self.buffer()?;
        let (windows, following) = self.upcoming.next();
        // A step belongs to one phase.
        let Window { token_count: window_tokens, phase_index, .. } = windows[0];
        ids.set_len(windows.len() * window_tokens as usize);
        let parts = ids.chunks_exact_mut(window_tokens as usize);
        for ((slot, index), part) in slots.clone().zip(0..).zip(parts) {
            let next = windows.get(index + 1).or(following.as_ref()).map_or(0..0, tokens);
            let read = self.reader.read_before(next, windows[index].first_token, part);
            read.map_err(|source| LoaderError::Read { step, slot, source })?;
        }
        let (first_slot, ring_index) = (slots.start, self.ring_index);
        Ok(Batch { step, phase_index, micro_index, first_slot, window_tokens, ids, ring_index })
    }

    fn buffer(&mut self) -> Result<Ids<T>, LoaderError> {
        self.buffers.extend(std::iter::from_fn(|| self.producer.buffer()));
        if let Some(buffer) = self.buffers.pop() {
            return Ok(buffer);
        }
        let capacity = self.spec.batch_tokens() as usize;
        Ids::new(capacity, self.spec.pin.as_ref()).map_err(|source| {
            let batch_bytes = self.spec.batch_tokens() * size_of::<T>() as u64;
            LoaderError::Memory { batch_bytes, source }
        })
    }
}

fn tokens(window: &Window) -> Range<u64> {
    window.first_token..window.first_token + window.token_count
}

/// The windows of a worker's micro-batches, looked up several micro-batches at a time.
struct Upcoming<'a> {
    schedule: &'a Schedule,
    cursor: Cursor<'a>,
    windows: Vec<Window>,
    /// How many of `windows` were handed out.
    used: usize,
    /// The next micro-batch to look up, and the distance from one of the worker's micro-batches to
    /// its next.
    next: u64,
    stride: u64,
    /// Micro-batches looked up together.
    count: u64,
}

impl<'a> Upcoming<'a> {
    fn new(spec: &'a LoaderSpec, schedule: &'a Schedule, ring_index: usize) -> Upcoming<'a> {
        let count = LOOKED_UP_WINDOWS.div_ceil(spec.micro_batch_windows);
        Upcoming {
            schedule,
            cursor: spec.plan.cursor(),
            windows: Vec::with_capacity((count * spec.micro_batch_windows) as usize),
            used: 0,
            next: ring_index as u64,
            stride: spec.workers as u64,
            count,
        }
    }

    /// The windows of the next micro-batch, and the one after them if already looked up.
    fn next(&mut self) -> (&[Window], Option<Window>) {
        if self.used == self.windows.len() {
            self.windows.clear();
            self.used = 0;
            let indexes = (0..self.count).map(|turn| self.next + turn * self.stride);
            let places = indexes
                .filter_map(|index| self.schedule.get(index))
                .flat_map(|MicroBatch { step, slots, .. }| slots.map(move |slot| (step, slot)));
            self.cursor.add_windows(places, &mut self.windows);
            self.next += self.count * self.stride;
        }
        let first = self.used;
        self.used += self.schedule.micro_batch_windows as usize;
        (&self.windows[first..self.used], self.windows.get(self.used).copied())
    }
}

/// Asks the system to read ahead while reading is slow.
struct Ahead<'a> {
    spec: &'a LoaderSpec,
    schedule: &'a Schedule,
    cursor: Cursor<'a>,
    windows: Vec<Window>,
    /// The worker's next micro-batch to ask for.
    next: u64,
    /// Tokens of coming micro-batches to ask for before they are read.
    tokens: u64,
    /// No batch was read yet.
    is_first: bool,
    /// End of the current reading ahead; `None` while reading is fast.
    until: Option<Instant>,
    /// How long it lasts after the next slow batch.
    lasts: Duration,
    started: Instant,
    /// The batch before was slow, so the thread's waits are counted during this one. A thread that
    /// others kept from its core was slow as well, and so is each thread's first batch, for which
    /// memory is fetched.
    suspects: bool,
    waits_before: u64,
}

impl<'a> Ahead<'a> {
    fn new(spec: &'a LoaderSpec, schedule: &'a Schedule, ring_index: usize) -> Ahead<'a> {
        let token_bytes = u64::from(spec.corpus.manifest().token_bytes);
        Ahead {
            spec,
            schedule,
            cursor: spec.plan.cursor(),
            windows: Vec::new(),
            next: ring_index as u64,
            tokens: spec.read_ahead_bytes / token_bytes / spec.workers as u64,
            is_first: true,
            until: None,
            lasts: AHEAD_FIRST,
            started: Instant::now(),
            suspects: false,
            waits_before: 0,
        }
    }

    /// Asks for micro-batches from `index` on that were not asked for yet, up to the limit.
    fn ask(&mut self, index: u64) {
        self.next = self.next.max(index);
        if self.tokens == 0 || (!self.is_first && self.until.is_none()) {
            return;
        }
        let step = self.spec.workers as u64;
        // Nothing is known before the first batch, and nothing may delay it.
        let tokens = if self.is_first { 1 } else { self.tokens };
        while (self.next - index) / step * self.spec.batch_tokens() < tokens {
            let Some(MicroBatch { step: of, slots, .. }) = self.schedule.get(self.next) else {
                return;
            };
            self.cursor.windows(of, slots, &mut self.windows);
            for window in &self.windows {
                self.spec.corpus.will_need(window.first_token, window.token_count);
            }
            self.next += step;
        }
    }

    /// Marks the start of a batch's reading.
    fn start(&mut self) {
        if self.suspects {
            self.waits_before = waits_of_thread(self.spec.corpus.backend());
        }
        self.started = Instant::now();
    }

    /// Learns from the batch just read, of this many tokens; returns the current time.
    fn judge(&mut self, tokens: u64) -> Instant {
        let now = Instant::now();
        let bytes = (tokens * u64::from(self.spec.corpus.manifest().token_bytes)) as f64;
        let is_slow = bytes < SLOW_BYTES_PER_SEC * (now - self.started).as_secs_f64();
        if self.until.is_some_and(|until| until <= now) {
            self.until = None; // and see how it goes without
        }
        if self.until.is_none() {
            let backend = self.spec.corpus.backend();
            if is_slow && self.suspects && waits_of_thread(backend) > self.waits_before {
                self.until = Some(now + self.lasts);
                self.lasts = (self.lasts * 2).min(AHEAD_MAX);
            } else if !is_slow {
                self.lasts = AHEAD_FIRST;
            }
        }
        (self.suspects, self.is_first) = (is_slow, false);
        now
    }
}
