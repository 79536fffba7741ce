//! The way of results from a worker thread to the one reader of all workers, and of used-up buffers
//! back.
//!
//! A ring has one [`Producer`] and one [`Consumer`]. The ring between them
//! is bounded; a producer that finds it full sleeps, and so does a reader that finds it empty. The
//! reader has one [`Parker`] for all its rings.
//!
//! The protocol, on top of a queue and a parker that are crossbeam's:
//! - The producer drops its producer when it ends, for whatever reason. That sets `closed` and wakes
//!   the reader, who takes what is left and then learns that nothing more will come.
//! - The reader drops its consumer when it wants no more. That sets `stopped` and wakes the producer,
//!   whose next push is refused.
//! - A wake-up that comes before its sleep is remembered by the parker, so none is lost.
//!
//! Built with `--cfg loom` or `--cfg shuttle`, queue and parker are models that promise no more
//! than crossbeam does, and `tests/model.rs` runs all schedules of small cases, or many of larger
//! ones. `tools/ring_mutants.py` takes each part of the protocol away in turn and expects a test to
//! fail.
//!
//! **Invariant:** the reader gets all that the producer pushed, in its order, and then the end;
//! neither sleeps for ever while the other one lives or has ended.

mod sync;

use sync::{Arc, AtomicBool, Ordering, Queue};
pub use sync::{Parker, Unparker};

/// Looks at a ring before its reader goes to sleep, first in a row and then between offers of its
/// core to others, who may be the very workers that it waits for. A worker that has to wake its
/// reader reads less: with 64 offers in place of 512 a worker made 3,081 M tokens/s of windows of
/// 8,192 where it makes 3,533 (medians of 3 interleaved rounds, 2 cores).
const SPINS: u32 = if cfg!(any(loom, shuttle)) { 0 } else { 64 };
const YIELDS: u32 = if cfg!(any(loom, shuttle)) { 0 } else { 512 };

/// What both ends share.
struct Shared<T, B> {
    full: Queue<T>,
    /// Buffers on their way back.
    empty: Queue<B>,
    /// Set once by the consumer's end. Relaxed: it publishes no other memory, and a producer that
    /// sleeps is woken after it was set, which orders the two.
    stopped: AtomicBool,
    /// Set once by the producer's end, with Release, after its last push: a reader that loads it with
    /// Acquire sees all that was pushed, and takes it before it believes that nothing will come.
    closed: AtomicBool,
}

/// A new ring of `slots` results with `buffers` places on the way back, whose producer wakes
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

/// The producer's end; dropping it tells the reader that nothing more will come.
pub struct Producer<T, B> {
    shared: Arc<Shared<T, B>>,
    parker: Parker,
    reader: Unparker,
}

impl<T, B> Producer<T, B> {
    /// Puts `item` into the ring, waiting for room; gives it back when the reader wants no more.
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

    /// A buffer that the reader gave back, if there is one.
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
        // A producer that sleeps found the ring full, so that the reader passes the half of it
        // later on: a wake-up there is enough, and one for each item would cost both of them.
        if self.shared.full.len() <= self.shared.full.capacity() / 2 {
            self.worker.unpark();
        }
        Some(item)
    }

    /// The next item, waited for; `None` when the producer is gone and all was taken.
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
            // Before the look into the ring.
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

    /// Gives a buffer back to the producer; one too many is dropped.
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
