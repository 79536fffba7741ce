//! Which documents of the inputs are written.
//!
//! **Invariant:** a decision is a function of the document and the options, so that threads and tasks cannot change it.

use schemas::selection::DropReason;

/// What becomes of a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is written.
    Write,
    /// It is written into the corpus of the hold-out.
    WriteHoldout,
    /// It is counted and not written.
    Drop(DropReason),
}
