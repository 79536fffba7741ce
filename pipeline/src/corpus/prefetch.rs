//! Memory that is read next, which the processor is asked for while it works on something else.
//!
//! A processor waits for few lines of memory at a time and asks by itself only for what follows on
//! the same page. So lines of what comes next are asked for between pieces of the work at hand: all
//! at once they would be waited for.
//!
//! **Invariant:** it changes no result.

/// What the processor loads at a time.
pub(crate) const CACHE_LINE_BYTES: usize = 64;

/// Bytes that are read next.
#[derive(Debug, Default)]
pub(crate) struct Upcoming<'a> {
    /// Not asked for yet.
    bytes: &'a [u8],
    /// How many lines are asked for with each line of the work.
    share_lines: usize,
}

impl<'a> Upcoming<'a> {
    /// Of these bytes.
    pub(crate) fn new(bytes: &'a [u8]) -> Upcoming<'a> {
        Upcoming { bytes, share_lines: 1 }
    }

    /// So much is worked on before they are read; more than none.
    pub(crate) fn pace(&mut self, work_bytes: u64) {
        self.share_lines = self.bytes.len().div_ceil(work_bytes as usize);
    }

    /// Asks for a share of them, while a line is worked on. What is left at the end, less than a
    /// line, is not worth a question.
    #[inline(always)]
    pub(crate) fn ask(&mut self) {
        self.ask_line();
        if self.share_lines > 1 {
            self.ask_rest();
        }
    }

    /// Out of the way of the usual case, where the work and what comes next are as long.
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

/// Has the line of memory that `value` begins in brought close.
#[inline(always)]
fn prefetch<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a prefetch reads nothing and cannot fault; every x86-64 processor has it.
        #[expect(unsafe_code, reason = "ids arrive before they are widened; benches/kernels.rs")]
        unsafe {
            _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(value).cast());
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}
