//! `patchmill inspect`, and rules for every command: exit codes and output for machines.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::support::{fixtures, last_json, patchmill, stderr, stdout, tokenizer};

fn tokenize(out: &Path, inputs: &Path) -> Command {
    let mut command = patchmill();
    command.arg("tokenize").arg("--tokenizer").arg(tokenizer());
    command.arg("--threads").arg("2").arg("--out").arg(out).arg(inputs);
    command
}

fn run(mut command: Command) -> Output {
    command.output().unwrap()
}

#[test]
fn a_corpus_is_made_verified_and_inspected() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("corpus");
    let mut command = tokenize(&out, &fixtures().join("text/valid"));
    command.arg("--json");
    let made = last_json(&run(command));
    assert_eq!(made["documents_read"], 75);
    assert_eq!(made["documents_written"], 75);
    assert_eq!(made["documents_skipped"], 0);
    assert_eq!(made["text_bytes"], 375_948);
    assert_eq!(made["encoder"], "fast");
    assert!(made["tokens"].as_u64().unwrap() > 75 && made["seconds"].as_f64().unwrap() > 0.0);

    let mut command = patchmill();
    command.arg("verify").arg(&out).arg("--json");
    assert_eq!(last_json(&run(command))["faults"], serde_json::json!([]));

    let shard = out.join("00000-00000.tok");
    let mut command = patchmill();
    command.arg("inspect").arg(&shard).arg("--json");
    let header = last_json(&run(command));
    assert_eq!((&header["token_bytes"], &header["payload_offset"]), (&2.into(), &4096.into()));
    assert_eq!((&header["token_count"], &header["document_count"]), (&made["tokens"], &75.into()));

    for path in [&out, &shard] {
        let mut command = patchmill();
        command.arg("inspect").arg(path).arg("--json").args(["--doc", "74"]);
        let document = last_json(&run(command));
        assert_eq!((&document["row"], &document["is_exact"]), (&75.into(), &true.into()));
    }
}

#[test]
fn exit_codes_tell_usage_from_damage() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("corpus");
    assert!(run(tokenize(&out, &fixtures().join("text/valid"))).status.success());
    let again = run(tokenize(&out, &fixtures().join("text/valid")));
    assert_eq!(again.status.code(), Some(2), "{}", stderr(&again));
    assert!(stderr(&again).starts_with("error: "), "{}", stderr(&again));
    let mut unknown = patchmill();
    unknown.arg("no-such-command");
    assert_eq!(run(unknown).status.code(), Some(2));
    let missing = run(tokenize(&dir.path().join("x"), &dir.path().join("none.jsonl")));
    assert_eq!(missing.status.code(), Some(2), "{}", stderr(&missing));

    let mut command = patchmill();
    command.arg("verify").arg(dir.path());
    let no_corpus = run(command);
    assert_eq!(no_corpus.status.code(), Some(4), "{}", stderr(&no_corpus));

    let shard = out.join("00000-00000.tok");
    let mut bytes = fs::read(&shard).unwrap();
    bytes[5000] ^= 1;
    fs::write(&shard, bytes).unwrap();
    let mut command = patchmill();
    command.arg("verify").arg(&out);
    let damaged = run(command);
    assert_eq!(damaged.status.code(), Some(4), "{}", stderr(&damaged));
    assert!(stderr(&damaged).contains("block 0"), "{}", stderr(&damaged));
}

/// Bytes replacing a file's; the resulting message of `inspect --doc 0`, and its exit code.
fn inspect_with(
    out: &Path,
    name: &str,
    change: impl FnOnce(&mut Vec<u8>),
) -> (String, Option<i32>) {
    let path = out.join(name);
    let before = fs::read(&path).unwrap();
    let mut bytes = before.clone();
    change(&mut bytes);
    fs::write(&path, bytes).unwrap();
    let mut command = patchmill();
    command.arg("inspect").arg(out).args(["--doc", "0"]);
    let output = run(command);
    fs::write(&path, before).unwrap();
    (stderr(&output), output.status.code())
}

#[test]
fn a_corpus_is_not_read_with_another_tokenizer() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("corpus");
    assert!(run(tokenize(&out, &fixtures().join("text/valid"))).status.success());
    for name in ["tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json"] {
        let (message, code) = inspect_with(&out, name, |bytes| bytes.push(b'\n'));
        assert_eq!(code, Some(4), "{message}");
        assert!(message.contains(name) && message.contains("its BLAKE3 is "), "{message}");
    }
}

#[test]
fn a_document_is_not_described_by_a_changed_index() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("corpus");
    assert!(run(tokenize(&out, &fixtures().join("text/valid"))).status.success());
    let name = "00000.index.parquet";
    let hash = |bytes: &[u8]| blake3::hash(bytes).to_hex().to_string();
    let (mut before, mut after) = (String::new(), String::new());
    let (message, code) = inspect_with(&out, name, |bytes| {
        before = hash(bytes);
        bytes[100] ^= 1;
        after = hash(bytes);
    });
    assert_eq!(code, Some(4), "{message}");
    let said = format!("{name} has BLAKE3 {after}; the manifest says {before}");
    assert!(message.contains(&said), "{message}");
}

#[test]
fn a_closed_stdout_is_no_error() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("corpus");
    assert!(run(tokenize(&out, &fixtures().join("text/valid"))).status.success());
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut command = patchmill();
    command.arg("inspect").arg(&out).args(["--doc", "0"]).stdout(writer);
    let output = command.stderr(Stdio::piped()).spawn().unwrap().wait_with_output().unwrap();
    assert!(output.status.success(), "{:?}", output.status);
    assert_eq!(stderr(&output), "");
}

#[test]
fn a_dry_run_writes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("corpus");
    let mut command = tokenize(&out, &fixtures().join("text/valid"));
    command.args(["--dry-run", "--json"]);
    let estimate = last_json(&run(command));
    assert_eq!(estimate["documents"], 75);
    assert!(!out.exists());
}

#[test]
fn a_tokenizer_is_shown_with_its_encoder() {
    let mut command = patchmill();
    command.arg("inspect").arg("--tokenizer").arg(tokenizer()).arg("--json");
    let shown = last_json(&run(command));
    assert_eq!((&shown["model"], &shown["token_bytes"]), (&"BPE".into(), &2.into()));
    assert_eq!((&shown["added_tokens"], &shown["encoder"]), (&3.into(), &"fast".into()));
    assert_eq!(shown["obstacles"], serde_json::json!([]));
    assert!(shown["joined_pairs"].as_u64().unwrap() > 100);
    let mut command = patchmill();
    command.arg("inspect").arg("--tokenizer").arg(tokenizer());
    let shown = stdout(&run(command));
    assert!(shown.contains("encoder         fast\nobstacles       none\n"), "{shown}");
}
