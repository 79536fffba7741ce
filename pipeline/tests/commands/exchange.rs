//! Corpora in other projects' files and back: every id and every border, and an exact error for whatever is no such file.
//!
//! The readers here are written from the formats' descriptions and share no code with the program.

use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use pipeline::exchange::ImportSpec;
use pipeline::tokenize::Policy;
use schemas::manifest::{ForeignFormat, SpecialTokens};
use schemas::shard::TokenBytes;
use serde_json::{Value, json};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures")
}

fn tokenizer() -> PathBuf {
    fixtures().join("tokenizer")
}

fn patchmill(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_patchmill"));
    command.args(arguments).envs(variables.iter().copied()).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[track_caller]
fn last_json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", stderr(output));
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

#[track_caller]
fn assert_fails(output: &Output, code: i32, what: &str) {
    assert_eq!(output.status.code(), Some(code), "{}", stderr(output));
    assert!(stderr(output).contains(what), "found {}\nexpected {what}", stderr(output));
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The fixtures' tokenizer with ids up to 65,999, which take 4 bytes; `used` is the text of id 65,536.
fn large_tokenizer(dir: &Path, used: &str) -> PathBuf {
    fs::create_dir_all(dir).unwrap();
    for name in ["tokenizer_config.json", "special_tokens_map.json"] {
        fs::copy(tokenizer().join(name), dir.join(name)).unwrap();
    }
    let mut tokenizer: Value =
        serde_json::from_slice(&fs::read(tokenizer().join("tokenizer.json")).unwrap()).unwrap();
    for (content, id) in [(used, 65_536), ("<the last>", 65_999)] {
        tokenizer["model"]["vocab"][content] = json!(id);
        tokenizer["added_tokens"].as_array_mut().unwrap().push(json!({
            "id": id, "content": content, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false, "special": false,
        }));
    }
    fs::write(dir.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    dir.to_owned()
}

/// A corpus of the fixtures, in shards of some 60 kB.
fn corpus(out: &Path, tokenizer: &Path, options: &[&str]) {
    let texts = fixtures().join("text/valid");
    let fixed = ["tokenize", "--tokenizer", text(tokenizer), "--out", text(out), text(&texts)];
    let output =
        patchmill(&[&fixed, &["--shard-bytes", "60000", "--json"][..], options].concat(), &[]);
    last_json(&output);
}

fn export(corpus: &Path, to: &str, out: &Path, options: &[&str]) -> Output {
    let fixed = ["export", text(corpus), "--to", to, "--out", text(out), "--json"];
    patchmill(&[&fixed, options].concat(), &[])
}

fn import(source: &Path, from: &str, out: &Path, options: &[&str]) -> Output {
    let tokenizer = tokenizer();
    let fixed = ["import", text(source), "--from", from, "--out", text(out), "--json"];
    let tokenizer = ["--tokenizer", text(&tokenizer)];
    let has = options.contains(&"--tokenizer");
    let tokenizer = if has { &[][..] } else { &tokenizer[..] };
    patchmill(&[&fixed[..], tokenizer, options].concat(), &[])
}

/// Ids, and the token after each document.
type Stream = (Vec<u32>, Vec<u64>);

fn ids(bytes: &[u8], width: usize) -> Vec<u32> {
    let id = |bytes: &[u8]| match *bytes {
        [low, high] => u32::from(u16::from_le_bytes([low, high])),
        _ => u32::from_le_bytes(bytes.try_into().unwrap()),
    };
    assert!(bytes.len().is_multiple_of(width));
    bytes.chunks_exact(width).map(id).collect()
}

fn numbers(bytes: &[u8]) -> Vec<u64> {
    bytes.chunks_exact(8).map(|bytes| u64::from_le_bytes(bytes.try_into().unwrap())).collect()
}

/// A corpus' stream from the shards' own bytes, and bytes of an id.
fn read_corpus(dir: &Path) -> (Stream, usize) {
    let manifest: Value =
        serde_json::from_slice(&fs::read(dir.join("manifest.json")).unwrap()).unwrap();
    let width = manifest["token_bytes"].as_u64().unwrap() as usize;
    let (mut all, mut ends) = (Vec::new(), Vec::new());
    let series = manifest["series"].as_array().unwrap().iter();
    for shard in series.flat_map(|series| series["shards"].as_array().unwrap()) {
        let bytes = fs::read(dir.join(shard["path"].as_str().unwrap())).unwrap();
        let tokens = shard["token_count"].as_u64().unwrap() as usize;
        let documents = shard["document_count"].as_u64().unwrap() as usize;
        let footer = 4096 + (tokens * width).next_multiple_of(8);
        let first = all.len() as u64;
        all.extend(ids(&bytes[4096..4096 + tokens * width], width));
        ends.extend(numbers(&bytes[footer..footer + 8 * documents]).iter().map(|end| first + end));
    }
    ((all, ends), width)
}

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

/// All files of a folder whose names end so, in byte order.
fn files(dir: &Path, end: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> = entries.filter(|path| text(path).ends_with(end)).collect();
    paths.sort();
    paths
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

/// The fixtures' run file, for corpora of few steps.
fn write_run(path: &Path) {
    let run = fs::read_to_string(fixtures().join("pretrain.toml")).unwrap();
    let mut run: toml::Table = toml::from_str(&run).unwrap();
    for phase in run["phases"].as_array_mut().unwrap() {
        phase["schedule"]["warmup_steps"] = 1.into();
    }
    fs::write(path, toml::to_string(&run).unwrap()).unwrap();
}

/// What `patchmill stream` reads of a corpus by one plan.
fn digest(dir: &Path, vocab_size: u64) -> Value {
    let run = dir.with_extension("toml");
    write_run(&run);
    let set = [
        format!("data.corpus={}", dir.display()),
        format!("model.vocab_size={vocab_size}"),
        "plan.step_tokens=4096".to_owned(),
        "plan.window_units=64".to_owned(),
        "plan.epochs=1".to_owned(),
    ];
    let mut arguments = vec!["stream", text(&run), "--json"];
    arguments.extend(set.iter().flat_map(|set| ["--set", set.as_str()]));
    let report = last_json(&patchmill(&arguments, &[]));
    json!([report["tokens"], report["steps"], report["digest"]])
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
    // A vocabulary that is too large does no harm where its ids are not used.
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

/// A dataset of Megatron-core: sequences, and how many of them each document has.
fn write_megatron(prefix: &Path, sequences: &[&[u32]], documents: &[u64], width: usize) {
    let mut idx = b"MMIDIDX\0\0\x01\0\0\0\0\0\0\0".to_vec();
    idx.push(if width == 2 { 8 } else { 4 });
    idx.extend((sequences.len() as u64).to_le_bytes());
    idx.extend((documents.len() as u64 + 1).to_le_bytes());
    idx.extend(sequences.iter().flat_map(|ids| (ids.len() as i32).to_le_bytes()));
    let mut pointer = 0u64;
    for ids in sequences {
        idx.extend(pointer.to_le_bytes());
        pointer += (ids.len() * width) as u64;
    }
    let mut border = 0u64;
    idx.extend(border.to_le_bytes());
    for count in documents {
        border += count;
        idx.extend(border.to_le_bytes());
    }
    let bytes = |id: &u32| id.to_le_bytes()[..width].to_vec();
    let bin: Vec<u8> = sequences.iter().flat_map(|ids| ids.iter()).flat_map(bytes).collect();
    fs::write(format!("{}.bin", prefix.display()), bin).unwrap();
    fs::write(format!("{}.idx", prefix.display()), idx).unwrap();
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

/// The error of an import in this process, with its exit status; `None` where it is done.
fn import_error(arguments: &ImportSpec) -> Option<(String, u8)> {
    let err = pipeline::import::read(arguments).err()?;
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
        "D/m.idx: pointer of sequence 1 (at byte 54) is 4; expected 8, where the sequence before ends",
    );
    check(18, &[4], "D/m.idx is 94 bytes; expected 106 for 4 sequences and 3 document borders");
    check(
        18,
        &[255; 8],
        "D/m.idx is 94 bytes; expected fewer than 2^64 for 18446744073709551615 sequences and 3 document borders",
    );
    check(
        25,
        &[1],
        "D/m.idx is 94 bytes; expected 864691128455135326 for 72057594037927939 sequences and 3 document borders",
    );
    check(26, &[0], "D/m.idx: number of document borders (at byte 26) is 0; expected at least 1");
    check(
        34,
        &[1],
        "D/m.idx: pointer of sequence 1 (at byte 54) is 4; expected 2, where the sequence before ends",
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
        "D/m.idx: pointer of sequence 0 (at byte 46) is -1; expected 0, where the sequence before ends",
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

/// Every flipped bit and every shorter or longer file is an error or another dataset, never a panic.
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

fn gz(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
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
    let short = "D/a.csv.gz: what stands in line 2 is the end of the file, at token 4; expected documents up to token 5";
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
    let saved = "D/train.bin: the beginning (at byte 0) is that of a file of numpy.save; \
                 expected raw ids, as numpy's tofile writes them";
    check(b"\x93NUMPY\x01\x00v\x00", ForeignFormat::Olmo, saved);
    // Ids of 4 bytes read as 2 come apart; said to be of 4 they are read.
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
    // <s> is 1 and </s> is 2; the cut falls on the border of what is read together.
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
    // The source inside the folder that is written.
    let output = import(&at("ids/train.bin"), "nanogpt", &at("ids"), &plain);
    assert_fails(&output, 2, "lies inside --out");
    assert_eq!(fs::read(at("ids/train.bin")).unwrap(), [5, 0, 6, 0]);
    fs::write(at("ids/b.npy"), [5, 0]).unwrap();
    fs::write(at("ids/c.npy"), [5, 0]).unwrap();
    fs::write(at("ids/c.csv.gz"), gz("0,1\n")).unwrap();
    fails(&at("ids"), "olmo", &plain, "c.npy has a .csv.gz of its documents and");
}

fn two_bytes(ids: &[u16]) -> Vec<u8> {
    ids.iter().flat_map(|id| id.to_le_bytes()).collect()
}

/// Imports two files, the second of which has an id too large; mends it and lets `change` do something to the first. Going on
/// must give what a fresh import gives.
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
            assert_fails(&output, 2, "has \"..\" behind a folder that does not exist");
        }
    }
    // Relative to the working folder.
    let output = Command::new(env!("CARGO_BIN_EXE_patchmill"))
        .args(["export", "source", "--to", "nanogpt", "--out", "none/../source/new"])
        .current_dir(dir.path())
        .output()
        .unwrap();
    assert_fails(&output, 2, "has \"..\" behind a folder that does not exist");
    assert!(!dir.path().join("none").exists() && !source.join("new").exists());
    let inside = export(&source, "olmo", &source.join("series/../new"), &[]);
    assert_eq!(inside.status.code(), Some(2));
    // Behind folders that exist it leads where it says.
    fs::create_dir(dir.path().join("there")).unwrap();
    let output = export(&source, "olmo", &dir.path().join("there/../source/new"), &[]);
    assert_fails(&output, 2, "lies inside the corpus");
    last_json(&export(&source, "olmo", &dir.path().join("there/../new"), &[]));
}

/// Lets `change` do something while an import reads: a file of 2 MB, which becomes many shards, and one behind it. Whether
/// what is there then can be imported; if so, going on gives what is there.
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
    let mut running = Command::new(env!("CARGO_BIN_EXE_patchmill"))
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
    // With the length and the time that it had.
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
