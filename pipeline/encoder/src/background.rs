//! A value made on its own thread while other threads do something else.
//!
//! **Invariant:** the thread has ended once its [`Background`] is dropped.

use std::panic::resume_unwind;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;

/// The value, or the thread making it.
pub(crate) struct Background<T> {
    value: OnceLock<T>,
    maker: Mutex<Option<JoinHandle<T>>>,
}

impl<T: Send + 'static> Background<T> {
    /// A value already made.
    pub(crate) fn made(value: T) -> Background<T> {
        Background { value: OnceLock::from(value), maker: Mutex::new(None) }
    }

    /// Starts a thread now and calls `make` on it.
    pub(crate) fn make(make: impl FnOnce() -> T + Send + 'static) -> Background<T> {
        Background { value: OnceLock::new(), maker: Mutex::new(Some(std::thread::spawn(make))) }
    }
}

impl<T> Background<T> {
    /// The value; waits until it is made.
    ///
    /// # Panics
    /// If making the value panicked, with the same panic.
    pub(crate) fn get(&self) -> &T {
        self.value.get_or_init(|| {
            let maker = self.take_maker().expect("a value without a maker is there");
            maker.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    /// Whether [`Background::get`] would not wait.
    pub(crate) fn is_made(&self) -> bool {
        let is_over = || {
            let maker = self.maker.lock().unwrap_or_else(PoisonError::into_inner);
            maker.as_ref().is_some_and(JoinHandle::is_finished)
        };
        self.value.get().is_some() || is_over()
    }

    fn take_maker(&self) -> Option<JoinHandle<T>> {
        self.maker.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl<T> Drop for Background<T> {
    fn drop(&mut self) {
        // Nobody wanted the value, so nobody gets its panic either.
        if let Some(maker) = self.take_maker() {
            let _ = maker.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_get_one_value() {
        let background = Background::make(|| vec![7]);
        let first = std::thread::scope(|scope| {
            let other = scope.spawn(|| background.get().as_ptr() as usize);
            (background.get().as_ptr() as usize, other.join().unwrap())
        });
        assert_eq!(first.0, first.1);
        assert!(background.is_made());
        assert_eq!(*Background::made(8).get(), 8);
    }

    #[test]
    fn a_panic_is_the_getters_and_else_nobodys() {
        drop(Background::<u8>::make(|| panic!("unwanted")));
        let background = Background::<u8>::make(|| panic!("no value"));
        let got = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| *background.get()));
        assert_eq!(got.unwrap_err().downcast_ref::<&str>(), Some(&"no value"));
    }
}
