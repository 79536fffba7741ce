//! Encodes documents much larger than a chunk with all threads of a crew.
//!
//! **Invariant:** the parts' ids are joined in the order of the parts, whichever threads encoded
//! them.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use encoder::{Encoder, PartPosition, Session, TokenId, TokenizeError};

/// Length of the shortest text worth cutting, in bytes.
const SPLIT_BYTES: usize = 1 << 20;
/// Approximate bytes of a part.
const PART_BYTES: usize = 1 << 18;

/// Texts being encoded by several threads.
pub(crate) struct Splits<I> {
    threads: usize,
    open: Mutex<Vec<Arc<Split<I>>>>,
}

/// A text in parts.
pub(crate) struct Split<I> {
    text: String,
    parts: Vec<Range<usize>>,
    /// The part to encode next. Relaxed: the parts themselves do not change.
    next: AtomicUsize,
    done: Mutex<PartsDone<I>>,
    /// A part was done, or the run is over.
    turn: Condvar,
}

struct PartsDone<I> {
    left: usize,
    ids: Vec<Result<Vec<I>, TokenizeError>>,
    is_over: bool,
}

impl<I: TokenId> Splits<I> {
    pub(crate) fn new(threads: usize) -> Splits<I> {
        Splits { threads, open: Mutex::new(Vec::new()) }
    }

    /// Cuts a long text; `None` for a short one, or for one without a place to cut.
    pub(crate) fn cut(&self, encoder: &Encoder, text: &str) -> Option<Arc<Split<I>>> {
        if self.threads == 1 || text.len() < SPLIT_BYTES {
            return None;
        }
        let parts = encoder.parts(text, PART_BYTES);
        (parts.len() > 1).then(|| {
            let ids = parts.iter().map(|_| Ok(Vec::new())).collect();
            let done = Mutex::new(PartsDone { left: parts.len(), ids, is_over: false });
            let (next, turn) = (AtomicUsize::new(0), Condvar::new());
            Arc::new(Split { text: text.to_owned(), parts, next, done, turn })
        })
    }

    /// Encodes a text together with any threads that come to help. After an error `ids` is as
    /// before.
    pub(crate) fn encode(
        &self,
        split: &Arc<Split<I>>,
        session: &mut Session<I>,
        ids: &mut Vec<I>,
    ) -> Result<(), TokenizeError> {
        self.open().push(Arc::clone(split));
        while split.encode_next(session) {}
        let mut done = split.done();
        while done.left > 0 {
            assert!(!done.is_over, "a thread that encoded a part failed");
            done = split.turn.wait(done).unwrap_or_else(PoisonError::into_inner);
        }
        self.open().retain(|open| !Arc::ptr_eq(open, split));
        let parts: Vec<Vec<I>> =
            std::mem::take(&mut done.ids).into_iter().collect::<Result<_, _>>()?;
        ids.reserve(parts.iter().map(Vec::len).sum());
        parts.iter().for_each(|part| ids.extend_from_slice(part));
        Ok(())
    }

    /// Encodes parts of other threads' texts while there are any.
    pub(crate) fn help(&self, session: &mut Session<I>) {
        if self.threads == 1 {
            return;
        }
        loop {
            let open = self.open().iter().find(|split| split.has_next()).cloned();
            let Some(split) = open else { return };
            while split.encode_next(session) {}
        }
    }

    /// Stops waiting for parts after a thread failed.
    pub(crate) fn give_up(&self) {
        for split in self.open().iter() {
            split.done().is_over = true;
            split.turn.notify_all();
        }
    }

    fn open(&self) -> MutexGuard<'_, Vec<Arc<Split<I>>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<I: TokenId> Split<I> {
    fn has_next(&self) -> bool {
        self.next.load(Ordering::Relaxed) < self.parts.len()
    }

    fn done(&self) -> MutexGuard<'_, PartsDone<I>> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Encodes the next part; `false` when all parts are taken.
    fn encode_next(&self, session: &mut Session<I>) -> bool {
        let part = self.next.fetch_add(1, Ordering::Relaxed);
        let Some(range) = self.parts.get(part) else { return false };
        let position = PartPosition { is_first: part == 0, is_last: part + 1 == self.parts.len() };
        let mut ids = Vec::new();
        let encoded = session.encode_part(&self.text[range.clone()], position, &mut ids);
        let mut done = self.done();
        done.ids[part] = encoded.map(|()| ids);
        done.left -= 1;
        self.turn.notify_all();
        true
    }
}
