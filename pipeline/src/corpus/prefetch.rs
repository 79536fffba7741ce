//! Prefetches the memory read next while the processor works on something else.
//!
//! A processor waits for few lines of memory at a time, and by itself prefetches only along the
//! same page. While a window is copied or widened, or its untouched blocks are checked, it is asked
//! for the next data: one line of memory for each line of work. Asking for all of it at once would
//! mean waiting for it. For a window with unchecked blocks these are whole blocks. The outer pages
//! are touched first, because a processor ignores a prefetch from a page missing in its table.
//!
//! **Invariant:** prefetching changes no result.

/// The unit in which the processor loads memory.
pub(crate) const CACHE_LINE_BYTES: usize = 64;

/// Bytes to be read next.
#[derive(Debug, Default)]
pub(crate) struct Upcoming<'a> {
    /// Not asked for yet.
    bytes: &'a [u8],
    /// Lines to prefetch for each line of work.
    share_lines: usize,
}

impl<'a> Upcoming<'a> {
    /// Of these bytes.
    pub(crate) fn new(bytes: &'a [u8]) -> Upcoming<'a> {
        Upcoming { bytes, share_lines: 1 }
    }

    /// Sets the number of bytes worked on before they are read; at least 1.
    pub(crate) fn pace(&mut self, work_bytes: u64) {
        self.share_lines = self.bytes.len().div_ceil(work_bytes as usize);
    }

    /// Prefetches a share of them; called for each line of work. The last part, shorter than a
    /// line, is not worth a prefetch.
    #[inline(always)]
    pub(crate) fn ask(&mut self) {
        self.ask_line();
        if self.share_lines > 1 {
            self.ask_rest();
        }
    }

    /// Kept out of the usual case, where the current and the next data have the same length.
    #[cold]
    fn ask_rest(&mut self) {
        (1..self.share_lines).for_each(|_| self.ask_line());
    }

    #[inline(always)]
    fn ask_line(&mut self) {
        if let Some((line, later)) = self.bytes.split_first_chunk::<CACHE_LINE_BYTES>() {
            prefetch(line);
            self.bytes = later;
        }
    }
}

/// Prefetches the line of memory where `value` begins.
#[inline(always)]
fn prefetch<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch reads nothing and cannot fault; every x86-64 processor has it.
        #[expect(unsafe_code, reason = "ids arrive before they are widened; just bench kernels")]
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(value).cast());
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}
