//! Corpora that no text was tokenized for: what is measured is how they are opened and read.
//!
//! **Invariant:** every corpus is one that `Corpus::open` accepts and whose blocks pass their
//! checksums; only the hashes of whole shards, which opening does not read, may be left out.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::Context as _;
use pipeline::write::series::shard::{ShardSpec, ShardWriter};
use schemas::manifest::{
    FILE_NAME, FORMAT, FileRecord, Manifest, Series, SetTotals, Shard, SpecialTokens,
    TokenizerRecord, Totals, VERSION,
};
use schemas::shard::{BLOCK_BYTES, HEADER_BYTES, ShardFooter, ShardHeader, TokenBytes};

use crate::random::Random;

/// Ids are below it where no other number is given: GPT-2's, so that peers with a fixed idea of a
/// vocabulary agree.
pub const VOCAB_SIZE: u64 = 50_257;
/// In hex in the manifest.
const TOKENIZER: [u8; 32] = [0; 32];
/// Tokens of a document on the average: some 1,700 with the Pile and GPT-NeoX's tokenizer.
pub const DOCUMENT_TOKENS: u64 = 1700;

/// Sizes of a corpus whose ids are holes.
#[derive(Clone, Copy, Debug)]
pub struct SparseSpec {
    /// Shards.
    pub shard_count: u64,
    /// Tokens of each shard, 2 bytes each.
    pub shard_tokens: u64,
    /// Tokens of a document; the last one of a shard is shorter.
    pub document_tokens: u64,
    /// Shards of a series, which is what one input file becomes.
    pub series_shards: u64,
}

/// Writes a corpus of sparse files: header, footer and manifest are right, and the ids, all 0, are
/// holes. The shards' BLAKE3 are not computed (they would be of all the bytes); nothing but
/// `patchmill verify` reads them.
pub fn write_sparse(dir: &Path, spec: &SparseSpec) -> anyhow::Result<()> {
    std::fs::create_dir(dir).with_context(|| format!("create {}", dir.display()))?;
    let document_count = spec.shard_tokens.div_ceil(spec.document_tokens);
    let ends = (1..=document_count).map(|end| (end * spec.document_tokens).min(spec.shard_tokens));
    let mut header = ShardHeader {
        token_bytes: TokenBytes::Two,
        token_count: spec.shard_tokens,
        document_count,
        vocab_size: VOCAB_SIZE,
        tokenizer: TOKENIZER,
        series_index: 0,
        shard_index: 0,
    };
    let footer = ShardFooter { document_ends: ends.collect(), block_crcs: hole_crcs(&header) };
    let footer = footer.encode(&header); // the same for every shard
    let mut series: Vec<Vec<Shard>> = Vec::new();
    for index in 0..spec.shard_count {
        header.series_index = index / spec.series_shards;
        header.shard_index = index % spec.series_shards;
        if header.shard_index == 0 {
            series.push(Vec::new());
        }
        let path = format!("{:05}-{:05}.tok", header.series_index, header.shard_index);
        write_hole(&dir.join(&path), &header, &footer)
            .with_context(|| format!("write {}", dir.join(&path).display()))?;
        let bytes = header.file_bytes().context("a shard beyond 2^64 bytes")?;
        let file = FileRecord { path, bytes, blake3: "0".repeat(64) };
        let last = series.last_mut().expect("a series was begun");
        last.push(Shard { file, token_count: spec.shard_tokens, document_count });
    }
    write_manifest(dir, series, VOCAB_SIZE)?;
    Ok(())
}

/// CRC32C of each block of zeros.
fn hole_crcs(header: &ShardHeader) -> Vec<u32> {
    let payload_bytes = header.payload_bytes().expect("sizes that fit");
    let crc = |bytes: u64| crc32c::crc32c(&vec![0; bytes as usize]);
    let mut crcs = vec![crc(BLOCK_BYTES); (payload_bytes / BLOCK_BYTES) as usize];
    match payload_bytes % BLOCK_BYTES {
        0 => {}
        rest => crcs.push(crc(rest)),
    }
    crcs
}

fn write_hole(path: &Path, header: &ShardHeader, footer: &[u8]) -> io::Result<()> {
    let file = File::create_new(path)?;
    file.write_all_at(&header.encode(), 0)?;
    let footer_from = HEADER_BYTES + header.payload_bytes().expect("sizes that fit");
    file.write_all_at(footer, footer_from)
}

/// Totals of a corpus of random ids.
#[derive(Clone, Copy, Debug)]
pub struct RandomCorpus {
    /// Tokens.
    pub token_count: u64,
    /// Sum of the ids.
    pub id_sum: u64,
    /// Documents.
    pub document_count: u64,
}

/// Writes random ids below `vocab_size`, at most 2^16, twice: as a corpus into `dir/corpus`, with
/// shards of `shard_tokens` at most, and for the peers as `dir/tokens.bin` (flat, `u16`) with the
/// token after each document in `dir/ends.bin` (`u64`).
pub fn write_random(
    dir: &Path,
    token_count: u64,
    shard_tokens: u64,
    vocab_size: u64,
) -> anyhow::Result<RandomCorpus> {
    anyhow::ensure!(
        (1..=1 << 16).contains(&vocab_size),
        "ids of 2 bytes: {vocab_size} is too many"
    );
    let corpus_dir = dir.join("corpus");
    std::fs::create_dir(&corpus_dir).with_context(|| format!("create {}", corpus_dir.display()))?;
    let mut tokens = io::BufWriter::with_capacity(1 << 20, File::create(dir.join("tokens.bin"))?);
    let mut ends = io::BufWriter::new(File::create(dir.join("ends.bin"))?);
    let mut random = Random::new(1, 0);
    let mut made = RandomCorpus { token_count: 0, id_sum: 0, document_count: 0 };
    let (mut shards, mut ids) = (Vec::new(), Vec::new());
    while made.token_count < token_count {
        let name = format!("00000-{:05}.tok", shards.len());
        let spec = ShardSpec {
            vocab_size,
            tokenizer: TOKENIZER,
            series_index: 0,
            shard_index: shards.len() as u64,
        };
        let mut writer = ShardWriter::create(&corpus_dir, name, spec)?;
        let shard_end = token_count.min(made.token_count + shard_tokens);
        while made.token_count < shard_end {
            let length = 16 + random.below(2 * DOCUMENT_TOKENS as usize - 32) as u64;
            let length = length.min(shard_end - made.token_count);
            fill(&mut random, length as usize, vocab_size, &mut ids);
            made.id_sum += ids.iter().map(|&id| u64::from(id)).sum::<u64>();
            made.token_count += length;
            made.document_count += 1;
            writer.push(&ids)?;
            tokens.write_all(&ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<u8>>())?;
            ends.write_all(&made.token_count.to_le_bytes())?;
        }
        shards.push(writer.finish()?);
    }
    tokens.flush()?;
    ends.flush()?;
    write_manifest(&corpus_dir, vec![shards], vocab_size)?;
    Ok(made)
}

fn fill(random: &mut Random, length: usize, vocab_size: u64, ids: &mut Vec<u16>) {
    ids.clear();
    ids.extend((0..length).map(|_| random.below(vocab_size as usize) as u16));
}

/// Writes the manifest of these shards, a list of them for each series.
pub fn write_manifest(dir: &Path, series: Vec<Vec<Shard>>, vocab_size: u64) -> anyhow::Result<()> {
    let (mut totals, mut of_series) = (Totals::default(), Vec::new());
    for (index, shards) in series.into_iter().enumerate() {
        let series = series_of(format!("made-{index:05}.jsonl"), shards);
        totals = totals.checked_add(series.totals).context("more than 2^64 tokens")?;
        of_series.push(series);
    }
    let manifest = Manifest {
        format: FORMAT.to_owned(),
        version: VERSION,
        fingerprint: String::new(),
        tokenizer: TokenizerRecord {
            fingerprint: blake3::Hash::from_bytes(TOKENIZER).to_hex().to_string(),
            vocab_size,
            bos: None,
            eos: None,
            special_tokens: SpecialTokens::Text,
            files: Vec::new(),
        },
        token_bytes: 2,
        totals,
        sets: sets_of(&totals),
        series: of_series,
        skipped: None,
        selection: None,
        imported: None,
    };
    let path = dir.join(FILE_NAME);
    std::fs::write(&path, manifest.seal().1).with_context(|| format!("write {}", path.display()))
}

fn series_of(input: String, shards: Vec<Shard>) -> Series {
    let documents = shards.iter().map(|shard| shard.document_count).sum();
    let totals = Totals {
        documents_read: documents,
        documents_written: documents,
        tokens: shards.iter().map(|shard| shard.token_count).sum(),
        ..Totals::default()
    };
    let sets = sets_of(&totals);
    Series { input, input_bytes: 0, totals, sets, index: None, shards, by_set: None }
}

fn sets_of(totals: &Totals) -> Vec<SetTotals> {
    let Totals { documents_written: documents, text_bytes, tokens, .. } = *totals;
    vec![SetTotals { set_name: None, documents, text_bytes, tokens }]
}

#[cfg(test)]
mod tests {
    use pipeline::corpus::Corpus;
    use schemas::run::ReadBackend;

    use super::*;

    #[test]
    fn a_sparse_corpus_opens_and_reads_as_zeros() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("corpus");
        let spec = SparseSpec {
            shard_count: 5,
            shard_tokens: 20_001,
            document_tokens: 1700,
            series_shards: 2,
        };
        write_sparse(&dir, &spec).unwrap();
        let corpus = Corpus::open(&dir, ReadBackend::Pread).unwrap();
        assert_eq!(corpus.token_count(), 100_005);
        let mut ids = vec![1u32; 100_005];
        corpus.read(0, &mut ids).unwrap();
        assert!(ids.iter().all(|&id| id == 0));
    }

    #[test]
    fn random_ids_are_the_same_in_both_forms() {
        let dir = tempfile::tempdir().unwrap();
        let made = write_random(dir.path(), 50_000, 20_000, VOCAB_SIZE).unwrap();
        let corpus = Corpus::open(&dir.path().join("corpus"), ReadBackend::Mmap).unwrap();
        assert_eq!((corpus.token_count(), corpus.shard_count()), (50_000, 3));
        assert_eq!(corpus.document_count(), made.document_count);
        let mut ids = vec![0u32; 50_000];
        corpus.read(0, &mut ids).unwrap();
        let flat = std::fs::read(dir.path().join("tokens.bin")).unwrap();
        let flat: Vec<u32> =
            flat.as_chunks::<2>().0.iter().map(|&id| u16::from_le_bytes(id).into()).collect();
        assert_eq!(ids, flat);
        assert_eq!(ids.iter().map(|&id| u64::from(id)).sum::<u64>(), made.id_sum);
    }
}
