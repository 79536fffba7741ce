//! Tokenizers whose ids come from the `tokenizers` crate: the same ids as the crate's, the same
//! corpus for any number of threads and tasks, and after a kill. Most of them are refused early by
//! our own encoder, on a thread of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};
use tokenizers::models::bpe::BPE;
use tokenizers::models::unigram::{Unigram, UnigramTrainer};
use tokenizers::models::wordlevel::{WordLevel, WordLevelTrainer};
use tokenizers::models::wordpiece::{WordPiece, WordPieceTrainer};
use tokenizers::models::{TrainerWrapper, bpe::BpeTrainer};
use tokenizers::{AddedToken, ModelWrapper, PreTokenizerWrapper, Tokenizer};

use crate::trees::assert_same_tree;

fn patchmill() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_patchmill"));
    for name in ["SLURM_ARRAY_TASK_ID", "JOB_COMPLETION_INDEX", "PATCHMILL_ABORT_AT"] {
        command.env_remove(name);
    }
    command
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[track_caller]
fn succeed(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", stderr(&output));
    stderr(&output)
}

/// Small shards, so an input has several.
fn tokenize(tokenizer: &Path, inputs: &Path, out: &Path, options: &[&str]) -> Command {
    let mut command = patchmill();
    command.arg("tokenize").arg("--tokenizer").arg(tokenizer).arg("--out").arg(out);
    command.args(["--shard-bytes", "5000", "--no-bos", "--no-eos"]).args(options).arg(inputs);
    command
}

/// Words of a few scripts and shapes, cased and accented.
fn documents() -> Vec<String> {
    let words = "The quick brown Fox jumps ÜBER the lazy dog ﬁne ① １２３ naïve Straße \
        日本語 тест état don't e\u{301}tude  two\tspaces 3.14 (a) x_y AbC";
    let words: Vec<&str> = words.split(' ').collect();
    let document = |seed: usize| {
        let count = 3 + seed * 7 % 60;
        let word = |at: usize| words[(seed * 31 + at * at * 7 + at) % words.len()];
        (0..count).map(word).collect::<Vec<_>>().join(" ")
    };
    let long = (0..40).map(document).collect::<Vec<_>>().join("\n").repeat(20);
    (0..150).map(document).chain([long]).collect()
}

fn write_inputs(dir: &Path) -> PathBuf {
    let inputs = dir.join("in");
    fs::create_dir(&inputs).unwrap();
    let lines: Vec<String> =
        documents().iter().map(|text| json!({ "text": text }).to_string() + "\n").collect();
    for (name, lines) in ["a.jsonl", "b.jsonl"].iter().zip(lines.chunks(90)) {
        fs::write(inputs.join(name), lines.concat()).unwrap();
    }
    inputs
}

fn learn(model: ModelWrapper, mut trainer: TrainerWrapper, pre_tokenizer: &Value) -> Value {
    let mut tokenizer = Tokenizer::new(model);
    let pre: PreTokenizerWrapper = serde_json::from_value(pre_tokenizer.clone()).unwrap();
    tokenizer.with_pre_tokenizer(Some(pre));
    tokenizer.train(&mut trainer, documents().into_iter()).unwrap();
    serde_json::from_str(&tokenizer.to_string(false).unwrap()).unwrap()
}

/// A model of each type, with every normalizer and pre-tokenizer that real tokenizers have and our
/// own encoder lacks.
fn families() -> Vec<(String, Value)> {
    let unknown = || vec![AddedToken::from("[UNK]", true)];
    let metaspace = json!({ "type": "Metaspace", "replacement": "▁", "prepend_scheme": "always" });
    let bert = json!({ "type": "BertPreTokenizer" });
    let whitespace = json!({ "type": "WhitespaceSplit" });
    let bpe = BpeTrainer::builder().vocab_size(300).special_tokens(unknown()).show_progress(false);
    let bpe_model = BPE::builder().unk_token("[UNK]".into()).build().unwrap();
    let bpe =
        learn(ModelWrapper::BPE(bpe_model), TrainerWrapper::BpeTrainer(bpe.build()), &whitespace);
    let word_piece = WordPieceTrainer::builder().vocab_size(300).special_tokens(unknown());
    let word_piece = learn(
        ModelWrapper::WordPiece(WordPiece::default()),
        TrainerWrapper::WordPieceTrainer(word_piece.show_progress(false).build()),
        &bert,
    );
    let mut unigram = UnigramTrainer::builder();
    unigram.vocab_size(200).special_tokens(unknown()).unk_token(Some("[UNK]".into()));
    let unigram = learn(
        ModelWrapper::Unigram(Unigram::default()),
        TrainerWrapper::UnigramTrainer(unigram.show_progress(false).build().unwrap()),
        &metaspace,
    );
    let mut word_level = WordLevelTrainer::builder();
    word_level.vocab_size(300).special_tokens(unknown()).show_progress(false);
    let word_level = learn(
        ModelWrapper::WordLevel(WordLevel::builder().unk_token("[UNK]".into()).build().unwrap()),
        TrainerWrapper::WordLevelTrainer(word_level.build().unwrap()),
        &whitespace,
    );
    let models =
        [("BPE", bpe), ("WordPiece", word_piece), ("Unigram", unigram), ("WordLevel", word_level)];
    let normalizers = [
        Value::Null,
        json!({ "type": "NFKC" }),
        json!({ "type": "Lowercase" }),
        json!({ "type": "Sequence",
                "normalizers": [{ "type": "NFD" }, { "type": "StripAccents" }] }),
        json!({ "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true,
                "strip_accents": null, "lowercase": true }),
    ];
    let mut families = Vec::new();
    for (name, model) in models {
        for normalizer in &normalizers {
            let mut json = model.clone();
            json["normalizer"] = normalizer.clone();
            families.push((format!("{name} with {}", normalizer["type"]), json));
        }
    }
    families
}

/// All ids of a corpus, in order.
fn ids(corpus: &Path) -> Vec<u32> {
    let manifest: Value =
        serde_json::from_slice(&fs::read(corpus.join("manifest.json")).unwrap()).unwrap();
    assert_eq!(manifest["token_bytes"], 2, "the vocabularies are small");
    let series = manifest["series"].as_array().unwrap().iter();
    let shards = series.flat_map(|series| series["shards"].as_array().unwrap());
    let ids = shards.flat_map(|shard| {
        let bytes = fs::read(corpus.join(shard["path"].as_str().unwrap())).unwrap();
        let count = usize::try_from(shard["token_count"].as_u64().unwrap()).unwrap();
        let ids = bytes[4096..].chunks_exact(2).take(count);
        ids.map(|id| u32::from(u16::from_le_bytes([id[0], id[1]]))).collect::<Vec<_>>()
    });
    ids.collect()
}

#[test]
fn every_family_that_is_not_fast_makes_one_corpus_by_any_threads_tasks_and_restarts() {
    let dir = tempfile::tempdir().unwrap();
    let inputs = write_inputs(dir.path());
    for (name, json) in families() {
        let tokenizer = dir.path().join("tokenizer.json");
        fs::write(&tokenizer, json.to_string()).unwrap();
        let one = dir.path().join("one");
        let out = dir.path().join("out");
        let notices = succeed(&mut tokenize(&tokenizer, &inputs, &one, &["--threads", "1"]));
        assert!(notices.contains("the tokenizers crate makes the ids"), "{name}: {notices}");
        let reference = Tokenizer::from_file(&tokenizer).unwrap();
        let encode = |text: String| reference.encode(text, false).unwrap().get_ids().to_vec();
        let expected: Vec<u32> = documents().into_iter().flat_map(encode).collect();
        assert!(ids(&one) == expected, "{name}");
        for threads in ["2", "5"] {
            succeed(&mut tokenize(&tokenizer, &inputs, &out, &["--threads", threads]));
            assert_same_tree(&one, &out);
            fs::remove_dir_all(&out).unwrap();
        }
        let mut killed = tokenize(&tokenizer, &inputs, &out, &["--threads", "2"]);
        killed.env("PATCHMILL_ABORT_AT", "part-record#1");
        assert!(!killed.output().unwrap().status.success(), "{name}: it was to be killed");
        succeed(&mut tokenize(&tokenizer, &inputs, &out, &["--threads", "2"]));
        assert_same_tree(&one, &out);
        fs::remove_dir_all(&out).unwrap();
        for task in ["0/2", "1/2"] {
            succeed(&mut tokenize(&tokenizer, &inputs, &out, &["--threads", "2", "--task", task]));
        }
        succeed(patchmill().arg("merge").arg(&out));
        assert_same_tree(&one, &out);
        fs::remove_dir_all(&out).unwrap();
        fs::remove_dir_all(&one).unwrap();
    }
}

/// A tokenizer, and the expected tokens around a document (from 1000 on; 0 for none) or the error.
struct Case {
    /// `special`: has the special tokens `<s>`, `</s>` and `<|end|>`, 1000 to 1002.
    /// `ordinary`: `<s>` is an ordinary entry, as in Qwen3's vocabulary.
    definition: &'static str,
    /// Tokens that the post-processor puts around a text `A`; empty for no post-processor.
    template: &'static [&'static str],
    /// tokenizer_config.json; empty for none.
    config: &'static str,
    options: &'static [&'static str],
    expected: Result<[u64; 2], &'static str>,
}

const fn case(
    definition: &'static str,
    template: &'static [&'static str],
    config: &'static str,
    options: &'static [&'static str],
    expected: Result<[u64; 2], &'static str>,
) -> Case {
    Case { definition, template, config, options, expected }
}

const BEGINS: &[&str] = &["<s>", "A"];
const ENDS: &[&str] = &["A", "<|end|>"];
const TWICE: &[&str] = &["<s>", "</s>", "A"];
const LLAMA: &str = r#"{"tokenizer_class": "LlamaTokenizerFast", "bos_token": "<s>"}"#;
const QWEN: &str = r#"{"bos_token": null, "add_bos_token": false, "eos_token": "<|end|>"}"#;
const GENERIC: &str = r#"{"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>"}"#;
const NULL: &str = r#"{"bos_token": null}"#;
const CHOOSE_BOS: Result<[u64; 2], &str> = Err("--bos or --no-bos");
const CHOOSE_EOS: Result<[u64; 2], &str> = Err("--eos or --no-eos");

const CASES: &[Case] = &[
    // No configuration at all: the default.
    case("special", &[], "", &[], Ok([1000, 0])),
    case("special", &[], "", &["--no-bos"], Ok([0, 0])),
    case("special", &[], "", &["--eos"], Ok([1000, 1001])),
    case("ordinary", &[], "", &[], Err(") is an ordinary entry, not a special token")),
    case("ordinary", &[], "", &["--no-bos"], Ok([0, 0])),
    // Qwen3's.
    case("special", &[], QWEN, &[], Ok([0, 0])),
    case("ordinary", &[], QWEN, &[], Ok([0, 0])),
    case("ordinary", &[], QWEN, &["--bos"], Err("bos_token: null")),
    case("special", &[], QWEN, &["--eos"], Ok([0, 1002])),
    case("special", &[], NULL, &[], Ok([0, 0])),
    // add_bos_token and add_eos_token decide.
    case("special", &[], r#"{"bos_token": "<s>", "add_bos_token": true}"#, &[], Ok([1000, 0])),
    case(
        "special",
        &[],
        r#"{"bos_token": {"content": "</s>"}, "add_bos_token": true}"#,
        &[],
        Ok([1001, 0]),
    ),
    case("special", BEGINS, r#"{"bos_token": "<s>", "add_bos_token": false}"#, &[], Ok([0, 0])),
    case("special", &[], r#"{"bos_token": null, "add_bos_token": true}"#, &[], CHOOSE_BOS),
    case("special", &[], r#"{"bos_token": "<s>", "add_bos_token": "yes"}"#, &[], CHOOSE_BOS),
    case(
        "special",
        &[],
        r#"{"add_bos_token": false, "add_eos_token": true, "eos_token": "<|end|>"}"#,
        &[],
        Ok([0, 1002]),
    ),
    case(
        "special",
        &[],
        r#"{"add_bos_token": false, "add_eos_token": true, "eos_token": null}"#,
        &[],
        CHOOSE_EOS,
    ),
    // The post-processor decides where the configuration has no such key, as Llama-3's.
    case("special", BEGINS, "", &[], Ok([1000, 0])),
    case("special", BEGINS, GENERIC, &[], Ok([1000, 0])),
    case("special", BEGINS, GENERIC, &["--no-bos"], Ok([0, 0])),
    case("special", ENDS, "", &["--no-bos"], Ok([0, 1002])),
    case("special", ENDS, r#"{"bos_token": null, "eos_token": "<|end|>"}"#, &[], Ok([0, 1002])),
    case("special", ENDS, r#"{"bos_token": null, "eos_token": "</s>"}"#, &[], CHOOSE_EOS),
    case("special", BEGINS, NULL, &[], CHOOSE_BOS),
    case("special", TWICE, "", &[], CHOOSE_BOS),
    // A class with a default; and configurations that leave it open, where a BOS would contradict
    // transformers.
    case("special", &[], LLAMA, &[], Ok([1000, 0])),
    case("special", &[], GENERIC, &[], CHOOSE_BOS),
    case("special", &[], GENERIC, &["--bos"], Ok([1000, 0])),
    case("special", &[], "{}", &[], CHOOSE_BOS),
    case("special", &[], "3", &[], Err("expected a JSON object")),
    case(
        "special",
        &[],
        r#"{"add_bos_token": true, "bos_token": "<b>"}"#,
        &[],
        Err("there is no token \"<b>\""),
    ),
];

/// The tokenizer of a case, made from one without special tokens; its ids 1000 and up are
/// `first_added` and up.
fn tokenizer_of(case: &Case, plain: &Value, first_added: u64) -> Value {
    let ids = || ["<s>", "</s>", "<|end|>"].into_iter().zip(first_added..);
    let mut json = plain.clone();
    if case.definition == "ordinary" {
        json["model"]["vocab"]["<s>"] = json!(first_added);
    } else {
        let added = json["added_tokens"].as_array_mut().unwrap();
        added.extend(ids().map(|(token, id)| {
            json!({ "id": id, "content": token, "special": true, "single_word": false,
                    "lstrip": false, "rstrip": false, "normalized": false })
        }));
    }
    if !case.template.is_empty() {
        let single = case.template.iter().map(|&token| match token {
            "A" => json!({ "Sequence": { "id": "A", "type_id": 0 } }),
            token => json!({ "SpecialToken": { "id": token, "type_id": 0 } }),
        });
        let tokens = ids().map(|(token, id)| {
            (token.to_owned(), json!({ "id": token, "ids": [id], "tokens": [token] }))
        });
        json["post_processor"] = json!({
            "type": "TemplateProcessing", "single": single.collect::<Vec<_>>(), "pair": [],
            "special_tokens": tokens.collect::<serde_json::Map<_, _>>(),
        });
    }
    json
}

#[test]
fn the_tokenizers_own_configuration_decides_about_bos_and_eos() {
    let dir = tempfile::tempdir().unwrap();
    let inputs = dir.path().join("in.jsonl");
    fs::write(&inputs, "{\"text\": \"the lazy dog\"}\n").unwrap();
    let (_, plain) = families().swap_remove(0);
    // Ids of added tokens follow those of the vocabulary.
    let first_added = plain["model"]["vocab"].as_object().unwrap().len() as u64;
    for (number, case) in CASES.iter().enumerate() {
        let folder = dir.path().join(format!("tokenizer-{number}"));
        fs::create_dir(&folder).unwrap();
        let tokenizer = tokenizer_of(case, &plain, first_added);
        fs::write(folder.join("tokenizer.json"), tokenizer.to_string()).unwrap();
        if !case.config.is_empty() {
            fs::write(folder.join("tokenizer_config.json"), case.config).unwrap();
        }
        let out = dir.path().join(format!("out-{number}"));
        let mut command = patchmill();
        command.arg("tokenize").arg("--tokenizer").arg(&folder).arg("--out").arg(&out);
        let output = command.args(case.options).arg(&inputs).output().unwrap();
        let message = stderr(&output);
        let shown = format!("case {number}, {}, {:?}: {message}", case.config, case.options);
        match case.expected {
            Ok(around) => {
                assert!(output.status.success(), "{shown}");
                let ids = ids(&out);
                let added =
                    |id: u32| u64::from(id).checked_sub(first_added).map_or(0, |n| n + 1000);
                assert_eq!([ids[0], ids[ids.len() - 1]].map(added), around, "{shown}");
                let is_usual = around[0] != 0 && around[1] == 0;
                let is_named =
                    message.contains(" a document: ") || message.contains(" each document: ");
                assert!(is_named || is_usual || !case.options.is_empty(), "{shown}");
            }
            Err(part) => {
                assert!(!output.status.success() && message.contains(part), "{shown}");
                assert!(!out.exists(), "{shown}");
            }
        }
    }
}
