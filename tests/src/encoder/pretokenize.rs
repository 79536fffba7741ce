//! Scanners of byte-level tokenizers cut texts exactly where the regex engine of the `tokenizers`
//! crate does, and normal form C is the crate's.

#![expect(clippy::unwrap_used, reason = "a test may panic, in its helper functions too")]

use encoder::fast::pretokenize::{ByteLevel, Split};
use encoder::fast::unicode::classes::{Class, class_of};
use encoder::fast::unicode::nfc::nfc;
use proptest::prelude::*;
use serde_json::{Value, json};
use tokenizers::pre_tokenizers::PreTokenizerWrapper;
use tokenizers::{
    NormalizedString, OffsetReferential, OffsetType, PreTokenizedString, PreTokenizer,
};

use crate::support::documents::documents;
use crate::support::inputs::fixtures;

const CONTRACTIONS: &str = "(?i:'s|'t|'re|'ve|'m|'ll|'d)";
const REST: &str = r"\s*[\r\n]+|\s+(?!\S)|\s+";

fn split_then_bytes(pattern: &str) -> Value {
    json!({ "type": "Sequence", "pretokenizers": [
        {
            "type": "Split", "pattern": { "Regex": pattern },
            "behavior": "Isolated", "invert": false
        },
        byte_level(false),
    ]})
}

pub(crate) fn byte_level(use_regex: bool) -> Value {
    json!({
        "type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": use_regex
    })
}

fn cl100k(numbers: &str) -> String {
    let words = r"[^\r\n\p{L}\p{N}]?\p{L}+";
    format!(r"{CONTRACTIONS}|{words}|{numbers}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{REST}")
}

fn o200k(numbers: &str, contractions: &str) -> String {
    let upper = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]";
    let lower = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]";
    let before = r"[^\r\n\p{L}\p{N}]?";
    let words = format!("{before}{upper}*{lower}+{contractions}|{before}{upper}+{lower}*");
    format!(r"{words}{contractions}|{numbers}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{REST}")
}

fn deepseek() -> Value {
    let words = "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|\
                 [^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\
                 \\s*[\r\n]+|\\s+(?!\\S)|\\s+";
    let split = |pattern: &str| {
        json!({
            "type": "Split", "pattern": { "Regex": pattern },
            "behavior": "Isolated", "invert": false
        })
    };
    let patterns = [split(r"\p{N}{1,3}"), split("[一-龥぀-ゟ゠-ヿ]+"), split(words)];
    let steps: Vec<Value> = patterns.into_iter().chain([byte_level(false)]).collect();
    json!({ "type": "Sequence", "pretokenizers": steps })
}

/// Every pre-tokenizer with a scanner, in the form of tokenizer.json.
pub(crate) fn known() -> Vec<(Value, Split)> {
    let contractions = format!("{CONTRACTIONS}?");
    let digits = json!({ "type": "Digits", "individual_digits": true });
    vec![
        (byte_level(true), Split::Gpt2),
        (
            json!({ "type": "Sequence", "pretokenizers": [digits, byte_level(true)] }),
            Split::Gpt2Digits,
        ),
        (split_then_bytes(&cl100k(r"\p{N}{1,3}")), Split::Cl100k { digits_max: 3 }),
        (split_then_bytes(&cl100k(r"\p{N}")), Split::Cl100k { digits_max: 1 }),
        (
            split_then_bytes(&o200k(r"\p{N}{1,3}", &contractions)),
            Split::O200k { digits_max: 3, contractions: true },
        ),
        (
            split_then_bytes(&o200k(r"\p{N}", "")),
            Split::O200k { digits_max: 1, contractions: false },
        ),
        (deepseek(), Split::DeepSeek),
    ]
}

/// A scanner and the pre-tokenizer it replaces.
struct Pair {
    split: Split,
    reference: PreTokenizerWrapper,
}

impl Pair {
    fn all() -> Vec<Pair> {
        let pair = |(value, split): (Value, Split)| {
            assert_eq!(
                ByteLevel::of(&value).unwrap(),
                ByteLevel { split, add_prefix_space: false }
            );
            Pair { split, reference: serde_json::from_value(value).unwrap() }
        };
        known().into_iter().map(pair).collect()
    }

    fn check(&self, text: &str) {
        let mut reference = PreTokenizedString::from(text);
        self.reference.pre_tokenize(&mut reference).unwrap();
        let splits = reference.get_splits(OffsetReferential::Original, OffsetType::Byte);
        let expected: Vec<usize> = splits.iter().map(|(_, (_, end), _)| *end).collect();
        let mut found = Vec::new();
        self.split.for_each_end(text, |end| found.push(end));
        if found != expected {
            let at = found.iter().zip(&expected).take_while(|(a, b)| a == b).count();
            let begin = if at == 0 { 0 } else { found[at - 1] };
            let shown: String = text[begin..].chars().take(80).collect();
            let piece = |ends: &[usize]| ends.get(at).map(|&end| text[begin..end].to_owned());
            let (found, expected) = (piece(&found), piece(&expected));
            panic!("{:?}: {found:?} instead of {expected:?} of {shown:?}", self.split);
        }
    }

    /// Pieces of a text in two parts equal those of the whole text wherever the cut is claimed to
    /// be exact.
    fn check_cuts(&self, text: &str) {
        let mut whole = Vec::new();
        self.split.for_each_end(text, |end| whole.push(end));
        for cut in (0..text.len()).filter(|&at| self.split.is_cut(text, at)) {
            let mut parts = Vec::new();
            self.split.for_each_end(&text[..cut], |end| parts.push(end));
            self.split.for_each_end(&text[cut..], |end| parts.push(cut + end));
            assert_eq!(parts, whole, "{:?} cut at {cut}: {text:?}", self.split);
        }
    }
}

/// Characters on the borders of the patterns: each class in one to four bytes, the characters of
/// contractions, marks, characters that fold to ASCII, and runs of blanks and newlines.
const EDGES: &[&str] = &[
    " ",
    " ",
    "  ",
    "\n",
    "\n",
    "\r\n",
    "\t",
    "\r",
    "\u{b}",
    "\u{85}",
    "\u{a0}",
    "\u{3000}",
    "\u{2028}",
    "a",
    "s",
    "t",
    "re",
    "ve",
    "ll",
    "m",
    "d",
    "S",
    "T",
    "LL",
    "Re",
    "VE",
    "D",
    "M",
    "Foo",
    "FOO",
    "word",
    "'",
    "'",
    "'s",
    "'S",
    "''",
    "ſ",
    "'ſ",
    "K",
    "1",
    "12",
    "123",
    "1234",
    "²",
    "½",
    "Ⅷ",
    "٣",
    "𝟙",
    "೧",
    ".",
    ",",
    "(",
    "_",
    "$",
    "+",
    "/",
    "//",
    "…",
    "—",
    "€",
    "\u{301}",
    "\u{903}",
    "\u{20e3}",
    "é",
    "ñ",
    "ǅ",
    "ʰ",
    "字",
    "语言",
    "あ",
    "ア",
    "・",
    "한",
    "ру",
    "ا",
    "ก",
    "𐐀",
    "𝒳",
    "😀",
    "👩\u{200d}👩",
    "\u{200d}",
    "\u{feff}",
    "\0",
    "\u{1}",
    "\u{7f}",
    "\u{e000}",
    "\u{10ffff}",
    "\u{fffd}",
    "<",
    ">",
    "<|x|>",
    "\\",
    "@",
    "#",
];

pub(crate) fn nasty() -> impl Strategy<Value = String> {
    let edge = prop_oneof![
        12 => prop::sample::select(EDGES).prop_map(str::to_owned),
        1 => any::<char>().prop_map(String::from),
        2 => (0u8..128).prop_map(|byte| char::from(byte).to_string()),
    ];
    prop::collection::vec(edge, 0..120).prop_map(|parts| parts.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn scanners_cut_where_the_regex_engine_does(text in nasty()) {
        for pair in Pair::all() {
            pair.check(&text);
        }
    }

    #[test]
    fn parts_cut_where_a_cut_is_exact_have_the_pieces_of_the_whole(text in nasty()) {
        for pair in Pair::all() {
            pair.check_cuts(&text);
        }
    }

    #[test]
    fn normal_form_c_is_that_of_the_reference(text in nasty()) {
        prop_assert_eq!(nfc(&text), reference_nfc(&text));
    }
}

fn reference_nfc(text: &str) -> String {
    let mut normalized = NormalizedString::from(text);
    normalized.nfc();
    normalized.get().to_owned()
}

fn code_points() -> impl Iterator<Item = char> {
    '\0'..=char::MAX
}

/// All code points below the ideographs, and one in 61 of the others, most of which are alike.
fn most_code_points() -> impl Iterator<Item = char> {
    ('\0'..'\u{3400}').chain(('\u{3400}'..=char::MAX).step_by(61)).chain('\u{10000}'..'\u{11000}')
}

#[test]
fn every_code_point_has_the_class_that_the_regex_engine_gives_it() {
    let patterns: [(&str, &[Class]); 10] = [
        (r"[\p{Lu}\p{Lt}]", &[Class::Upper]),
        (r"\p{Ll}", &[Class::Lower]),
        (r"[\p{Lm}\p{Lo}]", &[Class::Caseless]),
        (r"\p{L}", &[Class::Upper, Class::Lower, Class::Caseless]),
        (r"\p{M}", &[Class::Mark]),
        (r"\p{N}", &[Class::Number]),
        (r"\s", &[Class::Space, Class::Newline]),
        (r"[\r\n]", &[Class::Newline]),
        (r"\p{P}", &[Class::Punctuation]),
        (r"\p{S}", &[Class::Symbol]),
    ];
    let text: String = code_points().collect();
    for (pattern, classes) in patterns {
        let regex = tokenizers::utils::SysRegex::new(pattern).unwrap();
        let mut expected = vec![false; 0x11_0000];
        for (begin, end) in regex.find_iter(&text) {
            for symbol in text[begin..end].chars() {
                expected[symbol as usize] = true;
            }
        }
        for symbol in code_points() {
            let found = classes.contains(&class_of(symbol));
            assert_eq!(found, expected[symbol as usize], "{pattern} and {symbol:?}");
        }
    }
}

/// Text after and before the characters that decide: contractions, blanks, words, numbers, marks.
#[test]
fn code_points_are_cut_as_the_regex_engine_cuts_them() {
    for pair in Pair::all() {
        let mut text = String::new();
        for symbol in most_code_points() {
            for (before, behind) in
                [("'", "x"), ("'l", " "), ("a ", " b"), ("1", "\n"), (". ", "'s"), ("A'r", "e")]
            {
                text.extend([before, symbol.encode_utf8(&mut [0; 4]), behind]);
            }
            if 1 << 16 <= text.len() {
                pair.check(&text);
                text.clear();
            }
        }
        pair.check(&text);
    }
}

/// Alone, and after characters it might join with.
#[test]
fn every_code_point_has_the_normal_form_of_the_reference() {
    let before = [
        "",
        "a",
        "e\u{301}",
        "\u{327}",
        "\u{1100}",
        "가",
        "\u{1100}\u{1161}",
        "\u{9c7}",
        "\u{5d9}\u{5b4}",
    ];
    for before in before {
        let mut text = String::new();
        for symbol in code_points() {
            text.push_str(before);
            text.push(symbol);
            if 1 << 14 <= text.len() {
                assert_eq!(nfc(&text), reference_nfc(&text));
                text.clear();
            }
        }
        assert_eq!(nfc(&text), reference_nfc(&text));
    }
}

#[test]
fn fixture_texts_are_cut_as_the_regex_engine_cuts_them() {
    let files = ["text/train", "text/valid"].map(|folder| fixtures().join(folder));
    let mut texts = Vec::new();
    for folder in files {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|ending| ending == "zst") {
                texts.extend(documents(&path).into_iter().map(|(_, text, _)| text));
            }
        }
    }
    assert!(500 < texts.len(), "{} documents", texts.len());
    for pair in Pair::all() {
        texts.iter().for_each(|text| pair.check(text));
    }
}

#[test]
fn a_pre_tokenizer_that_is_not_known_is_refused_with_its_name_or_pattern() {
    let check = |value: Value, expected: &str| {
        let reason = ByteLevel::of(&value).unwrap_err();
        assert!(reason.contains(expected), "{reason}");
    };
    check(split_then_bytes(r"\w+|\s+"), r"\w+|\s+");
    check(json!({ "type": "Whitespace" }), "Whitespace");
    check(json!({ "type": "Digits", "individual_digits": false }), "Digits");
    check(json!({ "type": "Sequence", "pretokenizers": [] }), "ByteLevel");
    let mut inverted = split_then_bytes(&cl100k(r"\p{N}"));
    inverted["pretokenizers"][0]["behavior"] = json!("Removed");
    check(inverted.clone(), "Removed");
    inverted["pretokenizers"][0]["invert"] = json!(true);
    assert_eq!(ByteLevel::of(&inverted).unwrap().split, Split::Cl100k { digits_max: 1 });
    let mut prefixed = split_then_bytes(&cl100k(r"\p{N}"));
    prefixed["pretokenizers"][1]["add_prefix_space"] = json!(true);
    check(prefixed, "space");
}
