//! Writes files that are complete or absent: a temporary file in the same folder, fsync, rename,
//! fsync of the folder.
//!
//! Every file is written under another name, synced and renamed, and its folder is synced.
//! Manifests come last. A crash can leave a temporary file (`.NAME.tmp`), never half a file under
//! its final name. Tests kill the process at each step, also after the manifest, and flip every
//! bit.
//!
//! The temporary file is locked while it is written and until it has its name, so of two writers of
//! one file the second is refused. It is always a new file: never one that a link leads to.
//!
//! **Invariant:** once a call has returned `Ok`, a power cut cannot undo the file; after
//! [`AtomicFile::place`] it can undo the name, and leaves the name's previous file.

use std::ffi::OsString;
use std::fs::{File, TryLockError};
use std::io::{self, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;

/// Why a file could not be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
pub struct PublishError {
    /// The action that failed.
    pub action: &'static str,
    /// The file or folder.
    pub path: PathBuf,
    /// The system's error.
    pub source: io::Error,
}

impl PublishError {
    fn at(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PublishError {
        move |source| PublishError { action, path: path.to_owned(), source }
    }
}

/// The threads that make files durable: waiting for a disk costs no CPU, but blocks a thread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hands {
    /// The calling thread, one thing after the other.
    One,
    /// More threads, several things at the same time.
    More,
}

impl Hands {
    /// The results of both.
    pub(crate) fn both<A, B: Send>(
        self,
        one: impl FnOnce() -> A,
        other: impl FnOnce() -> B + Send,
    ) -> (A, B) {
        match self {
            Hands::One => (one(), other()),
            Hands::More => std::thread::scope(|scope| {
                let other = scope.spawn(other);
                let one = one();
                (one, other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            }),
        }
    }
}

/// A file that gets its name once complete. Dropped before [`AtomicFile::publish`], it leaves
/// nothing.
#[derive(Debug)]
pub struct AtomicFile {
    writer: BufWriter<File>,
    path: PathBuf,
    temporary: Option<PathBuf>,
}

impl AtomicFile {
    /// Creates the temporary file next to `path`, in place of any leftover of a crash. Refused
    /// while another process writes `path`.
    pub fn create(path: &Path) -> Result<AtomicFile, PublishError> {
        AtomicFile::create_in_pieces(path, 1 << 18)
    }

    /// The same; writes in pieces of this size, each beginning at a multiple of it.
    pub(crate) fn create_in_pieces(
        path: &Path,
        piece_bytes: usize,
    ) -> Result<AtomicFile, PublishError> {
        let temporary = temporary_path(path);
        let file = create_locked(&temporary).map_err(PublishError::at("create", &temporary))?;
        let writer = BufWriter::with_capacity(piece_bytes, file);
        Ok(AtomicFile { writer, path: path.to_owned(), temporary: Some(temporary) })
    }

    /// The folder of the final file.
    pub fn dir(&self) -> &Path {
        parent(&self.path)
    }

    /// Appends `bytes`; the error names the file.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), PublishError> {
        self.write_all(bytes).map_err(PublishError::at("write", &self.path))
    }

    /// Replaces the first bytes of the file, which were written before.
    pub fn rewrite_start(&mut self, bytes: &[u8]) -> Result<(), PublishError> {
        let mut rewrite = || {
            self.writer.seek(SeekFrom::Start(0))?;
            self.writer.write_all(bytes)?;
            self.writer.seek(SeekFrom::End(0))
        };
        rewrite().map(|_| ()).map_err(PublishError::at("write", &self.path))
    }

    /// Length and BLAKE3 of the bytes written so far, read back from the file.
    pub fn hash(&mut self) -> Result<(u64, blake3::Hash), PublishError> {
        self.flush_to_file()?;
        self.hash_flushed()
    }

    /// The same, and makes the bytes durable.
    pub(crate) fn hash_and_seal(
        mut self,
        hands: Hands,
    ) -> Result<(u64, blake3::Hash, SealedFile), PublishError> {
        self.flush_to_file()?;
        let (hashed, synced) = hands.both(|| self.hash_flushed(), || self.sync());
        let (bytes, hash) = hashed?;
        synced?;
        Ok((bytes, hash, self.sealed()?))
    }

    fn hash_flushed(&self) -> Result<(u64, blake3::Hash), PublishError> {
        let hash = || {
            let mut file = self.writer.get_ref();
            file.seek(SeekFrom::Start(0))?;
            let mut hasher = blake3::Hasher::new();
            hasher.update_reader(file)?;
            file.seek(SeekFrom::End(0))?;
            Ok((hasher.count(), hasher.finalize()))
        };
        hash().map_err(PublishError::at("read back", &self.path))
    }

    fn flush_to_file(&mut self) -> Result<(), PublishError> {
        self.writer.flush().map_err(PublishError::at("write", &self.path))
    }

    fn sync(&self) -> Result<(), PublishError> {
        self.writer.get_ref().sync_all().map_err(PublishError::at("sync", &self.path))
    }

    fn sealed(mut self) -> Result<SealedFile, PublishError> {
        let file = self.writer.get_ref().try_clone();
        let locked = file.map_err(PublishError::at("keep open", &self.path))?;
        let temporary = self.temporary.take();
        Ok(SealedFile { path: self.path.clone(), temporary, _locked: locked })
    }

    /// Makes the file durable under its name.
    pub fn publish(self) -> Result<(), PublishError> {
        self.seal()?.publish()
    }

    /// Makes the file's bytes durable and renames it; the name is durable after the next
    /// [`sync_dir`] of the folder.
    pub fn place(self) -> Result<(), PublishError> {
        self.seal()?.place()
    }

    /// Makes the file's bytes durable and closes it, without its name yet: for files to appear
    /// together.
    pub fn seal(mut self) -> Result<SealedFile, PublishError> {
        self.flush_to_file()?;
        self.sync()?;
        self.sealed()
    }
}

/// A complete file without its name yet. Dropped before [`SealedFile::publish`], it leaves nothing.
#[derive(Debug)]
pub struct SealedFile {
    path: PathBuf,
    temporary: Option<PathBuf>,
    _locked: File,
}

/// Creates a new file and locks it. A leftover that nobody has locked is removed first; links are
/// not followed.
fn create_locked(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
    let mut options = File::options();
    options.read(true).write(true).custom_flags(flags);
    let busy = || io::Error::other("another process is writing this file");
    loop {
        let (file, is_new) = match options.clone().create_new(true).open(path) {
            Ok(file) => (file, true),
            Err(err) if err.kind() == io::ErrorKind::AlreadyExists => match options.open(path) {
                Ok(file) => (file, false),
                Err(err) if err.kind() == io::ErrorKind::NotFound => continue,
                Err(err) if err.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => {
                    return Err(io::Error::other("it is a symbolic link; remove it"));
                }
                Err(err) => return Err(err),
            },
            Err(err) => return Err(err),
        };
        match file.try_lock() {
            // File systems without locks have one writer.
            Ok(()) | Err(TryLockError::Error(_)) => {}
            Err(TryLockError::WouldBlock) => return Err(busy()),
        }
        let ours = file.metadata()?;
        if !ours.is_file() {
            return Err(io::Error::other("it is not a file; remove it"));
        }
        // Another writer may have removed or renamed it before we had the lock.
        let is_current = std::fs::symlink_metadata(path)
            .is_ok_and(|named| (named.dev(), named.ino()) == (ours.dev(), ours.ino()));
        match (is_current, is_new) {
            (true, true) => return Ok(file),
            (true, false) => std::fs::remove_file(path)?,
            (false, _) => {}
        }
    }
}

impl SealedFile {
    /// Makes the file durable under its name.
    pub fn publish(self) -> Result<(), PublishError> {
        let path = self.path.clone();
        self.place()?;
        sync_dir(parent(&path))
    }

    /// Renames it; the name is durable after the next [`sync_dir`] of the folder.
    pub fn place(mut self) -> Result<(), PublishError> {
        let temporary = self.temporary.as_ref().expect("only publishing takes it");
        std::fs::rename(temporary, &self.path).map_err(PublishError::at("publish", &self.path))?;
        self.temporary = None;
        Ok(())
    }
}

impl Drop for SealedFile {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // Harmless if it fails: the next run replaces the leftover, and nobody reads it.
            let _ = std::fs::remove_file(temporary);
        }
    }
}

impl Write for AtomicFile {
    /// Fills the buffer completely; a plain [`BufWriter`] would not.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece_bytes = self.writer.capacity();
        let room = match piece_bytes - self.writer.buffer().len() {
            0 => piece_bytes,
            room => room,
        };
        self.writer.write(&bytes[..bytes.len().min(room)])
    }

    fn flush(&mut self) -> io::Result<()> {
        self.writer.flush()
    }
}

impl Drop for AtomicFile {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // Harmless if it fails: the next run replaces the leftover, and nobody reads it.
            let _ = std::fs::remove_file(temporary);
        }
    }
}

/// Writes a whole file, complete or not at all.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), PublishError> {
    let mut file = AtomicFile::create(path)?;
    file.append(bytes)?;
    file.publish()
}

/// Writes a whole file without its name yet.
pub fn write_sealed(path: &Path, bytes: &[u8]) -> Result<SealedFile, PublishError> {
    let mut file = AtomicFile::create(path)?;
    file.append(bytes)?;
    file.seal()
}

/// Makes the names in a folder durable.
pub fn sync_dir(dir: &Path) -> Result<(), PublishError> {
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(PublishError::at("sync folder", dir))
}

/// The final name of a temporary file; any other name unchanged.
pub fn final_name(name: &str) -> &str {
    name.strip_prefix('.').and_then(|name| name.strip_suffix(".tmp")).unwrap_or(name)
}

/// Whether a file name is a temporary one of this module.
pub fn is_temporary(name: &str) -> bool {
    name.starts_with('.') && name.ends_with(".tmp")
}

/// Bytes an ordinary user may still write on the file system of `path`.
pub fn free_bytes(path: &Path) -> Result<u64, PublishError> {
    let found = rustix::fs::statvfs(path).map_err(io::Error::from);
    let found = found.map_err(PublishError::at("look at", path))?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

/// Files that may still be made on the file system of `path`; `None` where it sets no limit.
pub fn free_files(path: &Path) -> Result<Option<u64>, PublishError> {
    let found = rustix::fs::statvfs(path).map_err(io::Error::from);
    let found = found.map_err(PublishError::at("look at", path))?;
    Ok((found.f_files > 0).then_some(found.f_favail))
}

/// Length and BLAKE3 of a file.
pub fn hash_file(path: &Path) -> Result<(u64, blake3::Hash), PublishError> {
    let hash = || {
        let mut hasher = blake3::Hasher::new();
        let mut file = crate::disk::source::open_file(path)?;
        let mut buffer = vec![0; 1 << 20];
        loop {
            match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => hasher.update(&buffer[..count]),
                Err(err) if err.kind() == io::ErrorKind::Interrupted => continue,
                Err(err) => return Err(err),
            };
        }
        Ok((hasher.count(), hasher.finalize()))
    };
    hash().map_err(PublishError::at("read", path))
}

fn temporary_path(path: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(path.file_name().expect("a path of a file"));
    name.push(".tmp");
    parent(path).join(name)
}

/// The folder of `path`; `.` for a bare name.
pub(crate) fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_file_in_pieces_has_what_was_appended(
            lengths in proptest::collection::vec(0usize..70, 0..20),
            piece_bytes in 1usize..40,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("file");
            let mut file = AtomicFile::create_in_pieces(&path, piece_bytes).unwrap();
            let mut expected = vec![0; 8];
            file.append(&expected).unwrap();
            for (length, byte) in lengths.into_iter().zip(1..) {
                file.append(&vec![byte; length]).unwrap();
                expected.resize(expected.len() + length, byte);
                let on_disk = file.writer.get_ref().metadata().unwrap().len() as usize;
                prop_assert!(
                    on_disk.is_multiple_of(piece_bytes),
                    "{on_disk} of pieces of {piece_bytes}"
                );
                prop_assert!(expected.len() - on_disk <= piece_bytes);
            }
            file.rewrite_start(&[255; 8]).unwrap();
            expected[..8].fill(255);
            file.publish().unwrap();
            prop_assert_eq!(std::fs::read(&path).unwrap(), expected);
        }
    }

    #[test]
    fn of_two_writers_of_a_file_the_second_is_refused_until_the_first_is_done() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let refused = || AtomicFile::create(&path).unwrap_err().source.to_string();
        let mut first = AtomicFile::create(&path).unwrap();
        first.append(b"first").unwrap();
        assert_eq!(refused(), "another process is writing this file");
        let sealed = first.seal().unwrap();
        assert_eq!(refused(), "another process is writing this file");
        sealed.publish().unwrap();
        write_atomic(&path, b"second").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"second");
        // A leftover of a crash has no lock.
        std::fs::write(temporary_path(&path), b"a longer leftover").unwrap();
        write_atomic(&path, b"third").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"third");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_temporary_name_that_is_a_link_is_refused_and_its_target_stays() {
        let dir = tempfile::tempdir().unwrap();
        let (path, mine) = (dir.path().join("file"), dir.path().join("mine"));
        std::fs::write(&mine, b"mine").unwrap();
        let temporary = temporary_path(&path);
        std::os::unix::fs::symlink(&mine, &temporary).unwrap();
        let found = write_atomic(&path, b"new").unwrap_err().source.to_string();
        assert!(found.contains("symbolic link"), "{found}");
        std::fs::remove_file(&temporary).unwrap();
        // A second name of the same file is not followed either.
        std::fs::hard_link(&mine, &temporary).unwrap();
        write_atomic(&path, b"new").unwrap();
        assert_eq!(std::fs::read(&mine).unwrap(), b"mine");
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
    }
}
