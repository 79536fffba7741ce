//! Corpora in other projects' files and back: every id and every border, and an exact error for
//! every invalid file.
//!
//! The readers here are written from the formats' descriptions and share no code with the program.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::{Value, json};

use crate::support::{self, fixtures, last_json, tokenizer};

mod export;

mod import;

mod damage;

fn patchmill(arguments: &[&str], variables: &[(&str, &str)]) -> Output {
    support::patchmill().args(arguments).envs(variables.iter().copied()).output().unwrap()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// The fixtures' tokenizer with ids up to 65,999, which take 4 bytes; `used` is the text of id
/// 65,536.
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

/// A corpus of the fixtures, in shards of about 60 kB.
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

/// All files of a folder whose names end in `extension`, in byte order.
fn files(dir: &Path, end: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut paths: Vec<PathBuf> = entries.filter(|path| text(path).ends_with(end)).collect();
    paths.sort();
    paths
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

/// The output of `patchmill stream` for a corpus by one plan.
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

pub(crate) fn gz(text: &str) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(text.as_bytes()).unwrap();
    encoder.finish().unwrap()
}

fn two_bytes(ids: &[u16]) -> Vec<u8> {
    ids.iter().flat_map(|id| id.to_le_bytes()).collect()
}
