//! Memory for the ids of a batch.
//!
//! A buffer is a mapping of its own. It begins at a page; one of 2 MiB or more uses large pages
//! where the system has them (32 windows of 8,192 ids of 8 bytes take 512 small pages, or one
//! large).
//!
//! **Invariant:** a buffer's pin ends before its memory does.

use std::any::Any;
use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use memmap2::MmapMut;

use crate::corpus::OutId;

/// From this size on, a buffer asks for large pages.
const LARGE_PAGE_BYTES: usize = 2 << 20;

/// Keeps memory pinned until it is dropped.
pub type Pinned = Box<dyn Any + Send>;

/// Prepares memory for a device, for example by registering it with a driver, so that the device
/// can copy from it without the processor. Called once for each new buffer; its result is dropped
/// before the memory is freed.
#[derive(Clone)]
pub struct Pin(Arc<PinFn>);

type PinFn = dyn Fn(&mut [u8]) -> io::Result<Pinned> + Send + Sync;

impl Pin {
    /// Wraps the function that pins.
    pub fn new(pin: impl Fn(&mut [u8]) -> io::Result<Pinned> + Send + Sync + 'static) -> Pin {
        Pin(Arc::new(pin))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Pin")
    }
}

/// Ids of a batch; as a slice, those of its windows, one after the other.
pub struct Ids<T> {
    /// Dropped first.
    _pinned: Option<Pinned>,
    map: MmapMut,
    len: usize,
    of: PhantomData<T>,
}

impl<T: OutId> Ids<T> {
    /// Room for `capacity` ids, at least one.
    pub(super) fn new(capacity: usize, pin: Option<&Pin>) -> io::Result<Ids<T>> {
        let byte_count = capacity.checked_mul(size_of::<T>()).ok_or(io::ErrorKind::OutOfMemory)?;
        let mut map = MmapMut::map_anon(byte_count)?;
        #[cfg(target_os = "linux")]
        if byte_count >= LARGE_PAGE_BYTES {
            let _hint = map.advise(memmap2::Advice::HugePage);
        }
        let pinned = pin.map(|pin| (pin.0)(&mut map)).transpose()?;
        Ok(Ids { _pinned: pinned, map, len: 0, of: PhantomData })
    }

    /// Sets the length to `len` ids, of any value.
    ///
    /// # Panics
    /// If there is no room for them.
    pub(super) fn set_len(&mut self, len: usize) {
        assert!(len * size_of::<T>() <= self.map.len(), "{len} ids in {} bytes", self.map.len());
        self.len = len;
    }
}

impl<T: OutId> Deref for Ids<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        bytemuck::cast_slice(&self.map[..self.len * size_of::<T>()])
    }
}

impl<T: OutId> DerefMut for Ids<T> {
    fn deref_mut(&mut self) -> &mut [T] {
        bytemuck::cast_slice_mut(&mut self.map[..self.len * size_of::<T>()])
    }
}

impl<T> fmt::Debug for Ids<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ids").field("len", &self.len).finish_non_exhaustive()
    }
}
