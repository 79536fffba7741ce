//! Carries results from a worker thread to the one reader of all workers, and used buffers back.
//!
//! A ring has one [`Producer`] and one [`Consumer`]. It is bounded: a producer that finds it full
//! sleeps, and so does a reader that finds it empty. The reader has one [`Parker`] for all its
//! rings.
//!
//! The ring is crossbeam's queue and parker, with a protocol of two flags and three wake-ups on
//! top. It is a crate of its own because it is small enough to be built under loom and shuttle, on
//! models that promise only what crossbeam documents. A producer is woken when its ring is half
//! empty, not at each item.
//!
//! The protocol:
//! - A worker drops its [`Producer`] when it ends, for any reason. That sets `closed` and wakes the
//!   reader, which takes the rest and then learns that nothing more will come.
//! - The reader drops its [`Consumer`] when it wants no more. That sets `stopped` and wakes the
//!   producer, whose next push is refused.
//! - The parker remembers a wake-up that comes before its sleep, so none is lost.
//!
//! Built with `--cfg loom` or `--cfg shuttle`, queue and parker are those models, and
//! `tests/model.rs` runs all schedules of small cases, or many of larger ones.
//! `tools/ring_mutants.py` takes each part of the protocol away in turn and expects a test to fail.
//!
//! **Invariant:** the reader gets everything the producer pushed, in order, and then the end;
//! neither sleeps for ever while the other one lives or has ended.

mod sync;

use sync::{Arc, AtomicBool, Ordering, Queue};
pub use sync::{Parker, Unparker};

/// Looks at a ring before its reader goes to sleep: first in a row, then between offers of its core
/// to other threads, which may be the very workers it waits for. A worker that has to wake its
/// reader reads less: with 64 offers in place of 512 a worker made 3,081 M tokens/s of windows of
/// 8,192; with 512 it makes 3,533 (medians of 3 interleaved rounds, 2 cores).
const SPINS: u32 = if cfg!(any(loom, shuttle)) { 0 } else { 64 };
const YIELDS: u32 = if cfg!(any(loom, shuttle)) { 0 } else { 512 };

/// The state both ends share.
struct Shared<T, B> {
    full: Queue<T>,
    /// Buffers on their way back.
    empty: Queue<B>,
    /// Set once, by the consumer's end. Relaxed: it publishes no other memory, and a sleeping
    /// producer is woken after it was set, which orders the two.
    stopped: AtomicBool,
    /// Set once, by the producer's end, with Release, after its last push. A reader that loads it
    /// with Acquire sees everything pushed, and takes it before it believes that nothing will come.
    closed: AtomicBool,
}

/// A new ring of `slots` results with `buffers` places on the way back; its producer wakes
/// `reader`.
///
/// # Panics
/// If either number is 0.
pub fn ring<T, B>(
    slots: usize,
    buffers: usize,
    reader: Unparker,
) -> (Producer<T, B>, Consumer<T, B>) {
    let shared = Arc::new(Shared {
        full: Queue::new(slots),
        empty: Queue::new(buffers),
        stopped: AtomicBool::new(false),
        closed: AtomicBool::new(false),
    });
    let parker = Parker::new();
    let worker = parker.unparker().clone();
    (Producer { shared: shared.clone(), parker, reader }, Consumer { shared, worker })
}

/// The producer's end; dropping it lets the reader learn that nothing more will come.
pub struct Producer<T, B> {
    shared: Arc<Shared<T, B>>,
    parker: Parker,
    reader: Unparker,
}

impl<T, B> Producer<T, B> {
    /// Puts `item` into the ring, waiting for room; returns it when the reader wants no more.
    pub fn push(&self, mut item: T) -> Result<(), T> {
        loop {
            if self.shared.stopped.load(Ordering::Relaxed) {
                return Err(item);
            }
            match self.shared.full.push(item) {
                Ok(()) => {
                    self.reader.unpark();
                    return Ok(());
                }
                Err(back) => item = back,
            }
            self.parker.park();
        }
    }

    /// A buffer the reader gave back, if any.
    pub fn buffer(&self) -> Option<B> {
        self.shared.empty.pop()
    }
}

impl<T, B> Drop for Producer<T, B> {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::Release);
        self.reader.unpark();
    }
}

/// The reader's end; dropping it stops the producer at its next push.
pub struct Consumer<T, B> {
    shared: Arc<Shared<T, B>>,
    worker: Unparker,
}

impl<T, B> Consumer<T, B> {
    /// The next item, if it is ready.
    pub fn take(&self) -> Option<T> {
        let item = self.shared.full.pop()?;
        // A sleeping producer found the ring full, so the reader passes the half-empty mark later:
        // one wake-up there is enough, and one for each item would cost both of them.
        if self.shared.full.len() <= self.shared.full.capacity() / 2 {
            self.worker.unpark();
        }
        Some(item)
    }

    /// Waits for the next item; `None` when the producer is gone and everything was taken.
    ///
    /// `parker` must be the one whose unparker the ring was made with.
    pub fn wait(&self, parker: &Parker) -> Option<T> {
        for turn in 0..SPINS + YIELDS {
            if let Some(item) = self.take() {
                return Some(item);
            }
            if turn < SPINS {
                std::hint::spin_loop();
            } else {
                std::thread::yield_now();
            }
        }
        loop {
            // Must come before the look into the ring.
            let closed = self.shared.closed.load(Ordering::Acquire);
            if let Some(item) = self.take() {
                return Some(item);
            }
            if closed {
                return None;
            }
            parker.park();
        }
    }

    /// Gives a buffer back to the producer; a surplus one is dropped.
    pub fn give_back(&self, buffer: B) {
        let _dropped_when_full = self.shared.empty.push(buffer);
    }
}

impl<T, B> Drop for Consumer<T, B> {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Relaxed);
        self.worker.unpark();
    }
}

impl<T, B> std::fmt::Debug for Consumer<T, B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Consumer").field("ready", &self.shared.full.len()).finish_non_exhaustive()
    }
}
