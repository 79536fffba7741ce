//! Our own encoder makes the same ids as the `tokenizers` crate for every tokenizer it accepts, and
//! names the reason for each one it refuses.

use std::fs;
use std::path::PathBuf;

use encoder::{Encoder, PartPosition, Policy, TokenId, TokenizeError};
use proptest::prelude::*;
use schemas::manifest::SpecialTokens;
use serde_json::{Value, json};

use crate::support::inputs::{fixtures, shared};

/// A tokenizer.json in a folder of its own.
struct TokenizerFile {
    dir: tempfile::TempDir,
}

impl TokenizerFile {
    fn new(json: &Value) -> TokenizerFile {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("tokenizer.json"), json.to_string()).unwrap();
        TokenizerFile { dir }
    }

    fn encoder(&self, special_tokens: SpecialTokens) -> Result<Encoder, TokenizeError> {
        Encoder::load(self.dir.path(), Policy { bos: false, eos: false, special_tokens })
    }
}

/// The ids of `text` from a session with earlier texts in its cache, in one go and in parts of
/// `part_bytes`.
fn fast_ids<I: TokenId>(encoder: &Encoder, text: &str, part_bytes: usize) -> [Vec<u32>; 2] {
    let mut session = encoder.session::<I>();
    let (mut whole, mut parts) = (Vec::new(), Vec::new());
    session.encode(text, &mut whole).unwrap();
    whole.clear();
    session.encode(text, &mut whole).unwrap();
    let ranges = encoder.parts(text, part_bytes);
    for (index, range) in ranges.iter().enumerate() {
        let position = PartPosition { is_first: index == 0, is_last: index + 1 == ranges.len() };
        session.encode_part(&text[range.clone()], position, &mut parts).unwrap();
    }
    [whole, parts].map(|ids| ids.into_iter().map(I::widen).collect())
}

/// For both ways of handling special tokens, ids of both widths and caches of any size, the ids are
/// those of the definition.
pub(crate) fn check(json: &Value, texts: &[&str], must_be_fast: bool) {
    let file = TokenizerFile::new(json);
    for special_tokens in [SpecialTokens::Text, SpecialTokens::Hf] {
        // A tokenizer the crate refuses is invalid.
        let Ok(encoder) = file.encoder(special_tokens) else {
            assert!(!must_be_fast, "the tokenizer is refused");
            return;
        };
        assert_eq!(encoder.obstacles().is_empty(), encoder.name() == "fast");
        if must_be_fast {
            assert_eq!(encoder.obstacles(), [""; 0]);
        }
        let encoder = encoder.with_cache_bytes(1 << 14);
        let tiny = file.encoder(special_tokens).unwrap().with_cache_bytes(0);
        for text in texts {
            let mut defined = Vec::new();
            let by_definition = encoder.encode_by_definition(text, &mut defined);
            if by_definition.is_err() && !must_be_fast {
                // The crate panics at some overlapping added tokens: nothing is defined.
                continue;
            }
            by_definition.unwrap();
            let mut once = Vec::new();
            encoder.encode(text, &mut once).unwrap();
            assert_eq!(once, defined, "{special_tokens:?} {text:?}");
            for (encoder, part_bytes) in [(&encoder, 1), (&encoder, 7), (&tiny, 3)] {
                let mut found = Vec::from(fast_ids::<u32>(encoder, text, part_bytes));
                if encoder.vocab_size() <= 1 << 16 {
                    found.extend(fast_ids::<u16>(encoder, text, part_bytes));
                }
                for ids in found {
                    assert_eq!(ids, defined, "{special_tokens:?} {text:?} {part_bytes}");
                }
            }
        }
    }
}

pub(crate) const TEXTS: [&str; 24] = [
    "",
    " ",
    "a",
    "▁",
    "Hello, world! It's 2026-11-23; <s>no</s> <unk> tokens </s>here.",
    "</s>",
    " </s>",
    "</s></s> </s>  </s>x",
    "<s> <s>▁<s>▁▁<s>",
    "  two  spaces   three    four ",
    "tabs\tand\nnew\r\nlines\n\n\n\n",
    "▁literal▁markers ▁mixed▁ with▁ ▁spaces",
    "naïve café Ünïcödé ſtraße",
    "Привет, как дела? Достопримечательность превысокомногорассмотрительствующий",
    "漢字かな交じり文。中文字符,混合 text 한국어 문장",
    "emoji 😀👨‍👩‍👧‍👦🏳️‍🌈 and \u{10ffff}\u{e000}\u{fffd}\u{feff}",
    "nul \0 bytes \0\0\0 and \u{1}\u{7f} controls \u{a0}\u{2003}\u{3000}spaces",
    "combining e\u{301} a\u{308}\u{323} \u{300}",
    "fn main() { let x = vec![1, 2, 3]; println!(\"{:?}\", x); } // comment",
    "\\begin{equation} \\int_0^1 x^2 dx = \\frac{1}{3} \\end{equation}",
    "<div class=\"a\"><p>html &amp; entities</p></div> http://example.com/a?b=c&d=e",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "x                                                                                     y",
    "antidisestablishmentarianism pneumonoultramicroscopicsilicovolcanoconiosis \
     internationalization",
];

fn read_json(path: PathBuf) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn fixture() -> Value {
    read_json(fixtures().join("tokenizer/tokenizer.json"))
}

/// A tokenizer with other values at these places.
fn changed(json: &Value, changes: &[(&str, Value)]) -> Value {
    let mut json = json.clone();
    for (pointer, value) in changes {
        let (parent, key) = pointer.rsplit_once('/').unwrap();
        json.pointer_mut(parent).unwrap()[key] = value.clone();
    }
    json
}

/// Changes to a LLaMA tokenizer accepted by our own encoder: the text before and between words, the
/// replacement of unknown characters, the added tokens.
fn variants(json: &Value) -> Vec<Value> {
    let vary = |changes: &[(&str, Value)]| changed(json, changes);
    let added = |tokens: &[(&str, bool, &str)]| {
        let mut list = json["added_tokens"].as_array().unwrap().clone();
        for (id, (content, special, flags)) in (100_000..).zip(tokens) {
            let flag = |name: &str| flags.contains(name);
            list.push(json!({
                "id": id, "content": content, "special": special, "normalized": flag("normalized"),
                "lstrip": flag("lstrip"), "rstrip": flag("rstrip"),
                "single_word": flag("single_word"),
            }));
        }
        Value::from(list)
    };
    let mut flipped = json["added_tokens"].clone();
    for token in flipped.as_array_mut().unwrap() {
        token["normalized"] = Value::from(!token["normalized"].as_bool().unwrap());
    }
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let mut all = vec![
        vary(&[]),
        vary(&[("/added_tokens", flipped.clone())]),
        vary(&[("/normalizer", replace.clone())]),
        vary(&[
            ("/normalizer", replace),
            (
                "/pre_tokenizer",
                json!({"type": "Split",
            "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false}),
            ),
        ]),
        vary(&[("/normalizer", Value::Null)]),
        vary(&[("/model/byte_fallback", false.into()), ("/model/fuse_unk", false.into())]),
        vary(&[("/model/byte_fallback", false.into()), ("/model/fuse_unk", true.into())]),
        vary(&[("/model/ignore_merges", true.into())]),
        vary(&[(
            "/added_tokens",
            added(&[
                ("world", false, ""),
                ("[X]", true, "lstrip"),
                ("It", false, "rstrip single_word"),
                ("here", true, "single_word normalized"),
            ]),
        )]),
        vary(&[(
            "/added_tokens",
            added(&[
                ("two", false, "normalized lstrip rstrip"),
                ("lines", false, "lstrip rstrip"),
                ("o", true, ""),
                ("wor", false, ""),
            ]),
        )]),
    ];
    for scheme in ["first", "never", "always"] {
        for split in [true, false] {
            let metaspace = json!({"type": "Metaspace", "replacement": "▁",
                "prepend_scheme": scheme, "split": split});
            let changes = [("/normalizer", Value::Null), ("/pre_tokenizer", metaspace)];
            all.push(vary(&changes));
            all.push(vary(&[&changes[..], &[("/added_tokens", flipped.clone())]].concat()));
            let tokens = added(&[("is", false, "normalized"), (" ▁", false, "")]);
            all.push(vary(&[&changes[..], &[("/added_tokens", tokens)]].concat()));
        }
    }
    all
}

#[test]
fn variants_of_the_fixture_tokenizer_have_the_defined_ids() {
    for json in variants(&fixture()) {
        check(&json, &TEXTS, true);
    }
}

#[test]
fn llama_2_and_its_variants_have_the_defined_ids() {
    let Some(folder) = shared("tokenizer/llama2") else { return };
    let json = read_json(folder.join("tokenizer.json"));
    check(&json, &TEXTS, true);
    // Each takes a second to load, so only the fixture's variants are tried.
    let some = variants(&json).into_iter().enumerate().filter(|(index, _)| index % 6 == 1);
    for (_, json) in some {
        check(&json, &TEXTS, true);
    }
}

#[test]
fn long_words_and_long_runs_of_spaces_have_the_defined_ids() {
    let texts = [
        " ".repeat(100_000),
        "a".repeat(30_000),
        "the quick brown fox ".repeat(5_000),
        "漢".repeat(20_000),
        "ab\u{301}c😀".repeat(3_000),
        format!("{}</s>{}", "x ".repeat(3_000), " y".repeat(3_000)),
    ];
    let file = TokenizerFile::new(&fixture());
    for special_tokens in [SpecialTokens::Text, SpecialTokens::Hf] {
        let encoder = file.encoder(special_tokens).unwrap().with_cache_bytes(1 << 16);
        for text in &texts {
            let mut defined = Vec::new();
            encoder.encode_by_definition(text, &mut defined).unwrap();
            assert!(fast_ids::<u16>(&encoder, text, 1_000) == [defined.clone(), defined]);
        }
    }
}

#[test]
fn a_long_text_is_cut_into_parts() {
    let text = "Some words, and more of them.\n".repeat(1_000);
    let file = TokenizerFile::new(&fixture());
    for special_tokens in [SpecialTokens::Text, SpecialTokens::Hf] {
        let encoder = file.encoder(special_tokens).unwrap();
        let parts = encoder.parts(&text, 1_000);
        assert!(parts.len() > 25, "{} parts", parts.len());
        assert!(parts.iter().all(|part| part.len() < 1_100), "{parts:?}");
        assert_eq!(parts.iter().map(|part| &text[part.clone()]).collect::<String>(), text);
    }
}

#[test]
fn a_cache_finds_words_again() {
    let encoder = TokenizerFile::new(&fixture()).encoder(SpecialTokens::Text).unwrap();
    let mut session = encoder.session::<u16>();
    session.encode(&"again and again ".repeat(100), &mut Vec::new()).unwrap();
    let statistics = session.statistics();
    assert!(statistics.cache_lookups >= 300, "{statistics:?}");
    assert!(statistics.cache_lookups - statistics.cache_hits < 10, "{statistics:?}");
}

fn added(id: u64, content: &str, normalized: bool) -> Value {
    json!({"id": id, "content": content, "special": false, "normalized": normalized,
        "lstrip": false, "rstrip": false, "single_word": false})
}

/// The one it finds changes from load to load.
#[test]
fn added_tokens_that_are_the_same_text_once_normalized_are_refused() {
    let alike = |normalized| {
        let tokens = json!([added(4096, "x y", true), added(4097, "x▁y", normalized)]);
        TokenizerFile::new(&changed(&fixture(), &[("/added_tokens", tokens)]))
    };
    let err = alike(true).encoder(SpecialTokens::Text).err().unwrap().to_string();
    let reason = "its added tokens \"x y\" and \"x▁y\" are the same text";
    assert!(err.contains(reason), "{reason:?} is not in {err:?}");
    assert_eq!(alike(false).encoder(SpecialTokens::Text).unwrap().name(), "fast");
}

/// Changes to the fixture tokenizer refused by our own encoder, and a part of the reason.
fn obstacles(json: &Value) -> Vec<(Vec<(&'static str, Value)>, &'static str)> {
    let metaspace = |replacement: &str, scheme: &str| {
        json!({
            "type": "Metaspace", "replacement": replacement, "prepend_scheme": scheme, "split": true
        })
    };
    let normalizer = |value: Value| vec![("/normalizer", value)];
    let pre_tokenizer = |value: Value| vec![("/pre_tokenizer", value)];
    let alone = |value: Value| vec![("/normalizer", Value::Null), ("/pre_tokenizer", value)];
    let unknown =
        |token: Value| vec![("/model/byte_fallback", false.into()), ("/model/unk_token", token)];
    let replace = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "b"});
    let digits = json!({"type": "Digits", "individual_digits": true});
    let mut no_byte = json["model"]["vocab"].clone();
    let id = no_byte.as_object_mut().unwrap().shift_remove("<0x41>").unwrap();
    no_byte["spare"] = id;
    let mut twice = json["model"]["vocab"].clone();
    twice["spare"] = twice["a"].clone();
    // A new token's id is the number of entries. With a gap among the ids, an entry already has it.
    let mut gap = json["model"]["vocab"].clone();
    gap["▁ways"] = gap.as_object().unwrap().len().into();
    let collision = json!([added(4096, "▁ways", false), added(4096, "[X]", false)]);
    let collision = vec![("/model/vocab", gap), ("/added_tokens", collision)];
    let ignore_merges =
        [alone(metaspace("▁", "always")), vec![("/model/ignore_merges", true.into())]];
    // The crate refuses merges without the prefix.
    let prefix =
        vec![("/model/continuing_subword_prefix", "##".into()), ("/model/merges", json!([]))];
    vec![
        (normalizer(json!({"type": "Lowercase"})), "only the crate reads"),
        (normalizer(json!({"type": "NFC"})), "NFC"),
        (normalizer(json!({"type": "Prepend", "prepend": "x"})), "puts \"x\" before"),
        (normalizer(json!({"type": "Prepend", "prepend": "▁"})), "keeps spaces"),
        (normalizer(replace), "replaces"),
        (pre_tokenizer(metaspace("▁", "always")), "both its normalizer and"),
        (pre_tokenizer(json!({"type": "Whitespace"})), "only the crate reads"),
        (pre_tokenizer(digits), "pre-tokenizer is Digits"),
        (alone(metaspace("_", "never")), "makes '_' of a space"),
        (ignore_merges.concat(), "ignore_merges"),
        (prefix, "continuing_subword_prefix"),
        (vec![("/model/end_of_word_suffix", "</w>".into())], "end_of_word_suffix"),
        (vec![("/model/vocab", no_byte)], "255 of the 256 bytes"),
        (unknown(Value::Null), "vanish"),
        (unknown("nowhere".into()), "does not have its unk_token"),
        (unknown("e".into()), "is part of a merge"),
        (vec![("/model/vocab", twice)], "two entries"),
        (collision, "share the id 4096"),
    ]
}

/// Each obstacle keeps a tokenizer from our own encoder, and is named; the ids are the crate's.
#[test]
fn every_obstacle_is_named() {
    let json = fixture();
    let file = TokenizerFile::new(&json);
    assert_eq!(file.encoder(SpecialTokens::Text).unwrap().obstacles(), [""; 0]);
    for (changes, reason) in obstacles(&json) {
        let file = TokenizerFile::new(&changed(&json, &changes));
        let encoder = file.encoder(SpecialTokens::Text);
        let encoder = encoder.unwrap_or_else(|err| panic!("{reason}: {err}"));
        assert_eq!(encoder.name(), "tokenizers", "{reason}");
        let why = encoder.obstacles().join("\n");
        assert!(why.contains(reason), "{reason:?} is not in {why:?}");
        assert_eq!(encoder.parts("one two three", 1).len(), 1);
    }
}

const ALPHABET: [char; 14] =
    ['a', 'b', 'c', ' ', '▁', '\n', '1', '<', '>', 'é', '漢', '😀', '_', '\u{a0}'];

fn texts_of_alphabet(len: std::ops::Range<usize>) -> impl Strategy<Value = String> {
    proptest::collection::vec(proptest::sample::select(&ALPHABET[..]), len)
        .prop_map(String::from_iter)
}

/// A small random tokenizer: the characters it knows, how they merge, and every flag.
fn tokenizers() -> impl Strategy<Value = Value> {
    let flags = proptest::collection::vec(any::<bool>(), 5);
    let added = (texts_of_alphabet(1..4), proptest::collection::vec(any::<bool>(), 5));
    (
        proptest::sample::subsequence(&ALPHABET[..], 4..=ALPHABET.len()),
        proptest::collection::vec(
            (any::<prop::sample::Index>(), any::<prop::sample::Index>()),
            0..30,
        ),
        proptest::collection::vec(added, 0..4),
        flags,
        0..11usize,
    )
        .prop_map(|(alphabet, merges, added, flags, form)| {
            let mut texts: Vec<String> = alphabet.iter().map(|&c| c.to_string()).collect();
            if !texts.contains(&"▁".to_owned()) {
                texts.push("▁".to_owned());
            }
            let mut pairs = Vec::new();
            for (left, right) in merges {
                let (left, right) = (left.get(&texts).clone(), right.get(&texts).clone());
                let product = format!("{left}{right}");
                if product.len() < 24 {
                    if !texts.contains(&product) {
                        texts.push(product);
                    }
                    pairs.push(json!([left, right]));
                }
            }
            let unknown_is_bytes = flags[0];
            texts.push("<unk>".to_owned());
            if unknown_is_bytes {
                texts.extend((0..256).map(|byte| format!("<0x{byte:02X}>")));
            }
            if flags[3] {
                texts.extend(["ab ".to_owned(), "a▁b".to_owned(), "▁ab1".to_owned()]);
                texts.sort();
                texts.dedup();
            }
            let step = if flags[4] { 3 } else { 1 };
            let vocab: serde_json::Map<String, Value> =
                texts.into_iter().zip((0..).map(|id| Value::from(id * step))).collect();
            let (normalizer, pre_tokenizer) = form_of(form);
            let added: Vec<Value> = (10_000..)
                .zip(added)
                .map(|(id, (content, flags))| {
                    json!({
                        "id": id, "content": content, "special": flags[0], "normalized": flags[1],
                        "lstrip": flags[2], "rstrip": flags[3], "single_word": flags[4],
                    })
                })
                .collect();
            json!({
                "version": "1.0", "added_tokens": added, "normalizer": normalizer,
                "pre_tokenizer": pre_tokenizer, "post_processor": null, "decoder": null,
                "model": {
                    "type": "BPE", "unk_token": "<unk>", "byte_fallback": unknown_is_bytes,
                    "fuse_unk": flags[1], "ignore_merges": flags[2],
                    "vocab": vocab, "merges": pairs,
                },
            })
        })
}

/// The ways to handle spaces, by number.
fn form_of(number: usize) -> (Value, Value) {
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let prepend = json!({"type": "Prepend", "prepend": "▁"});
    let metaspace = |scheme: &str, split: bool| {
        let metaspace = json!({
            "type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split
        });
        (Value::Null, metaspace)
    };
    match number {
        0 => (Value::Null, Value::Null),
        1 => (replace, Value::Null),
        2 | 3 => (json!({"type": "Sequence", "normalizers": [prepend, replace]}), Value::Null),
        4 => (json!({"type": "Sequence", "normalizers": [replace, prepend]}), Value::Null),
        5 => metaspace("first", true),
        6 => metaspace("first", false),
        7 => metaspace("always", true),
        8 => metaspace("always", false),
        9 => metaspace("never", true),
        _ => metaspace("never", false),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// Holds for any vocabulary, merges, flags, added tokens and text.
    #[test]
    fn any_small_tokenizer_gives_the_defined_ids(
        json in tokenizers(),
        texts in proptest::collection::vec(texts_of_alphabet(0..40), 1..12),
        long in texts_of_alphabet(100..400),
    ) {
        let mut texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        texts.push(&long);
        check(&json, &texts, false);
    }
}

/// A model's vocabulary may be larger than its tokenizer's; no id vanishes from a text.
#[test]
fn ids_beyond_the_tokenizer_are_written_as_numbers() {
    let policy = Policy { bos: false, eos: false, special_tokens: SpecialTokens::Text };
    let encoder = Encoder::load(&fixtures().join("tokenizer"), policy).unwrap();
    let mut ids = Vec::new();
    encoder.encode("one two", &mut ids).unwrap();
    let beyond = u32::try_from(encoder.vocab_size()).unwrap() + 7;
    let text = encoder.decode(&[&[beyond], &ids[..], &[beyond, beyond + 1]].concat()).unwrap();
    let (first, second) = (format!("<id {beyond}>"), format!("<id {}>", beyond + 1));
    assert_eq!(text, format!("{first}one two{first}{second}"));
    assert_eq!(encoder.decode(&ids).unwrap(), "one two");
}
