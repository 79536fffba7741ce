//! Imports: the stream in the files, also after an interruption, and refusals.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::{
    corpus, export, gz, import, patchmill, read_corpus, text, two_bytes, write_megatron, write_run,
};
use crate::support::{assert_fails, last_json, tokenizer};

#[test]
fn an_import_that_was_cut_off_goes_on_and_ends_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let (source, ids, whole) =
        (dir.path().join("source"), dir.path().join("ids"), dir.path().join("whole"));
    corpus(&source, &tokenizer(), &[]);
    last_json(&export(&source, "olmo", &ids, &["--file-per-shard"]));
    let options = ["--bos", "--no-eos", "--shard-bytes", "20000"];
    last_json(&import(&ids, "olmo", &whole, &options));
    let tokenizer = tokenizer();
    for (number, place) in
        ["part-shard", "part-record#3", "series-joined", "series-record#1", "manifest"]
            .into_iter()
            .enumerate()
    {
        let out = dir.path().join(format!("out-{number}"));
        let fixed = ["import", text(&ids), "--from", "olmo", "--out", text(&out), "--json"];
        let arguments = [&fixed[..], &["--tokenizer", text(&tokenizer)], &options].concat();
        let cut = patchmill(&arguments, &[("PATCHMILL_ABORT_AT", place)]);
        assert!(!cut.status.success() && !out.join("manifest.json").exists(), "{place}");
        if number == 0 {
            let stopped = patchmill(&arguments, &[("PATCHMILL_TERM_AT", "part-record#1")]);
            assert_fails(&stopped, 75, "stopped on request; run the same command again");
        }
        assert_fails(
            &import(&ids, "olmo", &out, &["--bos", "--no-eos"]),
            2,
            "holds an unfinished corpus that was begun with other options (shard_bytes",
        );
        last_json(&patchmill(&arguments, &[]));
        for name in fs::read_dir(&whole).unwrap().map(|entry| entry.unwrap().file_name()) {
            let (a, b) = (whole.join(&name), out.join(&name));
            assert!(a.is_dir() || fs::read(a).unwrap() == fs::read(b).unwrap(), "{name:?} {place}");
        }
        assert_eq!(fs::read_dir(&whole).unwrap().count(), fs::read_dir(&out).unwrap().count());
    }
}

#[test]
fn sequences_of_a_document_belong_together_and_empty_ones_are_listed() {
    let dir = tempfile::tempdir().unwrap();
    for width in [2, 4] {
        let (prefix, out) =
            (dir.path().join(format!("m{width}")), dir.path().join(format!("c{width}")));
        let sequences: [&[u32]; 6] = [&[5, 6], &[7], &[], &[], &[1], &[8, 9]];
        // An empty sequence, a document without sequences, a document of an empty one.
        write_megatron(&prefix, &sequences, &[3, 0, 1, 2], width);
        let report = last_json(&import(&prefix, "megatron", &out, &["--no-bos", "--no-eos"]));
        assert_eq!(report["documents_read"], 4);
        assert_eq!(report["documents_written"], 2);
        assert_eq!(report["documents_skipped"], 2);
        assert_eq!(read_corpus(&out).0, (vec![5, 6, 7, 1, 8, 9], vec![3, 6]));
        let skipped = fs::read_to_string(out.join("skipped.jsonl")).unwrap();
        let rows: Vec<Value> =
            skipped.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).collect();
        assert_eq!(rows[1]["row"], 3);
        assert_eq!(rows[1]["byte_offset"], 3 * width);
        let verified = last_json(&patchmill(&["verify", "--json", text(&out)], &[]));
        assert_eq!(verified["faults"], json!([]));
    }
    write_megatron(&dir.path().join("none"), &[], &[], 2);
    let output =
        import(&dir.path().join("none"), "megatron", &dir.path().join("n"), &["--bos", "--eos"]);
    assert_fails(&output, 2, "the inputs hold no document to write (0 read, 0 skipped)");
}

#[test]
fn what_needs_texts_says_that_they_are_not_known() {
    let dir = tempfile::tempdir().unwrap();
    let (bin, out) = (dir.path().join("train.bin"), dir.path().join("c"));
    let ids: Vec<u8> = (0..20_000u32).flat_map(|at| (at as u16 % 4000 + 1).to_le_bytes()).collect();
    fs::write(&bin, ids).unwrap();
    let output = import(&bin, "nanogpt", &out, &["--bos", "--no-eos"]);
    assert_eq!(last_json(&output)["imported"], json!({"format": "nanogpt", "borders": "bos"}));
    let list = dir.path().join("list");
    let duplicates = patchmill(&["duplicates", text(&out), "--out", text(&list)], &[]);
    assert_fails(&duplicates, 2, "was imported as ids, and its index has no hashes of texts");
    assert!(!list.exists());
    let rate = patchmill(&["inspect", text(&out), "--rate-for", "100"], &[]);
    assert_fails(&rate, 2, "was imported as ids: without texts there are no hashes");
    let run = dir.path().join("run.toml");
    write_run(&run);
    let set = format!("data.corpus={}", out.display());
    let find = |what: &str| {
        let sizes = ["plan.step_tokens=1024", "plan.window_units=64"];
        let set = [["--set", &set], ["--set", sizes[0]], ["--set", sizes[1]]].concat();
        patchmill(&[&["plan", text(&run), "--find", what, "--json"], &set[..]].concat(), &[])
    };
    let by_hash = find("00112233445566778899aabbccddeeff");
    assert_fails(&by_hash, 2, "find them by number or INPUT:ROW");
    last_json(&find("train.bin:2"));
    let inspected = last_json(&patchmill(&["inspect", text(&out), "--json"], &[]));
    assert_eq!(inspected["text_bytes"], Value::Null);
    let document = last_json(&patchmill(&["inspect", text(&out), "--doc", "1", "--json"], &[]));
    assert_eq!((&document["is_exact"], &document["row"]), (&Value::Null, &json!(2)));
    let shown = patchmill(&["inspect", text(&out)], &[]);
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains("text: not known, imported as ids from nanoGPT"), "{shown}");
}

#[test]
fn an_import_refuses_what_cannot_be_meant() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    fs::create_dir(at("ids")).unwrap();
    fs::write(at("ids/train.bin"), [5, 0, 6, 0]).unwrap();
    let (plain, out) = (["--no-bos", "--no-eos"], at("c"));
    let fails = |source: &Path, from: &str, options: &[&str], what: &str| {
        assert_fails(&import(source, from, &out, options), 2, what);
        assert!(!out.exists(), "nothing is written");
    };
    fails(&at("ids/train.bin"), "nanogpt", &["--no-eos"], "--bos|--no-bos");
    fails(&at("ids/train.bin"), "nanogpt", &["--bos", "--no-bos", "--eos"], "cannot be used with");
    fails(&at("ids"), "nanogpt", &plain, "is a folder; name train.bin or val.bin in it");
    fails(&at("ids"), "olmo", &plain, "holds no file whose name ends in .npy");
    fails(&at("ids"), "megatron", &plain, "holds no file whose name ends in .idx");
    let width = ["--no-bos", "--no-eos", "--token-bytes", "2"];
    fails(&at("ids/train.bin"), "nanogpt", &width, "--token-bytes is for olmo");
    fails(&at("ids"), "olmo", &["--no-bos", "--no-eos", "--token-bytes", "3"], "expected 2 or 4");
    let missing = import(&at("nothing"), "megatron", &out, &plain);
    assert_fails(&missing, 2, "nothing.bin");
    write_megatron(&at("ids/a"), &[&[5]], &[1], 2);
    fails(&at("ids"), "megatron", &plain, "train.bin has no");
    // The source is inside the output folder.
    let output = import(&at("ids/train.bin"), "nanogpt", &at("ids"), &plain);
    assert_fails(&output, 2, "lies inside --out");
    assert_eq!(fs::read(at("ids/train.bin")).unwrap(), [5, 0, 6, 0]);
    fs::write(at("ids/b.npy"), [5, 0]).unwrap();
    fs::write(at("ids/c.npy"), [5, 0]).unwrap();
    fs::write(at("ids/c.csv.gz"), gz("0,1\n")).unwrap();
    fails(&at("ids"), "olmo", &plain, "c.npy has a .csv.gz of its documents and");
}

/// A header of llm.c: magic, version, number of ids, and zeros.
fn llm_c(magic: u32, version: u32, tokens: u32, ids: &[u8]) -> Vec<u8> {
    let mut bytes = [magic, version, tokens].map(u32::to_le_bytes).concat();
    bytes.resize(1024, 0);
    [&bytes, ids].concat()
}

/// Its 512 first words of two bytes are no ids, even where the vocabulary has all of them.
#[test]
fn a_header_before_the_ids_is_never_read_as_ids() {
    let dir = tempfile::tempdir().unwrap();
    let (bin, plain) = (dir.path().join("train.bin"), dir.path().join("plain.bin"));
    let ids: Vec<u16> = (0..3000).map(|at| at % 4000 + 3).collect();
    fs::write(&plain, two_bytes(&ids)).unwrap();
    let options = ["--no-bos", "--no-eos"];
    last_json(&import(&plain, "nanogpt", &dir.path().join("plain"), &options));
    let try_import = |bytes: Vec<u8>, from: &str, out: &str| {
        let path = if from == "olmo" { bin.with_extension("npy") } else { bin.clone() };
        fs::write(&path, bytes).unwrap();
        import(&path, from, &dir.path().join(out), &options)
    };
    let whole = llm_c(20_240_520, 1, 3000, &two_bytes(&ids));
    for (from, out) in [("nanogpt", "a"), ("olmo", "b")] {
        last_json(&try_import(whole.clone(), from, out));
        let read = read_corpus(&dir.path().join(out)).0;
        assert!(read == read_corpus(&dir.path().join("plain")).0, "{from}");
    }
    for tokens in [0, 2999, 3001] {
        let bytes = llm_c(20_240_520, 1, tokens, &two_bytes(&ids));
        let expected = format!("of the {tokens} ids it promises");
        assert_fails(&try_import(bytes, "nanogpt", "x"), 4, &expected);
    }
    let mut outside = whole;
    outside[1024 + 8..1024 + 10].copy_from_slice(&4096u16.to_le_bytes());
    assert_fails(&try_import(outside, "nanogpt", "c"), 4, "id of token 4 (at byte 1032) is 4096");
    let four = llm_c(20_240_801, 7, 1500, &two_bytes(&ids));
    assert_fails(&try_import(four, "nanogpt", "x"), 4, "--from olmo --token-bytes 4");
    for (magic, what) in [
        (&b"\x93NUMPY\x01\0"[..], "a file of numpy.save"),
        (b"PK\x03\x04", "a zip archive"),
        (b"MMIDIDX\0\0\0", "Megatron-core's index"),
        (b"PATCHTOK", "a shard of Patchmill"),
        (b"PAR1", "Parquet"),
        (b"\x28\xb5\x2f\xfd", "zstd data"),
    ] {
        for from in ["nanogpt", "olmo"] {
            let bytes = [magic, &two_bytes(&ids)].concat();
            assert_fails(&try_import(bytes, from, "x"), 4, &format!("begins like {what}"));
        }
    }
}

/// Imports two files, the second of which has an id too large; repairs it and lets `change` do
/// something to the first. Resuming must give the result of a fresh import.
#[track_caller]
fn check_goes_on_after(from: &str, dir: &Path, second: &Path, change: impl Fn()) {
    let (out, fresh) = (dir.with_extension("out"), dir.with_extension("fresh"));
    let import_to = |out: &Path| import(dir, from, out, &["--no-bos", "--no-eos"]);
    let sound = fs::read(second).unwrap();
    fs::write(second, two_bytes(&[5, 65_535])).unwrap();
    assert_fails(&import_to(&out), 4, "id of token 1 (at byte 2) is 65535");
    fs::write(second, sound).unwrap();
    change();
    assert_eq!(last_json(&import_to(&out))["series_kept"], 0);
    last_json(&import_to(&fresh));
    assert_eq!(read_corpus(&out), read_corpus(&fresh));
    let manifest = |dir: &Path| fs::read(dir.join("manifest.json")).unwrap();
    assert!(manifest(&out) == manifest(&fresh));
}

#[test]
fn an_import_that_goes_on_sees_that_documents_beside_the_ids_changed() {
    let dir = tempfile::tempdir().unwrap();
    let ids = dir.path().join("ids");
    fs::create_dir(&ids).unwrap();
    fs::write(ids.join("a.npy"), two_bytes(&[5, 6, 7, 8])).unwrap();
    fs::write(ids.join("b.npy"), two_bytes(&[5, 6])).unwrap();
    fs::write(ids.join("a.csv.gz"), gz("0,1\n1,4\n")).unwrap();
    fs::write(ids.join("b.csv.gz"), gz("0,2\n")).unwrap();
    check_goes_on_after("olmo", &ids, &ids.join("b.npy"), || {
        fs::write(ids.join("a.csv.gz"), gz("0,3\n3,4\n")).unwrap();
    });
    assert_eq!(read_corpus(&dir.path().join("ids.out")).0.1, [3, 4, 6]);
    for name in ["ids.out", "ids.fresh"] {
        fs::remove_dir_all(dir.path().join(name)).unwrap();
    }
    // Another file with an older time than the ids.
    check_goes_on_after("olmo", &ids, &ids.join("b.npy"), || {
        let csv = fs::File::create(ids.join("a.csv.gz")).unwrap();
        (&csv).write_all(&gz("0,2\n2,4\n")).unwrap();
        csv.set_modified(std::time::UNIX_EPOCH + std::time::Duration::from_secs(5)).unwrap();
    });
    assert_eq!(read_corpus(&dir.path().join("ids.out")).0.1, [2, 4, 6]);
}

#[test]
fn an_import_that_goes_on_sees_that_an_index_changed() {
    let dir = tempfile::tempdir().unwrap();
    let ids = dir.path().join("ids");
    fs::create_dir(&ids).unwrap();
    write_megatron(&ids.join("a"), &[&[5], &[6, 7, 8]], &[1, 1], 2);
    write_megatron(&ids.join("b"), &[&[5, 6]], &[1], 2);
    let other = dir.path().join("other");
    write_megatron(&other, &[&[5, 6, 7], &[8]], &[1, 1], 2);
    check_goes_on_after("megatron", &ids, &ids.join("b.bin"), || {
        fs::copy(other.with_extension("idx"), ids.join("a.idx")).unwrap();
    });
    assert_eq!(read_corpus(&dir.path().join("ids.out")).0.1, [3, 4, 6]);
}

#[test]
fn an_import_waits_for_no_pipe_and_leaves_no_file_out() {
    use std::os::unix::ffi::OsStrExt as _;

    let dir = tempfile::tempdir().unwrap();
    let (npy, csv, out) =
        (dir.path().join("a.npy"), dir.path().join("a.csv.gz"), dir.path().join("c"));
    fs::write(&npy, two_bytes(&[5, 6])).unwrap();
    assert!(Command::new("mkfifo").arg(&csv).status().unwrap().success());
    let output = import(&npy, "olmo", &out, &["--no-bos", "--no-eos"]);
    assert_fails(&output, 4, "a.csv.gz: it is a pipe or a device; expected a file");
    let pairs = dir.path().join("pairs");
    fs::create_dir(&pairs).unwrap();
    write_megatron(&pairs.join("a"), &[&[5, 6]], &[1], 2);
    fs::write(pairs.join("b.bin"), two_bytes(&[5])).unwrap();
    fs::write(pairs.join(std::ffi::OsStr::from_bytes(b"\xff.bin")), [5, 0]).unwrap();
    let output = import(&pairs, "megatron", &out, &["--no-bos", "--no-eos"]);
    assert_fails(&output, 2, "has a name that is not UTF-8; rename it");
    assert!(!out.exists(), "nothing is written");
}

#[test]
fn a_bin_without_its_index_is_named_by_itself_as_in_a_folder() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("a.bin"), [5, 0]).unwrap();
    for source in ["a", "a.bin", "a.idx", "."] {
        let out = dir.path().join("c");
        let source = dir.path().join(source);
        let output = import(&source, "megatron", &out, &["--no-bos", "--no-eos"]);
        let what = if source.is_dir() { "holds no file" } else { "a.bin has no " };
        assert_fails(&output, 2, what);
    }
}
