//! The stage's threads: read, encode and write, overlapped, in order.
//!
//! All threads of a crew are alike. Each takes the next chunk that was read, encodes it, and leaves
//! it with a number; whoever leaves the number that is next writes, and goes on until the next
//! number is missing. So N threads keep N cores busy and one thread does everything by itself; the
//! order is that of the numbers, which were given out in reading. A document much larger than a
//! chunk is cut and encoded by all of a crew.
//!
//! Whoever read last reads on, a few chunks ahead, as long as it comes by in time: the megabytes
//! that a decompressor looks back at lie in the caches of its core, and taking turns at it cost 45
//! % of its time.
//!
//! A reader decompresses as fast as some [`CREW_THREADS`] threads encode; more threads form more
//! crews, each with an input of its own.
//!
//! **Invariant:** what is written is in input order; no more than [`FLIGHT_BYTES`] of texts, or one
//! chunk, are between reader and writer of a crew.

mod encode;
mod long_documents;
mod reader;
mod route;
mod start;

use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::console::panic::panic_text;
use crate::write::crew::encode::ThreadEncoder;
use crate::write::crew::long_documents::Splits;
use crate::write::crew::reader::WorkReader;
use crate::write::crew::route::Writer;
use crate::write::job::{Done, InputPlan, Job, Work};
use encoder::{SessionStatistics, TokenId};

/// Threads that one reader can feed.
pub(crate) const CREW_THREADS: usize = 8;
/// Bytes of texts between reader and writer, beyond which the reader waits.
const FLIGHT_BYTES: usize = 96 << 20;
/// Chunks that are read ahead for each thread.
const AHEAD_CHUNKS: usize = 2;
/// Chunks that are read ahead while the encoder is in the making.
const EARLY_CHUNKS: usize = 32;
/// Chunks between the one that is written next and the one that is left, for each thread.
const WINDOW_CHUNKS: u64 = 4;

#[expect(clippy::needless_pass_by_value, reason = "it is what joining a thread gives")]
pub(crate) fn panicked(panic: Box<dyn std::any::Any + Send>) -> anyhow::Error {
    anyhow::anyhow!("a thread failed: {}", panic_text(&*panic))
}

pub(crate) fn add(a: SessionStatistics, b: SessionStatistics) -> SessionStatistics {
    SessionStatistics {
        cache_lookups: a.cache_lookups + b.cache_lookups,
        cache_hits: a.cache_hits + b.cache_hits,
    }
}

/// Threads that work on one input at a time.
pub(crate) struct Crew<'a, I: TokenId> {
    job: &'a Job<'a>,
    state: Mutex<State<'a, I>>,
    /// Something was read, or the run is over.
    more: Condvar,
    /// Something was written, or the run is over.
    turn: Condvar,
    /// Chunks that are read ahead.
    ahead: usize,
    /// How far ahead of the writer a chunk may be left.
    window: u64,
    splits: Splits<I>,
}

/// Between reading, encoding and writing.
struct State<'a, I: TokenId> {
    /// `None` while a thread reads, and when all is read.
    feed: Option<WorkReader<'a>>,
    all_is_read: bool,
    /// The thread that read last.
    reader: usize,
    /// What was read and nobody has taken.
    queue: VecDeque<(u64, Work)>,
    /// The number that is written next.
    next_number: u64,
    ready: BTreeMap<u64, Done<I>>,
    /// `None` while a thread writes.
    writer: Option<Writer<'a>>,
    flight_bytes: usize,
    /// Buffers to be used again.
    spare: Vec<Vec<I>>,
    failure: Option<anyhow::Error>,
    is_over: bool,
}

impl<'a, I: TokenId> Crew<'a, I> {
    pub(crate) fn new(
        job: &'a Job<'a>,
        threads: usize,
        todo: &'a Mutex<std::vec::IntoIter<InputPlan>>,
        writer: Writer<'a>,
    ) -> Crew<'a, I> {
        let state = State {
            feed: Some(WorkReader::new(todo)),
            all_is_read: false,
            reader: 0,
            queue: VecDeque::new(),
            next_number: 0,
            ready: BTreeMap::new(),
            writer: Some(writer),
            flight_bytes: 0,
            spare: Vec::new(),
            failure: None,
            is_over: false,
        };
        Crew {
            job,
            state: Mutex::new(state),
            more: Condvar::new(),
            turn: Condvar::new(),
            // A single thread has nobody to read ahead for.
            ahead: if threads == 1 { 1 } else { AHEAD_CHUNKS * threads },
            window: WINDOW_CHUNKS * threads as u64,
            splits: Splits::new(threads),
        }
    }

    /// Works with `threads` threads, this one among them, to the end.
    pub(crate) fn run(&self, threads: usize) -> SessionStatistics {
        std::thread::scope(|scope| {
            let others: Vec<_> =
                (1..threads).map(|thread| scope.spawn(move || self.work(thread))).collect();
            let ours = self.work(0);
            // A panic was caught in `work`, where it was told as well.
            others.into_iter().filter_map(|other| other.join().ok()).fold(ours, add)
        })
    }

    pub(crate) fn into_failure(self) -> Option<anyhow::Error> {
        self.state.into_inner().unwrap_or_else(PoisonError::into_inner).failure
    }

    /// One thread's whole life.
    fn work(&self, thread: usize) -> SessionStatistics {
        let mut statistics = SessionStatistics::default();
        let worked = catch_unwind(AssertUnwindSafe(|| {
            // Before the encoder, which may still be in the making.
            let mut next = self.next_work(thread);
            let mut encoder = ThreadEncoder::<I>::new(self.job, &self.splits);
            self.job.encoder_is_known.call_once(|| self.job.name_encoder());
            while let Some((number, work)) = next {
                let done = match work {
                    Work::Begin(plan) => Done::Begin(plan),
                    Work::Chunk { chunk, plan, file_offset } => {
                        let ids = self.state().spare.pop().unwrap_or_default();
                        let bytes = chunk.text_bytes();
                        let encoded = encoder.encode(&plan, &chunk, ids);
                        Done::Chunk { encoded, file_offset, bytes }
                    }
                    Work::End => Done::End,
                    Work::Failed(err) => Done::Failed(err),
                };
                self.leave(number, done);
                self.splits.help(&mut encoder.session);
                next = self.next_work(thread);
            }
            statistics = encoder.session.statistics();
        }));
        if let Err(panic) = worked {
            self.fail(panicked(panic));
        }
        statistics
    }

    fn state(&self) -> MutexGuard<'_, State<'a, I>> {
        // A thread that panicked told so, and the state is only read for that.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fail(&self, err: anyhow::Error) {
        let mut state = self.state();
        state.failure.get_or_insert(err);
        state.is_over = true;
        drop(state);
        self.splits.give_up();
        self.more.notify_all();
        self.turn.notify_all();
    }

    /// The next piece of work with its number; `None` at the end, and when the run is over before
    /// it.
    fn next_work(&self, thread: usize) -> Option<(u64, Work)> {
        let mut state = self.state();
        loop {
            if self.job.stop.asked() || state.is_over {
                return None;
            }
            let is_low = state.reader == thread && state.queue.len() < self.ahead;
            if (is_low || state.queue.is_empty())
                && let Some(feed) = state.feed.take()
            {
                drop(state);
                state = self.read(feed, thread);
            }
            if let Some(work) = state.queue.pop_front() {
                return Some(work);
            }
            if state.all_is_read {
                return None;
            }
            state = self.more.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Reads ahead, longer while the encoder is in the making, and waits only while there is
    /// nothing to do.
    fn read(&self, mut feed: WorkReader<'a>, thread: usize) -> MutexGuard<'_, State<'a, I>> {
        loop {
            let Some((number, work)) = feed.next(self.job) else {
                let mut state = self.state();
                state.all_is_read = true;
                self.more.notify_all();
                return state;
            };
            let bytes = work.text_bytes();
            let mut state = self.state();
            state.reader = thread;
            while state.flight_bytes > 0 && state.flight_bytes + bytes > FLIGHT_BYTES {
                if !state.queue.is_empty() || state.is_over {
                    feed.give_back(number, work);
                    state.feed = Some(feed);
                    return state;
                }
                state = self.turn.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            state.flight_bytes += bytes;
            state.queue.push_back((number, work));
            self.more.notify_one();
            let ahead = if self.job.encoder.is_ready() { self.ahead } else { EARLY_CHUNKS };
            if state.queue.len() >= ahead || state.is_over {
                state.feed = Some(feed);
                return state;
            }
        }
    }

    /// Leaves what is done, and writes if it is its turn.
    fn leave(&self, number: u64, done: Done<I>) {
        let mut state = self.state();
        while number >= state.next_number + self.window && !state.is_over {
            state = self.turn.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.ready.insert(number, done);
        let Some(mut writer) = state.writer.take() else { return };
        while !state.is_over {
            let next_number = state.next_number;
            let Some(done) = state.ready.remove(&next_number) else { break };
            drop(state);
            let bytes = if let Done::Chunk { bytes, .. } = done { bytes } else { 0 };
            let written = writer.write(done);
            state = self.state();
            state.next_number += 1;
            state.flight_bytes -= bytes;
            match written {
                Ok(spare) => state.spare.extend(spare),
                Err(err) => {
                    drop(state);
                    self.fail(err);
                    state = self.state();
                }
            }
            self.turn.notify_all();
        }
        state.writer = Some(writer);
    }
}
