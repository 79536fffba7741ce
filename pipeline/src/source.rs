//! Bytes of one file by offset, memory-mapped or by `pread`: the two ways in which shards are read.
//!
//! A mapping is the fastest way on a local disk. `pread` is for network file systems and for files that
//! may shrink while they are read: a mapped file that shrinks can end the process by SIGBUS.
//!
//! **Invariant:** both ways give the same bytes or an error; the file's length is asked for before and
//! after bytes of a mapping are used, so that a file that shrank is an error and not a run of zeros.

use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use memmap2::{Advice, Mmap};
use schemas::run::ReadBackend;

/// Opens a file to read it whole. A pipe would be waited for, and a device may never end: both are errors.
pub fn open_file(path: &Path) -> io::Result<File> {
    let found = std::fs::metadata(path)?;
    if !found.is_file() && !found.is_dir() {
        let what = "it is a pipe or a device; expected a file";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
    }
    File::open(path)
}

/// Reads a file whole; as [`open_file`] opens it.
pub fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_file(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A file that is open for reading at any offset, by any number of threads.
#[derive(Debug)]
pub struct Source {
    file: File,
    map: Option<Mmap>,
}

impl Source {
    /// Opens the file at `path`.
    pub fn open(path: &Path, backend: ReadBackend) -> io::Result<Source> {
        let file = open_file(path)?;
        let map = match backend {
            ReadBackend::Mmap => Some(map(&file)?),
            ReadBackend::Pread => None,
        };
        Ok(Source { file, map })
    }

    /// Length of the file as it is now, in bytes.
    pub fn byte_count(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// The bytes `offset..offset + byte_count`: a part of the mapping, or of `buffer` after a read.
    ///
    /// A file that ends before that is an error of kind `UnexpectedEof`.
    ///
    /// # Panics
    /// If `buffer` holds less than `byte_count`.
    pub fn bytes<'a>(
        &'a self,
        offset: u64,
        byte_count: usize,
        buffer: &'a mut [u8],
    ) -> io::Result<&'a [u8]> {
        let buffer = &mut buffer[..byte_count];
        let Some(map) = &self.map else {
            self.file.read_exact_at(buffer, offset)?;
            return Ok(buffer);
        };
        self.check_holds(offset, byte_count)?;
        let first = usize::try_from(offset).map_err(io::Error::other)?;
        let end = first.checked_add(byte_count).ok_or(io::ErrorKind::UnexpectedEof)?;
        map.get(first..end).ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
    }

    /// An error of kind `UnexpectedEof` if the file is mapped and no longer holds
    /// `offset..offset + byte_count`.
    ///
    /// To be asked once more after the bytes of a mapping were used: what the file lost in between
    /// reads as zeros up to the end of its last page.
    pub fn check_holds(&self, offset: u64, byte_count: usize) -> io::Result<()> {
        if self.map.is_none() {
            return Ok(());
        }
        let found_bytes = self.byte_count()?;
        match offset.checked_add(byte_count as u64) {
            Some(end) if end <= found_bytes => Ok(()),
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    /// Tells the system that `offset..offset + byte_count` will be read soon. A hint: what becomes of
    /// it changes no result, so its failure is none.
    pub fn will_need(&self, offset: u64, byte_count: u64) {
        match &self.map {
            Some(map) => {
                let range = usize::try_from(offset).ok().zip(usize::try_from(byte_count).ok());
                let inside =
                    offset.checked_add(byte_count).is_some_and(|end| end <= map.len() as u64);
                if let Some((first, count)) = range.filter(|_| inside && byte_count > 0) {
                    let _hint = map.advise_range(Advice::WillNeed, first, count);
                }
            }
            None => advise_file(&self.file, offset, byte_count),
        }
    }
}

/// A shared read-only mapping of the whole file.
fn map(file: &File) -> io::Result<Mmap> {
    #[expect(unsafe_code, reason = "zero-copy read path: no copy into a buffer of ours")]
    // SAFETY: sound while nobody writes or truncates the file. Shards are immutable: their writer
    // renames a complete temporary file into place and never reopens it. The length is checked around
    // each use, and the `pread` back end, which needs no such promise, passes the same tests.
    unsafe {
        Mmap::map(file)
    }
}

fn advise_file(file: &File, offset: u64, byte_count: u64) {
    let (Ok(offset), Ok(byte_count)) = (i64::try_from(offset), i64::try_from(byte_count)) else {
        return;
    };
    #[expect(unsafe_code, reason = "read-ahead by advice, for which std has no call")]
    // SAFETY: the call takes no pointer, and the descriptor is open as long as `file` lives.
    let _hint = unsafe {
        libc::posix_fadvise(file.as_raw_fd(), offset, byte_count, libc::POSIX_FADV_WILLNEED)
    };
}
