//! `patchmill train-tokenizer`: trains a small tokenizer of LLaMA-2's form, for corpora without
//! one.
//!
//! Byte-pair encoding as SentencePiece does it: a space is "▁" and belongs to the word after it,
//! characters outside the alphabet are spelled in bytes, each digit is a word of its own, and
//! letters and signs don't mix. No token has "▁" after another character, so a text may be cut
//! before each "▁".
//!
//! This made `fixtures/tokenizer`:
//! `patchmill train-tokenizer --out fixtures/tokenizer --vocab-size 4096 fixtures/text/train`.
//!
//! **Invariant:** equal inputs and options give equal bytes, in every process and for any number of
//! threads.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde_json::json;
use tokenizers::decoders::{
    DecoderWrapper, byte_fallback::ByteFallback, fuse::Fuse, sequence::Sequence as Decoders,
    strip::Strip,
};
use tokenizers::models::bpe::{BPE, BpeTrainer, BpeTrainerBuilder};
use tokenizers::normalizers::{
    NormalizerWrapper, prepend::Prepend, replace::Replace, utils::Sequence as Normalizers,
};
use tokenizers::processors::template::{SpecialToken, TemplateProcessing};
use tokenizers::{AddedToken, ProgressFormat, Tokenizer};

use crate::commands::values::{SampleArgs, SetArgs, local_path};
use crate::console::progress::notice;
use crate::console::usage::UsageError;
use crate::disk::atomic::write_atomic;
use crate::disk::failpoint::failpoint;
use crate::disk::source::read_file;
use crate::read::document::{Columns, DOCUMENT_BYTES_MAX};
use crate::read::documents;
use crate::read::error::DocsError;
use crate::read::inputs;
use crate::write::folder::check_not_inside;
use crate::write::folder::lock::FolderLock;
use crate::write::select::{self, Candidate, Decision, Select};
use encoder::{CONFIG_FILE, TOKENIZER_FILE};

/// SentencePiece's sign for a space.
const SPACE: char = '\u{2581}';
const UNK: &str = "<unk>";
const BOS: &str = "<s>";
const EOS: &str = "</s>";
/// Most characters of a token, as in LLaMA-2's vocabulary.
const TOKEN_CHARS_MAX: usize = 16;
/// Entries before the alphabet: the special tokens and all bytes.
const BASE_ENTRIES: usize = 3 + 256;

/// Options of `patchmill train-tokenizer`.
#[derive(clap::Args, Clone, Debug)]
pub struct TrainTokenizerArgs {
    /// The folder to write tokenizer.json, tokenizer_config.json and special_tokens_map.json into.
    #[arg(long, value_parser = local_path())]
    pub out: PathBuf,
    /// Entries of the vocabulary, 512 to 4,194,304.
    #[arg(long, value_parser = clap::value_parser!(u32).range(512..=1 << 22))]
    pub vocab_size: u32,
    /// Largest share of the vocabulary for single characters; the rest of them is spelled in bytes.
    #[arg(long, default_value_t = 0.1, value_parser = parse_share)]
    pub alphabet_share: f64,
    /// Key or column of the text.
    #[arg(long, default_value = "text")]
    pub text_column: String,
    /// Key, column or dotted path of the set name; when absent, `meta.pile_set_name` where present.
    #[arg(long)]
    pub set_column: Option<String>,
    /// By set.
    #[command(flatten)]
    pub sets: SetArgs,
    /// By chance.
    #[command(flatten)]
    pub sample: SampleArgs,
    /// Most bytes of text to learn from, in the order of the inputs; reading stops there. A sample
    /// spreads them.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub max_text_bytes: Option<u64>,
    /// Bytes of the longest document's text; a longer one stops the command.
    #[arg(
        long,
        default_value_t = DOCUMENT_BYTES_MAX,
        value_parser = clap::value_parser!(u64).range(1..)
    )]
    pub max_document_bytes: u64,
    /// Files, folders or globs, as for `patchmill tokenize`.
    #[arg(required = true, value_name = "INPUT", value_parser = local_path())]
    pub inputs: Vec<PathBuf>,
}

fn parse_share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if 0.0 < share && share < 1.0 => Ok(share),
        _ => Err("expected a number between 0 and 1".to_owned()),
    }
}

/// Runs `patchmill train-tokenizer`.
pub fn train_tokenizer(args: &TrainTokenizerArgs) -> anyhow::Result<()> {
    check_not_inside(&args.out, &args.inputs)?;
    let path = args.out.join(TOKENIZER_FILE);
    if path.exists() {
        return Err(exists(&path).into());
    }
    let words = Words::read(args)?;
    let vocab_size = usize::try_from(args.vocab_size).context("--vocab-size")?;
    let characters_max = (vocab_size as f64 * args.alphabet_share) as usize;
    let alphabet = words.alphabet(characters_max.min(vocab_size - BASE_ENTRIES));
    let tokenizer = train(&words, &alphabet, vocab_size)?;
    write(&args.out, &tokenizer)?;
    let entries = tokenizer.get_vocab_size(true);
    if entries != vocab_size {
        let why = if entries < vocab_size {
            "the texts hold no further pair of tokens that occurs twice"
        } else {
            "special tokens, bytes and characters alone come to more"
        };
        notice(&format!(
            "the vocabulary has {entries} entries, not the {vocab_size} asked for: {why}"
        ));
    }
    let mut out = std::io::stdout().lock();
    writeln!(
        out,
        "{}: {entries} entries: 3 special tokens, 256 bytes, {} characters, {} merges",
        args.out.display(),
        alphabet.len(),
        entries - BASE_ENTRIES - alphabet.len()
    )?;
    Ok(())
}

/// Reason for the end of reading.
enum Stop {
    /// `--max-text-bytes` are read.
    Enough,
    Docs(DocsError),
}

impl From<DocsError> for Stop {
    fn from(err: DocsError) -> Stop {
        Stop::Docs(err)
    }
}

/// Counts of each word and each character of the inputs.
#[derive(Default)]
struct Words {
    words: BTreeMap<String, u64>,
    characters: BTreeMap<char, u64>,
}

impl Words {
    fn read(args: &TrainTokenizerArgs) -> anyhow::Result<Words> {
        let columns = Columns {
            text: args.text_column.clone(),
            set: args.set_column.clone(),
            document_bytes_max: args.max_document_bytes,
        };
        let select = Select::of_sets_and_sample(&args.sets.choice(), args.sample.spec());
        let mut left_bytes = args.max_text_bytes.unwrap_or(u64::MAX);
        let mut counted = Words::default();
        for input in inputs::find(&args.inputs)? {
            let selected = select.of_input(&input.name);
            let read = documents::for_each(&input, &columns, |doc| {
                let text_bytes = doc.text.len() as u64;
                let candidate = Candidate {
                    row: doc.row,
                    text_bytes,
                    set_name: doc.set_name.as_deref(),
                    content_hash: &select::content_hash(&doc.text),
                };
                if selected.decide(candidate) != Decision::Write {
                    return Ok(());
                }
                // Stop at a document's end: half a document would be cut inside a word.
                left_bytes = left_bytes.checked_sub(text_bytes).ok_or(Stop::Enough)?;
                counted.add(&doc.text);
                Ok(())
            });
            match read {
                Ok(()) => {}
                Err(Stop::Enough) => break,
                Err(Stop::Docs(err)) => return Err(err.into()),
            }
        }
        ensure!(!counted.words.is_empty(), "the inputs hold no text to train on");
        Ok(counted)
    }

    fn add(&mut self, text: &str) {
        let normalized = format!("{SPACE}{}", text.replace(' ', &SPACE.to_string()));
        for word in split_words(&normalized) {
            match self.words.get_mut(word) {
                Some(count) => *count += 1,
                None => {
                    self.words.insert(word.to_owned(), 1);
                }
            }
        }
        for character in normalized.chars() {
            *self.characters.entry(character).or_default() += 1;
        }
    }

    /// The most frequent characters, by count, then by code point. Control characters are spelled
    /// in bytes, as in LLaMA-2.
    fn alphabet(&self, count_max: usize) -> HashSet<char> {
        let printable = self.characters.iter().filter(|(character, _)| !character.is_control());
        let mut by_count: Vec<(char, u64)> = printable.map(|(&c, &count)| (c, count)).collect();
        by_count.sort_by_key(|&(character, count)| (std::cmp::Reverse(count), character));
        by_count.into_iter().take(count_max).map(|(character, _)| character).collect()
    }

    /// Words made only of the alphabet's characters, with their counts. A character outside cuts a
    /// word.
    fn within(&self, alphabet: &HashSet<char>) -> BTreeMap<&str, u64> {
        let mut words: BTreeMap<&str, u64> = BTreeMap::new();
        for (word, &count) in &self.words {
            let parts = word.split(|character| !alphabet.contains(&character));
            for part in parts.filter(|part| !part.is_empty()) {
                *words.entry(part).or_default() += count;
            }
        }
        words
    }
}

/// Class of a word's characters: letters and signs don't mix, and a digit is a word of its own.
#[derive(PartialEq, Eq)]
enum Kind {
    Letter,
    Digit,
    Sign,
}

impl Kind {
    fn of(character: char) -> Kind {
        if character.is_alphabetic() {
            Kind::Letter
        } else if character.is_numeric() {
            Kind::Digit
        } else {
            Kind::Sign
        }
    }
}

/// Cuts a normalized text: before a "▁" (of a run of them, only before the last, which belongs to
/// the next word); between letters, signs and digits; and between digits.
fn split_words(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let mut characters = rest.char_indices().peekable();
        let (_, first) = characters.next()?;
        let mut before = first;
        while let Some(&(at, character)) = characters.peek() {
            let next_is_space = rest[at + character.len_utf8()..].starts_with(SPACE);
            let is_cut = if character == SPACE {
                // Inside a run the word continues; the run's last "▁" begins the next word.
                before != SPACE || (!next_is_space && rest.len() > at + character.len_utf8())
            } else {
                before.is_numeric() || (before != SPACE && Kind::of(before) != Kind::of(character))
            };
            if is_cut {
                let (word, tail) = rest.split_at(at);
                rest = tail;
                return Some(word);
            }
            before = character;
            characters.next();
        }
        let word = rest;
        rest = "";
        Some(word)
    })
}

fn train(words: &Words, alphabet: &HashSet<char>, vocab_size: usize) -> anyhow::Result<Tokenizer> {
    let mut first: Vec<AddedToken> =
        [UNK, BOS, EOS].map(|token| AddedToken::from(token, true)).into();
    first.extend((0..=255).map(|byte: u8| AddedToken::from(format!("<0x{byte:02X}>"), true)));
    let trainer: BpeTrainer = BpeTrainerBuilder::new()
        .vocab_size(vocab_size)
        .min_frequency(2)
        .show_progress(false)
        .progress_format(ProgressFormat::Silent)
        .special_tokens(first)
        .initial_alphabet(alphabet.clone())
        .max_token_length(Some(TOKEN_CHARS_MAX))
        .build();
    let mut model = BPE::builder()
        .unk_token(UNK.to_owned())
        .fuse_unk(true)
        .byte_fallback(true)
        .build()
        .map_err(|err| anyhow::anyhow!("begin a model: {err}"))?;
    let within = words.within(alphabet);
    let counts = within.iter().map(|(&word, &count)| (word.into(), count)).collect();
    trainer.do_train(&counts, &mut model).map_err(|err| anyhow::anyhow!("train: {err}"))?;
    assemble(model)
}

/// The model with the rest of LLaMA-2's tokenizer.json around it.
fn assemble(model: BPE) -> anyhow::Result<Tokenizer> {
    let wrong = |err: tokenizers::Error| anyhow::anyhow!("assemble the tokenizer: {err}");
    let space = SPACE.to_string();
    let mut tokenizer = Tokenizer::new(model);
    let normalizers = vec![
        NormalizerWrapper::Prepend(Prepend::new(space.clone())),
        NormalizerWrapper::Replace(Replace::new(" ", space.clone()).map_err(wrong)?),
    ];
    tokenizer.with_normalizer(Some(Normalizers::new(normalizers))).map_err(wrong)?;
    tokenizer.with_decoder(Some(Decoders::new(vec![
        DecoderWrapper::Replace(Replace::new(space, " ").map_err(wrong)?),
        DecoderWrapper::ByteFallback(ByteFallback::new()),
        DecoderWrapper::Fuse(Fuse::new()),
        DecoderWrapper::Strip(Strip::new(' ', 1, 0)),
    ])));
    let bos = SpecialToken::new(BOS.to_owned(), vec![1], vec![BOS.to_owned()]).map_err(wrong)?;
    let template = TemplateProcessing::builder()
        .try_single(format!("{BOS} $A"))
        .and_then(|builder| builder.try_pair(format!("{BOS} $A {BOS}:1 $B:1")))
        .map_err(anyhow::Error::msg)?
        .special_tokens(vec![bos])
        .build()
        .context("assemble the tokenizer")?;
    tokenizer.with_post_processor(Some(template));
    let special = [UNK, BOS, EOS].map(|token| AddedToken::from(token, true).normalized(false));
    tokenizer.add_special_tokens(special).map_err(wrong)?;
    Ok(tokenizer)
}

const SPECIAL_TOKENS_MAP_FILE: &str = "special_tokens_map.json";
const LOCK_FILE: &str = ".train-tokenizer.lock";

fn exists(path: &Path) -> UsageError {
    UsageError(format!("{} exists; remove it or name another folder", path.display()))
}

/// The tokenizer and the files Hugging Face tools expect beside it. tokenizer.json comes last: a
/// folder without it is that of a run that was cut off, or of somebody else, whose files stay.
fn write(out: &Path, tokenizer: &Tokenizer) -> anyhow::Result<()> {
    check(tokenizer)?;
    std::fs::create_dir_all(out).with_context(|| format!("create {}", out.display()))?;
    let mut text = tokenizer.to_string(true).map_err(|err| anyhow::anyhow!("save: {err}"))?;
    text.push('\n');
    let config = json!({
        "add_bos_token": true,
        "add_eos_token": false,
        "bos_token": BOS,
        "clean_up_tokenization_spaces": false,
        "eos_token": EOS,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": UNK,
    });
    let map = json!({ "bos_token": BOS, "eos_token": EOS, "unk_token": UNK });
    let pretty = |value| serde_json::to_string_pretty(&value).expect("JSON is plain data") + "\n";
    let files = [
        (CONFIG_FILE, pretty(config)),
        (SPECIAL_TOKENS_MAP_FILE, pretty(map)),
        (TOKENIZER_FILE, text),
    ];
    let _lock = FolderLock::named(out, LOCK_FILE)?;
    for (name, text) in &files {
        let path = out.join(name);
        if path.exists() && read_file(&path).is_ok_and(|found| found != text.as_bytes()) {
            return Err(exists(&path).into());
        }
    }
    for (name, text) in &files {
        write_atomic(&out.join(name), text.as_bytes())?;
        failpoint("train-tokenizer");
    }
    Ok(())
}

/// Checks the module's promises about a vocabulary.
fn check(tokenizer: &Tokenizer) -> anyhow::Result<()> {
    let vocabulary: HashMap<String, u32> = tokenizer.get_vocab(true);
    for (token, id) in [(UNK, 0), (BOS, 1), (EOS, 2), ("<0x00>", 3), ("<0xFF>", 258)] {
        assert_eq!(vocabulary.get(token), Some(&id), "id of {token}");
    }
    let is_inner = |token: &&String| {
        token.trim_start_matches(SPACE).contains(SPACE)
            || (token.starts_with(SPACE)
                && token[SPACE.len_utf8()..].starts_with(SPACE)
                && token.chars().any(|c| c != SPACE))
    };
    let inner = vocabulary.keys().find(is_inner);
    assert_eq!(inner, None, "a token across the start of a word");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[&str]) {
        let normalized = text.replace('_', &SPACE.to_string());
        let words: Vec<String> =
            split_words(&normalized).map(|word| word.replace(SPACE, "_")).collect();
        assert_eq!(words, expected, "{text}");
    }

    #[test]
    fn a_word_begins_at_a_space_and_no_token_can_cross_one() {
        check("", &[]);
        check("_the_cat", &["_the", "_cat"]);
        check("_a___b", &["_a", "__", "_b"]);
        check("__a", &["_", "_a"]);
        check("_a__", &["_a", "__"]);
        check("_a_", &["_a", "_"]);
        check("_x12y_3", &["_x", "1", "2", "y", "_3"]);
        check("_a\n_b", &["_a", "\n", "_b"]);
        check("_(don't)", &["_(", "don", "'", "t", ")"]);
    }
}
