//! Byte-level tokenizers: the ids are those of the `tokenizers` crate for every pre-tokenizer with
//! a scanner, for every way of handling added tokens, for whole texts and for parts.
//!
//! The vocabulary is a small one, learnt here: no package of ours contains a real one.

use std::collections::HashSet;
use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::{Value, json};
use tokenizers::models::TrainerWrapper;
use tokenizers::models::bpe::{BPE, BpeTrainer};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;
use tokenizers::{ModelWrapper, PreTokenizerWrapper, Tokenizer};

use crate::encoder::fast::{TEXTS, check};
use crate::encoder::pretokenize::{byte_level, known, nasty};
use crate::support::documents::documents;
use crate::support::inputs::fixtures;

/// A tokenizer.json with a byte-level vocabulary of 1,500 entries and GPT-2's pre-tokenizer.
static LEARNT: LazyLock<Value> = LazyLock::new(|| {
    let folder = fixtures().join("text/valid");
    let mut texts: Vec<String> = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let found = documents(&entry.unwrap().path());
        texts.extend(found.into_iter().map(|(_, text, _)| text));
    }
    texts.extend(TEXTS.iter().map(|&text| text.to_owned()));
    let alphabet: HashSet<char> = ByteLevel::alphabet().into_iter().collect();
    let trainer = BpeTrainer::builder()
        .vocab_size(1500)
        .show_progress(false)
        .initial_alphabet(alphabet)
        .build();
    let mut tokenizer = Tokenizer::new(ModelWrapper::BPE(BPE::default()));
    let pre_tokenizer: PreTokenizerWrapper = serde_json::from_value(byte_level(true)).unwrap();
    tokenizer.with_pre_tokenizer(Some(pre_tokenizer));
    tokenizer.train(&mut TrainerWrapper::BpeTrainer(trainer), texts.into_iter()).unwrap();
    serde_json::from_str(&tokenizer.to_string(false).unwrap()).unwrap()
});

/// The learnt tokenizer with another pre-tokenizer, with or without NFC, `ignore_merges` and added
/// tokens.
fn family(pre_tokenizer: &Value, is_nfc: bool, ignore_merges: bool, added: &[Value]) -> Value {
    let mut json = LEARNT.clone();
    json["pre_tokenizer"] = pre_tokenizer.clone();
    json["normalizer"] = if is_nfc { json!({ "type": "NFC" }) } else { Value::Null };
    json["model"]["ignore_merges"] = json!(ignore_merges);
    json["added_tokens"] = json!(added);
    if ignore_merges {
        // Entries no merge makes: ideographs in three bytes, a word with its space.
        for (id, entry) in (1500..).zip(["åŃĹ", "Ġdimension", "ä¸Ńæĸĩ"]) {
            json["model"]["vocab"][entry] = json!(id);
        }
    }
    json
}

fn token(id: u32, content: &str, flags: &str) -> Value {
    let flag = |name: &str| flags.contains(name);
    json!({
        "id": id, "content": content, "special": flag("special"), "normalized": flag("normalized"),
        "lstrip": flag("lstrip"), "rstrip": flag("rstrip"), "single_word": flag("single_word"),
    })
}

/// As in GPT-NeoX: special ones, and runs of spaces that are not special; plus some with every
/// other flag.
fn added_tokens() -> Vec<Value> {
    let mut tokens = vec![
        token(2000, "<s>", "special"),
        token(2001, "</s>", "special normalized"),
        token(2002, "<|x|>", ""),
        token(2003, "word", "single_word normalized"),
    ];
    let runs = (2004..).zip((2..10).rev());
    tokens.extend(runs.map(|(id, count)| token(id, &" ".repeat(count), "normalized")));
    tokens
}

#[test]
fn every_family_makes_the_ids_of_the_reference() {
    for (pre_tokenizer, _) in known() {
        for (is_nfc, ignore_merges) in [(false, false), (true, true)] {
            check(&family(&pre_tokenizer, is_nfc, ignore_merges, &[]), &TEXTS, true);
            check(&family(&pre_tokenizer, is_nfc, ignore_merges, &added_tokens()), &TEXTS, true);
        }
    }
    let stripping = [token(2000, "<s>", "special lstrip"), token(2001, "</s>", "rstrip")];
    check(&family(&byte_level(true), true, false, &stripping), &TEXTS, true);
}

#[test]
fn a_space_before_each_section_is_added_as_the_reference_adds_it() {
    for use_regex in [true, false] {
        let mut pre_tokenizer = byte_level(use_regex);
        pre_tokenizer["add_prefix_space"] = json!(true);
        check(&family(&pre_tokenizer, true, false, &added_tokens()), &TEXTS, true);
    }
}

#[test]
fn long_texts_without_a_cut_are_encoded_as_a_whole() {
    let texts = ["ab".repeat(20_000), " ".repeat(20_000), "字".repeat(5_000), "a\n".repeat(5_000)];
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    let json = family(&byte_level(true), true, false, &[]);
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("tokenizer.json"), json.to_string()).unwrap();
    let special_tokens = schemas::manifest::SpecialTokens::Text;
    let policy = encoder::Policy { bos: false, eos: false, special_tokens };
    let encoder = encoder::Encoder::load(dir.path(), policy).unwrap();
    for text in texts {
        let (mut ids, mut expected) = (Vec::new(), Vec::new());
        encoder.encode(text, &mut ids).unwrap();
        encoder.encode_by_definition(text, &mut expected).unwrap();
        assert!(ids == expected, "{:?}", &text[..6]);
    }
    assert!(encoder.parts("a word and another", 3).len() > 1, "it can be cut");
}

#[test]
fn what_is_not_known_of_a_byte_level_tokenizer_is_named() {
    let obstacle = |json: &Value| {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("tokenizer.json"), json.to_string()).unwrap();
        let special_tokens = schemas::manifest::SpecialTokens::Text;
        let policy = encoder::Policy { bos: false, eos: false, special_tokens };
        encoder::Encoder::load(dir.path(), policy).unwrap().obstacles().join("; ")
    };
    let unknown = json!({ "type": "Sequence", "pretokenizers": [
        { "type": "Split", "pattern": { "Regex": "a+" }, "behavior": "Isolated", "invert": false },
        byte_level(false),
    ]});
    assert!(obstacle(&family(&unknown, false, false, &[])).contains("a+"));
    let mut strip = family(&byte_level(true), false, false, &[]);
    strip["normalizer"] = json!({ "type": "Prepend", "prepend": "x" });
    assert!(obstacle(&strip).contains("normalizer"));
    let decomposed = token(2000, "e\u{301}", "normalized");
    let decomposed = family(&byte_level(true), true, false, &[decomposed]);
    assert!(obstacle(&decomposed).contains("normal form C"));
    let mut no_byte = family(&byte_level(true), false, false, &[]);
    no_byte["model"]["vocab"].as_object_mut().unwrap().remove("Ā");
    assert!(obstacle(&no_byte).contains("0x00"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn random_texts_get_the_ids_of_the_reference(
        texts in prop::collection::vec(nasty(), 6),
        family_index in 0usize..7,
        is_nfc in any::<bool>(),
        ignore_merges in any::<bool>(),
    ) {
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let (pre_tokenizer, _) = &known()[family_index];
        check(&family(pre_tokenizer, is_nfc, ignore_merges, &added_tokens()), &texts, true);
    }
}
