//! Header and footer of a shard: what is accepted re-encodes to the same bytes, and nothing panics.
#![no_main]

use crc32c::crc32c;
use libfuzzer_sys::fuzz_target;
use schemas::shard::{HEADER_BYTES, ShardFooter, ShardHeader};

/// Footers larger than this are left to the tests: most of the input would be one.
const FOOTER_BYTES_MAX: u64 = 1 << 12;

/// Length of the file that a header promises, computed another way than the reader does; `None`
/// beyond 2^64.
fn promised_bytes(header: &[u8]) -> Option<u64> {
    let field = |at: usize, bytes: usize| {
        header[at..at + bytes]
            .iter()
            .rev()
            .fold(0u128, |value, &byte| value << 8 | u128::from(byte))
    };
    let payload_bytes = field(12, 4).checked_mul(field(16, 8))?;
    let (padded_bytes, block_count) =
        (payload_bytes.div_ceil(8) * 8, payload_bytes.div_ceil(16 << 10));
    let footer_bytes = 8 * field(24, 8) + 4 * block_count + 4;
    u64::try_from(u128::from(HEADER_BYTES) + padded_bytes + footer_bytes).ok()
}

fuzz_target!(|data: &[u8]| {
    // The input as it is, and the input as the fields of a header whose checksum and length are
    // right: else nearly all would be refused at the checksum.
    let _ = ShardHeader::decode(data, data.len() as u64);
    let fields = HEADER_BYTES as usize - 4;
    let used = data.len().min(96);
    let (head, rest) = data.split_at(used);
    let mut bytes = head.to_vec();
    bytes.resize(fields, 0);
    bytes[..8].copy_from_slice(&schemas::shard::MAGIC);
    bytes[8..12].copy_from_slice(&schemas::shard::VERSION.to_le_bytes());
    let crc = crc32c(&bytes);
    bytes.extend_from_slice(&crc.to_le_bytes());
    let Some(file_bytes) = promised_bytes(&bytes) else {
        assert!(ShardHeader::decode(&bytes, u64::MAX).is_err(), "no file is so long");
        return;
    };
    let Ok(header) = ShardHeader::decode(&bytes, file_bytes) else { return };
    assert_eq!(header.encode(), bytes);
    assert_eq!(header.file_bytes(), Some(file_bytes));
    let footer_bytes = file_bytes - header.footer_offset().expect("the length is known");
    let Some(footer_bytes) = Some(footer_bytes).filter(|&bytes| bytes <= FOOTER_BYTES_MAX) else {
        return;
    };
    let padding =
        header.footer_offset().unwrap_or(0) - HEADER_BYTES - header.payload_bytes().unwrap_or(0);
    let mut footer = rest.to_vec();
    footer.resize(padding as usize + footer_bytes as usize, 0);
    let end = footer.len() - 4;
    let crc = crc32c(&footer[..end]);
    footer[end..].copy_from_slice(&crc.to_le_bytes());
    if let Ok(decoded) = ShardFooter::decode(&footer, &header) {
        assert_eq!(decoded.encode(&header), footer);
        assert_eq!(decoded.document_ends.last(), Some(&header.token_count));
    }
});
