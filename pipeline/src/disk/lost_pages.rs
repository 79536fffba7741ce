//! Keeps the process alive when a mapped file is truncated: lost pages read as zeros.
//!
//! Reading a mapped page the file has lost raises SIGBUS, which would end the process without
//! naming the file. A handler of SIGBUS puts a page of zeros there, only in mappings of shards, and
//! the read continues. The look at the last id of each page (`corpus::shard`) then finds the loss,
//! an error like any other. Faults anywhere else go to the previous handler.
//!
//! **Invariant:** no page outside a watched mapping is ever replaced.

use std::io;
use std::mem::MaybeUninit;
use std::ptr;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock};

use memmap2::Mmap;

/// Regions in a chunk.
const CHUNK_REGIONS: usize = 256;

/// Address range of a mapping; 0 to 0 if unused. The end is written last and with Release when a
/// mapping is added, and first when it is removed. So the handler, which loads it with Acquire,
/// never sees a mixture of two mappings.
struct Region {
    start: AtomicUsize,
    end: AtomicUsize,
}

/// Regions that are never freed: the handler walks them without a lock.
struct Chunk {
    regions: [Region; CHUNK_REGIONS],
    /// Set before the chunk is in the list.
    next: AtomicPtr<Chunk>,
}

impl Chunk {
    fn new() -> Chunk {
        let region = |_| Region { start: AtomicUsize::new(0), end: AtomicUsize::new(0) };
        Chunk { regions: std::array::from_fn(region), next: AtomicPtr::new(ptr::null_mut()) }
    }
}

/// The list's newest chunk. It is set with Release, so a handler loading it with Acquire sees all
/// of it.
static FIRST: AtomicPtr<Chunk> = AtomicPtr::new(ptr::null_mut());
/// Unused regions. Every change of a region holds the lock; the handler never does.
static FREE: Mutex<Vec<&'static Region>> = Mutex::new(Vec::new());
/// The previous handler of SIGBUS.
static BEFORE: OnceLock<Handler> = OnceLock::new();

struct Handler(libc::sigaction);

/// Keeps a mapping watched.
#[derive(Debug)]
pub(crate) struct Watch {
    region: &'static Region,
}

impl std::fmt::Debug for Region {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#x}", self.start.load(Ordering::Relaxed))
    }
}

/// Watches a mapping until the result is dropped, which must happen before the mapping is dropped.
pub(crate) fn watch(map: &Mmap) -> io::Result<Watch> {
    let mut free = FREE.lock().expect("no holder of this lock panics");
    install()?;
    let region = free.pop().unwrap_or_else(|| more_regions(&mut free));
    let start = map.as_ptr() as usize;
    region.start.store(start, Ordering::Relaxed);
    region.end.store(start + map.len(), Ordering::Release);
    Ok(Watch { region })
}

impl Drop for Watch {
    fn drop(&mut self) {
        let mut free = FREE.lock().expect("no holder of this lock panics");
        self.region.end.store(0, Ordering::Release);
        self.region.start.store(0, Ordering::Relaxed);
        free.push(self.region);
    }
}

/// Adds a chunk to the list; returns one of its regions, and adds the others to `free`.
fn more_regions(free: &mut Vec<&'static Region>) -> &'static Region {
    let chunk: &'static Chunk = Box::leak(Box::new(Chunk::new()));
    chunk.next.store(FIRST.load(Ordering::Relaxed), Ordering::Relaxed);
    FIRST.store(ptr::from_ref(chunk).cast_mut(), Ordering::Release);
    let [first, others @ ..] = &chunk.regions;
    free.extend(others);
    first
}

fn is_watched(address: usize) -> bool {
    let mut next = FIRST.load(Ordering::Acquire);
    loop {
        #[expect(unsafe_code, reason = "a list that a signal handler can walk has no locks")]
        // SAFETY: it is null, or a chunk leaked before it was added to the list.
        let Some(chunk) = (unsafe { next.as_ref() }) else { return false };
        let holds = |region: &Region| {
            let end = region.end.load(Ordering::Acquire);
            region.start.load(Ordering::Relaxed) <= address && address < end
        };
        if chunk.regions.iter().any(holds) {
            return true;
        }
        next = chunk.next.load(Ordering::Relaxed);
    }
}

/// Installs the handler, once.
fn install() -> io::Result<()> {
    if BEFORE.get().is_some() {
        return Ok(());
    }
    let mut before = MaybeUninit::<libc::sigaction>::uninit();
    #[expect(
        unsafe_code,
        reason = "no crate hands SIGBUS to a handler that can repair what it is about"
    )]
    // SAFETY: `action` is complete: zeroed, then given a handler of the form SA_SIGINFO asks for.
    // `before` is filled in if the call succeeds.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handle as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
        libc::sigemptyset(&raw mut action.sa_mask);
        // Saved before ours can run: a fault in between must find it.
        if libc::sigaction(libc::SIGBUS, ptr::null(), before.as_mut_ptr()) != 0 {
            return Err(io::Error::last_os_error());
        }
        let _first = BEFORE.set(Handler(before.assume_init()));
        if libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Replaces a lost page of a watched mapping. For any other fault it restores the previous handler,
/// which gets the fault when it recurs.
extern "C" fn handle(signal: i32, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    #[expect(unsafe_code, reason = "a signal handler")]
    // SAFETY: `info` comes from the system, as for any handler with SA_SIGINFO. Atomic loads and
    // the calls below are safe in a handler. The page is in a read-only mapping of ours, still
    // mapped because a thread is reading it; every reader of it knows its bytes may change.
    unsafe {
        let address = (*info).si_addr() as usize;
        let page_bytes = libc::sysconf(libc::_SC_PAGESIZE) as usize;
        if is_watched(address) {
            let errno = libc::__errno_location();
            let kept = *errno;
            let page = (address - address % page_bytes) as *mut libc::c_void;
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
            let mapped = libc::mmap(page, page_bytes, libc::PROT_READ, flags, -1, 0);
            *errno = kept;
            if mapped != libc::MAP_FAILED {
                return;
            }
        }
        match BEFORE.get() {
            Some(before) => libc::sigaction(signal, &raw const before.0, ptr::null_mut()),
            None => libc::sigaction(signal, &std::mem::zeroed(), ptr::null_mut()),
        };
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn map(file: &File) -> Mmap {
        #[expect(unsafe_code, reason = "the subject of this test")]
        // SAFETY: the mapping is watched, and its bytes are only compared.
        unsafe {
            Mmap::map(file).unwrap()
        }
    }

    #[test]
    fn pages_that_a_file_lost_read_as_zeros() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(3 * 4096).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &[7; 3 * 4096], 0).unwrap();
        let map = map(&file);
        let watch = watch(&map).unwrap();
        assert_eq!(map[..], [7; 3 * 4096]);
        file.set_len(4096 + 100).unwrap();
        assert_eq!(map[..4096 + 100], [7; 4096 + 100]);
        assert_eq!(map[4096 + 100..], [0; 2 * 4096 - 100]);
        drop(watch);
        assert!(!is_watched(map.as_ptr() as usize));
    }

    #[test]
    fn more_mappings_than_a_chunk_has_room_for_are_watched() {
        let file = tempfile::tempfile().unwrap();
        file.set_len(4096).unwrap();
        let maps: Vec<Mmap> = (0..3 * CHUNK_REGIONS).map(|_| map(&file)).collect();
        let watches: Vec<Watch> = maps.iter().map(|map| watch(map).unwrap()).collect();
        assert!(maps.iter().all(|map| is_watched(map.as_ptr() as usize + 4095)));
        assert!(!is_watched(0) && !is_watched(&raw const file as usize));
        drop(watches);
        assert!(maps.iter().all(|map| !is_watched(map.as_ptr() as usize)));
    }
}
