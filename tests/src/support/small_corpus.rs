//! Small corpora, written by the formats' own encoders: for the tests here, and by path for one of
//! `pipeline`.

use std::path::Path;

use schemas::manifest::{
    FILE_NAME, FORMAT, FileRecord, Manifest, Series, SetTotals, Shard, SpecialTokens,
    TokenizerRecord, Totals, VERSION,
};
use schemas::shard::{BLOCK_BYTES, ShardFooter, ShardHeader, TokenBytes};

/// Lengths of the documents of each shard of each series.
pub(crate) type Lengths<'a> = &'a [&'a [&'a [u64]]];

/// Ids that fill a vocabulary without any pattern a block or a shard could share.
pub(crate) fn id_at(token: u64, vocab_size: u64) -> u32 {
    let mixed = (token + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(31);
    u32::try_from((mixed ^ mixed >> 29) % vocab_size).unwrap()
}

/// Writes a corpus into `dir` and returns its ids.
pub(crate) fn write_corpus(dir: &Path, vocab_size: u64, lengths: Lengths) -> Vec<u32> {
    let token_count: u64 = lengths.iter().flat_map(|s| s.iter()).flat_map(|s| s.iter()).sum();
    let ids: Vec<u32> = (0..token_count).map(|token| id_at(token, vocab_size)).collect();
    write_corpus_of(dir, vocab_size, lengths, &ids);
    ids
}

/// Writes a corpus of the given ids.
pub(crate) fn write_corpus_of(dir: &Path, vocab_size: u64, lengths: Lengths, ids: &[u32]) {
    let tokenizer = *blake3::hash(b"a tokenizer").as_bytes();
    let token_bytes = TokenBytes::for_vocabulary(vocab_size);
    let mut rest = ids;
    let mut all_series = Vec::new();
    for (series_index, shards) in (0u64..).zip(lengths) {
        let mut records = Vec::new();
        for (shard_index, documents) in (0u64..).zip(*shards) {
            let token_count = documents.iter().sum::<u64>();
            let (part, after) = rest.split_at(usize::try_from(token_count).unwrap());
            rest = after;
            let header = ShardHeader {
                token_bytes,
                token_count,
                document_count: documents.len() as u64,
                vocab_size,
                tokenizer,
                series_index,
                shard_index,
            };
            records.push(write_shard(dir, &header, documents, part));
        }
        all_series.push(series(series_index, records));
    }
    let totals = all_series
        .iter()
        .fold(Totals::default(), |sum, series| sum.checked_add(series.totals).unwrap());
    let manifest = Manifest {
        format: FORMAT.to_owned(),
        version: VERSION,
        fingerprint: String::new(),
        tokenizer: TokenizerRecord {
            fingerprint: blake3::Hash::from_bytes(tokenizer).to_hex().to_string(),
            vocab_size,
            bos: None,
            eos: None,
            special_tokens: SpecialTokens::Text,
            files: Vec::new(),
        },
        token_bytes: token_bytes.get(),
        totals,
        sets: sets(totals),
        series: all_series,
        skipped: None,
        selection: None,
        imported: None,
    };
    std::fs::write(dir.join(FILE_NAME), manifest.seal().1).unwrap();
}

fn sets(totals: Totals) -> Vec<SetTotals> {
    let Totals { documents_written: documents, text_bytes, tokens, .. } = totals;
    vec![SetTotals { set_name: None, documents, text_bytes, tokens }]
}

fn series(series_index: u64, shards: Vec<Shard>) -> Series {
    let documents = shards.iter().map(|shard| shard.document_count).sum();
    let tokens = shards.iter().map(|shard| shard.token_count).sum();
    let totals = Totals {
        documents_read: documents,
        documents_written: documents,
        documents_skipped: 0,
        text_bytes: 0,
        tokens,
        ..Totals::default()
    };
    let input = format!("input-{series_index}.jsonl");
    Series { input, input_bytes: 0, totals, sets: sets(totals), index: None, shards, by_set: None }
}

fn write_shard(dir: &Path, header: &ShardHeader, documents: &[u64], ids: &[u32]) -> Shard {
    let payload: Vec<u8> = match header.token_bytes {
        TokenBytes::Two => {
            ids.iter().flat_map(|&id| u16::try_from(id).unwrap().to_le_bytes()).collect()
        }
        TokenBytes::Four => ids.iter().flat_map(|id| id.to_le_bytes()).collect(),
    };
    let mut end = 0;
    let document_ends = documents.iter().map(|length| {
        end += length;
        end
    });
    let document_ends = document_ends.collect();
    let blocks = payload.chunks(usize::try_from(BLOCK_BYTES).unwrap());
    let footer = ShardFooter { document_ends, block_crcs: blocks.map(crc32c::crc32c).collect() };
    let bytes = [header.encode(), payload, footer.encode(header)].concat();
    let path = format!("{:02}-{:05}.tok", header.series_index, header.shard_index);
    std::fs::write(dir.join(&path), &bytes).unwrap();
    let blake3 = blake3::hash(&bytes).to_hex().to_string();
    Shard {
        file: FileRecord { path, bytes: bytes.len() as u64, blake3 },
        token_count: header.token_count,
        document_count: header.document_count,
    }
}

/// Changes one byte of a file.
pub(crate) fn flip_byte(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
}
