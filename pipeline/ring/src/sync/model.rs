//! A queue for one producer and one consumer, and a parker, built from a checker's atomics and
//! locks.
//!
//! **Invariant:** as `sync`.

#[cfg(loom)]
use loom::sync as checked;
#[cfg(shuttle)]
use shuttle::sync as checked;

pub(crate) use checked::Arc;
use checked::atomic::AtomicUsize;
pub(crate) use checked::atomic::{AtomicBool, Ordering};
use checked::{Condvar, Mutex};

/// A ring; `tail` and `head` count pushes and pops.
pub(crate) struct Queue<T> {
    slots: Vec<Mutex<Option<T>>>,
    tail: AtomicUsize,
    head: AtomicUsize,
}

impl<T> Queue<T> {
    pub(crate) fn new(capacity: usize) -> Queue<T> {
        assert!(capacity > 0, "a queue of no slots");
        let slots = (0..capacity).map(|_| Mutex::new(None)).collect();
        Queue { slots, tail: AtomicUsize::new(0), head: AtomicUsize::new(0) }
    }

    pub(crate) fn capacity(&self) -> usize {
        self.slots.len()
    }

    pub(crate) fn len(&self) -> usize {
        // Head first: in the other order, pops in between would make it negative.
        let head = self.head.load(Ordering::Acquire);
        self.tail.load(Ordering::Acquire).saturating_sub(head)
    }

    pub(crate) fn push(&self, item: T) -> Result<(), T> {
        let tail = self.tail.load(Ordering::Relaxed); // the producer's own
        if tail - self.head.load(Ordering::Acquire) == self.slots.len() {
            return Err(item);
        }
        *self.slots[tail % self.slots.len()].lock().expect("no holder panics") = Some(item);
        self.tail.store(tail + 1, Ordering::Release);
        Ok(())
    }

    pub(crate) fn pop(&self) -> Option<T> {
        let head = self.head.load(Ordering::Relaxed); // the consumer's own
        if head == self.tail.load(Ordering::Acquire) {
            return None;
        }
        let item = self.slots[head % self.slots.len()].lock().expect("no holder panics").take();
        self.head.store(head + 1, Ordering::Release);
        Some(item.expect("the tail is behind a slot that was filled"))
    }
}

struct Token {
    is_there: Mutex<bool>,
    arrived: Condvar,
}

/// Sleeps until its unparker leaves a token, and takes it.
pub struct Parker {
    unparker: Unparker,
}

impl Parker {
    /// A parker without a token.
    #[expect(clippy::new_without_default, reason = "as the real one is used here")]
    pub fn new() -> Parker {
        let token = Token { is_there: Mutex::new(false), arrived: Condvar::new() };
        Parker { unparker: Unparker { token: Arc::new(token) } }
    }

    /// Sleeps unless there is a token; takes it.
    pub fn park(&self) {
        let token = &self.unparker.token;
        let mut is_there = token.is_there.lock().expect("no holder panics");
        while !*is_there {
            is_there = token.arrived.wait(is_there).expect("no holder panics");
        }
        *is_there = false;
    }

    /// The handle that wakes it.
    pub fn unparker(&self) -> &Unparker {
        &self.unparker
    }
}

/// Leaves a token for its parker.
#[derive(Clone)]
pub struct Unparker {
    token: Arc<Token>,
}

impl Unparker {
    /// Wakes the parker now, or spares it the next sleep.
    pub fn unpark(&self) {
        *self.token.is_there.lock().expect("no holder panics") = true;
        self.token.arrived.notify_one();
    }
}
