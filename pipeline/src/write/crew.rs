//! Threads that read, encode and write, overlapped, in order.
//!
//! All threads are alike. Each takes the next chunk, encodes it, and leaves it under its number;
//! the thread leaving the next number writes, and continues until the next number is missing. No
//! thread only reads or writes, so N threads use N cores, one thread uses one, and the numbers,
//! given out in reading, keep the order. A document much larger than a chunk is cut and encoded by
//! the whole crew.
//!
//! The thread that read last keeps reading, two chunks a thread ahead, if it gets there in time. A
//! decompressor looks back at 4 MB in most files; that history then stays in the caches of one
//! core. When two threads took turns, reading took 45 % longer, which cost a tenth of the speed.
//!
//! A chunk goes at most a few places ahead of the chunk written next, and at most 96 MiB of text
//! are in flight. Up to [`CREW_THREADS`] threads share a reader, since decompression is some five
//! times as fast as encoding.
//! More threads form further crews, each with its own input.
//!
//! With two threads or more, loading uses two: the `tokenizers` crate's half is done first, and the
//! folder is made ready and up to 32 chunks are read while our own encoder is still being built.
//! With one thread, that thread does everything in turn.
//!
//! Two threads fall short of twice the speed of one because each has to fill its own cache of
//! pieces: on 137 MB of text, two caches miss 14 % more often than one. The rest is memory touched
//! for the first time, and the disk at the very end.
//!
//! **Invariant:** output is written in input order; no more than [`FLIGHT_BYTES`] of texts, or one
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

/// Threads fed by one reader.
pub(crate) const CREW_THREADS: usize = 8;
/// Maximum bytes of texts between reader and writer; beyond it the reader waits.
const FLIGHT_BYTES: usize = 96 << 20;
/// Chunks read ahead for each thread.
const AHEAD_CHUNKS: usize = 2;
/// Chunks read ahead while the encoder is being built.
const EARLY_CHUNKS: usize = 32;
/// Chunks between the next one to write and the latest one left, for each thread.
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

/// Threads working on one input at a time.
pub(crate) struct Crew<'a, I: TokenId> {
    job: &'a Job<'a>,
    state: Mutex<State<'a, I>>,
    /// Something was read, or the run is over.
    more: Condvar,
    /// Something was written, or the run is over.
    turn: Condvar,
    /// Chunks read ahead.
    ahead: usize,
    /// How far ahead of the writer a chunk may be left.
    window: u64,
    splits: Splits<I>,
}

/// The state between reading, encoding and writing.
struct State<'a, I: TokenId> {
    /// `None` while a thread reads, and after everything is read.
    feed: Option<WorkReader<'a>>,
    all_is_read: bool,
    /// The thread that read last.
    reader: usize,
    /// Work read and not yet taken.
    queue: VecDeque<(u64, Work)>,
    /// The number to write next.
    next_number: u64,
    ready: BTreeMap<u64, Done<I>>,
    /// `None` while a thread writes.
    writer: Option<Writer<'a>>,
    flight_bytes: usize,
    /// Buffers for reuse.
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

    /// Works to the end with `threads` threads, this one among them.
    pub(crate) fn run(&self, threads: usize) -> SessionStatistics {
        std::thread::scope(|scope| {
            let others: Vec<_> =
                (1..threads).map(|thread| scope.spawn(move || self.work(thread))).collect();
            let ours = self.work(0);
            // `work` catches and reports panics.
            others.into_iter().filter_map(|other| other.join().ok()).fold(ours, add)
        })
    }

    pub(crate) fn into_failure(self) -> Option<anyhow::Error> {
        self.state.into_inner().unwrap_or_else(PoisonError::into_inner).failure
    }

    /// Runs one thread from start to end.
    fn work(&self, thread: usize) -> SessionStatistics {
        let mut statistics = SessionStatistics::default();
        let worked = catch_unwind(AssertUnwindSafe(|| {
            // Before the encoder, which may still be under construction.
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
        // A panicked thread has recorded its failure, and afterwards only this record is read.
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

    /// The next piece of work with its number; `None` at the end, and if the run is over earlier.
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

    /// Reads ahead, further while the encoder is being built, and waits only while the queue is
    /// empty.
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

    /// Leaves finished work, and writes if it is this thread's turn.
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
