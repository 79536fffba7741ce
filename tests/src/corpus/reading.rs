//! Reading a corpus: both back ends give the same ids, and any change to the written bytes gives an
//! error.
//!
//! Files are cut, zeroed, overwritten, replaced and removed, before and while they are read.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use pipeline::corpus::Corpus;
use proptest::prelude::*;
use schemas::run::ReadBackend;

use crate::support::small_corpus::{Lengths, flip_byte, write_corpus, write_corpus_of};

const BACKENDS: [ReadBackend; 2] = [ReadBackend::Mmap, ReadBackend::Pread];

/// Three shards in two series, with sizes around and above the 8192 two-byte ids of a block.
const LENGTHS: Lengths = &[&[&[1, 9000, 3], &[8192]], &[&[5, 20_000, 1, 1]]];

fn read(corpus: &Corpus, first_token: u64, token_count: usize) -> Result<Vec<u32>, String> {
    let mut ids = vec![0; token_count];
    corpus.read(first_token, &mut ids).map_err(|err| err.to_string()).map(|()| ids)
}

fn check_read_fails(corpus: &Corpus, first_token: u64, expected: &[&str]) {
    let found = read(corpus, first_token, 1).unwrap_err();
    for part in expected {
        assert!(found.contains(part), "found {found:?}\nexpected {part:?}");
    }
}

fn check_open_fails(dir: &Path, expected: &[&str]) {
    for backend in BACKENDS {
        let found = Corpus::open(dir, backend).unwrap_err().to_string();
        for part in expected {
            assert!(found.contains(part), "found {found:?}\nexpected {part:?}");
        }
    }
}

#[test]
fn any_range_reads_alike_by_either_back_end_and_either_width() {
    for vocab_size in [4096, 65_536, 100_000] {
        let dir = tempfile::tempdir().unwrap();
        let ids = write_corpus(dir.path(), vocab_size, LENGTHS);
        let corpora = BACKENDS.map(|backend| Corpus::open(dir.path(), backend).unwrap());
        for corpus in &corpora {
            assert_eq!(corpus.token_count(), ids.len() as u64);
            assert_eq!((corpus.document_count(), corpus.vocab_size()), (8, vocab_size));
            assert_eq!(corpus.shard_count(), 3);
        }
        proptest!(ProptestConfig::with_cases(100), |(
            first in 0..ids.len(),
            count in 0usize..20_000,
            next in 0..40_000u64
        )| {
            let range = first..ids.len().min(first + count);
            // It may lie past the end.
            let next = next..next + count as u64;
            for corpus in &corpora {
                corpus.will_need(first as u64, count as u64);
                let mut found = vec![0i64; range.len()];
                corpus.reader().read_before(next.clone(), first as u64, &mut found).unwrap();
                let expected = ids[range.clone()].iter().map(|&id| i64::from(id));
                prop_assert!(found.iter().copied().eq(expected));
                let found = read(corpus, first as u64, range.len()).unwrap();
                prop_assert_eq!(found, &ids[range.clone()]);
            }
        });
    }
}

#[test]
fn tokens_past_the_end_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let ids = write_corpus(dir.path(), 4096, LENGTHS);
    let corpus = Corpus::open(dir.path(), ReadBackend::Mmap).unwrap();
    assert!(read(&corpus, ids.len() as u64, 0).unwrap().is_empty());
    check_read_fails(&corpus, ids.len() as u64, &["tokens 37203..37204", "the corpus has 37203"]);
    check_read_fails(&corpus, u64::MAX, &["the corpus has 37203"]);
}

#[test]
fn documents_are_found_by_number_and_by_token() {
    let dir = tempfile::tempdir().unwrap();
    write_corpus(dir.path(), 4096, LENGTHS);
    let corpus = Corpus::open(dir.path(), ReadBackend::Pread).unwrap();
    let mut first = 0;
    let lengths = LENGTHS.iter().flat_map(|series| series.iter()).flat_map(|shard| shard.iter());
    for (document, length) in (0u64..).zip(lengths) {
        assert_eq!(corpus.document_tokens(document).unwrap(), first..first + length);
        assert_eq!(corpus.document_at(first).unwrap(), document);
        assert_eq!(corpus.document_at(first + length - 1).unwrap(), document);
        first += length;
    }
    let err = corpus.document_tokens(8).unwrap_err();
    assert_eq!(err.to_string(), "document 8 is wanted; the corpus has 8, numbered from 0");
    assert!(corpus.document_at(first).is_err());
}

#[test]
fn a_damaged_block_is_an_error_when_it_is_touched_and_no_other_is() {
    let dir = tempfile::tempdir().unwrap();
    write_corpus(dir.path(), 4096, LENGTHS);
    // The second block.
    flip_byte(&dir.path().join("01-00000.tok"), 4096 + 16_384 + 7);
    for backend in BACKENDS {
        let corpus = Corpus::open(dir.path(), backend).unwrap();
        let first = corpus.shard_tokens(2).start;
        read(&corpus, 0, (first + 8192) as usize).unwrap();
        for _ in 0..2 {
            let place = ["01-00000.tok", "block 1 (bytes 20480..36864)", "footer says"];
            check_read_fails(&corpus, first + 8192, &place);
        }
        read(&corpus, first + 16_384, 100).unwrap();
    }
}

#[test]
fn a_damaged_footer_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    write_corpus(dir.path(), 4096, LENGTHS);
    let path = dir.path().join("00-00000.tok");
    flip_byte(&path, std::fs::metadata(&path).unwrap().len() as usize - 9);
    for backend in BACKENDS {
        let corpus = Corpus::open(dir.path(), backend).unwrap();
        check_read_fails(&corpus, 0, &["00-00000.tok", "footer has CRC32C"]);
        assert!(corpus.document_at(0).is_err());
    }
}

#[test]
fn an_id_beyond_the_vocabulary_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let mut ids = vec![1; 100];
    ids[70] = 4096;
    write_corpus_of(dir.path(), 4096, &[&[&[30], &[70]]], &ids);
    for backend in BACKENDS {
        let corpus = Corpus::open(dir.path(), backend).unwrap();
        read(&corpus, 0, 30).unwrap();
        let place = ["00-00001.tok", "token 40 is id 4096; the vocabulary has 4096 entries"];
        // No id of its block is given.
        check_read_fails(&corpus, 30, &place);
    }
}

#[test]
fn a_shard_that_shrinks_after_it_was_opened_is_an_error() {
    for backend in BACKENDS {
        let dir = tempfile::tempdir().unwrap();
        let ids = write_corpus(dir.path(), 4096, LENGTHS);
        let corpus = Corpus::open(dir.path(), backend).unwrap();
        let first = corpus.shard_tokens(2).start;
        assert_eq!(read(&corpus, first, 9000).unwrap(), ids[first as usize..first as usize + 9000]);
        let path = dir.path().join("01-00000.tok");
        OpenOptions::new().write(true).open(&path).unwrap().set_len(4096 + 5000).unwrap();
        // Token 2000 is still there; the rest of its page and everything after it are gone.
        assert_eq!(read(&corpus, first + 2000, 1).unwrap(), ids[first as usize + 2000..][..1]);
        let place = ["01-00000.tok", "bytes 9096..", " are gone", "cut to 9096 bytes"];
        check_read_fails(&corpus, first + 2600, &place);
        check_read_fails(&corpus, first + 16_384, &["01-00000.tok", "are gone"]);
    }
}

#[test]
fn a_shard_whose_time_was_put_back_is_checked_anew() {
    for backend in BACKENDS {
        let dir = tempfile::tempdir().unwrap();
        let ids = write_corpus(dir.path(), 4096, LENGTHS);
        let corpus = Corpus::open(dir.path(), backend).unwrap();
        let first = corpus.shard_tokens(2).start;
        let mut reader = corpus.reader();
        let mut read_all = || {
            let mut found = vec![0u16; 20_000];
            reader.read(first, &mut found).map_err(|err| err.to_string())?;
            reader.check_unchanged().map_err(|err| err.to_string())?;
            Ok::<_, String>(found)
        };
        let expected: Vec<u16> =
            ids[first as usize..][..20_000].iter().map(|&id| id as u16).collect();
        assert_eq!(read_all().unwrap(), expected);
        let path = dir.path().join("01-00000.tok");
        // Another link does not change its contents.
        std::fs::hard_link(&path, dir.path().join("link")).unwrap();
        assert_eq!(read_all().unwrap(), expected);
        assert_eq!(read_all().unwrap(), expected);
        let modified = std::fs::metadata(&path).unwrap().modified().unwrap();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        file.write_all_at(&[ids[first as usize + 8192] as u8 ^ 1], 4096 + 16_384).unwrap();
        file.set_modified(modified).unwrap();
        let _seen_or_not_yet = read_all();
        let found = read_all().unwrap_err();
        assert!(found.contains("01-00000.tok: block 1 (bytes 20480..36864)"), "{found}");
    }
}

#[test]
fn missing_and_misfit_shards_are_all_named_at_once() {
    let dir = tempfile::tempdir().unwrap();
    write_corpus(dir.path(), 4096, LENGTHS);
    std::fs::remove_file(dir.path().join("00-00000.tok")).unwrap();
    let path = dir.path().join("01-00000.tok");
    OpenOptions::new().append(true).open(&path).unwrap().set_len(5000).unwrap();
    check_open_fails(
        dir.path(),
        &[
            "2 of 3 shards",
            "00-00000.tok is missing",
            "01-00000.tok is 5000 bytes; the manifest says",
        ],
    );
}

#[test]
fn shards_in_each_others_place_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    write_corpus(dir.path(), 4096, &[&[&[100], &[100]]]);
    let path = |name: &str| dir.path().join(name);
    std::fs::rename(path("00-00000.tok"), path("aside")).unwrap();
    std::fs::rename(path("00-00001.tok"), path("00-00000.tok")).unwrap();
    std::fs::rename(path("aside"), path("00-00001.tok")).unwrap();
    check_open_fails(dir.path(), &["00-00000.tok: header has shard_index 1; the manifest says 0"]);
}

#[test]
fn shards_of_another_corpus_are_refused() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write_corpus(dir.path(), 4096, &[&[&[100]]]);
    write_corpus(other.path(), 5000, &[&[&[100]]]);
    std::fs::copy(other.path().join("00-00000.tok"), dir.path().join("00-00000.tok")).unwrap();
    check_open_fails(dir.path(), &["header has vocab_size 5000; the manifest says 4096"]);
}

#[test]
fn a_damaged_header_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    write_corpus(dir.path(), 4096, LENGTHS);
    flip_byte(&dir.path().join("00-00001.tok"), 45);
    check_open_fails(dir.path(), &["00-00001.tok", "header has CRC32C"]);
}

#[test]
fn a_folder_without_a_manifest_is_no_corpus() {
    let dir = tempfile::tempdir().unwrap();
    check_open_fails(dir.path(), &["has no manifest.json", "did not finish"]);
    check_open_fails(&dir.path().join("nowhere"), &["cannot read", "nowhere/manifest.json"]);
    std::fs::write(dir.path().join("manifest.json"), "{").unwrap();
    check_open_fails(dir.path(), &["manifest.json: not a corpus manifest"]);
}
