//! Header and footer of a shard: what is accepted re-encodes to the same bytes, and nothing panics.
#![no_main]

use crc32c::crc32c;
use libfuzzer_sys::fuzz_target;
use schemas::shard::{HEADER_BYTES, ShardFooter, ShardHeader};

/// Footers larger than this are left to the tests: most of the input would be one.
const FOOTER_BYTES_MAX: u64 = 1 << 12;

fuzz_target!(|data: &[u8]| {
    // The input as it is, and the input as the fields of a header whose checksum and length are right: else nearly all
    // would be refused at the checksum.
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
    // Which length fits is known only to the header: an error names it.
    let file_bytes = match ShardHeader::decode(&bytes, 0) {
        Err(schemas::shard::ShardError::Length { expected_bytes, .. }) => expected_bytes,
        Err(_) => return,
        Ok(header) => panic!("a file of 0 bytes was accepted: {header:?}"),
    };
    let Ok(header) = ShardHeader::decode(&bytes, file_bytes) else {
        assert_eq!(file_bytes, u64::MAX, "only an overflow has no length");
        return;
    };
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
