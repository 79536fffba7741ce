//! Writes shards: token ids of whole documents, in the format of `schemas::shard`.
//!
//! Shards are written 2 MiB at a time. Where the file system can (seen on ext4 with Linux 6.18),
//! the page cache keeps data written at once in one large page, and a mapping takes such a page as
//! a whole. For a corpus just written, one fault and one entry of the processor's page table then
//! cover 2 MiB instead of 64 and 4 KiB. A first touch with checks reads 1.5 to 1.7 times as many
//! ids a second, later epochs 1.2 times as many; the benches' `make_corpus` and `read_corpus` show
//! it. Data read from the disk at random places is in small pages again.
//!
//! **Invariant:** a shard is complete under its name or absent, and it never changes after that.

use std::path::Path;

use schemas::manifest::FileRecord;
use schemas::shard::{BLOCK_BYTES, HEADER_BYTES, ShardFooter, ShardHeader, TokenBytes};

use crate::disk::atomic::{AtomicFile, Hands, PublishError, sync_dir};
use encoder::TokenId;

/// A shard is written in pieces of this size, so each can be one large page in the page cache.
const WRITTEN_BYTES: usize = 2 << 20;

/// A shard's description beyond its ids.
#[derive(Clone, Copy, Debug)]
pub struct ShardSpec {
    /// Every id is below this size.
    pub vocab_size: u64,
    /// BLAKE3 of the tokenizer.json used for the ids.
    pub tokenizer: [u8; 32],
    /// Position of the series in the corpus.
    pub series_index: u64,
    /// Position of the shard in the series.
    pub shard_index: u64,
}

/// A shard being built.
pub struct ShardWriter {
    file: AtomicFile,
    name: String,
    spec: ShardSpec,
    token_bytes: TokenBytes,
    block: Vec<u8>,
    block_crcs: Vec<u32>,
    document_ends: Vec<u64>,
    token_count: u64,
}

impl ShardWriter {
    /// Begins the shard `name` in the folder `dir`.
    pub fn create(dir: &Path, name: String, spec: ShardSpec) -> Result<ShardWriter, PublishError> {
        let mut file = AtomicFile::create_in_pieces(&dir.join(&name), WRITTEN_BYTES)?;
        // The counts are known only at the end.
        file.append(&[0; HEADER_BYTES as usize])?;
        Ok(ShardWriter {
            file,
            name,
            spec,
            token_bytes: TokenBytes::for_vocabulary(spec.vocab_size),
            block: Vec::with_capacity(BLOCK_BYTES as usize),
            block_crcs: Vec::new(),
            document_ends: Vec::new(),
            token_count: 0,
        })
    }

    /// Appends a document and returns its first token's position in the shard.
    ///
    /// If the document has no tokens or an id outside the vocabulary, which the encoder rules out.
    pub fn push<I: TokenId>(&mut self, ids: &[I]) -> Result<u64, PublishError> {
        self.append(ids)?;
        Ok(self.end_document().0)
    }

    /// Appends ids of a document, to be ended by [`ShardWriter::end_document`].
    ///
    /// If an id is outside the vocabulary.
    pub fn append<I: TokenId>(&mut self, ids: &[I]) -> Result<(), PublishError> {
        let id_max = ids.iter().map(|id| id.widen()).fold(0, u32::max);
        assert!(u64::from(id_max) < self.spec.vocab_size, "{id_max} of {}", self.spec.vocab_size);
        let mut rest = ids;
        while !rest.is_empty() {
            let room_bytes = BLOCK_BYTES as usize - self.block.len();
            let room = room_bytes / self.token_bytes.get() as usize;
            let (now, later) = rest.split_at(room.min(rest.len()));
            append_bytes(&mut self.block, now, self.token_bytes);
            if self.block.len() as u64 == BLOCK_BYTES {
                self.write_block()?;
            }
            rest = later;
        }
        self.token_count += ids.len() as u64;
        Ok(())
    }

    /// Ends the appended document; returns its first token's position in the shard, and its number
    /// of tokens.
    ///
    /// # Panics
    /// If it has no tokens.
    pub fn end_document(&mut self) -> (u64, u64) {
        let first_token = self.document_ends.last().copied().unwrap_or(0);
        assert!(
            first_token < self.token_count,
            "a document without tokens has no place in a shard"
        );
        self.document_ends.push(self.token_count);
        (first_token, self.token_count - first_token)
    }

    /// Bytes of ids so far.
    pub fn payload_bytes(&self) -> u64 {
        self.token_count * u64::from(self.token_bytes.get())
    }

    /// Completes the shard and gives it its name.
    pub fn finish(self) -> Result<schemas::manifest::Shard, PublishError> {
        let sealed = self.seal()?;
        let dir = sealed.file.dir().to_owned();
        let shard = sealed.place(Hands::One)?;
        sync_dir(&dir)?;
        Ok(shard)
    }

    /// Writes the rest of the shard's bytes. Making them durable, which takes time, is left for
    /// later.
    pub(crate) fn seal(mut self) -> Result<SealedShard, PublishError> {
        if !self.block.is_empty() {
            self.write_block()?;
        }
        let header = ShardHeader {
            token_bytes: self.token_bytes,
            token_count: self.token_count,
            document_count: self.document_ends.len() as u64,
            vocab_size: self.spec.vocab_size,
            tokenizer: self.spec.tokenizer,
            series_index: self.spec.series_index,
            shard_index: self.spec.shard_index,
        };
        let footer = ShardFooter { document_ends: self.document_ends, block_crcs: self.block_crcs };
        self.file.append(&footer.encode(&header))?;
        self.file.rewrite_start(&header.encode())?;
        Ok(SealedShard { file: self.file, name: self.name, header })
    }

    fn write_block(&mut self) -> Result<(), PublishError> {
        self.block_crcs.push(crc32c::crc32c(&self.block));
        self.file.append(&self.block)?;
        self.block.clear();
        Ok(())
    }
}

/// A shard whose bytes are complete, not yet under its name.
pub(crate) struct SealedShard {
    file: AtomicFile,
    name: String,
    header: ShardHeader,
}

impl SealedShard {
    /// Hashes the shard, makes its bytes durable and gives it its name, which is durable after the
    /// next [`sync_dir`] of the folder.
    ///
    /// The shard is read back for the hash: the header comes first but is known last. From the page
    /// cache this costs little compared with encoding the ids.
    pub(crate) fn place(self, hands: Hands) -> Result<schemas::manifest::Shard, PublishError> {
        let (bytes, hash, file) = self.file.hash_and_seal(hands)?;
        assert_eq!(Some(bytes), self.header.file_bytes(), "bytes of shard {}", self.name);
        file.place()?;
        Ok(schemas::manifest::Shard {
            file: FileRecord { path: self.name, bytes, blake3: hash.to_hex().to_string() },
            token_count: self.header.token_count,
            document_count: self.header.document_count,
        })
    }
}

/// Appends ids, little-endian; the caller knows they fit.
fn append_bytes<I: TokenId>(bytes: &mut Vec<u8>, ids: &[I], token_bytes: TokenBytes) {
    let start = bytes.len();
    bytes.resize(start + ids.len() * token_bytes.get() as usize, 0);
    let room = &mut bytes[start..];
    // Compiles to plain copies where the widths agree.
    match token_bytes {
        TokenBytes::Two => {
            for (room, id) in room.as_chunks_mut::<2>().0.iter_mut().zip(ids) {
                *room = (id.widen() as u16).to_le_bytes();
            }
        }
        TokenBytes::Four => {
            for (room, id) in room.as_chunks_mut::<4>().0.iter_mut().zip(ids) {
                *room = id.widen().to_le_bytes();
            }
        }
    }
}
