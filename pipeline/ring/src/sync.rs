//! The base of the protocol: crossbeam's queue and parker, or models of them for the checkers.
//!
//! A model promises only what the real one documents. Everything done before a push is visible
//! after the pop that takes the item. Everything done before an unpark is visible after the park it
//! ends. Nothing else orders two threads.
//!
//! **Invariant:** a test that passes on the models relies on no promise crossbeam does not make.

#[cfg(not(any(loom, shuttle)))]
mod real {
    pub(crate) use std::sync::Arc;
    pub(crate) use std::sync::atomic::{AtomicBool, Ordering};

    pub(crate) use crossbeam::queue::ArrayQueue as Queue;
    pub use crossbeam::sync::{Parker, Unparker};
}

#[cfg(not(any(loom, shuttle)))]
pub(crate) use real::{Arc, AtomicBool, Ordering, Queue};
#[cfg(not(any(loom, shuttle)))]
pub use real::{Parker, Unparker};

#[cfg(any(loom, shuttle))]
mod model;
#[cfg(any(loom, shuttle))]
pub(crate) use model::{Arc, AtomicBool, Ordering, Queue};
#[cfg(any(loom, shuttle))]
pub use model::{Parker, Unparker};
