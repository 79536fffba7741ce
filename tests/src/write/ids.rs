//! The ids in a corpus are those of the `tokenizers` crate for every document, and the corpus is
//! the same however it was made.

use std::fs;
use std::path::Path;

use encoder::{Encoder, Policy};
use pipeline::corpus::Corpus;
use pipeline::corpus::index::{self, IndexRow};
use schemas::manifest::SpecialTokens;
use schemas::run::ReadBackend;
use tokenizers::Tokenizer;

use crate::support::documents::documents;
use crate::support::inputs::{
    OwnedDoc, arguments, file, fixtures, line, lines, shared, tokenize, tokenize_error, zst,
};
use crate::support::trees::{assert_same_tree, tree};

/// The reference: tokenizer.json read by the crate, special tokens as text.
fn reference(folder: &Path) -> Tokenizer {
    let mut tokenizer = Tokenizer::from_file(folder.join("tokenizer.json")).unwrap();
    tokenizer.set_encode_special_tokens(true);
    tokenizer
}

fn index_rows(corpus: &Corpus) -> Vec<IndexRow> {
    let indexes = corpus.manifest().series.iter().map(|series| series.index.as_ref().unwrap());
    let read = |path: &str| index::read(&corpus.dir().join(path), 0, u64::MAX).unwrap();
    indexes.flat_map(|index| read(&index.path)).map(Result::unwrap).collect()
}

/// A corpus of these inputs holds, document by document, BOS and the reference's ids, and the index
/// agrees.
fn check_corpus(tokenizer: &Path, inputs: &[&Path], options: &[&str]) {
    let dir = tempfile::tempdir().unwrap();
    let tokenizer_name = tokenizer.display().to_string();
    let options = [&["--tokenizer", &tokenizer_name], options].concat();
    tokenize(dir.path(), inputs, &options).unwrap();
    let corpus = Corpus::open(dir.path(), ReadBackend::Mmap).unwrap();
    let reference = reference(tokenizer);
    let expected: Vec<OwnedDoc> = inputs.iter().flat_map(|path| documents(path)).collect();
    let index = index_rows(&corpus);
    assert_eq!(corpus.document_count(), expected.len() as u64);
    assert_eq!(index.len(), expected.len());
    let mut end = 0;
    for ((document, (row, text, set_name)), entry) in (0..).zip(&expected).zip(&index) {
        let tokens = corpus.document_tokens(document).unwrap();
        assert_eq!(tokens.start, end, "document {document} begins where the one before ends");
        end = tokens.end;
        let mut ids = vec![0u32; (tokens.end - tokens.start) as usize];
        corpus.read(tokens.start, &mut ids).unwrap();
        let encoding = reference.encode(text.as_str(), false).unwrap();
        assert_eq!(ids[0], 1, "document {document} begins with BOS");
        assert_eq!(ids[1..], *encoding.get_ids(), "ids of document {document}");
        assert_eq!(entry.row, *row);
        assert_eq!(entry.set_name, *set_name);
        assert_eq!(entry.token_count, ids.len() as u64);
        assert_eq!(entry.text_bytes, Some(text.len() as u64));
        let hash = blake3::hash(text.as_bytes());
        assert_eq!(entry.content_hash.unwrap(), hash.as_bytes()[..16]);
    }
    assert_eq!(end, corpus.token_count());
    assert_eq!(pipeline::corpus::verify::check(dir.path()).unwrap().faults, [""; 0]);
}

#[test]
fn fixture_documents_have_the_reference_ids() {
    let text = fixtures().join("text");
    let train = ["train/train-00.jsonl.zst", "train/train-01.jsonl.zst", "train/train-02.parquet"]
        .map(|name| text.join(name));
    let train = train.iter().map(|path| path.as_path()).collect::<Vec<_>>();
    check_corpus(&fixtures().join("tokenizer"), &train, &["--shard-bytes", "50000"]);
    let valid = text.join("valid/valid.jsonl.zst");
    check_corpus(&fixtures().join("tokenizer"), &[&valid], &[]);
}

#[test]
fn fixture_documents_have_the_reference_ids_of_llama_2() {
    let Some(tokenizer) = shared("tokenizer/llama2") else { return };
    check_corpus(&tokenizer, &[&fixtures().join("text/valid/valid.jsonl.zst")], &[]);
}

#[test]
fn wikitext_has_the_reference_ids_of_llama_2() {
    let wikitext = shared("evaldata/wikitext/wikitext_document_level-test.json");
    let (Some(tokenizer), Some(wikitext)) = (shared("tokenizer/llama2"), wikitext) else { return };
    check_corpus(&tokenizer, &[&wikitext], &["--shard-bytes", "100000"]);
}

#[test]
fn odd_documents_have_the_reference_ids() {
    let dir = tempfile::tempdir().unwrap();
    let unspaced = "abcdefghijklmnopqrstuvwxyz0123456789".repeat(29_000);
    assert!(unspaced.len() > 1_000_000);
    let texts = [
        "<s>",
        "</s><s><unk>",
        " </s> <s>x</s>",
        "",
        " ",
        "   two  spaces ",
        "\0\0 NUL \0",
        "\r\n\t\u{2581}\u{2581}x \u{2581}",
        "e\u{301} \u{1F468}\u{200D}\u{1F469}\u{200D}\u{1F467} \u{10FFFF} 漢字 <0x0A>",
        &unspaced,
    ];
    let path = file(dir.path(), "odd.jsonl", lines(&texts));
    check_corpus(&fixtures().join("tokenizer"), &[&path], &[]);
    if let Some(tokenizer) = shared("tokenizer/llama2") {
        check_corpus(&tokenizer, &[&path], &[]);
    }
}

#[test]
fn bos_eos_and_special_tokens_follow_the_policy() {
    let ids = |text: &str, bos, eos, special_tokens| {
        let policy = Policy { bos, eos, special_tokens };
        let encoder = Encoder::load(&fixtures().join("tokenizer"), policy).unwrap();
        let mut ids = Vec::new();
        encoder.encode(text, &mut ids).unwrap();
        ids
    };
    assert_eq!(ids("", true, false, SpecialTokens::Text), [1]);
    assert_eq!(ids("", true, true, SpecialTokens::Text), [1, 2]);
    assert_eq!(ids("", false, false, SpecialTokens::Text), [0; 0]);
    assert_eq!(ids("</s>", false, true, SpecialTokens::Hf), [2, 2]);
    let text = ids("</s>", false, false, SpecialTokens::Text);
    assert!(text.len() > 1 && text.iter().all(|&id| id > 2), "{text:?}");
}

#[test]
fn a_character_outside_the_alphabet_comes_back_exactly() {
    let policy = Policy { bos: true, eos: false, special_tokens: SpecialTokens::Text };
    let encoder = Encoder::load(&fixtures().join("tokenizer"), policy).unwrap();
    for text in ["\u{1F980}", "a\u{1F980}b \u{0}\n\n", "  ñ\u{10FFFF}  ", "plain words", ""] {
        let mut ids = Vec::new();
        encoder.encode(text, &mut ids).unwrap();
        assert!(!ids.contains(&0), "{text:?} has the unknown token: {ids:?}");
        assert_eq!(encoder.decode_document(&ids).unwrap(), text);
    }
}

#[test]
fn a_document_without_tokens_is_listed_as_skipped() {
    let dir = tempfile::tempdir().unwrap();
    let input = file(dir.path(), "in.jsonl", lines(&["a", "", "b"]));
    let out = dir.path().join("out");
    let (error, _) = tokenize_error(&out, &[&input], &["--no-bos"]);
    assert!(error.contains("line 2") && error.contains("no tokens"), "{error}");
    let out = dir.path().join("skip");
    let report = tokenize(&out, &[&input], &["--no-bos", "--on-error", "skip"]).unwrap();
    assert_eq!(report.manifest.totals.documents_skipped, 1);
    let out = dir.path().join("bos");
    let report = tokenize(&out, &[&input], &[]).unwrap();
    assert_eq!(report.manifest.totals.documents_written, 3);
}

#[test]
fn any_number_of_threads_gives_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let train = fixtures().join("text/train");
    let options = |threads| ["--shard-bytes", "30000", "--threads", threads];
    let one = dir.path().join("1");
    tokenize(&one, &[&train], &options("1")).unwrap();
    assert!(tree(&one).len() > 50, "many shards");
    for threads in ["2", "3", "7"] {
        let other = dir.path().join(threads);
        tokenize(&other, &[&train], &options(threads)).unwrap();
        assert_same_tree(&one, &other);
    }
}

#[test]
fn a_shard_closes_at_the_first_document_end_beyond_its_size() {
    let dir = tempfile::tempdir().unwrap();
    tokenize(dir.path(), &[&fixtures().join("text/valid")], &["--shard-bytes", "20000"]).unwrap();
    let corpus = Corpus::open(dir.path(), ReadBackend::Pread).unwrap();
    for shard_index in 0..corpus.shard_count() {
        let footer = corpus.shard_footer(shard_index).unwrap();
        let ends: Vec<u64> = footer.document_ends.iter().map(|end| 2 * end).collect();
        let before_last = ends[..ends.len() - 1].last().copied().unwrap_or(0);
        assert!(before_last < 20_000, "shard {shard_index} was full at {before_last}");
        let is_last = shard_index + 1 == corpus.shard_count();
        assert!(is_last || ends[ends.len() - 1] >= 20_000, "shard {shard_index}: {ends:?}");
    }
}

#[test]
fn a_stopped_run_goes_on_with_the_next_series() {
    let dir = tempfile::tempdir().unwrap();
    let inputs = dir.path().join("in");
    file(&inputs, "0.jsonl", lines(&["one", "two"]));
    file(&inputs, "1.jsonl", "broken\n");
    file(&inputs, "2.jsonl", line("three", Some("S")));
    let out = dir.path().join("out");
    let (error, _) = tokenize_error(&out, &[&inputs], &[]);
    assert!(error.contains("1.jsonl"), "{error}");
    assert!(!out.join("manifest.json").exists(), "a corpus that is not complete has no manifest");
    file(&out, "00001-00000.tok", "left by a crash");
    file(&out, ".00001-00001.tok.tmp", "left by a crash");
    file(&inputs, "1.jsonl", lines(&["mended"]));
    let other = ["--shard-bytes", "5"];
    let (error, status) = tokenize_error(&out, &[&inputs], &other);
    assert!(error.contains("shard_bytes was 268435456, now 5"), "{error}");
    assert_eq!(status, 2);
    let report = tokenize(&out, &[&inputs], &["--threads", "2"]).unwrap();
    assert_eq!(report.kept_series, 1);
    let fresh = dir.path().join("fresh");
    tokenize(&fresh, &[&inputs], &["--threads", "1"]).unwrap();
    assert_same_tree(&fresh, &out);
}

/// Data changed on disk since a run was stopped does not enter the corpus.
#[test]
fn a_finished_series_that_was_damaged_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let inputs = dir.path().join("in");
    file(&inputs, "0.jsonl", [&*lines(&["one", "two"]), "no document\n"].concat());
    let second = zst(lines(&["three"]).as_bytes());
    let skip = ["--on-error", "skip"];
    for name in
        ["00000-00000.tok", "00000.index.parquet", "00000.skipped.jsonl", "00000.series.json"]
    {
        let out = dir.path().join("out");
        file(&inputs, "1.jsonl.zst", &second[..second.len() - 2]);
        tokenize_error(&out, &[&inputs], &skip);
        let mut bytes = fs::read(out.join(name)).unwrap();
        let digit = bytes.iter().rposition(|&byte| byte == b'1').unwrap_or(bytes.len() - 1);
        bytes[digit] ^= 2;
        fs::write(out.join(name), bytes).unwrap();
        file(&inputs, "1.jsonl.zst", &second);
        assert_eq!(tokenize(&out, &[&inputs], &skip).unwrap().kept_series, 0, "{name}");
        let fresh = dir.path().join("fresh");
        tokenize(&fresh, &[&inputs], &skip).unwrap();
        assert_same_tree(&fresh, &out);
        fs::remove_dir_all(&out).unwrap();
        fs::remove_dir_all(&fresh).unwrap();
    }
}

#[test]
fn an_input_that_changed_since_a_stopped_run_is_read_again() {
    let dir = tempfile::tempdir().unwrap();
    let inputs = dir.path().join("in");
    file(&inputs, "0.jsonl", lines(&["one"]));
    file(&inputs, "1.jsonl", "broken\n");
    let out = dir.path().join("out");
    tokenize_error(&out, &[&inputs], &[]);
    file(&inputs, "0.jsonl", lines(&["longer than it was"]));
    file(&inputs, "1.jsonl", lines(&["mended"]));
    assert_eq!(tokenize(&out, &[&inputs], &[]).unwrap().kept_series, 0);
    let fresh = dir.path().join("fresh");
    tokenize(&fresh, &[&inputs], &[]).unwrap();
    assert_same_tree(&fresh, &out);
}

#[test]
fn a_folder_with_something_else_in_it_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let input = file(dir.path(), "in.jsonl", lines(&["one"]));
    let out = dir.path().join("out");
    file(&out, "thesis.tex", "years of work");
    let (error, status) = tokenize_error(&out, &[&input], &[]);
    assert!(error.contains("holds \"thesis.tex\", which is not part of a corpus"), "{error}");
    assert_eq!(status, 2);
    tokenize(&out, &[&input], &["--force"]).unwrap();
    assert_eq!(fs::read_to_string(out.join("thesis.tex")).unwrap(), "years of work");

    let out = dir.path().join("manifest-of-others");
    file(&out, "manifest.json", r#"{"format": "another"}"#);
    let (error, _) = tokenize_error(&out, &[&input], &["--force"]);
    assert!(error.contains("is not a manifest of a corpus and would be replaced"), "{error}");
}

#[test]
fn a_corpus_is_replaced_only_by_force() {
    let dir = tempfile::tempdir().unwrap();
    let old = file(dir.path(), "old.jsonl", lines(&["one", "two", "three"]));
    let new = file(dir.path(), "new.jsonl", lines(&["four"]));
    let out = dir.path().join("out");
    tokenize(&out, &[&old], &["--shard-bytes", "1"]).unwrap();
    let before = tree(&out);
    let (error, status) = tokenize_error(&out, &[&new], &[]);
    assert!(error.contains("already holds a corpus"), "{error}");
    assert_eq!(status, 2);
    assert!(tree(&out) == before, "the refusal changed nothing");
    tokenize(&out, &[&new], &["--force"]).unwrap();
    let fresh = dir.path().join("fresh");
    tokenize(&fresh, &[&new], &[]).unwrap();
    assert_same_tree(&fresh, &out);
}

#[test]
fn force_removes_nothing_for_a_run_that_cannot_work() {
    let dir = tempfile::tempdir().unwrap();
    let good = file(dir.path(), "good.jsonl", lines(&["one"]));
    let out = dir.path().join("out");
    tokenize(&out, &[&good], &[]).unwrap();
    let before = tree(&out);
    let empty = file(dir.path(), "empty.jsonl", "");
    let mislabelled = file(dir.path(), "wrong.parquet", "text");
    for (bad, said) in [(&empty, "is empty"), (&mislabelled, "promises Parquet")] {
        let (error, _) = tokenize_error(&out, &[&good, bad], &["--force"]);
        assert!(error.contains(said), "{error}");
        assert!(tree(&out) == before, "{said}");
    }
    let own_tokenizer = out.join("tokenizer").display().to_string();
    let (error, status) =
        tokenize_error(&out, &[&good], &["--force", "--tokenizer", &own_tokenizer]);
    assert!(error.contains("tokenizer.json lies inside --out"), "{error}");
    assert_eq!(status, 2);
    assert!(tree(&out) == before);
    let inside = file(&out, "inside.jsonl", lines(&["two"]));
    let (error, status) = tokenize_error(&out, &[&inside], &["--force"]);
    assert!(error.contains("inside.jsonl lies inside --out"), "{error}");
    assert_eq!(status, 2);
}

#[test]
fn a_folder_that_is_being_written_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let input = file(dir.path(), "in.jsonl", lines(&["one"]));
    let out = dir.path().join("out");
    let lock = fs::File::create(file(&out, ".lock", "process 1")).unwrap();
    lock.lock().unwrap();
    let (error, _) = tokenize_error(&out, &[&input], &[]);
    assert!(error.contains("is being written by another process"), "{error}");
    drop(lock);
    tokenize(&out, &[&input], &[]).unwrap();
    assert!(!out.join(".lock").exists());
}

#[test]
fn inputs_without_a_document_make_no_corpus() {
    let dir = tempfile::tempdir().unwrap();
    let input = file(dir.path(), "blank.jsonl", "\n\n");
    let out = dir.path().join("out");
    let (error, status) = tokenize_error(&out, &[&input], &[]);
    assert!(error.contains("hold no document to write (0 read, 0 skipped)"), "{error}");
    assert_eq!(status, 2);
    assert!(!out.join("manifest.json").exists());

    let input = file(dir.path(), "bad.jsonl", "no document\n");
    let out = dir.path().join("skipped");
    let (error, _) = tokenize_error(&out, &[&input], &["--on-error", "skip"]);
    assert!(
        error.contains("(1 read, 1 skipped); ")
            && error.contains("skipped.jsonl lists the reasons"),
        "{error}"
    );
    let list = fs::read_to_string(out.join("skipped.jsonl")).unwrap();
    assert!(list.contains("bad.jsonl"), "{list}");
}

#[test]
fn an_input_without_a_document_is_a_series_without_shards() {
    let dir = tempfile::tempdir().unwrap();
    let blank = file(dir.path(), "0.jsonl", "\n\n");
    let input = file(dir.path(), "1.jsonl", lines(&["one"]));
    let out = dir.path().join("out");
    let report = tokenize(&out, &[&blank, &input], &[]).unwrap();
    assert_eq!(report.manifest.series.len(), 2);
    assert!(report.manifest.series[0].index.is_none());
    assert!(out.join("00001-00000.tok").exists());
    assert_eq!(pipeline::corpus::verify::check(&out).unwrap().faults, [""; 0]);
}

#[test]
fn a_tokenizer_that_cannot_be_used_says_why() {
    let dir = tempfile::tempdir().unwrap();
    let input = file(dir.path(), "in.jsonl", lines(&["one"]));
    let error = |folder: &Path, options: &[&str]| {
        let name = folder.display().to_string();
        let options = [&["--tokenizer", &*name], options].concat();
        tokenize_error(&dir.path().join("out"), &[&input], &options).0
    };
    let missing = error(&dir.path().join("none"), &[]);
    assert!(missing.contains("cannot read") && missing.contains("none"), "{missing}");
    let folder = dir.path().join("broken");
    file(&folder, "tokenizer.json", "{\"model\": 3}");
    let broken = error(&folder, &[]);
    assert!(broken.contains("tokenizer.json is not a tokenizer that can be used"), "{broken}");
    let folder = dir.path().join("unnamed");
    let tokenizer = fs::read(fixtures().join("tokenizer/tokenizer.json")).unwrap();
    file(&folder, "tokenizer.json", tokenizer);
    file(&folder, "tokenizer_config.json", r#"{"eos_token": {"content": "<|end|>"}}"#);
    let unnamed = error(&folder, &["--no-bos", "--eos"]);
    assert!(unnamed.contains("no token \"<|end|>\""), "{unnamed}");
    assert!(unnamed.contains("tokenizer_config.json names as EOS"), "{unnamed}");
    let args = arguments(&dir.path().join("out"), &[&input], &[]);
    pipeline::write::corpus::build(&args.spec().unwrap()).unwrap();
}

#[test]
fn truncation_and_padding_of_a_tokenizer_do_not_apply() {
    let dir = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(fixtures().join("tokenizer/tokenizer.json")).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    json["truncation"] = serde_json::json!({
        "direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0
    });
    json["padding"] = serde_json::json!({
        "strategy": {"Fixed": 64}, "direction": "Right", "pad_to_multiple_of": null,
        "pad_id": 0, "pad_type_id": 0, "pad_token": "<unk>"
    });
    file(dir.path(), "tokenizer.json", json.to_string());
    let policy = Policy { bos: true, eos: false, special_tokens: SpecialTokens::Text };
    let ids = |folder: &Path| {
        let mut ids = Vec::new();
        Encoder::load(folder, policy).unwrap().encode("five words are not cut", &mut ids).unwrap();
        ids
    };
    assert_eq!(ids(dir.path()), ids(&fixtures().join("tokenizer")));
}

#[test]
fn a_tokenizer_that_draws_lots_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let text = fs::read_to_string(fixtures().join("tokenizer/tokenizer.json")).unwrap();
    let mut json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let policy = Policy { bos: true, eos: false, special_tokens: SpecialTokens::Text };
    let mut load = |dropout: f64| {
        json["model"]["dropout"] = dropout.into();
        Encoder::load(&file(dir.path(), "tokenizer.json", json.to_string()), policy)
    };
    let error = load(0.5).err().unwrap().to_string();
    assert!(error.contains("at random (dropout 0.5)"), "{error}");
    load(0.0).unwrap();
}

#[test]
fn the_fixture_tokenizer_is_what_its_command_makes() {
    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: pipeline::commands::train_tokenizer::TrainTokenizerArgs,
    }
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("tokenizer");
    let (out_name, input) =
        (out.display().to_string(), fixtures().join("text/train").display().to_string());
    let line = ["train-tokenizer", "--out", &out_name, "--vocab-size", "4096", &input];
    let line: Line = clap::Parser::parse_from(line);
    pipeline::commands::train_tokenizer::train_tokenizer(&line.args).unwrap();
    assert_same_tree(&fixtures().join("tokenizer"), &out);
}
