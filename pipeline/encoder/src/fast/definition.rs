//! tokenizer.json as types: as much of it as decides whether and how we can encode.
//!
//! Every type refuses fields that it does not know, so that nothing that matters is passed over: a
//! tokenizer.json that cannot be read here is left to the `tokenizers` crate.
//!
//! **Invariant:** what is read here means what the `tokenizers` crate takes it to mean.

use std::collections::HashMap;

use serde::Deserialize;
use serde::de::{Deserializer, Error as _};

/// A tokenizer.json.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Definition {
    #[serde(default, rename = "version")]
    _version: serde::de::IgnoredAny,
    // Both are switched off whatever they say.
    #[serde(default, rename = "truncation")]
    _truncation: serde::de::IgnoredAny,
    #[serde(default, rename = "padding")]
    _padding: serde::de::IgnoredAny,
    /// Tokens beside the model's.
    #[serde(default)]
    pub(crate) added_tokens: Vec<AddedToken>,
    /// Applied to a text first.
    #[serde(default)]
    pub(crate) normalizer: Option<Normalizer>,
    /// Cuts it into words.
    #[serde(default)]
    pub(crate) pre_tokenizer: Option<PreTokenizer>,
    /// Adds tokens around the ids.
    #[serde(default)]
    pub(crate) post_processor: Option<PostProcessor>,
    // Of ids to text.
    #[serde(default, rename = "decoder")]
    _decoder: serde::de::IgnoredAny,
    /// Makes ids of words.
    pub(crate) model: Model,
}

/// A token that is looked for in the text before the model sees it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AddedToken {
    // The crate takes the vocabulary's id, or the next one that is free.
    #[serde(rename = "id")]
    _id: u32,
    pub(crate) content: String,
    /// Only where no letter or digit is next to it.
    pub(crate) single_word: bool,
    /// Takes the white space before it.
    pub(crate) lstrip: bool,
    /// Takes the white space after it.
    pub(crate) rstrip: bool,
    /// Looked for in the normalized text, in its own normalized form.
    pub(crate) normalized: bool,
    /// A control token, which the policy may want to be text.
    pub(crate) special: bool,
}

/// The model; every other kind is left to the `tokenizers` crate.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Model {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    #[serde(default)]
    pub(crate) dropout: Option<f64>,
    #[serde(default)]
    pub(crate) unk_token: Option<String>,
    #[serde(default)]
    pub(crate) continuing_subword_prefix: Option<String>,
    #[serde(default)]
    pub(crate) end_of_word_suffix: Option<String>,
    #[serde(default)]
    pub(crate) fuse_unk: Option<bool>,
    #[serde(default)]
    pub(crate) byte_fallback: Option<bool>,
    #[serde(default)]
    pub(crate) ignore_merges: Option<bool>,
    /// Of two entries for one text the later one counts, as everywhere in JSON.
    pub(crate) vocab: HashMap<String, u32>,
    pub(crate) merges: Vec<MergePair>,
}

/// Two texts that become one: `["a", "b"]`, or `"a b"` in older files.
#[derive(Debug)]
pub(crate) struct MergePair {
    pub(crate) left: String,
    pub(crate) right: String,
}

impl<'de> Deserialize<'de> for MergePair {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<MergePair, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Spelling {
            Pair(String, String),
            Line(String),
        }
        let (left, right) = match Spelling::deserialize(deserializer)? {
            Spelling::Pair(left, right) => (left, right),
            // The crate passes over such lines, and its ranks do not count them.
            Spelling::Line(line) if line.starts_with("#version") => {
                return Err(D::Error::custom("a merge is a comment"));
            }
            Spelling::Line(line) => match line.split(' ').collect::<Vec<_>>()[..] {
                [left, right] => (left.to_owned(), right.to_owned()),
                _ => return Err(D::Error::custom(format!("merge {line:?} is not a pair"))),
            },
        };
        Ok(MergePair { left, right })
    }
}

/// Applied to a text first.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
pub(crate) enum Normalizer {
    Sequence {
        normalizers: Vec<Normalizer>,
    },
    Prepend {
        prepend: String,
    },
    Replace {
        pattern: Pattern,
        content: String,
    },
    #[serde(rename = "NFC")]
    Nfc,
}

/// The text to replace, or to cut at.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub(crate) enum Pattern {
    String(String),
    Regex(String),
}

/// Cuts a text into words.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "type", deny_unknown_fields)]
pub(crate) enum PreTokenizer {
    Sequence {
        pretokenizers: Vec<PreTokenizer>,
    },
    Metaspace {
        replacement: char,
        #[serde(default)]
        add_prefix_space: Option<bool>,
        #[serde(default)]
        prepend_scheme: PrependScheme,
        #[serde(default)]
        split: Option<bool>,
        #[serde(default, rename = "str_rep")]
        _str_rep: serde::de::IgnoredAny,
    },
    Split {
        pattern: Pattern,
        behavior: String,
        invert: bool,
    },
    ByteLevel {
        #[serde(default)]
        add_prefix_space: bool,
        // Of offsets, which nobody asks for.
        #[serde(default, rename = "trim_offsets")]
        _trim_offsets: serde::de::IgnoredAny,
        #[serde(default = "yes")]
        use_regex: bool,
    },
    Digits {
        individual_digits: bool,
    },
}

impl PreTokenizer {
    /// Whether the last of its steps makes characters of bytes.
    pub(crate) fn is_byte_level(&self) -> bool {
        match self {
            PreTokenizer::Sequence { pretokenizers } => {
                pretokenizers.last().is_some_and(PreTokenizer::is_byte_level)
            }
            step => matches!(step, PreTokenizer::ByteLevel { .. }),
        }
    }
}

fn yes() -> bool {
    true
}

/// Before which sections of a text Metaspace puts a marker.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(crate) enum PrependScheme {
    First,
    Never,
    #[default]
    Always,
}

/// Adds tokens around the ids; when asked to add none, most do nothing.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "type")]
pub(crate) enum PostProcessor {
    Sequence { processors: Vec<PostProcessor> },
    ByteLevel {},
    RobertaProcessing {},
    BertProcessing {},
    TemplateProcessing { single: Vec<serde_json::Value> },
}

impl PostProcessor {
    /// Whether a text's ids leave it as they are, if it is to add no tokens.
    pub(crate) fn keeps_ids(&self) -> bool {
        match self {
            PostProcessor::Sequence { processors } => processors.iter().all(Self::keeps_ids),
            PostProcessor::TemplateProcessing { single } => {
                let sequences: Vec<_> =
                    single.iter().filter_map(|part| part.get("Sequence")).collect();
                match sequences[..] {
                    [sequence] => sequence.get("id").is_some_and(|id| id == "A"),
                    _ => false,
                }
            }
            _ => true,
        }
    }
}
