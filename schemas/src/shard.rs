//! The shard: token ids of whole documents, in a form any tool can memory-map.
//!
//! Token ids follow the header page, aligned to a page and little-endian, so any tool can map a
//! shard with an offset. A CRC32C, which processors compute, covers each 16 KiB block of ids:
//! damage is found at first touch, without reading the whole file.
//!
//! **Invariant:** bytes accepted by [`ShardHeader::decode`] and [`ShardFooter::decode`] re-encode
//! to the same bytes.

use std::ops::Range;

/// First bytes of every shard.
pub const MAGIC: [u8; 8] = *b"PATCHTOK";
/// The version this build writes and reads.
pub const VERSION: u32 = 1;
/// A page; ids are aligned to it.
pub const PAGE_BYTES: u64 = 4096;
/// Bytes before the first id.
pub const HEADER_BYTES: u64 = PAGE_BYTES;
/// Bytes of ids that share a checksum.
pub const BLOCK_BYTES: u64 = 16 * 1024;

const _: () = assert!(HEADER_BYTES == PAGE_BYTES && BLOCK_BYTES.is_multiple_of(PAGE_BYTES));

/// Bytes of one id on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenBytes {
    /// `u16`, for vocabularies up to 65,536.
    Two,
    /// `u32`.
    Four,
}

impl TokenBytes {
    /// The narrowest width that holds every id below `vocab_size`.
    pub fn for_vocabulary(vocab_size: u64) -> TokenBytes {
        if vocab_size <= 1 << 16 { TokenBytes::Two } else { TokenBytes::Four }
    }

    /// 2 or 4.
    pub fn get(self) -> u32 {
        match self {
            TokenBytes::Two => 2,
            TokenBytes::Four => 4,
        }
    }
}

/// First [`HEADER_BYTES`] of a shard, little-endian; bytes not listed are zero.
///
/// | bytes      | field                            | encoding                               |
/// |------------|----------------------------------|----------------------------------------|
/// | 0..8       | magic                            | [`MAGIC`]                              |
/// | 8..12      | version                          | `u32`                                  |
/// | 12..16     | `token_bytes`                    | `u32`, 2 or 4                          |
/// | 16..24     | `token_count`                    | `u64`, never 0                         |
/// | 24..32     | `document_count`                 | `u64`, never 0                         |
/// | 32..40     | `vocab_size`                     | `u64`, every id is below it            |
/// | 40..72     | `tokenizer`                      | BLAKE3 of tokenizer.json               |
/// | 72..80     | `series_index`                   | `u64`                                  |
/// | 80..88     | `shard_index`                    | `u64`, within the series               |
/// | 4092..4096 | CRC32C of the header before it   | `u32`                                  |
///
/// Then come the ids, then the [`ShardFooter`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardHeader {
    /// Width of an id.
    pub token_bytes: TokenBytes,
    /// Ids in the shard.
    pub token_count: u64,
    /// Documents in the shard.
    pub document_count: u64,
    /// Every id is below it.
    pub vocab_size: u64,
    /// BLAKE3 of the tokenizer.json that made the ids.
    pub tokenizer: [u8; 32],
    /// Position of the series in the corpus.
    pub series_index: u64,
    /// Position of the shard in the series.
    pub shard_index: u64,
}

/// Why the bytes of a shard were refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ShardError {
    /// Too short for a header.
    #[error("shard is {found_bytes} bytes; the header alone is {HEADER_BYTES}")]
    Short {
        /// Length of the file.
        found_bytes: u64,
    },
    /// Not a shard at all.
    #[error("first bytes are {found:02x?}; a shard begins with {MAGIC:02x?} (\"PATCHTOK\")")]
    Magic {
        /// The first bytes found.
        found: [u8; 8],
    },
    /// Of another version.
    #[error("shard version {found} is not supported; this build reads version {VERSION}")]
    Version {
        /// The version found.
        found: u32,
    },
    /// The header is damaged.
    #[error("header has CRC32C {found:#010x}; its last bytes say {expected:#010x}")]
    HeaderCrc {
        /// Of the actual bytes.
        found: u32,
        /// As written.
        expected: u32,
    },
    /// A field with a value no writer writes.
    #[error("header field {field} is {found}; expected {expected}")]
    Field {
        /// Its name in the table.
        field: &'static str,
        /// Its value.
        found: u64,
        /// The accepted values.
        expected: &'static str,
    },
    /// The file is longer or shorter than the header promises.
    #[error(
        "shard is {found_bytes} bytes; header promises {token_count} tokens of {token_bytes} bytes \
         in {document_count} documents, {expected_bytes} bytes in all"
    )]
    Length {
        /// Length of the file.
        found_bytes: u64,
        /// From the header.
        token_count: u64,
        /// From the header.
        token_bytes: u32,
        /// From the header.
        document_count: u64,
        /// Their sum.
        expected_bytes: u64,
    },
    /// A byte other than 0 between the ids and the footer.
    #[error("byte {index} of the padding after the ids is {found}; expected 0")]
    Padding {
        /// Counted from the end of the ids.
        index: usize,
        /// The byte found.
        found: u8,
    },
    /// The footer is damaged.
    #[error("footer has CRC32C {found:#010x}; its last bytes say {expected:#010x}")]
    FooterCrc {
        /// Of the actual bytes.
        found: u32,
        /// As written.
        expected: u32,
    },
    /// Document ends that do not rise to the token count.
    #[error("document {document} ends at token {found}; expected {expected}")]
    DocumentEnd {
        /// Position within the shard.
        document: u64,
        /// As written.
        found: u64,
        /// The accepted values.
        expected: String,
    },
    /// A block of ids is damaged.
    #[error(
        "block {block_index} (bytes {first_byte}..{end_byte}) has CRC32C {found:#010x}; \
         footer says {expected:#010x}"
    )]
    Block {
        /// Position within the ids.
        block_index: u64,
        /// Offset in the file.
        first_byte: u64,
        /// Offset in the file, exclusive.
        end_byte: u64,
        /// Of the actual bytes.
        found: u32,
        /// As written.
        expected: u32,
    },
    /// An id outside the vocabulary.
    #[error("token {token_index} is id {found}; the vocabulary has {vocab_size} entries")]
    Id {
        /// Position within the shard.
        token_index: u64,
        /// The id.
        found: u32,
        /// From the header.
        vocab_size: u64,
    },
}

impl ShardHeader {
    /// The header's bytes.
    ///
    /// # Panics
    /// If a count is 0, which no writer may produce.
    pub fn encode(&self) -> Vec<u8> {
        assert!(self.token_count > 0 && self.document_count > 0, "an empty shard is never written");
        let mut bytes = Vec::with_capacity(HEADER_BYTES as usize);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&self.token_bytes.get().to_le_bytes());
        for field in [self.token_count, self.document_count, self.vocab_size] {
            bytes.extend_from_slice(&field.to_le_bytes());
        }
        bytes.extend_from_slice(&self.tokenizer);
        bytes.extend_from_slice(&self.series_index.to_le_bytes());
        bytes.extend_from_slice(&self.shard_index.to_le_bytes());
        bytes.resize(HEADER_BYTES as usize - 4, 0);
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads the header from the first bytes of a file of `file_bytes`, in order of trust.
    pub fn decode(bytes: &[u8], file_bytes: u64) -> Result<ShardHeader, ShardError> {
        let Some(head) = bytes.get(..HEADER_BYTES as usize) else {
            return Err(ShardError::Short { found_bytes: file_bytes });
        };
        let magic: [u8; 8] = array(head, 0);
        if magic != MAGIC {
            return Err(ShardError::Magic { found: magic });
        }
        let version = u32_at(head, 8);
        if version != VERSION {
            return Err(ShardError::Version { found: version });
        }
        let body = HEADER_BYTES as usize - 4;
        let (found, expected) = (crc32c::crc32c(&head[..body]), u32_at(head, body));
        if found != expected {
            return Err(ShardError::HeaderCrc { found, expected });
        }
        let header = ShardHeader::decode_fields(head)?;
        match header.file_bytes() {
            Some(expected_bytes) if expected_bytes == file_bytes => Ok(header),
            expected => Err(ShardError::Length {
                found_bytes: file_bytes,
                token_count: header.token_count,
                token_bytes: header.token_bytes.get(),
                document_count: header.document_count,
                expected_bytes: expected.unwrap_or(u64::MAX),
            }),
        }
    }

    fn decode_fields(head: &[u8]) -> Result<ShardHeader, ShardError> {
        let field = |field, found, expected| ShardError::Field { field, found, expected };
        let token_bytes = match u32_at(head, 12) {
            2 => TokenBytes::Two,
            4 => TokenBytes::Four,
            found => return Err(field("token_bytes", found.into(), "2 or 4")),
        };
        let header = ShardHeader {
            token_bytes,
            token_count: u64_at(head, 16),
            document_count: u64_at(head, 24),
            vocab_size: u64_at(head, 32),
            tokenizer: array(head, 40),
            series_index: u64_at(head, 72),
            shard_index: u64_at(head, 80),
        };
        if header.token_count == 0 {
            return Err(field("token_count", 0, "at least 1"));
        }
        if header.document_count == 0 {
            return Err(field("document_count", 0, "at least 1"));
        }
        if header.vocab_size == 0 || header.vocab_size > 1 << (8 * token_bytes.get()) {
            return Err(field("vocab_size", header.vocab_size, "1 to what token_bytes can hold"));
        }
        if let Some(at) = head[88..HEADER_BYTES as usize - 4].iter().position(|&byte| byte != 0) {
            return Err(field("reserved byte", 88 + at as u64, "0 in bytes 88..4092"));
        }
        Ok(header)
    }

    /// Bytes of ids, without the padding after them; `None` if that overflows.
    pub fn payload_bytes(&self) -> Option<u64> {
        self.token_count.checked_mul(self.token_bytes.get().into())
    }

    /// Where the footer begins; `None` if that overflows.
    pub fn footer_offset(&self) -> Option<u64> {
        self.payload_bytes()?.checked_next_multiple_of(8)?.checked_add(HEADER_BYTES)
    }

    /// Checksummed blocks of ids.
    pub fn block_count(&self) -> Option<u64> {
        Some(self.payload_bytes()?.div_ceil(BLOCK_BYTES))
    }

    /// Length of the whole file; `None` if that overflows.
    pub fn file_bytes(&self) -> Option<u64> {
        let ends = self.document_count.checked_mul(8)?;
        let crcs = self.block_count()?.checked_mul(4)?;
        self.footer_offset()?.checked_add(ends)?.checked_add(crcs)?.checked_add(4)
    }
}

/// Everything after the ids, little-endian. Before it, zeros pad the ids to a multiple of 8 bytes.
///
/// | part            | encoding                                                                |
/// |-----------------|-------------------------------------------------------------------------|
/// | `document_ends` | `u64` × `document_count`: end of each document, rising to `token_count` |
/// | `block_crcs`    | `u32` × `block_count`: CRC32C per [`BLOCK_BYTES`] of ids, last shorter  |
/// | CRC32C          | `u32`: of the padding and the two parts above                           |
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardFooter {
    /// The token after each document.
    pub document_ends: Vec<u64>,
    /// CRC32C of each block of ids.
    pub block_crcs: Vec<u32>,
}

impl ShardFooter {
    /// Where in the file the checksums of the blocks lie, 4 bytes each and little-endian, for
    /// readers that need nothing else of the footer; `None` if the header's sizes do not fit `u64`.
    pub fn block_crcs_range(header: &ShardHeader) -> Option<Range<u64>> {
        let end = header.file_bytes()?.checked_sub(4)?; // the footer's own checksum is the last
        Some(end.checked_sub(4 * header.block_count()?)?..end)
    }

    /// The bytes after the ids of a shard with this `header`, padding included.
    ///
    /// # Panics
    /// If the parts do not fit the header, which is the writer's fault.
    pub fn encode(&self, header: &ShardHeader) -> Vec<u8> {
        assert_eq!(self.document_ends.len() as u64, header.document_count, "document ends");
        assert_eq!(Some(self.block_crcs.len() as u64), header.block_count(), "block checksums");
        let mut bytes = vec![0; padding_bytes(header)];
        for end in &self.document_ends {
            bytes.extend_from_slice(&end.to_le_bytes());
        }
        for crc in &self.block_crcs {
            bytes.extend_from_slice(&crc.to_le_bytes());
        }
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads the footer from the bytes after the ids, padding included.
    ///
    /// # Panics
    /// If the length of `bytes` is not the one `header` promises; [`ShardHeader::decode`] checked
    /// the file's length.
    pub fn decode(bytes: &[u8], header: &ShardHeader) -> Result<ShardFooter, ShardError> {
        let block_count = header.block_count().expect("the header's sizes were checked");
        let ends_at = padding_bytes(header);
        let crcs_at = ends_at + 8 * header.document_count as usize;
        let crc_at = crcs_at + 4 * block_count as usize;
        assert_eq!(bytes.len(), crc_at + 4, "bytes of the footer");
        let (found, expected) = (crc32c::crc32c(&bytes[..crc_at]), u32_at(bytes, crc_at));
        if found != expected {
            return Err(ShardError::FooterCrc { found, expected });
        }
        if let Some(index) = bytes[..ends_at].iter().position(|&byte| byte != 0) {
            return Err(ShardError::Padding { index, found: bytes[index] });
        }
        let document_ends: Vec<u64> =
            bytes[ends_at..crcs_at].chunks_exact(8).map(|end| u64_at(end, 0)).collect();
        let block_crcs = bytes[crcs_at..crc_at].chunks_exact(4).map(|crc| u32_at(crc, 0)).collect();
        check_ends(&document_ends, header.token_count)?;
        Ok(ShardFooter { document_ends, block_crcs })
    }
}

/// Ends rise strictly (a document has at least one token) and the last one is the token count.
fn check_ends(ends: &[u64], token_count: u64) -> Result<(), ShardError> {
    let mut before = 0;
    for (document, &found) in ends.iter().enumerate() {
        let last = document + 1 == ends.len();
        let fits = before < found && if last { found == token_count } else { found < token_count };
        if !fits {
            let expected = if last {
                format!("{token_count}, the token count")
            } else {
                format!("{} to {}", before + 1, token_count - 1)
            };
            return Err(ShardError::DocumentEnd { document: document as u64, found, expected });
        }
        before = found;
    }
    Ok(())
}

fn padding_bytes(header: &ShardHeader) -> usize {
    let payload_bytes = header.payload_bytes().expect("the header's sizes were checked");
    (payload_bytes.next_multiple_of(8) - payload_bytes) as usize
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes[at..at + N].try_into().expect("the slice has N bytes")
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(array(bytes, at))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array(bytes, at))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header() -> ShardHeader {
        ShardHeader {
            token_bytes: TokenBytes::Two,
            token_count: 10_001,
            document_count: 3,
            vocab_size: 4096,
            tokenizer: [7; 32],
            series_index: 4,
            shard_index: 5,
        }
    }

    fn footer() -> ShardFooter {
        ShardFooter { document_ends: vec![1, 9_000, 10_001], block_crcs: vec![1, 2] }
    }

    /// The first bytes of a shard, by hand: version 1 is read like this for ever.
    #[test]
    fn header_bytes_are_the_table() {
        let bytes = header().encode();
        assert_eq!(bytes.len(), 4096);
        assert_eq!(bytes[..16], *b"PATCHTOK\x01\0\0\0\x02\0\0\0");
        assert_eq!(bytes[16..40], *b"\x11\x27\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\0\x10\0\0\0\0\0\0");
        assert_eq!(bytes[40..72], [7; 32]);
        assert_eq!(bytes[72..88], *b"\x04\0\0\0\0\0\0\0\x05\0\0\0\0\0\0\0");
        assert!(bytes[88..4092].iter().all(|&byte| byte == 0));
        // 20,002 bytes of ids, padded to 20,008; 24 bytes of ends, 8 of checksums, 4 of the
        // footer's own.
        assert_eq!(header().file_bytes(), Some(4096 + 20_008 + 24 + 8 + 4));
    }

    proptest! {
        #[test]
        fn headers_and_footers_round_trip(
            four in any::<bool>(),
            ends in prop::collection::btree_set(1u64..1 << 20, 1..40),
            vocab_size in 1u64..=1 << 16,
            tokenizer in any::<[u8; 32]>(),
            series_index in any::<u64>(),
            shard_index in any::<u64>(),
        ) {
            let document_ends: Vec<u64> = ends.into_iter().collect();
            let header = ShardHeader {
                token_bytes: if four { TokenBytes::Four } else { TokenBytes::Two },
                token_count: *document_ends.last().unwrap(),
                document_count: document_ends.len() as u64,
                vocab_size, tokenizer, series_index, shard_index,
            };
            let file_bytes = header.file_bytes().unwrap();
            prop_assert_eq!(ShardHeader::decode(&header.encode(), file_bytes), Ok(header));
            let block_crcs = (0..header.block_count().unwrap() as u32).collect();
            let footer = ShardFooter { document_ends, block_crcs };
            let bytes = footer.encode(&header);
            let rest = file_bytes - HEADER_BYTES - header.payload_bytes().unwrap();
            prop_assert_eq!(bytes.len() as u64, rest);
            prop_assert_eq!(ShardFooter::decode(&bytes, &header), Ok(footer));
        }
    }

    /// With a correct checksum as well: accepted bytes re-encode to the same bytes.
    #[test]
    fn padding_that_is_not_zero_is_refused() {
        let mut bytes = footer().encode(&header());
        assert_eq!(padding_bytes(&header()), 6);
        bytes[3] = 9;
        let crc_at = bytes.len() - 4;
        let crc = crc32c::crc32c(&bytes[..crc_at]).to_le_bytes();
        bytes[crc_at..].copy_from_slice(&crc);
        let err = ShardFooter::decode(&bytes, &header()).unwrap_err();
        assert_eq!(err.to_string(), "byte 3 of the padding after the ids is 9; expected 0");
    }

    #[test]
    fn every_flipped_bit_of_header_and_footer_is_found() {
        let file_bytes = header().file_bytes().unwrap();
        let whole = header().encode();
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            ShardHeader::decode(&bytes, file_bytes).unwrap_err();
        }
        let whole = footer().encode(&header());
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            ShardFooter::decode(&bytes, &header()).unwrap_err();
        }
    }

    /// A header with this change and a correct checksum gives exactly this message.
    fn check_header(at: usize, bytes: &[u8], expected: &str) {
        let mut head = header().encode();
        head[at..at + bytes.len()].copy_from_slice(bytes);
        let crc = crc32c::crc32c(&head[..4092]);
        head[4092..].copy_from_slice(&crc.to_le_bytes());
        let found = ShardHeader::decode(&head, header().file_bytes().unwrap()).unwrap_err();
        assert_eq!(found.to_string(), expected);
    }

    #[test]
    fn each_bad_field_is_named() {
        check_header(
            0,
            b"PARQUET1",
            "first bytes are [50, 41, 52, 51, 55, 45, 54, 31]; a shard begins with \
             [50, 41, 54, 43, 48, 54, 4f, 4b] (\"PATCHTOK\")",
        );
        check_header(8, &[2], "shard version 2 is not supported; this build reads version 1");
        check_header(12, &[3], "header field token_bytes is 3; expected 2 or 4");
        check_header(16, &[0; 8], "header field token_count is 0; expected at least 1");
        check_header(24, &[0; 8], "header field document_count is 0; expected at least 1");
        check_header(
            32,
            &65_537u64.to_le_bytes(),
            "header field vocab_size is 65537; expected 1 to what token_bytes can hold",
        );
        check_header(90, &[1], "header field reserved byte is 90; expected 0 in bytes 88..4092");
        check_header(
            16,
            &10_000u64.to_le_bytes(),
            "shard is 24140 bytes; header promises 10000 tokens of 2 bytes in 3 documents, \
             24132 bytes in all",
        );
        check_header(
            16,
            &[0xff; 8],
            "shard is 24140 bytes; header promises 18446744073709551615 tokens of 2 bytes \
             in 3 documents, \
             18446744073709551615 bytes in all",
        );
        let short = ShardHeader::decode(&[0; 100], 100).unwrap_err();
        assert_eq!(short.to_string(), "shard is 100 bytes; the header alone is 4096");
    }

    #[test]
    fn document_ends_must_rise_to_the_token_count() {
        for (ends, expected) in [
            ([1, 9_000, 10_000], "document 2 ends at token 10000; expected 10001, the token count"),
            ([0, 9_000, 10_001], "document 0 ends at token 0; expected 1 to 10000"),
            ([9_000, 9_000, 10_001], "document 1 ends at token 9000; expected 9001 to 10000"),
        ] {
            let bytes = ShardFooter { document_ends: ends.to_vec(), ..footer() }.encode(&header());
            let found = ShardFooter::decode(&bytes, &header()).unwrap_err();
            assert_eq!(found.to_string(), expected);
        }
    }
}
