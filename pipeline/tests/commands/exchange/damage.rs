//! Files that break the promises of their format: an exact error for each, never a panic.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use encoder::Policy;
use pipeline::exchange::ImportSpec;
use schemas::manifest::{ForeignFormat, SpecialTokens};
use schemas::shard::TokenBytes;

use super::{files, gz, ids, import, read_corpus, text, two_bytes, write_megatron};
use crate::support::{self, assert_fails, tokenizer};

fn arguments(source: &Path, from: ForeignFormat, out: &Path) -> ImportSpec {
    ImportSpec {
        source: source.to_owned(),
        from,
        tokenizer: tokenizer(),
        out: out.to_owned(),
        policy: Policy { bos: false, eos: false, special_tokens: SpecialTokens::Text },
        token_bytes: None,
        shard_bytes: 1 << 20,
        force: true,
    }
}

/// The error of an import in this process, with its exit status; `None` on success.
fn import_error(arguments: &ImportSpec) -> Option<(String, u8)> {
    let err = pipeline::exchange::import::read(arguments).err()?;
    Some((format!("{err:#}"), pipeline::cli::exit_status(&err)))
}

#[test]
fn whatever_is_wrong_with_an_index_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (prefix, out) = (dir.path().join("m"), dir.path().join("c"));
    let idx = dir.path().join("m.idx");
    let check = |at: usize, bytes: &[u8], what: &str| {
        write_megatron(&prefix, &[&[5, 6], &[7], &[8, 9, 10]], &[1, 2], 2);
        let mut changed = fs::read(&idx).unwrap();
        changed[at..at + bytes.len()].copy_from_slice(bytes);
        fs::write(&idx, changed).unwrap();
        let (found, status) =
            import_error(&arguments(&prefix, ForeignFormat::Megatron, &out)).unwrap();
        assert_eq!((found.replace(text(dir.path()), "D"), status), (what.to_owned(), 4));
        assert!(!out.join("manifest.json").exists());
    };
    let magic =
        "D/m.idx: magic (at byte 0) is \"NMIDIDX\\x00\\x00\"; expected \"MMIDIDX\\x00\\x00\"";
    check(0, b"N", magic);
    check(9, &[2], "D/m.idx: version (at byte 9) is 2; expected 1");
    check(17, &[7], "D/m.idx: type of the ids (at byte 17) is 7; expected 8 (uint16) or 4 (int32)");
    check(
        17,
        &[4],
        "D/m.idx: pointer of sequence 1 (at byte 54) is 4; expected 8, \
         where the sequence before ends",
    );
    check(18, &[4], "D/m.idx is 94 bytes; expected 106 for 4 sequences and 3 document borders");
    check(
        18,
        &[255; 8],
        "D/m.idx is 94 bytes; expected fewer than 2^64 for 18446744073709551615 sequences \
         and 3 document borders",
    );
    check(
        25,
        &[1],
        "D/m.idx is 94 bytes; expected 864691128455135326 for 72057594037927939 sequences \
         and 3 document borders",
    );
    check(26, &[0], "D/m.idx: number of document borders (at byte 26) is 0; expected at least 1");
    check(
        34,
        &[1],
        "D/m.idx: pointer of sequence 1 (at byte 54) is 4; expected 2, \
         where the sequence before ends",
    );
    check(
        34,
        &[255; 4],
        "D/m.idx: number of tokens of sequence 0 (at byte 34) is -1; expected 0 or more",
    );
    check(42, &[4], "D/m.bin is 12 bytes; expected 14, where D/m.idx ends its last sequence");
    check(
        46,
        &[255; 8],
        "D/m.idx: pointer of sequence 0 (at byte 46) is -1; expected 0, \
         where the sequence before ends",
    );
    check(70, &[1], "D/m.idx: document border 0 (at byte 70) is 1; expected 0");
    check(78, &[4], "D/m.idx: document border 1 (at byte 78) is 4; expected 0 to 3");
    check(78, &[255; 8], "D/m.idx: document border 1 (at byte 78) is -1; expected 0 to 3");
    check(
        86,
        &[2],
        "D/m.idx: document border 2 (at byte 86) is 2; expected 3, the number of sequences",
    );
}

/// Every flipped bit and every shorter or longer file is an error or another dataset, never a
/// panic.
#[test]
fn no_index_is_too_strange() {
    let dir = tempfile::tempdir().unwrap();
    let (prefix, out) = (dir.path().join("m"), dir.path().join("c"));
    write_megatron(&prefix, &[&[5, 6], &[7], &[8, 9, 10]], &[1, 2], 2);
    let (idx, bin) = (dir.path().join("m.idx"), dir.path().join("m.bin"));
    let (sound, sound_bin) = (fs::read(&idx).unwrap(), fs::read(&bin).unwrap());
    let arguments = arguments(&prefix, ForeignFormat::Megatron, &out);
    let mut accepted = 0;
    for bit in 0..sound.len() * 8 {
        let mut bytes = sound.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs::write(&idx, bytes).unwrap();
        match import_error(&arguments) {
            Some((_, status)) => assert_eq!(status, 4, "bit {bit}"),
            None => accepted += 1,
        }
    }
    assert_eq!(accepted, 2, "a border between two documents may lie elsewhere, and nothing else");
    for length in (0..sound.len()).chain([sound.len() + 1, sound.len() + 3]) {
        let mut bytes = sound.clone();
        bytes.resize(length, 0);
        fs::write(&idx, bytes).unwrap();
        let (found, status) = import_error(&arguments).unwrap();
        assert!(
            status == 4 && found.contains(&format!("m.idx is {length} bytes; expected ")),
            "{found}"
        );
    }
    fs::write(&idx, &sound).unwrap();
    for length in (0..sound_bin.len()).chain([sound_bin.len() + 1]) {
        let mut bytes = sound_bin.clone();
        bytes.resize(length, 0);
        fs::write(&bin, bytes).unwrap();
        let (found, status) = import_error(&arguments).unwrap();
        let what = format!("m.bin is {length} bytes; expected 12, where ");
        assert!(status == 4 && found.contains(&what), "{found}");
    }
}

#[test]
fn documents_of_a_csv_fill_the_ids_or_the_line_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (npy, csv, out) =
        (dir.path().join("a.npy"), dir.path().join("a.csv.gz"), dir.path().join("c"));
    let bytes: Vec<u8> = [5u16, 6, 7, 8, 9].iter().flat_map(|id| id.to_le_bytes()).collect();
    fs::write(&npy, bytes).unwrap();
    let arguments = arguments(&npy, ForeignFormat::Olmo, &out);
    // dolma adds columns, and ends its lines as Windows does.
    fs::write(&csv, gz("0,2,doc-1,\"s3://x/a.gz\",1\r\n2,2,e,x,2\r\n2,5\n")).unwrap();
    assert_eq!(import_error(&arguments), None);
    assert_eq!(read_corpus(&out).0, (vec![5, 6, 7, 8, 9], vec![2, 5]));
    let fails = |bytes: &[u8], what: &str| {
        fs::write(&csv, bytes).unwrap();
        let (found, status) = import_error(&arguments).unwrap();
        let found = found.replace(text(dir.path()), "D");
        assert!(found.starts_with(what) && status == 4, "found {found}\nexpected {what}");
    };
    fails(
        &gz("0,2\n3,5\n"),
        "D/a.csv.gz: start in line 2 is 3; expected 2, where the document before ends",
    );
    fails(&gz("0,2\n2,1\n"), "D/a.csv.gz: end in line 2 is 1; expected 2 to 5, the number of ids");
    fails(&gz("0,2\n2,6\n"), "D/a.csv.gz: end in line 2 is 6; expected 2 to 5, the number of ids");
    let short = "D/a.csv.gz: what stands in line 2 is the end of the file, at token 4; \
                 expected documents up to token 5";
    fails(&gz("0,4\n"), short);
    let header =
        "D/a.csv.gz: the text in line 1 is \"start,end\"; expected two numbers such as 0,128";
    fails(&gz("start,end\n0,5\n"), header);
    fails(&gz("-1,5\n"), "D/a.csv.gz: the text in line 1 is \"-1,5\"");
    fails(&gz(&"0".repeat(1 << 20)), "D/a.csv.gz: the text in line 1 is longer than 65536 bytes");
    let gzip = "expected \"\\x1f\\x8b\", that of a gzip file";
    let plain = "D/a.csv.gz: the beginning (at byte 0) is \"0,1\\n1,2\\n\"; ";
    fails(b"0,1\n1,2\n2,5\n", &format!("{plain}{gzip}"));
    fails(b"", &format!("D/a.csv.gz: the beginning (at byte 0) is \"\"; {gzip}"));
    fails(b"0", &format!("D/a.csv.gz: the beginning (at byte 0) is \"0\"; {gzip}"));
    let whole = gz("0,5\n");
    fails(&whole[..whole.len() - 3], "cannot read D/a.csv.gz: ");
}

#[test]
fn raw_ids_that_are_none_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let (bin, out) = (dir.path().join("train.bin"), dir.path().join("c"));
    let check = |bytes: &[u8], from: ForeignFormat, what: &str| {
        fs::write(&bin, bytes).unwrap();
        let (found, status) = import_error(&arguments(&bin, from, &out)).unwrap();
        let found = found.replace(text(dir.path()), "D");
        assert_eq!((found.as_str(), status), (what, 4));
        assert!(!out.join("manifest.json").exists());
    };
    let expected = "expected a multiple of 2, the bytes of an id, and not 0";
    check(&[], ForeignFormat::Nanogpt, &format!("D/train.bin is 0 bytes; {expected}"));
    check(&[1, 2, 3], ForeignFormat::Nanogpt, &format!("D/train.bin is 3 bytes; {expected}"));
    let outside = "D/train.bin: id of token 70000 (at byte 140000) is 4096; \
                   expected one below 4096, the size of the tokenizer's vocabulary";
    let mut ids = [5u8, 0].repeat(70_000);
    ids.extend(4096u16.to_le_bytes());
    check(&ids, ForeignFormat::Nanogpt, outside);
    let saved = "D/train.bin begins like a file of numpy.save, not like raw ids; write the array \
                 with numpy's tofile";
    check(b"\x93NUMPY\x01\x00v\x00", ForeignFormat::Olmo, saved);
    // Ids of 4 bytes read as 2 split in the middle; declared as 4 bytes, they are read.
    fs::write(&bin, [5u32, 6].map(u32::to_le_bytes).concat()).unwrap();
    let of_four = ImportSpec {
        token_bytes: Some(TokenBytes::Four),
        ..arguments(&bin, ForeignFormat::Olmo, &out)
    };
    assert_eq!(import_error(&of_four), None);
    assert_eq!(read_corpus(&out).0, (vec![5, 6], vec![2]));
}

#[test]
fn what_stands_around_documents_cuts_and_is_checked() {
    let dir = tempfile::tempdir().unwrap();
    let (bin, out) = (dir.path().join("train.bin"), dir.path().join("c"));
    // <s> is 1 and </s> is 2; the cut falls on the border between two reads.
    let check = |ids: &[u16], bos: bool, eos: bool, expected: Result<&[u64], &str>| {
        fs::write(&bin, ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<u8>>()).unwrap();
        let policy = Policy { bos, eos, special_tokens: SpecialTokens::Text };
        let arguments = ImportSpec { policy, ..arguments(&bin, ForeignFormat::Nanogpt, &out) };
        match (import_error(&arguments), expected) {
            (None, Ok(ends)) => assert_eq!(read_corpus(&out).0.1, ends),
            (Some((found, 4)), Err(what)) => {
                assert_eq!(found.replace(text(dir.path()), "D"), what);
            }
            (found, expected) => panic!("{found:?}, expected {expected:?}"),
        }
    };
    check(&[1, 5, 2, 1, 6, 2], false, false, Ok(&[6]));
    check(&[1, 5, 2, 1, 6, 2], true, false, Ok(&[3, 6]));
    check(&[5, 2, 2, 6, 2], false, true, Ok(&[2, 3, 5]));
    check(&[1, 2, 7, 2, 1, 2], true, true, Ok(&[4, 6]));
    check(&[1, 1, 1], true, false, Ok(&[1, 2, 3]));
    for length in [(1 << 16) - 1, 1 << 16, (1 << 16) + 1] {
        let mut ids = vec![5; length];
        ids[length - 1] = 2;
        ids.extend([6, 2]);
        check(&ids, false, true, Ok(&[length as u64, length as u64 + 2]));
    }
    let no_bos = "D/train.bin: document 1 begins with id 5 (at byte 0); --bos says <s> (1)";
    check(&[5, 1, 6], true, false, Err(no_bos));
    let no_eos = "D/train.bin: document 2 ends with id 6 (at byte 4); --eos says </s> (2)";
    check(&[5, 2, 6], false, true, Err(no_eos));
}

/// Lets `change` do something while an import reads: a file of 2 MB, which becomes many shards, and
/// one after it. Returns whether the files left can be imported; if so, resuming gives their
/// contents.
#[track_caller]
fn check_changed(change: impl Fn(&Path), what: &str) -> bool {
    let dir = tempfile::tempdir().unwrap();
    let (ids, out) = (dir.path().join("ids"), dir.path().join("c"));
    fs::create_dir(&ids).unwrap();
    fs::write(ids.join("a.npy"), [5, 0].repeat(1 << 20)).unwrap();
    fs::write(ids.join("b.npy"), [5, 0].repeat(2)).unwrap();
    let ends: Vec<String> =
        (0..1 << 10).map(|at| format!("{},{}\n", at << 10, (at + 1) << 10)).collect();
    fs::write(ids.join("a.csv.gz"), gz(&ends.concat())).unwrap();
    fs::write(ids.join("b.csv.gz"), gz("0,2\n")).unwrap();
    let tokenizer = tokenizer();
    let mut running = support::patchmill()
        .args(["import", text(&ids), "--from", "olmo", "--out", text(&out)])
        .args(["--tokenizer", text(&tokenizer), "--no-bos", "--no-eos", "--shard-bytes", "4096"])
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let has_shard = || out.exists() && !files(&out, ".tok").is_empty();
    while !has_shard() && running.try_wait().unwrap().is_none() {
        std::thread::yield_now();
    }
    change(&ids);
    assert_fails(&running.wait_with_output().unwrap(), 4, what);
    assert!(!out.join("manifest.json").exists());
    let sound = import(&ids, "olmo", &out, &["--no-bos", "--no-eos", "--shard-bytes", "4096"]);
    let there = |path: &PathBuf| self::ids(&fs::read(path).unwrap(), 2);
    let expected = || files(&ids, ".npy").iter().flat_map(there).collect::<Vec<u32>>();
    sound.status.success() && read_corpus(&out).0.0 == expected()
}

#[test]
fn an_import_sees_that_its_files_change_while_it_reads() {
    let append = |path: &Path, bytes: &[u8]| {
        fs::File::options().append(true).open(path).unwrap().write_all(bytes).unwrap();
    };
    let of = |name: &str, what: &str| format!("{name} changed while it was imported: {what}");
    assert!(!check_changed(
        |ids| append(&ids.join("a.npy"), &[5, 0]),
        &of("a.npy", "it is 2097154 bytes; it was 2097152"),
    ));
    assert!(!check_changed(
        |ids| fs::File::options().write(true).open(ids.join("a.npy")).unwrap().set_len(9).unwrap(),
        &of("a.npy", "it is 9 bytes; it was 2097152"),
    ));
    assert!(!check_changed(|ids| append(&ids.join("b.csv.gz"), &[0]), &of("b.csv.gz", "it is ")));
    assert!(check_changed(
        |ids| fs::write(ids.join("b.npy"), two_bytes(&[6, 6])).unwrap(),
        &of("b.npy", "it was written to or replaced"),
    ));
    // With its previous length and time.
    assert!(check_changed(
        |ids| {
            let path = ids.join("b.npy");
            let modified = fs::metadata(&path).unwrap().modified().unwrap();
            fs::write(&path, two_bytes(&[7, 7])).unwrap();
            fs::File::options().write(true).open(&path).unwrap().set_modified(modified).unwrap();
        },
        &of("b.npy", "it was written to or replaced"),
    ));
    assert!(check_changed(
        |ids| fs::remove_file(ids.join("a.npy")).unwrap(),
        &of("a.npy", "it can no longer be found"),
    ));
}
