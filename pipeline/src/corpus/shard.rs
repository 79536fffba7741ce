//! One shard of an open corpus.
//!
//! Shards are never rewritten, but people copy over them, disks fill up, and file systems lose
//! data. The lost part of a page reads as zeros, up to the end of the page. Beyond the file's last
//! page a mapping raises SIGBUS ([`crate::disk::lost_pages`]) and a `pread` comes back short. So a
//! read looks at the last id of each page it touched, and asks about the file only if the id may be
//! such a zero. In the common case nothing is asked, and no such zero is passed on as long as
//! length or time reveal the change.
//!
//! Every 200 ms a worker checks the files it has read since the last check
//! ([`super::Reader::check_unchanged`]): length, modification time, and whether a name is left. If
//! somebody changes a file and restores both length and time, only the checksums of blocks not yet
//! read reveal it.
//!
//! **Invariant:** a read gives the ids of blocks with correct checksums, and no zero from a lost
//! part of a file, as long as the file's length or modification time reveals the change.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use schemas::manifest::{self, Manifest};
use schemas::run::ReadBackend;
use schemas::shard::{
    BLOCK_BYTES, HEADER_BYTES, PAGE_BYTES, ShardError, ShardFooter, ShardHeader, TokenBytes,
};

use super::error::CorpusError;
use crate::corpus::prefetch::{CACHE_LINE_BYTES, Upcoming};
use crate::corpus::widen::{OutId, largest_id, widen, widen_asking};
use crate::disk::source::{FileState, Source};

/// Bytes of a block checked between two prefetches: the checksum is computed in pieces of three
/// times 256.
const CHECKED_BYTES: usize = 2 * 3 * 256;

/// A shard whose header agrees with the manifest.
#[derive(Debug)]
pub(super) struct OpenShard {
    pub(super) path: PathBuf,
    pub(super) source: Source,
    pub(super) header: ShardHeader,
    /// Tokens of the corpus before this shard.
    pub(super) first_token: u64,
    /// Documents of the corpus before this shard.
    pub(super) first_document: u64,
    /// The file's state when it was opened.
    state: FileState,
    /// The last inode change seen.
    inode_changed_nanoseconds: AtomicI64,
    /// Made at the first touch: a run need not touch every shard it opens.
    checks: OnceLock<Checks>,
}

/// State of a shard's blocks.
#[derive(Debug)]
struct Checks {
    /// Copied from the footer, which is not read here as a whole: with many documents it is large.
    /// A checksum damaged there does not match its block; then the footer's own checksum shows
    /// which of the two is wrong.
    block_crcs: Vec<u32>,
    /// One bit a block: its checksum was correct. Relaxed, because a bit publishes no other memory:
    /// the ids are those of an immutable file, and checking a block twice only costs time.
    checked_blocks: Vec<AtomicU64>,
}

/// A shard's position in the corpus.
pub(crate) struct ShardPlace {
    pub(crate) series_index: u64,
    pub(crate) shard_index: u64,
    /// Tokens of the corpus before it.
    pub(crate) first_token: u64,
    /// Documents of the corpus before it.
    pub(crate) first_document: u64,
}

impl OpenShard {
    pub(super) fn open(
        dir: &Path,
        manifest: &Manifest,
        record: &manifest::Shard,
        place: ShardPlace,
        backend: ReadBackend,
    ) -> Result<OpenShard, CorpusError> {
        let path = dir.join(&record.file.path);
        let io = |action| {
            let path = path.clone();
            move |source| CorpusError::Io { action, path, source }
        };
        let (source, state) = Source::open(&path, backend).map_err(io("open"))?;
        let mut head = [0; HEADER_BYTES as usize];
        let wanted = usize::try_from(state.byte_count.min(HEADER_BYTES)).expect("at most a page");
        source.read(0, &mut head[..wanted]).map_err(io("read"))?;
        let header = ShardHeader::decode(&head[..wanted], state.byte_count)
            .map_err(|source| CorpusError::Shard { path: path.clone(), source })?;
        check_header(&path, &header, manifest, record, &place)?;
        let ShardPlace { first_token, first_document, .. } = place;
        Ok(OpenShard {
            path,
            source,
            header,
            first_token,
            first_document,
            state,
            inode_changed_nanoseconds: AtomicI64::new(state.inode_changed_nanoseconds),
            checks: OnceLock::new(),
        })
    }

    pub(super) fn tokens(&self) -> Range<u64> {
        self.first_token..self.first_token + self.header.token_count
    }

    pub(super) fn read_footer(&self) -> Result<ShardFooter, CorpusError> {
        let sizes = "the header's sizes were checked";
        let offset = HEADER_BYTES + self.header.payload_bytes().expect(sizes);
        let end = self.header.file_bytes().expect(sizes);
        let mut bytes = vec![0; (end - offset) as usize];
        self.source.read(offset, &mut bytes).map_err(|source| self.read_error(source, offset))?;
        ShardFooter::decode(&bytes, &self.header).map_err(|source| self.damage(source, offset))
    }

    fn checks(&self) -> Result<&Checks, CorpusError> {
        if let Some(checks) = self.checks.get() {
            return Ok(checks);
        }
        let range = ShardFooter::block_crcs_range(&self.header);
        let range = range.expect("the header's sizes were checked");
        let mut bytes = vec![0; (range.end - range.start) as usize];
        let read = self.source.read(range.start, &mut bytes);
        read.map_err(|source| self.read_error(source, range.start))?;
        let (crcs, _) = bytes.as_chunks::<4>();
        let block_crcs: Vec<u32> = crcs.iter().map(|crc| u32::from_le_bytes(*crc)).collect();
        let words = block_crcs.len().div_ceil(64);
        let checked_blocks = (0..words).map(|_| AtomicU64::new(0)).collect();
        Ok(self.checks.get_or_init(|| Checks { block_crcs, checked_blocks }))
    }

    /// Fills `out` with the ids from `first_token` of this shard on; the caller checked the range.
    pub(super) fn read<T: OutId>(
        &self,
        first_token: u64,
        out: &mut [T],
        scratch: &mut Vec<u8>,
        upcoming: &mut Upcoming<'_>,
    ) -> Result<(), CorpusError> {
        let token_bytes = u64::from(self.header.token_bytes.get());
        let wanted = first_token * token_bytes..(first_token + out.len() as u64) * token_bytes;
        let blocks = wanted.start / BLOCK_BYTES..(wanted.end - 1) / BLOCK_BYTES + 1;
        let checks = self.checks()?;
        if blocks.clone().all(|block_index| checks.is_checked(block_index)) {
            let bytes = self.bytes(wanted.clone(), scratch)?;
            upcoming.pace(wanted.end - wanted.start);
            widen_asking(bytes, self.header.token_bytes, out, || upcoming.ask());
        } else {
            upcoming.pace((blocks.end - blocks.start) * BLOCK_BYTES);
            let (mut rest, mut next) = (&mut *out, wanted.start);
            for block_index in blocks {
                let end = wanted.end.min((block_index + 1) * BLOCK_BYTES);
                let (part, after) = rest.split_at_mut(((end - next) / token_bytes) as usize);
                self.read_in_block(
                    (checks, block_index),
                    next..end,
                    part,
                    (&mut *scratch, &mut *upcoming),
                )?;
                (rest, next) = (after, end);
            }
        }
        self.check_zeros(wanted, out)
    }

    /// The memory to prefetch before these tokens of this shard (at least one) are read: the
    /// tokens, or the blocks still to be checked. The first and the last page of such blocks may be
    /// missing from the page table, where the processor would ignore a prefetch; touching them puts
    /// them there.
    pub(super) fn upcoming(&self, tokens: Range<u64>) -> Option<Upcoming<'_>> {
        let token_bytes = u64::from(self.header.token_bytes.get());
        let (mut first, mut end) = (tokens.start * token_bytes, tokens.end * token_bytes);
        let checks = self.checks.get()?;
        let (first_block, last_block) = (first / BLOCK_BYTES, (end - 1) / BLOCK_BYTES);
        let is_checked = [first_block, last_block].map(|index| checks.is_checked(index));
        if !is_checked[0] {
            first = first_block * BLOCK_BYTES;
        }
        if !is_checked[1] {
            end = self.header.payload_bytes()?.min((last_block + 1) * BLOCK_BYTES);
        }
        let bytes = self.source.mapped(HEADER_BYTES + first, end - first)?;
        if is_checked != [true; 2] {
            std::hint::black_box(*bytes.first()? ^ *bytes.last()?);
        }
        Some(Upcoming::new(bytes))
    }

    /// Ids of a single block; an unchecked block is read and checked as a whole.
    fn read_in_block<T: OutId>(
        &self,
        (checks, block_index): (&Checks, u64),
        wanted: Range<u64>,
        out: &mut [T],
        (scratch, upcoming): (&mut Vec<u8>, &mut Upcoming<'_>),
    ) -> Result<(), CorpusError> {
        let token_bytes = self.header.token_bytes;
        if checks.is_checked(block_index) {
            widen_asking(self.bytes(wanted, scratch)?, token_bytes, out, || upcoming.ask());
            return Ok(());
        }
        let payload_bytes = self.header.payload_bytes().expect("the header's sizes were checked");
        let first = block_index * BLOCK_BYTES;
        let bytes = self.bytes(first..payload_bytes.min(first + BLOCK_BYTES), scratch)?;
        self.check_block(block_index, checks.block_crcs[block_index as usize], bytes, upcoming)?;
        let within = (wanted.start - first) as usize..(wanted.end - first) as usize;
        widen(&bytes[within], token_bytes, out);
        checks.mark_checked(block_index);
        Ok(())
    }

    /// These bytes of the payload, in place or in `scratch`.
    fn bytes<'a>(
        &'a self,
        range: Range<u64>,
        scratch: &'a mut Vec<u8>,
    ) -> Result<&'a [u8], CorpusError> {
        let (offset, end) = (HEADER_BYTES + range.start, HEADER_BYTES + range.end);
        let byte_count = usize::try_from(end - offset).expect("what is read fits memory");
        let bytes = self.source.bytes(offset, byte_count, scratch);
        bytes.map_err(|source| self.read_error(source, offset))
    }

    fn check_block(
        &self,
        block_index: u64,
        expected: u32,
        bytes: &[u8],
        upcoming: &mut Upcoming<'_>,
    ) -> Result<(), CorpusError> {
        let found = bytes.chunks(CHECKED_BYTES).fold(0, |crc, piece| {
            (0..CHECKED_BYTES / CACHE_LINE_BYTES).for_each(|_| upcoming.ask());
            crc32c::crc32c_append(crc, piece)
        });
        let first = block_index * BLOCK_BYTES;
        if found != expected {
            let (first_byte, end_byte) =
                (HEADER_BYTES + first, HEADER_BYTES + first + bytes.len() as u64);
            self.read_footer()?; // or is the footer damaged?
            let block = ShardError::Block { block_index, first_byte, end_byte, found, expected };
            return Err(self.damage(block, first_byte));
        }
        if u64::from(largest_id(bytes, self.header.token_bytes)) >= self.header.vocab_size {
            return Err(self.id_error(first / u64::from(self.header.token_bytes.get()), bytes));
        }
        Ok(())
    }

    /// Asks about the file if `out`, the ids of `wanted`, may end in the lost part of a page.
    fn check_zeros<T: OutId>(&self, wanted: Range<u64>, out: &[T]) -> Result<(), CorpusError> {
        let token_bytes = u64::from(self.header.token_bytes.get());
        // A smaller id ends in zero bytes, or would if they were lost.
        let suspect_below = match self.header.token_bytes {
            TokenBytes::Two => 1 << 8,
            TokenBytes::Four if self.header.vocab_size <= 1 << 24 => 1 << 16,
            TokenBytes::Four => u64::MAX,
        };
        let mut page_end = (wanted.start / PAGE_BYTES + 1) * PAGE_BYTES;
        loop {
            let end = page_end.min(wanted.end);
            let last = out[((end - wanted.start) / token_bytes - 1) as usize];
            if last.number() < suspect_below {
                return self.check_unchanged(HEADER_BYTES + wanted.start);
            }
            if end == wanted.end {
                return Ok(());
            }
            page_end += PAGE_BYTES;
        }
    }

    /// Checks whether the file is still the one opened; `first_byte` is where it was read.
    ///
    /// If only its inode has changed, its blocks are checked anew: the modification time may have
    /// been restored, or the file merely has another link.
    pub(super) fn check_unchanged(&self, first_byte: u64) -> Result<(), CorpusError> {
        let path = || self.path.clone();
        let state = self.source.state().map_err(|source| CorpusError::Io {
            action: "read the length of",
            path: path(),
            source,
        })?;
        let inode_changed_nanoseconds = state.inode_changed_nanoseconds;
        if state == (FileState { inode_changed_nanoseconds, ..self.state }) {
            let seen =
                self.inode_changed_nanoseconds.swap(inode_changed_nanoseconds, Ordering::Relaxed);
            if let (true, Some(checks)) = (seen != inode_changed_nanoseconds, self.checks.get()) {
                checks.forget();
            }
            return Ok(());
        }
        if state.byte_count < self.state.byte_count {
            let (end_byte, found_bytes) = (self.state.byte_count, state.byte_count);
            return Err(CorpusError::Shrunk {
                path: path(),
                first_byte: found_bytes,
                end_byte,
                found_bytes,
            });
        }
        let what = if state.has_name == self.state.has_name {
            "was written to"
        } else {
            "was removed or replaced"
        };
        let end_byte = self.state.byte_count.min(first_byte + BLOCK_BYTES);
        Err(CorpusError::Changed { path: path(), what, first_byte, end_byte })
    }

    /// Names the first of `ids` at or above the vocabulary size.
    fn id_error(&self, first_token: u64, ids: &[u8]) -> CorpusError {
        let vocab_size = self.header.vocab_size;
        let found = ids.chunks_exact(self.header.token_bytes.get() as usize).map(|id| match *id {
            [low, high] => u32::from(u16::from_le_bytes([low, high])),
            [a, b, c, d] => u32::from_le_bytes([a, b, c, d]),
            _ => unreachable!("an id has 2 or 4 bytes"),
        });
        let (index, found) = (first_token..)
            .zip(found)
            .find(|(_, id)| u64::from(*id) >= vocab_size)
            .expect("the largest of these ids is too large");
        self.shard_error(ShardError::Id { token_index: index, found, vocab_size })
    }

    /// The error for wrong bytes: a change of the open file, if there was one.
    fn damage(&self, source: ShardError, first_byte: u64) -> CorpusError {
        self.check_unchanged(first_byte).err().unwrap_or_else(|| self.shard_error(source))
    }

    fn shard_error(&self, source: ShardError) -> CorpusError {
        CorpusError::Shard { path: self.path.clone(), source }
    }

    /// The error for a failed read, the same for both back ends.
    fn read_error(&self, source: io::Error, first_byte: u64) -> CorpusError {
        let path = self.path.clone();
        let failed = CorpusError::Io { action: "read", path, source };
        self.check_unchanged(first_byte).err().unwrap_or(failed)
    }
}

impl Checks {
    fn is_checked(&self, block_index: u64) -> bool {
        let word = &self.checked_blocks[(block_index / 64) as usize];
        word.load(Ordering::Relaxed) & (1 << (block_index % 64)) != 0
    }

    fn mark_checked(&self, block_index: u64) {
        let word = &self.checked_blocks[(block_index / 64) as usize];
        word.fetch_or(1 << (block_index % 64), Ordering::Relaxed);
    }

    /// Makes all blocks be checked again at their next touch.
    fn forget(&self) {
        self.checked_blocks.iter().for_each(|word| word.store(0, Ordering::Relaxed));
    }
}

/// Compares a shard's header with the manifest.
pub(crate) fn check_header(
    path: &Path,
    header: &ShardHeader,
    manifest: &Manifest,
    record: &manifest::Shard,
    place: &ShardPlace,
) -> Result<(), CorpusError> {
    let mismatch = |field, found, expected| {
        Err(CorpusError::Mismatch { path: path.to_owned(), field, found, expected })
    };
    let tokenizer = blake3::Hash::from_bytes(header.tokenizer).to_hex();
    if tokenizer.as_str() != manifest.tokenizer.fingerprint {
        let expected = manifest.tokenizer.fingerprint.clone();
        return mismatch("tokenizer fingerprint", tokenizer.to_string(), expected);
    }
    for (field, found, expected) in [
        ("vocab_size", header.vocab_size, manifest.tokenizer.vocab_size),
        ("token_bytes", header.token_bytes.get().into(), manifest.token_bytes.into()),
        ("token_count", header.token_count, record.token_count),
        ("document_count", header.document_count, record.document_count),
        ("series_index", header.series_index, place.series_index),
        ("shard_index", header.shard_index, place.shard_index),
    ] {
        if found != expected {
            return mismatch(field, found.to_string(), expected.to_string());
        }
    }
    Ok(())
}
