//! A corpus folder as one stream of tokens: the shards of its manifest, one after the other; for a
//! mixture, the shards of each set, one set after the other. Documents keep the numbers given by
//! the manifest's order.
//!
//! Opening is cheap; the rest happens at first touch. Opening reads the manifest, asks for every
//! shard's length, and reads every header by `pread`. The first window to touch a shard maps it and
//! reads its block checksums. A reader needs no more of the footer, whose document ends can take
//! megabytes. The first read of a block checks its checksum, and its ids against the vocabulary
//! size. A checksum damaged in the footer does not match its block; the footer's own checksum then
//! shows which of the two is wrong.
//!
//! Files are opened for random access: reading around a window is wasted with a shuffled plan.
//!
//! **Invariant:** a read gives exactly the ids written by the manifest's tokenizer, or an error
//! naming the file and the position.

pub(crate) mod error;
pub mod index;
pub(crate) mod prefetch;
pub(crate) mod set_totals;
pub mod sets;
pub(crate) mod shard;
pub mod verify;
pub mod widen;

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use schemas::build::NEXT_FOLDER;
use schemas::manifest::{self, Manifest};
use schemas::run::ReadBackend;
use schemas::shard::{HEADER_BYTES, ShardFooter, ShardHeader};

use crate::corpus::prefetch::Upcoming;
use crate::corpus::sets::{SetStream, set_streams};
pub use crate::corpus::widen::OutId;
use crate::disk::atomic::hash_file;
use crate::disk::limits::raise_open_files_limit;
use crate::disk::source::read_file;
use encoder::TOKENIZER_FILE;

pub use error::CorpusError;
use shard::OpenShard;
pub(crate) use shard::{ShardPlace, check_header};

/// An open corpus; reading needs no lock, so threads share it in an `Arc`.
#[derive(Debug)]
pub struct Corpus {
    dir: PathBuf,
    backend: ReadBackend,
    manifest: Manifest,
    /// In the order of the stream.
    shards: Vec<OpenShard>,
    /// Indexes into `shards`, in the order of document numbers.
    by_document: Vec<usize>,
    /// The sets whose shards are grouped; empty if the shards are in the manifest's order.
    sets: Vec<SetStream>,
    /// The footer read last, with the shard's index: document look-ups tend to hit the same shard.
    recent_footer: Mutex<Option<(usize, Arc<ShardFooter>)>>,
}

impl Corpus {
    /// Opens the corpus in `dir`. Every shard must exist, with the manifest's length and a matching
    /// header; one error lists all shards missing or of another length.
    pub fn open(dir: &Path, backend: ReadBackend) -> Result<Corpus, CorpusError> {
        let manifest = read_manifest(dir)?;
        let series = 0..manifest.series.len();
        Corpus::arrange(dir, manifest, series, Vec::new(), backend)
    }

    /// The same with the shards of each set together, in the order used by the plan of a mixture.
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
        raise_open_files_limit(); // each shard that a plan touches stays open
        check_lengths(dir, &manifest)?;
        let mut first_documents = vec![0];
        for series in &manifest.series {
            // The manifest's sums were checked, here and below.
            let before = first_documents[first_documents.len() - 1];
            first_documents
                .push(before + series.totals.shard_documents().expect("a manifest adds up"));
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
        Ok(Corpus { dir, backend, manifest, shards, by_document, sets, recent_footer })
    }

    /// How its shards are read.
    pub(crate) fn backend(&self) -> ReadBackend {
        self.backend
    }

    /// The folder that was opened.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The corpus' description of itself.
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

    /// Path of shard `shard_index` of the stream.
    ///
    /// # Panics
    /// If there is no such shard.
    pub fn shard_path(&self, shard_index: usize) -> &Path {
        &self.shards[shard_index].path
    }

    /// The tokens of the stream in shard `shard_index`.
    ///
    /// # Panics
    /// If there is no such shard.
    pub fn shard_tokens(&self, shard_index: usize) -> Range<u64> {
        self.shards[shard_index].tokens()
    }

    /// The footer of shard `shard_index` of the stream, read and checked anew unless it was the
    /// last one read.
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

    /// The sets whose shards are grouped, in the order of the stream; empty if the shards are in
    /// the manifest's order.
    pub fn sets(&self) -> &[SetStream] {
        &self.sets
    }

    /// The parts of shards holding these tokens, in order.
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

    /// Fills `out` with the ids from `first_token` on, across the borders of shards. For many
    /// reads, a [`Reader`] is faster.
    ///
    /// # Panics
    /// If `out` cannot hold every id of the vocabulary.
    pub fn read<T: OutId>(&self, first_token: u64, out: &mut [T]) -> Result<(), CorpusError> {
        self.reader().read(first_token, out)
    }

    /// A reader for one thread.
    pub fn reader(&self) -> Reader<'_> {
        Reader {
            corpus: self,
            scratch: Vec::new(),
            touched: vec![0; self.shards.len().div_ceil(64)],
            last_tokens: vec![0; self.shards.len()],
        }
    }

    /// Hints to the system: these tokens will be read soon.
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

    /// The number of the document holding `token` of the stream.
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

    /// The memory to prefetch before these tokens are read; nothing of tokens in a second shard.
    fn upcoming(&self, tokens: Range<u64>) -> Option<Upcoming<'_>> {
        if tokens.is_empty() || tokens.end > self.token_count() {
            return None;
        }
        let shard = &self.shards[self.shard_of_token(tokens.start)];
        let end = tokens.end.min(shard.tokens().end);
        shard.upcoming(tokens.start - shard.first_token..end - shard.first_token)
    }

    /// Index of the shard holding a token of the corpus; no shard is empty.
    fn shard_of_token(&self, token: u64) -> usize {
        self.shards.partition_point(|shard| shard.first_token <= token) - 1
    }
}

/// A [`Corpus`] used by one thread, with a record of the shards it has read.
#[derive(Debug)]
pub struct Reader<'a> {
    corpus: &'a Corpus,
    /// Bytes not read in place.
    scratch: Vec<u8>,
    /// Bits of the shards read since the last [`Reader::check_unchanged`].
    touched: Vec<u64>,
    /// Where each shard was read last, for messages.
    last_tokens: Vec<u64>,
}

impl Reader<'_> {
    /// Fills `out` with the ids from `first_token` on, across the borders of shards.
    ///
    /// # Panics
    /// If `out` cannot hold every id of the vocabulary.
    pub fn read<T: OutId>(&mut self, first_token: u64, out: &mut [T]) -> Result<(), CorpusError> {
        self.read_before(0..0, first_token, out)
    }

    /// The same; meanwhile prefetches the tokens `next`, which are read next.
    ///
    /// # Panics
    /// As `read`.
    pub fn read_before<T: OutId>(
        &mut self,
        next: Range<u64>,
        first_token: u64,
        out: &mut [T],
    ) -> Result<(), CorpusError> {
        let corpus = self.corpus;
        assert!(corpus.vocab_size() <= T::VOCAB_SIZE_MAX, "{} ids", corpus.vocab_size());
        corpus.check_tokens(first_token, out.len() as u64)?;
        let mut upcoming = corpus.upcoming(next).unwrap_or_default();
        let (mut rest, mut next_token) = (out, first_token);
        while !rest.is_empty() {
            let index = corpus.shard_of_token(next_token);
            let shard = &corpus.shards[index];
            let end = shard.tokens().end.min(next_token + rest.len() as u64);
            let (part, after) = rest.split_at_mut((end - next_token) as usize);
            self.touched[index / 64] |= 1 << (index % 64);
            self.last_tokens[index] = next_token - shard.first_token;
            let in_shard = next_token - shard.first_token;
            shard.read(in_shard, part, &mut self.scratch, &mut upcoming)?;
            (rest, next_token) = (after, end);
        }
        Ok(())
    }

    /// Checks every file read since the last call against its state when opened: length,
    /// modification time, and whether it still has a name. This takes one system call a file. If
    /// only the inode of a file has changed, its blocks are checked anew at the next touch.
    pub fn check_unchanged(&mut self) -> Result<(), CorpusError> {
        for (index, word) in self.touched.iter_mut().enumerate() {
            while *word != 0 {
                let bit = word.trailing_zeros() as usize;
                let shard = &self.corpus.shards[index * 64 + bit];
                let token_bytes = u64::from(shard.header.token_bytes.get());
                let last_token = self.last_tokens[index * 64 + bit];
                shard.check_unchanged(HEADER_BYTES + last_token * token_bytes)?;
                *word &= *word - 1;
            }
        }
        Ok(())
    }
}

/// Contiguous tokens of a shard.
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
    /// Offset in the file of the first id, in bytes.
    pub fn file_offset(&self) -> u64 {
        HEADER_BYTES + self.first_token * u64::from(self.token_bytes)
    }
}

/// Reads and checks `dir`'s manifest, but none of the files it lists.
pub fn read_manifest(dir: &Path) -> Result<Manifest, CorpusError> {
    let path = dir.join(manifest::FILE_NAME);
    let text = match read_file(&path).and_then(|bytes| {
        String::from_utf8(bytes).map_err(|err| io::Error::new(io::ErrorKind::InvalidData, err))
    }) {
        Ok(text) => text,
        Err(source) if source.kind() == io::ErrorKind::NotFound && dir.is_dir() => {
            let dir = dir.to_owned();
            let is_interrupted = dir.join(NEXT_FOLDER).join(manifest::FILE_NAME).exists();
            return Err(match is_interrupted {
                true => CorpusError::Interrupted { dir },
                false => CorpusError::NoManifest { dir },
            });
        }
        Err(source) => return Err(CorpusError::Io { action: "read", path, source }),
    };
    Manifest::parse(&text).map_err(|source| CorpusError::Manifest { path, source })
}

/// Checks that the corpus has the tokenizer of its ids, byte for byte.
pub fn check_tokenizer(dir: &Path, manifest: &Manifest) -> Result<(), CorpusError> {
    let record = &manifest.tokenizer;
    let listed = record.files.iter().find(|file| file.path.ends_with(TOKENIZER_FILE));
    let path = dir.join(listed.map_or(manifest::FILE_NAME, |file| &file.path));
    let what = match listed {
        None => format!("lists no {TOKENIZER_FILE}"),
        Some(_) => match hash_file(&path) {
            Ok((_, hash)) if hash.to_hex().as_str() == record.fingerprint => return Ok(()),
            Ok((_, hash)) => {
                format!("has BLAKE3 {}; the manifest says {}", hash.to_hex(), record.fingerprint)
            }
            Err(err) => format!("cannot be read ({})", err.source),
        },
    };
    Err(CorpusError::Tokenizer { path, what })
}

/// Checks the lengths; one error lists all shards missing or of another length.
fn check_lengths(dir: &Path, manifest: &Manifest) -> Result<(), CorpusError> {
    let mut faults = Vec::new();
    for shard in manifest.shards() {
        let (path, expected_bytes) = (&shard.file.path, shard.file.bytes);
        match std::fs::metadata(dir.join(path)) {
            Ok(found) if !found.is_file() => faults.push(format!("{path} is not a file")),
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
