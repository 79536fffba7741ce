//! Bytes of one file by offset, memory-mapped or by `pread`: the two ways to read shards.
//!
//! A mapping is the fastest way on a local disk. `pread` is for network file systems and for files
//! that may shrink while they are read: the lost part of a mapped file reads as zeros
//! ([`crate::disk::lost_pages`]), while a `pread` of it fails. Windows of a shuffled plan are
//! scattered, so the system is advised not to read around them; [`Source::will_need`] announces the
//! next ones.
//!
//! **Invariant:** both ways give the same bytes or an error, as long as the file has not changed
//! since it was opened.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::Path;
use std::sync::OnceLock;

use memmap2::{Advice, Mmap};
use schemas::run::ReadBackend;

use crate::disk::lost_pages::{Watch, watch};

/// Opens a file to read it whole. A pipe would block, and a device may never end: both are errors.
pub fn open_file(path: &Path) -> io::Result<File> {
    let found = std::fs::metadata(path)?;
    if !found.is_file() && !found.is_dir() {
        let what = "it is a pipe or a device; expected a file";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    File::open(path)
}

/// Reads a whole file, opened by [`open_file`].
pub fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_file(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Reads a small text, such as a configuration; a file of more than `limit_bytes` is an error.
pub fn read_text(path: &Path, limit_bytes: u64) -> io::Result<String> {
    let file = open_file(path)?;
    let mut bytes = Vec::new();
    file.take(limit_bytes + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit_bytes {
        let what = format!("it is larger than {limit_bytes} bytes, the most that is read of it");
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    String::from_utf8(bytes).map_err(|err| io::Error::new(io::ErrorKind::InvalidData, err))
}

/// A file open for reading at any offset, by any number of threads.
#[derive(Debug)]
pub struct Source {
    /// Made at the first read: a page table for a shard nobody reads is not worth its time.
    map: OnceLock<Watched>,
    is_mapped: bool,
    file: File,
}

/// A mapping, and the watch that makes it safe to read.
#[derive(Debug)]
struct Watched {
    /// Dropped before the mapping.
    _watch: Watch,
    map: Mmap,
}

/// The state of a file, by which a change is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileState {
    /// Length.
    pub byte_count: u64,
    /// Modification time: seconds and nanoseconds.
    pub modified: (i64, i64),
    /// Whether a folder still names it: it was not removed, and nothing was renamed onto it.
    pub has_name: bool,
    /// Time of the last inode change, which nobody can restore; permissions and links count as
    /// changes, too.
    pub inode_changed_nanoseconds: i64,
}

impl Source {
    /// Opens the file at `path`.
    pub fn open(path: &Path, backend: ReadBackend) -> io::Result<(Source, FileState)> {
        let file = open_file(path)?;
        advise_file(&file, 0, 0, libc::POSIX_FADV_RANDOM);
        let is_mapped = backend == ReadBackend::Mmap;
        let source = Source { map: OnceLock::new(), is_mapped, file };
        let state = source.state()?;
        Ok((source, state))
    }

    fn map(&self) -> io::Result<&Mmap> {
        if let Some(watched) = self.map.get() {
            return Ok(&watched.map);
        }
        let map = map(&self.file)?;
        let _hint = map.advise(Advice::Random);
        let watched = Watched { _watch: watch(&map)?, map };
        Ok(&self.map.get_or_init(|| watched).map)
    }

    /// The file's current state.
    pub fn state(&self) -> io::Result<FileState> {
        let metadata = self.file.metadata()?;
        Ok(FileState {
            byte_count: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            has_name: metadata.nlink() > 0,
            inode_changed_nanoseconds: metadata
                .ctime()
                .wrapping_mul(1_000_000_000)
                .wrapping_add(metadata.ctime_nsec()),
        })
    }

    /// The bytes `offset..offset + byte_count`: a slice of the mapping, or of `buffer` after a
    /// read.
    ///
    /// A shorter file is an error of kind `UnexpectedEof`; with a mapping, only if the file was too
    /// short when opened.
    pub fn bytes<'a>(
        &'a self,
        offset: u64,
        byte_count: usize,
        buffer: &'a mut Vec<u8>,
    ) -> io::Result<&'a [u8]> {
        if !self.is_mapped {
            if buffer.len() < byte_count {
                buffer.resize(byte_count, 0);
            }
            let buffer = &mut buffer[..byte_count];
            self.file.read_exact_at(buffer, offset)?;
            return Ok(buffer);
        }
        let map = self.map()?;
        let first = usize::try_from(offset).map_err(io::Error::other)?;
        let end = first.checked_add(byte_count).ok_or(io::ErrorKind::UnexpectedEof)?;
        map.get(first..end).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// Fills `buffer` with the bytes from `offset` on by a read, even if the file is mapped.
    ///
    /// A shorter file is an error of kind `UnexpectedEof`.
    pub fn read(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    /// The bytes `offset..offset + byte_count` of the mapping, if it exists and has them.
    pub(crate) fn mapped(&self, offset: u64, byte_count: u64) -> Option<&[u8]> {
        let Watched { map, .. } = self.map.get()?;
        let first = usize::try_from(offset).ok()?;
        map.get(first..usize::try_from(offset.checked_add(byte_count)?).ok()?)
    }

    /// Hints to the system: `offset..offset + byte_count` will be read soon. The hint changes no
    /// result, so its failure is ignored.
    pub fn will_need(&self, offset: u64, byte_count: u64) {
        let Some(Watched { map, .. }) = self.map.get() else {
            return advise_file(&self.file, offset, byte_count, libc::POSIX_FADV_WILLNEED);
        };
        let range = usize::try_from(offset).ok().zip(usize::try_from(byte_count).ok());
        let inside = offset.checked_add(byte_count).is_some_and(|end| end <= map.len() as u64);
        if let Some((first, count)) = range.filter(|_| inside && byte_count > 0) {
            let _hint = map.advise_range(Advice::WillNeed, first, count);
        }
    }
}

/// A shared read-only mapping of the whole file.
fn map(file: &File) -> io::Result<Mmap> {
    #[expect(unsafe_code, reason = "zero-copy read path: no copy into a buffer of ours")]
    // SAFETY: sound while nobody writes or truncates the file. Shards are immutable: their writer
    // renames a complete temporary file into place and never reopens it. Asking about the file
    // finds any other change, and the `pread` back end, which needs no such promise, passes the
    // same tests.
    unsafe {
        Mmap::map(file)
    }
}

/// A length of 0 means the whole file.
fn advise_file(file: &File, offset: u64, byte_count: u64, advice: i32) {
    let (Ok(offset), Ok(byte_count)) = (i64::try_from(offset), i64::try_from(byte_count)) else {
        return;
    };
    #[expect(unsafe_code, reason = "read-ahead by advice, for which std has no call")]
    // SAFETY: the call takes no pointer, and the descriptor is open as long as `file` lives.
    let _hint = unsafe { libc::posix_fadvise(file.as_raw_fd(), offset, byte_count, advice) };
}

/// How often this thread has waited so far for a disk or a network, without preemption by others; 0
/// if the system does not report it.
///
/// With a mapping, a wait is a fault a device has to serve. A read may sleep without counting as a
/// device's, as on network file systems, so with `pread` every sleep counts; a few are for locks of
/// the process.
pub(crate) fn waits_of_thread(backend: ReadBackend) -> u64 {
    #[expect(unsafe_code, reason = "the system's count, for which std has no call")]
    // SAFETY: zeroes are a valid value of the structure, and the call fills it in.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_THREAD, &raw mut usage);
        usage
    };
    let waits = match backend {
        ReadBackend::Mmap => usage.ru_majflt,
        ReadBackend::Pread => usage.ru_nvcsw,
    };
    u64::try_from(waits).unwrap_or(0)
}

/// The scheme of an URL such as `s3://bucket/corpus`; `None` for a path.
pub fn url_scheme(path: &Path) -> Option<&str> {
    let (scheme, _) = path.to_str()?.split_once("://")?;
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic())
        && scheme.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
    is_scheme.then_some(scheme)
}
