//! Calls into the Parquet library, which may panic on crafted files.
//!
//! **Invariant:** a panic becomes an error.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::console::panic::panic_text;

/// Makes an error of a panic of the reader, as crafted files can cause it.
pub(crate) fn guarded<T, E: std::fmt::Display>(
    read: impl FnOnce() -> Result<T, E>,
) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(read))
        .map_err(|panic| panic_text(&*panic))?
        .map_err(|err| err.to_string())
}
