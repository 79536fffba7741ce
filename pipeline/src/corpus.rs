//! A corpus folder as one stream of tokens: the shards of its manifest, one after the other; for a mixture, the
//! shards of each set, one set after the other. Documents keep the numbers that the manifest's order gives them.
//!
//! What is cheap is checked when a corpus is opened: the manifest, each shard's existence, length and
//! header. The checksum of a block of ids is checked the first time that the block is read.
//!
//! **Invariant:** a read gives exactly the ids that the manifest's tokenizer wrote, or an error that
//! names the file and the place.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use schemas::manifest::{self, Manifest, ManifestError};
use schemas::run::ReadBackend;
use schemas::shard::{BLOCK_BYTES, HEADER_BYTES, ShardError, ShardFooter, ShardHeader, TokenBytes};

use crate::set_streams::{MixedSeries, SetStream, set_streams};
use crate::source::Source;

/// `BLOCK_BYTES` as a length in memory.
const BLOCK_LEN: usize = BLOCK_BYTES as usize;

/// An open corpus; reading needs no lock, so threads share it in an `Arc`.
#[derive(Debug)]
pub struct Corpus {
    dir: PathBuf,
    manifest: Manifest,
    /// In the order of the stream.
    shards: Vec<OpenShard>,
    /// Positions in `shards`, in the order of the documents' numbers.
    by_document: Vec<usize>,
    /// The sets whose shards stand together; none when the shards stand in the manifest's order.
    sets: Vec<SetStream>,
    /// The footer that was read last, by the shard's position: look-ups of documents come in runs.
    recent_footer: Mutex<Option<(usize, Arc<ShardFooter>)>>,
}

#[derive(Debug)]
struct OpenShard {
    path: PathBuf,
    source: Source,
    header: ShardHeader,
    /// Tokens of the corpus before this shard.
    first_token: u64,
    /// Documents of the corpus before this shard.
    first_document: u64,
    /// From the footer, which is read at the first touch.
    block_crcs: OnceLock<Vec<u32>>,
    /// One bit a block: its checksum was right. Relaxed, because a bit publishes no other memory: the
    /// ids are those of an immutable file, and to check a block twice is only work.
    checked_blocks: Vec<AtomicU64>,
}

/// Why a corpus could not be opened or read.
#[derive(Debug, thiserror::Error)]
pub enum CorpusError {
    /// The system refused.
    #[error("cannot {action} {}: {source}{}", path.display(), hint(source))]
    Io {
        /// What was tried, such as "open".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// There is no manifest, so this is no complete corpus.
    #[error(
        "{} has no {}: it is no corpus folder, or one whose `patchmill tokenize` did not finish",
        dir.display(), manifest::FILE_NAME
    )]
    NoManifest {
        /// The folder.
        dir: PathBuf,
    },
    /// The manifest was refused.
    #[error("{}: {source}", path.display())]
    Manifest {
        /// The manifest.
        path: PathBuf,
        /// Why.
        source: ManifestError,
    },
    /// Sets that are wanted apart and are not.
    #[error(transparent)]
    Sets(#[from] MixedSeries),
    /// Shards that are not there, or not as long as they should be.
    #[error("{}: {} of {shard_count} shards are not as the manifest says: {}", dir.display(), faults.len(), faults.join("; "))]
    Files {
        /// The folder.
        dir: PathBuf,
        /// Shards in the manifest.
        shard_count: usize,
        /// One line a shard, with its path.
        faults: Vec<String>,
    },
    /// A shard's bytes were refused.
    #[error("{}: {source}", path.display())]
    Shard {
        /// The shard.
        path: PathBuf,
        /// Why.
        source: ShardError,
    },
    /// A shard that is sound but not the one that the manifest means.
    #[error("{}: header has {field} {found}; the manifest says {expected}", path.display())]
    Mismatch {
        /// The shard.
        path: PathBuf,
        /// Its name in the header.
        field: &'static str,
        /// In the header.
        found: String,
        /// From the manifest.
        expected: String,
    },
    /// A shard became shorter after it was opened.
    #[error(
        "{}: bytes {first_byte}..{end_byte} are gone: the file was cut to {found_bytes} bytes while it was read; \
         restore it, and set loader.io = \"pread\" if files can change under a run",
        path.display()
    )]
    Shrunk {
        /// The shard.
        path: PathBuf,
        /// Offset in the file of what was wanted.
        first_byte: u64,
        /// Its end, exclusive.
        end_byte: u64,
        /// Length of the file now.
        found_bytes: u64,
    },
    /// Tokens that the corpus does not have.
    #[error("tokens {first_token}..{end_token} are wanted; the corpus has {corpus_tokens}")]
    Tokens {
        /// First token that was asked for.
        first_token: u64,
        /// The token after the last one.
        end_token: u64,
        /// Tokens in the corpus.
        corpus_tokens: u64,
    },
    /// A document that the corpus does not have.
    #[error("document {document} is wanted; the corpus has {document_count}, numbered from 0")]
    Document {
        /// The number that was asked for.
        document: u64,
        /// Documents in the corpus.
        document_count: u64,
    },
}

impl CorpusError {
    /// Whether data differ from what describes them; else the system or the caller is at fault.
    pub fn is_mismatch(&self) -> bool {
        use CorpusError::{Files, Manifest, Mismatch, NoManifest, Sets, Shard, Shrunk};
        matches!(
            self,
            Files { .. }
                | Manifest { .. }
                | Mismatch { .. }
                | NoManifest { .. }
                | Sets { .. }
                | Shard { .. }
                | Shrunk { .. }
        )
    }
}

fn hint(source: &io::Error) -> &'static str {
    match source.raw_os_error() {
        Some(libc::EMFILE) => " (each shard stays open: raise `ulimit -n`)",
        Some(libc::ENOMEM) => {
            " (too many mappings: raise vm.max_map_count, or set loader.io = \"pread\")"
        }
        _ => "",
    }
}

/// An id as the reader wants it: `u32` for tools, `i64` for tensors.
pub trait TokenId: Copy {
    /// The same number.
    fn from_id(id: u32) -> Self;
}

impl TokenId for u32 {
    fn from_id(id: u32) -> u32 {
        id
    }
}

impl TokenId for i64 {
    fn from_id(id: u32) -> i64 {
        id.into()
    }
}

impl Corpus {
    /// Opens the corpus in `dir`. Every shard must be there, with the manifest's length and a header
    /// that agrees with the manifest; all shards that are missing or of another length are named at once.
    pub fn open(dir: &Path, backend: ReadBackend) -> Result<Corpus, CorpusError> {
        let manifest = read_manifest(dir)?;
        let series = 0..manifest.series.len();
        Corpus::arrange(dir, manifest, series, Vec::new(), backend)
    }

    /// The same with the shards of each set together, as the plan of a mixture counts tokens.
    pub fn open_by_set(dir: &Path, backend: ReadBackend) -> Result<Corpus, CorpusError> {
        let manifest = read_manifest(dir)?;
        let sets = set_streams(&manifest)?;
        let series: Vec<usize> = sets.iter().flat_map(|set| set.series.iter().copied()).collect();
        Corpus::arrange(dir, manifest, series, sets, backend)
    }

    fn arrange(
        dir: &Path,
        manifest: Manifest,
        series_order: impl IntoIterator<Item = usize>,
        sets: Vec<SetStream>,
        backend: ReadBackend,
    ) -> Result<Corpus, CorpusError> {
        check_lengths(dir, &manifest)?;
        let mut first_documents = vec![0];
        for series in &manifest.series {
            // The manifest's sums were checked, here and below.
            let before = first_documents[first_documents.len() - 1];
            first_documents.push(before + series.totals.documents_written);
        }
        let (mut shards, mut first_token) = (Vec::new(), 0);
        for position in series_order {
            let series = &manifest.series[position];
            let series_index = series.series_index(position as u64);
            let mut first_document = first_documents[position];
            for (shard_index, record) in (0u64..).zip(&series.shards) {
                let place = ShardPlace { series_index, shard_index, first_token, first_document };
                shards.push(OpenShard::open(dir, &manifest, record, place, backend)?);
                first_token += record.token_count;
                first_document += record.document_count;
            }
        }
        let mut by_document: Vec<usize> = (0..shards.len()).collect();
        by_document.sort_by_key(|&index| shards[index].first_document);
        let (dir, recent_footer) = (dir.to_owned(), Mutex::new(None));
        Ok(Corpus { dir, manifest, shards, by_document, sets, recent_footer })
    }

    /// The folder that was opened.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What the corpus says about itself.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// N: tokens of the whole stream.
    pub fn token_count(&self) -> u64 {
        self.manifest.totals.tokens
    }

    /// Documents of the whole stream.
    pub fn document_count(&self) -> u64 {
        self.manifest.totals.shard_documents().expect("a manifest adds up")
    }

    /// Every id is below it.
    pub fn vocab_size(&self) -> u64 {
        self.manifest.tokenizer.vocab_size
    }

    /// Shards, in the order of the stream.
    pub fn shard_count(&self) -> usize {
        self.shards.len()
    }

    /// Header of shard `shard_index` of the stream.
    ///
    /// # Panics
    /// If there is no such shard.
    pub fn shard_header(&self, shard_index: usize) -> &ShardHeader {
        &self.shards[shard_index].header
    }

    /// Where shard `shard_index` of the stream lies.
    ///
    /// # Panics
    /// If there is no such shard.
    pub fn shard_path(&self, shard_index: usize) -> &Path {
        &self.shards[shard_index].path
    }

    /// The tokens of the stream that shard `shard_index` holds.
    ///
    /// # Panics
    /// If there is no such shard.
    pub fn shard_tokens(&self, shard_index: usize) -> Range<u64> {
        self.shards[shard_index].tokens()
    }

    /// The footer of shard `shard_index` of the stream, read and checked anew unless it was the last one.
    ///
    /// # Panics
    /// If there is no such shard.
    pub fn shard_footer(&self, shard_index: usize) -> Result<Arc<ShardFooter>, CorpusError> {
        let lock = || self.recent_footer.lock().expect("no holder of this lock can panic");
        if let Some((index, footer)) = &*lock()
            && *index == shard_index
        {
            return Ok(footer.clone());
        }
        let footer = Arc::new(self.shards[shard_index].read_footer()?);
        *lock() = Some((shard_index, footer.clone()));
        Ok(footer)
    }

    /// The sets whose shards stand together, in the order of the stream; none when the shards stand in the
    /// manifest's order.
    pub fn sets(&self) -> &[SetStream] {
        &self.sets
    }

    /// Which parts of which shards hold these tokens, in order.
    pub fn parts(
        &self,
        first_token: u64,
        token_count: u64,
    ) -> Result<Vec<ShardPart<'_>>, CorpusError> {
        self.check_tokens(first_token, token_count)?;
        let (mut parts, mut next_token) = (Vec::new(), first_token);
        while next_token < first_token + token_count {
            let shard = &self.shards[self.shard_of_token(next_token)];
            let end = shard.tokens().end.min(first_token + token_count);
            parts.push(ShardPart {
                path: shard.path.strip_prefix(&self.dir).unwrap_or(&shard.path),
                first_token: next_token - shard.first_token,
                token_count: end - next_token,
                token_bytes: shard.header.token_bytes.get(),
            });
            next_token = end;
        }
        Ok(parts)
    }

    /// Fills `out` with the ids from `first_token` on, across the borders of shards.
    pub fn read<T: TokenId>(&self, first_token: u64, out: &mut [T]) -> Result<(), CorpusError> {
        self.check_tokens(first_token, out.len() as u64)?;
        let (mut rest, mut next_token) = (out, first_token);
        while !rest.is_empty() {
            let shard = &self.shards[self.shard_of_token(next_token)];
            let end = shard.tokens().end.min(next_token + rest.len() as u64);
            let (part, after) = rest.split_at_mut((end - next_token) as usize);
            shard.read(next_token - shard.first_token, part)?;
            (rest, next_token) = (after, end);
        }
        Ok(())
    }

    /// Tells the system that these tokens will be read soon.
    pub fn will_need(&self, first_token: u64, token_count: u64) {
        let end_token = first_token.saturating_add(token_count).min(self.token_count());
        let mut next_token = first_token;
        while next_token < end_token {
            let shard = &self.shards[self.shard_of_token(next_token)];
            let end = shard.tokens().end.min(end_token);
            let token_bytes = u64::from(shard.header.token_bytes.get());
            let offset = HEADER_BYTES + (next_token - shard.first_token) * token_bytes;
            shard.source.will_need(offset, (end - next_token) * token_bytes);
            next_token = end;
        }
    }

    /// The tokens of document number `document` of the corpus.
    pub fn document_tokens(&self, document: u64) -> Result<Range<u64>, CorpusError> {
        let document_count = self.document_count();
        if document >= document_count {
            return Err(CorpusError::Document { document, document_count });
        }
        let is_before = |&index: &usize| self.shards[index].first_document <= document;
        let index = self.by_document[self.by_document.partition_point(is_before) - 1];
        let (shard, footer) = (&self.shards[index], self.shard_footer(index)?);
        let within = (document - shard.first_document) as usize;
        let first = if within == 0 { 0 } else { footer.document_ends[within - 1] };
        Ok(shard.first_token + first..shard.first_token + footer.document_ends[within])
    }

    /// The number of the document that holds `token` of the stream.
    pub fn document_at(&self, token: u64) -> Result<u64, CorpusError> {
        self.check_tokens(token, 1)?;
        let index = self.shard_of_token(token);
        let (shard, footer) = (&self.shards[index], self.shard_footer(index)?);
        let within = footer.document_ends.partition_point(|&end| end <= token - shard.first_token);
        Ok(shard.first_document + within as u64)
    }

    fn check_tokens(&self, first_token: u64, token_count: u64) -> Result<(), CorpusError> {
        let corpus_tokens = self.token_count();
        match first_token.checked_add(token_count) {
            Some(end_token) if end_token <= corpus_tokens => Ok(()),
            end => {
                let end_token = end.unwrap_or(u64::MAX);
                Err(CorpusError::Tokens { first_token, end_token, corpus_tokens })
            }
        }
    }

    /// Position of the shard that holds a token of the corpus; no shard is empty.
    fn shard_of_token(&self, token: u64) -> usize {
        self.shards.partition_point(|shard| shard.first_token <= token) - 1
    }
}

/// Tokens that lie together in a shard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardPart<'a> {
    /// The shard's path in the corpus folder.
    pub path: &'a Path,
    /// Offset in the shard, in tokens.
    pub first_token: u64,
    /// Tokens.
    pub token_count: u64,
    /// Bytes of an id, 2 or 4.
    pub token_bytes: u32,
}

impl ShardPart<'_> {
    /// Where in the file the first id lies, in bytes.
    pub fn file_offset(&self) -> u64 {
        HEADER_BYTES + self.first_token * u64::from(self.token_bytes)
    }
}

/// Reads and checks `dir`'s manifest, but none of the files that it lists.
pub fn read_manifest(dir: &Path) -> Result<Manifest, CorpusError> {
    let path = dir.join(manifest::FILE_NAME);
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(source) if source.kind() == io::ErrorKind::NotFound && dir.is_dir() => {
            return Err(CorpusError::NoManifest { dir: dir.to_owned() });
        }
        Err(source) => return Err(CorpusError::Io { action: "read", path, source }),
    };
    Manifest::parse(&text).map_err(|source| CorpusError::Manifest { path, source })
}

/// All shards that are missing or of another length, named at once.
fn check_lengths(dir: &Path, manifest: &Manifest) -> Result<(), CorpusError> {
    let mut faults = Vec::new();
    for shard in manifest.shards() {
        let (path, expected_bytes) = (&shard.file.path, shard.file.bytes);
        match std::fs::metadata(dir.join(path)) {
            Ok(found) if !found.is_file() => faults.push(format!("{path} is no file")),
            Ok(found) if found.len() == expected_bytes => {}
            Ok(found) => faults.push(format!(
                "{path} is {} bytes; the manifest says {expected_bytes}",
                found.len()
            )),
            Err(err) if err.kind() == io::ErrorKind::NotFound => {
                faults.push(format!("{path} is missing"));
            }
            Err(err) => faults.push(format!("{path}: {err}")),
        }
    }
    if faults.is_empty() {
        return Ok(());
    }
    Err(CorpusError::Files { dir: dir.to_owned(), shard_count: manifest.shards().count(), faults })
}

/// Where the manifest puts a shard.
pub(crate) struct ShardPlace {
    pub(crate) series_index: u64,
    pub(crate) shard_index: u64,
    /// Tokens of the corpus before it.
    pub(crate) first_token: u64,
    /// Documents of the corpus before it.
    pub(crate) first_document: u64,
}

impl OpenShard {
    fn open(
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
        let source = Source::open(&path, backend).map_err(io("open"))?;
        let file_bytes = source.byte_count().map_err(io("read the length of"))?;
        let mut buffer = [0; HEADER_BYTES as usize];
        let wanted = usize::try_from(file_bytes.min(HEADER_BYTES)).expect("at most a page");
        let head = source.bytes(0, wanted, &mut buffer).map_err(io("read"))?;
        let header = ShardHeader::decode(head, file_bytes)
            .map_err(|source| CorpusError::Shard { path: path.clone(), source })?;
        check_header(&path, &header, manifest, record, &place)?;
        let block_count = header.block_count().expect("the header's sizes were checked");
        let checked_blocks = (0..block_count.div_ceil(64)).map(|_| AtomicU64::new(0)).collect();
        let ShardPlace { first_token, first_document, .. } = place;
        let block_crcs = OnceLock::new();
        Ok(OpenShard {
            path,
            source,
            header,
            first_token,
            first_document,
            block_crcs,
            checked_blocks,
        })
    }

    fn tokens(&self) -> Range<u64> {
        self.first_token..self.first_token + self.header.token_count
    }

    fn read_footer(&self) -> Result<ShardFooter, CorpusError> {
        let sizes = "the header's sizes were checked";
        let offset = HEADER_BYTES + self.header.payload_bytes().expect(sizes);
        let end = self.header.file_bytes().expect(sizes);
        let mut buffer = vec![0; (end - offset) as usize];
        let bytes = self
            .source
            .bytes(offset, (end - offset) as usize, &mut buffer)
            .map_err(|source| self.read_error(source, offset, end))?;
        ShardFooter::decode(bytes, &self.header).map_err(|source| self.shard_error(source))
    }

    fn block_crcs(&self) -> Result<&[u32], CorpusError> {
        if self.block_crcs.get().is_none() {
            let _other_thread_was_first = self.block_crcs.set(self.read_footer()?.block_crcs);
        }
        Ok(self.block_crcs.get().expect("it was just set"))
    }

    /// Fills `out` with the ids from `first_token` of this shard on; the caller checked the range.
    fn read<T: TokenId>(&self, first_token: u64, out: &mut [T]) -> Result<(), CorpusError> {
        let mut buffer = [0; BLOCK_LEN];
        let block_tokens = BLOCK_BYTES / u64::from(self.header.token_bytes.get());
        let (mut rest, mut next_token) = (out, first_token);
        while !rest.is_empty() {
            let block_end = (next_token / block_tokens + 1) * block_tokens;
            let end = block_end.min(next_token + rest.len() as u64);
            let (part, after) = rest.split_at_mut((end - next_token) as usize);
            self.read_in_block(next_token, part, &mut buffer)?;
            (rest, next_token) = (after, end);
        }
        Ok(())
    }

    /// The same for ids of a single block. An unchecked block is read as a whole.
    fn read_in_block<T: TokenId>(
        &self,
        first_token: u64,
        out: &mut [T],
        buffer: &mut [u8; BLOCK_LEN],
    ) -> Result<(), CorpusError> {
        let token_bytes = u64::from(self.header.token_bytes.get());
        let payload_bytes = self.header.payload_bytes().expect("the header's sizes were checked");
        let wanted = first_token * token_bytes..(first_token + out.len() as u64) * token_bytes;
        let block_index = wanted.start / BLOCK_BYTES;
        let block_first = block_index * BLOCK_BYTES;
        let block = block_first..payload_bytes.min(block_first + BLOCK_BYTES);
        let checked = self.is_checked(block_index);
        let read = if checked { wanted.clone() } else { block };
        let (offset, byte_count) = (HEADER_BYTES + read.start, (read.end - read.start) as usize);
        let io = |source| self.read_error(source, offset, offset + byte_count as u64);
        let bytes = self.source.bytes(offset, byte_count, buffer).map_err(io)?;
        if !checked {
            self.check_block(block_index, offset, bytes)?;
        }
        let skip = (wanted.start - read.start) as usize;
        let ids = &bytes[skip..skip + (wanted.end - wanted.start) as usize];
        let max = match self.header.token_bytes {
            TokenBytes::Two => copy_ids(ids, out, |id: [u8; 2]| u16::from_le_bytes(id).into()),
            TokenBytes::Four => copy_ids(ids, out, u32::from_le_bytes),
        };
        self.source.check_holds(offset, byte_count).map_err(io)?;
        if u64::from(max) >= self.header.vocab_size {
            return Err(self.id_error(first_token, ids));
        }
        Ok(())
    }

    fn is_checked(&self, block_index: u64) -> bool {
        let word = &self.checked_blocks[(block_index / 64) as usize];
        word.load(Ordering::Relaxed) & (1 << (block_index % 64)) != 0
    }

    fn check_block(&self, block_index: u64, offset: u64, bytes: &[u8]) -> Result<(), CorpusError> {
        let expected = self.block_crcs()?[block_index as usize];
        let found = crc32c::crc32c(bytes);
        if found != expected {
            let (first_byte, end_byte) = (offset, offset + bytes.len() as u64);
            return Err(self.shard_error(ShardError::Block {
                block_index,
                first_byte,
                end_byte,
                found,
                expected,
            }));
        }
        let word = &self.checked_blocks[(block_index / 64) as usize];
        word.fetch_or(1 << (block_index % 64), Ordering::Relaxed);
        Ok(())
    }

    /// Names the first of `ids` that is not below the vocabulary size.
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

    fn shard_error(&self, source: ShardError) -> CorpusError {
        CorpusError::Shard { path: self.path.clone(), source }
    }

    fn read_error(&self, source: io::Error, first_byte: u64, end_byte: u64) -> CorpusError {
        let path = self.path.clone();
        match self.source.byte_count() {
            Ok(found_bytes) if source.kind() == io::ErrorKind::UnexpectedEof => {
                CorpusError::Shrunk { path, first_byte, end_byte, found_bytes }
            }
            _ => CorpusError::Io { action: "read", path, source },
        }
    }
}

/// Decodes `bytes` into `out` and returns the largest id.
fn copy_ids<T: TokenId, const N: usize>(
    bytes: &[u8],
    out: &mut [T],
    decode: impl Fn([u8; N]) -> u32,
) -> u32 {
    let (ids, rest) = bytes.as_chunks::<N>();
    assert!(rest.is_empty() && ids.len() == out.len(), "whole ids, as many as asked for");
    let mut max = 0;
    for (slot, id) in out.iter_mut().zip(ids) {
        let id = decode(*id);
        max = max.max(id);
        *slot = T::from_id(id);
    }
    max
}

/// Compares a shard's header with what the manifest says.
pub(crate) fn check_header(
    path: &Path,
    header: &ShardHeader,
    manifest: &Manifest,
    record: &manifest::Shard,
    place: &ShardPlace,
) -> Result<(), CorpusError> {
    let tokenizer = blake3::Hash::from_bytes(header.tokenizer).to_hex().to_string();
    let number = |number: u64| number.to_string();
    for (field, found, expected) in [
        ("tokenizer fingerprint", tokenizer, manifest.tokenizer.fingerprint.clone()),
        ("vocab_size", number(header.vocab_size), number(manifest.tokenizer.vocab_size)),
        (
            "token_bytes",
            number(header.token_bytes.get().into()),
            number(manifest.token_bytes.into()),
        ),
        ("token_count", number(header.token_count), number(record.token_count)),
        ("document_count", number(header.document_count), number(record.document_count)),
        ("series_index", number(header.series_index), number(place.series_index)),
        ("shard_index", number(header.shard_index), number(place.shard_index)),
    ] {
        if found != expected {
            return Err(CorpusError::Mismatch { path: path.to_owned(), field, found, expected });
        }
    }
    Ok(())
}
