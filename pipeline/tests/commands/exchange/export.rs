//! Exports: every id and every border in the files of other projects, whole files or none.

use std::fs;
use std::io::Read;
use std::path::Path;

use serde_json::json;

use super::{
    Stream, corpus, digest, export, files, ids, import, large_tokenizer, numbers, patchmill,
    read_corpus, text,
};
use crate::support::{self, assert_fails, last_json, stderr, tokenizer};

fn read_megatron(prefix: &Path) -> Stream {
    let bin = fs::read(format!("{}.bin", prefix.display())).unwrap();
    let idx = fs::read(format!("{}.idx", prefix.display())).unwrap();
    assert_eq!(idx[..17], *b"MMIDIDX\0\0\x01\0\0\0\0\0\0\0");
    let width = match idx[17] {
        8 => 2,
        4 => 4,
        code => panic!("type {code}"),
    };
    let [sequences, borders] = numbers(&idx[18..34])[..] else { panic!("two counts") };
    assert_eq!(borders, sequences + 1);
    let (lengths, rest) = idx[34..].split_at(4 * sequences as usize);
    let (pointers, borders) = rest.split_at(8 * sequences as usize);
    assert_eq!(numbers(borders), (0..=sequences).collect::<Vec<u64>>());
    let mut ends = Vec::new();
    for (length, pointer) in ids(lengths, 4).iter().zip(numbers(pointers)) {
        let first = ends.last().copied().unwrap_or(0);
        assert_eq!(pointer, first * width as u64);
        ends.push(first + u64::from(*length));
    }
    (ids(&bin, width), ends)
}

fn read_olmo(dir: &Path, width: usize) -> Stream {
    let (mut all, mut ends) = (Vec::new(), Vec::new());
    for path in files(dir, ".npy") {
        let first = all.len() as u64;
        all.extend(ids(&fs::read(&path).unwrap(), width));
        let csv = fs::File::open(text(&path).replace(".npy", ".csv.gz")).unwrap();
        let mut lines = String::new();
        flate2::read::GzDecoder::new(csv).read_to_string(&mut lines).unwrap();
        let mut before = 0;
        for line in lines.lines() {
            let (start, end) = line.split_once(',').unwrap();
            assert_eq!(start.parse(), Ok(before));
            before = end.parse().unwrap();
            ends.push(first + before);
        }
    }
    (all, ends)
}

fn read_datatrove(dir: &Path, width: usize) -> Stream {
    let (mut all, mut ends) = (Vec::new(), Vec::new());
    for path in files(dir, ".ds") {
        let first = all.len() as u64;
        all.extend(ids(&fs::read(&path).unwrap(), width));
        let index = fs::read(format!("{}.index", path.display())).unwrap();
        ends.extend(numbers(&index).iter().map(|end| first + end));
        let about = fs::read_to_string(format!("{}.metadata", path.display())).unwrap();
        let lines: Vec<&str> = about.lines().collect();
        assert!(lines[0].ends_with(&format!("|{width}")), "{about}");
        assert_eq!(lines[1], (all.len() as u64 - first).to_string());
    }
    (all, ends)
}

/// Exports to every target, reads the files, imports them, and compares all of it.
fn check_round_trips(tokenizer: &Path, options: &[&str], around: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    corpus(&source, tokenizer, options);
    let (stream, width) = read_corpus(&source);
    let vocab_size = if width == 2 { 4096 } else { 66_000 };
    let expected = digest(&source, vocab_size);
    assert!(stream.1.len() > 40 && files(&source, ".tok").len() > 3, "many documents and shards");
    let mut back = vec![];
    for (to, split) in [
        ("megatron", &[][..]),
        ("olmo", &[]),
        ("olmo", &["--file-per-shard"]),
        ("datatrove", &[]),
        ("datatrove", &["--file-per-shard"]),
        ("nanogpt", &[]),
    ] {
        let out = dir.path().join(format!("{to}{}", split.len()));
        let output = export(&source, to, &out, split);
        if to == "nanogpt" && width == 4 {
            assert_fails(&output, 2, "is id 65536; nanogpt holds ids below 65536");
            assert!(!out.exists());
            continue;
        }
        let report = last_json(&output);
        assert_eq!(report["tokens"], stream.0.len());
        assert_eq!(report["documents"], stream.1.len());
        let found = match to {
            "megatron" => read_megatron(&out),
            "olmo" => read_olmo(&out, width),
            "datatrove" => read_datatrove(&out, width),
            _ => (ids(&fs::read(out.join("train.bin")).unwrap(), 2), stream.1.clone()),
        };
        assert!(found == stream, "{to} {split:?} {options:?}");
        if split.len() == 1 {
            assert_eq!(
                files(&out, ".gz").len().max(files(&out, ".index").len()),
                files(&source, ".tok").len()
            );
        }
        let from = if to == "nanogpt" { out.join("train.bin") } else { out };
        back.push((to, split.len(), from));
    }
    for (from, split, path) in back.iter().filter(|(from, ..)| *from != "datatrove") {
        let out = dir.path().join(format!("back-{from}{split}"));
        let report = last_json(&import(
            path,
            from,
            &out,
            &[&["--tokenizer", text(tokenizer), "--shard-bytes", "50000"], around].concat(),
        ));
        assert_eq!(report["documents_skipped"], 0);
        assert!(read_corpus(&out).0 == stream, "{from} {split} {options:?}");
        assert_eq!(digest(&out, vocab_size), expected, "{from} {split} {options:?}");
        let verified = last_json(&patchmill(&["verify", "--json", text(&out)], &[]));
        assert_eq!(verified["faults"], json!([]));
    }
}

#[test]
fn documents_with_bos_go_to_all_and_come_back() {
    check_round_trips(&tokenizer(), &[], &["--bos", "--no-eos"]);
}

#[test]
fn sets_with_eos_go_to_all_and_come_back() {
    check_round_trips(&tokenizer(), &["--by-set", "--eos"], &["--bos", "--eos"]);
}

#[test]
fn ids_of_four_bytes_go_to_all_that_hold_them_and_come_back() {
    let dir = tempfile::tempdir().unwrap();
    let tokenizer = large_tokenizer(&dir.path().join("large"), " of the ");
    check_round_trips(&tokenizer, &["--no-bos", "--eos"], &["--no-bos", "--eos"]);
    // Too large a vocabulary does no harm if its ids are not used.
    let unused = large_tokenizer(&dir.path().join("unused"), "<never used>");
    corpus(&dir.path().join("c"), &unused, &[]);
    let out = dir.path().join("n");
    last_json(&export(&dir.path().join("c"), "nanogpt", &out, &[]));
    let (stream, width) = read_corpus(&dir.path().join("c"));
    assert_eq!((width, ids(&fs::read(out.join("train.bin")).unwrap(), 2)), (4, stream.0));
}

#[test]
fn a_holdout_becomes_val_bin_and_another_corpus_if_it_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let (source, other) = (dir.path().join("source"), dir.path().join("other"));
    corpus(&source, &tokenizer(), &["--holdout-rate", "0.2"]);
    corpus(&other, &tokenizer(), &[]);
    let out = dir.path().join("out");
    last_json(&export(&source, "nanogpt", &out, &[]));
    let val = ids(&fs::read(out.join("val.bin")).unwrap(), 2);
    assert_eq!(val, read_corpus(&source.join("holdout")).0.0);
    last_json(&export(&source, "nanogpt", &out, &["--force", "--val", text(&other)]));
    assert_eq!(ids(&fs::read(out.join("val.bin")).unwrap(), 2), read_corpus(&other).0.0);
    let large = dir.path().join("large");
    corpus(&large, &large_tokenizer(&dir.path().join("t"), "?"), &[]);
    let output = export(&source, "nanogpt", &out, &["--force", "--val", text(&large)]);
    assert_fails(&output, 2, "has ids of another tokenizer");
}

#[test]
fn an_export_refuses_what_it_would_spoil() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    corpus(&source, &tokenizer(), &[]);
    let out = |name: &str| dir.path().join(name);
    let fails = |to: &str, out: &Path, options: &[&str], what: &str| {
        assert_fails(&export(&source, to, out, options), 2, what);
    };
    fails("olmo", &source, &[], "lies inside the corpus");
    fails("megatron", &source.join("new/x"), &[], "lies inside the corpus");
    fails("nanogpt", &source.join("tokenizer"), &[], "lies inside the corpus");
    fails("megatron", dir.path(), &[], "is a folder; name a prefix in it");
    fails("megatron", &out("a/"), &[], "is a folder; name a prefix in it");
    fails(
        "megatron",
        &out("a"),
        &["--file-per-shard"],
        "--file-per-shard is for olmo and datatrove",
    );
    fails("megatron", &out("a.bin"), &[], "has an extension; name the prefix alone");
    fails("olmo", &out("a"), &["--val", text(&source)], "--val is for nanogpt");
    fs::write(out("file"), "mine").unwrap();
    fails("datatrove", &out("file"), &[], "is a file; datatrove wants a folder");
    assert_eq!(fs::read(out("file")).unwrap(), b"mine");
    assert!(!out("a").exists());
    last_json(&export(&source, "datatrove", &out("d"), &[]));
    fails(
        "datatrove",
        &out("d"),
        &[],
        "tokens.ds exists; name another place, or replace it with --force",
    );
    fails(
        "datatrove",
        &out("d"),
        &["--file-per-shard", "--force"],
        "holds tokens.ds, which a reader of datatrove",
    );
    last_json(&export(&source, "megatron", &out("m.v1"), &[]));
    assert!(out("m.v1.bin").exists(), "a prefix may have dots");
    fails("megatron", &out("m.v1"), &[], "m.v1.bin exists");
    last_json(&export(&source, "megatron", &out("m.v1"), &["--force"]));
    assert!(!dir.path().join(".m.v1.lock").exists());
}

#[test]
fn a_damaged_corpus_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    corpus(&source, &tokenizer(), &[]);
    let shard = files(&source, ".tok").pop().unwrap();
    let mut bytes = fs::read(&shard).unwrap();
    bytes[5000] ^= 1;
    fs::write(&shard, bytes).unwrap();
    for to in ["megatron", "olmo", "nanogpt", "datatrove"] {
        let out = dir.path().join("out").join("x");
        let output =
            export(&source, to, &out, if to == "olmo" { &["--file-per-shard"] } else { &[] });
        assert_fails(&output, 4, "block 0 (bytes 4096..");
        let left = if to == "megatron" { dir.path().join("out") } else { out };
        assert_eq!(fs::read_dir(&left).unwrap().count(), 0, "{to}");
        fs::remove_dir_all(dir.path().join("out")).unwrap();
    }
}

#[test]
fn an_export_that_was_cut_off_has_whole_files_or_none_and_begins_anew() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    corpus(&source, &tokenizer(), &[]);
    let (out, whole) = (dir.path().join("out"), dir.path().join("whole"));
    last_json(&export(&source, "olmo", &whole, &["--file-per-shard"]));
    let visible = |dir: &Path| {
        let names = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name());
        let mut names: Vec<String> = names.map(|name| name.into_string().unwrap()).collect();
        names.retain(|name| !name.starts_with('.'));
        names.sort();
        names
    };
    let arguments =
        ["export", text(&source), "--to", "olmo", "--out", text(&out), "--file-per-shard"];
    for place in ["export-ids", "export-ids#2", "export-publish"] {
        let output = patchmill(&arguments, &[("PATCHMILL_ABORT_AT", place)]);
        assert!(!output.status.success());
        assert!(visible(&out).is_empty(), "{place}");
    }
    let output = patchmill(&arguments, &[("PATCHMILL_TERM_AT", "export-ids")]);
    assert_fails(&output, 75, "stopped on request; nothing was written");
    assert!(visible(&out).is_empty());
    let output = patchmill(&arguments, &[("PATCHMILL_ABORT_AT", "export-publish#3")]);
    assert!(!output.status.success());
    assert_eq!(visible(&out).len(), 3);
    for name in visible(&out) {
        assert_eq!(fs::read(out.join(&name)).unwrap(), fs::read(whole.join(&name)).unwrap());
    }
    assert_fails(&patchmill(&arguments, &[]), 2, "exists; name another place");
    last_json(&export(&source, "olmo", &out, &["--file-per-shard", "--force"]));
    assert_eq!(visible(&out), visible(&whole));
    let leftovers = fs::read_dir(&out).unwrap().count();
    assert_eq!(leftovers, visible(&out).len(), "no temporary file is left");
}

#[test]
fn a_val_bin_of_another_corpus_is_never_beside_a_new_train_bin() {
    let dir = tempfile::tempdir().unwrap();
    let (split, whole, out) =
        (dir.path().join("split"), dir.path().join("whole"), dir.path().join("out"));
    corpus(&split, &tokenizer(), &["--holdout-rate", "0.2"]);
    corpus(&whole, &tokenizer(), &[]);
    last_json(&export(&split, "nanogpt", &out, &[]));
    fs::remove_file(out.join("train.bin")).unwrap();
    let output = export(&whole, "nanogpt", &out, &[]);
    assert_fails(&output, 2, "val.bin exists; name another place, or replace it with --force");
    assert!(!out.join("train.bin").exists() && out.join("val.bin").exists());
    last_json(&export(&split, "nanogpt", &out, &["--force"]));
    let val = ["--val", text(&whole), "--force"];
    let fixed = ["export", text(&whole), "--to", "nanogpt", "--out", text(&out)];
    let cut = [("PATCHMILL_ABORT_AT", "export-publish#1")];
    assert!(!patchmill(&[&fixed[..], &val].concat(), &cut).status.success());
    assert!(out.join("train.bin").exists() && !out.join("val.bin").exists());
    last_json(&export(&split, "nanogpt", &out, &["--force"]));
    let output = export(&whole, "nanogpt", &out, &["--force"]);
    last_json(&output);
    assert!(stderr(&output).contains("val.bin was removed: it was of another corpus"));
    assert!(!out.join("val.bin").exists());
    assert_eq!(ids(&fs::read(out.join("train.bin")).unwrap(), 2), read_corpus(&whole).0.0);
    let output = export(&whole, "nanogpt", &out, &["--force"]);
    last_json(&output);
    assert!(!stderr(&output).contains("was removed"));
}

#[test]
fn an_export_replaces_all_of_its_files_or_none() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    corpus(&source, &tokenizer(), &["--holdout-rate", "0.2"]);
    for (to, first, folder) in [
        ("megatron", "x.bin", "x.idx"),
        ("olmo", "tokens.npy", "tokens.csv.gz"),
        ("nanogpt", "train.bin", "val.bin"),
        ("datatrove", "tokens.ds", "tokens.ds.metadata"),
    ] {
        let dir = dir.path().join(to);
        fs::create_dir_all(dir.join(folder)).unwrap();
        fs::write(dir.join(first), "mine").unwrap();
        let out = if to == "megatron" { dir.join("x") } else { dir.clone() };
        for options in [&["--force"][..], &[]] {
            let output = export(&source, to, &out, options);
            assert_fails(&output, 2, &format!("{folder} is a folder, which is not replaced"));
        }
        assert_eq!(fs::read(dir.join(first)).unwrap(), b"mine");
        assert_eq!(fs::read_dir(&dir).unwrap().count(), 2, "{to}");
    }
}

#[test]
fn an_export_finds_its_corpus_behind_folders_that_do_not_exist() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    corpus(&source, &tokenizer(), &[]);
    for out in ["none/../source/new", "none/sub/../../source/new", "source/none/../../new"] {
        for to in ["olmo", "megatron"] {
            let out = dir.path().join(out).join("x");
            let output = export(&source, to, &out, &[]);
            assert_fails(&output, 2, "has \"..\" after a folder that does not exist");
        }
    }
    // Relative to the working folder.
    let output = support::patchmill()
        .args(["export", "source", "--to", "nanogpt", "--out", "none/../source/new"])
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert_fails(&output, 2, "has \"..\" after a folder that does not exist");
    assert!(!dir.path().join("none").exists() && !source.join("new").exists());
    let inside = export(&source, "olmo", &source.join("series/../new"), &[]);
    assert_eq!(inside.status.code(), Some(2));
    // After existing folders it leads where its text suggests.
    fs::create_dir(dir.path().join("there")).unwrap();
    let output = export(&source, "olmo", &dir.path().join("there/../source/new"), &[]);
    assert_fails(&output, 2, "lies inside the corpus");
    last_json(&export(&source, "olmo", &dir.path().join("there/../new"), &[]));
}

#[test]
fn a_holdout_without_documents_is_none() {
    let dir = tempfile::tempdir().unwrap();
    let (source, out) = (dir.path().join("source"), dir.path().join("out"));
    corpus(&source, &tokenizer(), &["--holdout-rate", "0.0000001"]);
    assert!(source.join("holdout/manifest.json").exists());
    let output = export(&source, "nanogpt", &out, &[]);
    last_json(&output);
    assert!(stderr(&output).contains("no val.bin was written"), "{}", stderr(&output));
    assert!(!out.join("val.bin").exists());
    let val = source.join("holdout");
    let output = export(&source, "nanogpt", &out, &["--force", "--val", text(&val)]);
    assert_fails(&output, 2, "holdout has no documents for val.bin");
}
