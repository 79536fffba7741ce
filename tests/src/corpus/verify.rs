//! Damage found by `verify`: each reported once, with the place and both values.

use std::fs;
use std::path::{Path, PathBuf};

use schemas::shard::{BLOCK_BYTES, HEADER_BYTES};

use crate::support::inputs::{file, fixtures, lines, tokenize};
use crate::support::trees::tree;

struct Fixture {
    dir: tempfile::TempDir,
}

impl Fixture {
    /// A corpus of the validation texts in several shards.
    fn new() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let valid = fixtures().join("text/valid");
        tokenize(dir.path(), &[&valid], &["--shard-bytes", "60000"]).unwrap();
        Fixture { dir }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Changes a file, and returns the output of `verify` then, without the line on the whole
    /// file's hash.
    fn faults_after(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) -> Vec<String> {
        let path = self.path(name);
        let mut bytes = fs::read(&path).unwrap();
        let before = bytes.clone();
        change(&mut bytes);
        assert!(bytes != before, "the change is one");
        fs::write(&path, &bytes).unwrap();
        let faults = faults(self.dir.path());
        fs::write(&path, &before).unwrap();
        let (hashes, others): (Vec<String>, Vec<String>) =
            faults.into_iter().partition(|fault| fault.contains("has BLAKE3"));
        assert_eq!(hashes.len(), 1, "{hashes:?}");
        assert!(hashes[0].starts_with(&format!("{name}: ")), "{hashes:?}");
        others
    }
}

fn faults(dir: &Path) -> Vec<String> {
    pipeline::corpus::verify::check(dir).unwrap().faults
}

/// Corrects the header's checksum, so the field itself is at fault.
fn mend_header(bytes: &mut [u8]) {
    let end = HEADER_BYTES as usize - 4;
    let crc = crc32c::crc32c(&bytes[..end]);
    bytes[end..end + 4].copy_from_slice(&crc.to_le_bytes());
}

const SHARD: &str = "00000-00001.tok";

#[test]
fn each_header_field_that_is_wrong_gives_its_message() {
    let fixture = Fixture::new();
    let shard = fs::read(fixture.path(SHARD)).unwrap();
    let u64_at = |at: usize| u64::from_le_bytes(shard[at..at + 8].try_into().unwrap());
    let (tokens, documents, length) = (u64_at(16), u64_at(24), shard.len());
    let promise = |tokens: u64, width: u64, documents: u64| {
        let payload = tokens * width;
        let blocks = payload.div_ceil(BLOCK_BYTES);
        let expected = HEADER_BYTES + payload.next_multiple_of(8) + 8 * documents + 4 * blocks + 4;
        format!(
            "{SHARD}: shard is {length} bytes; header promises {tokens} tokens of {width} bytes in \
             {documents} documents, {expected} bytes in all"
        )
    };
    let wrong_tokenizer = {
        let mut tokenizer: [u8; 32] = shard[40..72].try_into().unwrap();
        tokenizer[0] ^= 1;
        let right = blake3::Hash::from_bytes(shard[40..72].try_into().unwrap()).to_hex();
        let wrong = blake3::Hash::from_bytes(tokenizer).to_hex();
        format!("{SHARD}: header has tokenizer fingerprint {wrong}; the manifest says {right}")
    };
    for (at, flip, message) in [
        (
            0,
            1,
            format!(
                "{SHARD}: first bytes are [51, 41, 54, 43, 48, 54, 4f, 4b]; a shard begins with \
                 [50, 41, 54, 43, 48, 54, 4f, 4b] (\"PATCHTOK\")"
            ),
        ),
        (8, 1, format!("{SHARD}: shard version 0 is not supported; this build reads version 1")),
        (12, 1, format!("{SHARD}: header field token_bytes is 3; expected 2 or 4")),
        (16, 4, promise(tokens ^ 4, 2, documents)),
        (24, 1, promise(tokens, 2, documents ^ 1)),
        (32, 1, format!("{SHARD}: header has vocab_size 4097; the manifest says 4096")),
        (40, 1, wrong_tokenizer),
        (72, 1, format!("{SHARD}: header has series_index 1; the manifest says 0")),
        (80, 1, format!("{SHARD}: header has shard_index 0; the manifest says 1")),
        (88, 1, format!("{SHARD}: header field reserved byte is 88; expected 0 in bytes 88..4092")),
    ] {
        let found = fixture.faults_after(SHARD, |bytes| {
            bytes[at] ^= flip;
            mend_header(bytes);
        });
        // A shard whose sizes agree with its footer is checked further; its documents then fit the
        // index.
        assert_eq!(found, [message], "byte {at}");
    }
    let found = fixture.faults_after(SHARD, |bytes| bytes[4000] ^= 1);
    assert!(
        found.len() == 1 && found[0].starts_with(&format!("{SHARD}: header has CRC32C ")),
        "{found:?}"
    );
}

#[test]
fn a_flipped_bit_names_its_block() {
    let fixture = Fixture::new();
    let found = fixture.faults_after(SHARD, |bytes| bytes[HEADER_BYTES as usize + 20_000] ^= 4);
    let place = format!("{SHARD}: block 1 (bytes 20480..36864) has CRC32C ");
    assert!(found[0].starts_with(&place), "{found:?}");
    let found = fixture.faults_after(SHARD, |bytes| *bytes.last_mut().unwrap() ^= 4);
    assert!(found[0].starts_with(&format!("{SHARD}: footer has CRC32C ")), "{found:?}");
    let found = fixture.faults_after(SHARD, |bytes| {
        let at = bytes.len() - 40;
        bytes[at] ^= 4;
    });
    assert!(found[0].starts_with(&format!("{SHARD}: footer has CRC32C ")), "{found:?}");
}

#[test]
fn an_id_outside_the_vocabulary_is_named() {
    let fixture = Fixture::new();
    let found = fixture.faults_after(SHARD, |bytes| bytes[HEADER_BYTES as usize + 21] = 0x70);
    assert!(found[0].starts_with(&format!("{SHARD}: token 10 is id 28")), "{found:?}");
    assert!(found[0].ends_with("; the vocabulary has 4096 entries"), "{found:?}");
}

#[test]
fn a_shard_cut_or_extended_is_named_with_both_lengths() {
    let fixture = Fixture::new();
    let length = fs::metadata(fixture.path(SHARD)).unwrap().len();
    for (found_bytes, change) in [(length - 1, -1), (length + 1, 1), (100, 100 - length as i64)] {
        let found = fixture.faults_after(SHARD, |bytes| {
            bytes.resize((bytes.len() as i64 + change) as usize, 0);
        });
        let expected = format!("{SHARD}: is {found_bytes} bytes; the manifest says {length}");
        assert_eq!(found[0], expected);
    }
}

#[test]
fn all_missing_files_are_named_at_once() {
    let fixture = Fixture::new();
    for name in [SHARD, "00000-00002.tok", "tokenizer/tokenizer_config.json"] {
        fs::remove_file(fixture.path(name)).unwrap();
    }
    let found = faults(fixture.dir.path());
    let missing: Vec<&String> = found.iter().filter(|fault| fault.contains("is missing")).collect();
    let expected = ["tokenizer/tokenizer_config.json", SHARD, "00000-00002.tok"];
    assert_eq!(missing, expected.map(|name| format!("{name}: is missing")).each_ref());
}

/// Two shards of the same sizes: only the place recorded in each distinguishes them.
#[test]
fn swapped_shards_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let input = file(dir.path(), "in.jsonl", lines(&["the same", "the same"]));
    let out = dir.path().join("out");
    tokenize(&out, &[&input], &["--shard-bytes", "1"]).unwrap();
    let (a, b) = (out.join("00000-00000.tok"), out.join(SHARD));
    let (bytes_a, bytes_b) = (fs::read(&a).unwrap(), fs::read(&b).unwrap());
    fs::write(&a, bytes_b).unwrap();
    fs::write(&b, bytes_a).unwrap();
    let found = faults(&out);
    let said = |text: &str| found.iter().any(|fault| fault.contains(text));
    assert!(said("00000-00000.tok: header has shard_index 1; the manifest says 0"), "{found:?}");
    assert!(said("00000-00001.tok: header has shard_index 0; the manifest says 1"), "{found:?}");
}

#[test]
fn a_stranger_among_the_shards_is_named() {
    let fixture = Fixture::new();
    file(fixture.dir.path(), "00000-00009.tok", "x");
    assert_eq!(
        faults(fixture.dir.path()),
        ["00000-00009.tok: is not part of this corpus; move it away"]
    );
}

#[test]
fn a_changed_manifest_is_refused() {
    let fixture = Fixture::new();
    let path = fixture.path("manifest.json");
    let text = fs::read_to_string(&path).unwrap();
    let error = |text: &str| {
        fs::write(&path, text).unwrap();
        let err =
            pipeline::corpus::verify::check(fixture.dir.path()).err().expect("it was accepted");
        assert_eq!(pipeline::cli::exit_status(&err), 4, "{err:#}");
        format!("{err:#}")
    };
    let changed = error(&text.replace("valid.jsonl.zst", "other.jsonl.zst"));
    assert!(changed.contains("it was changed after it was written"), "{changed}");
    let other = error(&text.replace("\"version\": 2", "\"version\": 9"));
    assert!(other.contains("manifest version 9 is not supported"), "{other}");
    let cut = error(&text[..text.len() / 2]);
    assert!(cut.contains("manifest.json") && cut.contains("not a corpus manifest"), "{cut}");
    let empty = error("");
    assert!(empty.contains("not a corpus manifest"), "{empty}");
    fs::remove_file(&path).unwrap();
    let err = pipeline::corpus::verify::check(fixture.dir.path()).err().unwrap();
    assert!(format!("{err:#}").contains("has no manifest.json"), "{err:#}");
}

#[test]
fn an_index_that_does_not_fit_its_shards_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    let a = file(dir.path(), "a/in.jsonl", lines(&["first", "second one"]));
    let b = file(dir.path(), "b/in.jsonl", lines(&["first of all", "second"]));
    tokenize(&one, &[&a], &[]).unwrap();
    tokenize(&two, &[&b], &[]).unwrap();
    fs::copy(two.join("00000.index.parquet"), one.join("00000.index.parquet")).unwrap();
    let found = faults(&one);
    assert!(found.iter().any(|fault| fault.contains("token_count of document 0 is")), "{found:?}");
}

/// One flipped bit anywhere is found. Testing every bit of every file would take minutes, so each
/// part of each file is hit instead.
#[test]
fn a_flipped_bit_anywhere_is_found() {
    let dir = tempfile::tempdir().unwrap();
    let input = file(dir.path(), "in.jsonl", [&*lines(&["one", "two"]), "bad\n"].concat());
    let out = dir.path().join("out");
    tokenize(&out, &[&input], &["--on-error", "skip"]).unwrap();
    let mut flips = 0;
    for (name, bytes) in tree(&out) {
        let stride = if name.starts_with("tokenizer/tokenizer.json") { 40_009 } else { 101 };
        for at in (0..bytes.len()).step_by(stride) {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1 << (at % 8);
            fs::write(out.join(&name), &flipped).unwrap();
            let is_found = match pipeline::corpus::verify::check(&out) {
                Ok(checked) => !checked.faults.is_empty(),
                Err(_) => true,
            };
            // Whitespace in the manifest is not data.
            let is_blank = name == "manifest.json"
                && bytes[at].is_ascii_whitespace()
                && flipped[at].is_ascii_whitespace();
            assert!(is_found || is_blank, "{name}: bit {} of byte {at}", at % 8);
            flips += 1;
        }
        fs::write(out.join(&name), &bytes).unwrap();
    }
    assert!(flips > 100, "{flips} bits were tried");
    assert_eq!(faults(&out), [""; 0]);
}
