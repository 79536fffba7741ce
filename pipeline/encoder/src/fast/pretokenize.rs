//! Pre-tokenizers of byte-level tokenizers: where a text is cut before byte-pair encoding.
//!
//! Byte-level tokenizers cut texts by a regex. A few patterns serve nearly all tokenizers, and a
//! general engine spends more time on them than all other steps together. So each known pattern,
//! recognised by its exact text, has its own scanner. It is written by hand and tested against the
//! regex engine on code points, random texts and the fixtures. Any other pattern is left to the
//! `tokenizers` crate, never approximated.
//!
//! A pattern looks ahead but never back: the end of a piece depends only on the text from the start
//! of that piece. So a scanner can start at any border, and finding the borders inside a `block` is
//! enough.
//!
//! **Invariant:** pieces are those of `tokenizers`, in order, and together they are the text.

mod block;
mod cl100k;
mod deepseek;
mod gpt2;
mod o200k;

use serde::Deserialize;
use serde_json::Value;

use super::definition::{Pattern, PreTokenizer};
use crate::fast::pretokenize::block::{BLOCK_BYTES, Block};
use crate::fast::pretokenize::cl100k::Cl100k;
use crate::fast::pretokenize::deepseek::DeepSeek;
use crate::fast::pretokenize::gpt2::Gpt2;
use crate::fast::pretokenize::o200k::O200k;
use crate::fast::unicode::classes::{Class, Classes, class_of, run_end};

/// cl100k_base, as Llama-3 writes it.
const CL100K: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
/// cl100k_base with numbers of one digit, as Qwen writes it.
const QWEN: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
/// GPT-2's pattern, written out in a `Split`.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
/// o200k_base, as gpt-oss writes it.
const O200K: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
/// Mistral's Tekken.
const TEKKEN: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

/// A pre-tokenizer with a scanner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// `ByteLevel` without a regex: the whole text is one piece.
    Whole,
    /// GPT-2's pattern (module `gpt2`).
    Gpt2,
    /// GPT-2's pattern after `Digits` with `individual_digits`: StarCoder, SmolLM.
    Gpt2Digits,
    /// cl100k_base with numbers of up to this many digits, 1 or 3.
    Cl100k {
        /// 3 for Llama-3, 1 for Qwen.
        digits_max: usize,
    },
    /// o200k_base, or Tekken.
    O200k {
        /// 3 for OpenAI's, 1 for Tekken.
        digits_max: usize,
        /// Whether a word includes a contraction after it: not in Tekken.
        contractions: bool,
    },
    /// DeepSeek-V3's three patterns, in turn.
    DeepSeek,
}

/// The steps of a byte-level tokenizer before byte-pair encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteLevel {
    /// Where texts are cut.
    pub split: Split,
    /// Whether a space is put before a text that does not begin with one.
    pub add_prefix_space: bool,
}

impl ByteLevel {
    /// Recognises the `pre_tokenizer` of a tokenizer.json; an error describes the unknown part.
    pub fn of(pre_tokenizer: &Value) -> Result<ByteLevel, String> {
        let definition = PreTokenizer::deserialize(pre_tokenizer);
        let definition = definition.map_err(|err| format!("its pre-tokenizer: {err}"))?;
        ByteLevel::of_definition(&definition)
    }

    /// Like [`ByteLevel::of`], for a `pre_tokenizer` already parsed.
    pub(super) fn of_definition(pre_tokenizer: &PreTokenizer) -> Result<ByteLevel, String> {
        let steps = match pre_tokenizer {
            PreTokenizer::Sequence { pretokenizers } => {
                pretokenizers.iter().map(step).collect::<Result<Vec<_>, _>>()?
            }
            single => vec![step(single)?],
        };
        let Some((Step::ByteLevel { add_prefix_space, use_regex }, before)) = steps.split_last()
        else {
            return Err("its pre-tokenizer does not end in ByteLevel".to_owned());
        };
        let split = match (before, use_regex) {
            ([], true) => Split::Gpt2,
            ([], false) => Split::Whole,
            ([Step::Digits], true) => Split::Gpt2Digits,
            ([Step::Split(split)], false) if *split != Split::DeepSeek => *split,
            ([Step::Numbers, Step::Ideographs, Step::Split(Split::DeepSeek)], false) => {
                Split::DeepSeek
            }
            _ => return Err("its pre-tokenizers in this order have no scanner".to_owned()),
        };
        if *add_prefix_space && !before.is_empty() {
            return Err("its ByteLevel puts a space before each piece of another step".to_owned());
        }
        Ok(ByteLevel { split, add_prefix_space: *add_prefix_space })
    }
}

/// One pre-tokenizer of a sequence.
#[derive(Debug)]
enum Step {
    ByteLevel {
        add_prefix_space: bool,
        use_regex: bool,
    },
    Digits,
    Split(Split),
    /// DeepSeek's first.
    Numbers,
    /// DeepSeek's second.
    Ideographs,
}

fn step(definition: &PreTokenizer) -> Result<Step, String> {
    match definition {
        PreTokenizer::ByteLevel { add_prefix_space, use_regex, .. } => {
            Ok(Step::ByteLevel { add_prefix_space: *add_prefix_space, use_regex: *use_regex })
        }
        PreTokenizer::Digits { individual_digits: true } => Ok(Step::Digits),
        PreTokenizer::Split { pattern: Pattern::Regex(pattern), behavior, invert } => {
            split_step(pattern, behavior, *invert)
        }
        other => Err(format!("its pre-tokenizer has the step {other:?}, which has no scanner")),
    }
}

/// A `Split` whose matches are pieces. Only DeepSeek's patterns leave out characters; with the
/// others there is nothing between matches, so keeping or removing it makes no difference.
fn split_step(pattern: &str, behavior: &str, invert: bool) -> Result<Step, String> {
    let (known, all_matched) = match pattern {
        CL100K => (Step::Split(Split::Cl100k { digits_max: 3 }), true),
        QWEN => (Step::Split(Split::Cl100k { digits_max: 1 }), true),
        GPT2 => (Step::Split(Split::Gpt2), true),
        O200K => (Step::Split(Split::O200k { digits_max: 3, contractions: true }), true),
        TEKKEN => (Step::Split(Split::O200k { digits_max: 1, contractions: false }), true),
        deepseek::NUMBERS => (Step::Numbers, false),
        deepseek::IDEOGRAPHS => (Step::Ideographs, false),
        deepseek::WORDS => (Step::Split(Split::DeepSeek), false),
        _ => return Err(format!("its Split has the pattern {pattern}, which has no scanner")),
    };
    match (behavior, invert) {
        ("Isolated", _) => Ok(known),
        ("Removed", true) if all_matched => Ok(known),
        _ => Err(format!(
            "its Split has the behavior {behavior} and invert = {invert}, which has no scanner"
        )),
    }
}

impl Split {
    /// Calls `take` with the end of each piece of `text`, in order. An empty text has no pieces.
    #[inline]
    pub fn for_each_end(self, text: &str, mut take: impl FnMut(usize)) {
        match self {
            Split::Whole if text.is_empty() => {}
            Split::Whole => take(text.len()),
            Split::Gpt2 => scan(Gpt2, text, take),
            Split::Gpt2Digits => between_digits(text, take),
            Split::Cl100k { digits_max } => scan(Cl100k { digits_max }, text, take),
            Split::O200k { digits_max, contractions } => {
                scan(O200k { digits_max, contractions }, text, take);
            }
            Split::DeepSeek => deepseek::for_each_section(text, |begin, end| {
                scan(DeepSeek, &text[begin..end], |piece_end| take(begin + piece_end));
            }),
        }
    }

    /// Whether a piece begins at `at` for any text before `at - 1` and after `at`: white space
    /// after a letter or a digit. No part of any pattern here matches these two in a row.
    pub fn is_cut(self, text: &str, at: usize) -> bool {
        let bytes = text.as_bytes();
        self != Split::Whole
            && 0 < at
            && at < bytes.len()
            && matches!(bytes[at], b' ' | b'\n')
            && bytes[at - 1].is_ascii_alphanumeric()
    }
}

/// Finds the pieces of one pattern.
trait Scanner: Copy {
    /// The end of the piece starting at `at`, which is not the end of the text. The plain form, for
    /// any text.
    fn piece_end(self, text: &str, at: usize) -> usize;

    /// Where pieces begin in `block`; bit 0 is one of these. May leave out all of them from some
    /// position to the end.
    fn starts(self, block: &Block) -> u64;
}

/// The fewest bytes for which a block is worth its time.
const LAST_BLOCK_BYTES: usize = 16;

#[inline]
fn scan<S: Scanner>(scanner: S, text: &str, mut take: impl FnMut(usize)) {
    let bytes = text.as_bytes();
    let mut at = 0;
    while let Some(chunk) = bytes[at..].first_chunk::<BLOCK_BYTES>() {
        at = scan_block(scanner, text, at, chunk, &mut take);
    }
    // Worth it because added tokens may leave many short texts.
    while at + LAST_BLOCK_BYTES <= bytes.len() {
        // As if the text continued with a non-ASCII character.
        let mut chunk = [u8::MAX; BLOCK_BYTES];
        chunk[..bytes.len() - at].copy_from_slice(&bytes[at..]);
        at = scan_block(scanner, text, at, &chunk, &mut take);
    }
    while at < bytes.len() {
        at = scanner.piece_end(text, at);
        take(at);
    }
}

/// Takes the ends of the pieces found in `chunk`, the bytes at `at`, or else of one piece, and
/// returns the last end.
#[inline(always)]
fn scan_block<S: Scanner>(
    scanner: S,
    text: &str,
    at: usize,
    chunk: &[u8; BLOCK_BYTES],
    mut take: impl FnMut(usize),
) -> usize {
    let mut last = at;
    if chunk[0].is_ascii() && chunk[1].is_ascii() {
        let mut ends = scanner.starts(&Block::new(chunk)) & !1;
        while ends != 0 {
            last = at + ends.trailing_zeros() as usize;
            ends &= ends - 1;
            take(last);
        }
        if at < last {
            return last;
        }
    }
    last = scanner.piece_end(text, at);
    take(last);
    last
}

/// GPT-2's pattern between characters numeric by Rust's definition, each of them its own piece.
fn between_digits(text: &str, mut take: impl FnMut(usize)) {
    let mut begin = 0;
    let mut flush = |begin: usize, end: usize| {
        scan(Gpt2, &text[begin..end], |piece_end| take(begin + piece_end));
    };
    for (at, symbol) in text.char_indices() {
        if symbol.is_numeric() {
            let end = at + symbol.len_utf8();
            flush(begin, at);
            flush(at, end);
            begin = end;
        }
    }
    flush(begin, text.len());
}

/// The end of `'s|'t|'re|'ve|'m|'ll|'d` at `at`. If `any_case`, upper case matches too, and "ſ" is
/// an "s".
fn contraction_end(text: &str, at: usize, any_case: bool) -> Option<usize> {
    let letters = text[at..].strip_prefix('\'')?;
    let fold = if any_case { 0x20 } else { 0 };
    let bytes = letters.as_bytes();
    let first = bytes.first()? | fold;
    let bytes_behind = match (first, bytes.get(1).map(|byte| byte | fold)) {
        (b's' | b't' | b'm' | b'd', _) => 1,
        (b'r' | b'v', Some(b'e')) | (b'l', Some(b'l')) => 2,
        _ if any_case && letters.starts_with('ſ') => 'ſ'.len_utf8(),
        _ => return None,
    };
    Some(at + 1 + bytes_behind)
}

/// The end of `\p{N}{1,digits_max}` at `at`.
fn number_end(text: &str, at: usize, digits_max: usize) -> usize {
    let digits = text[at..].chars().take(digits_max);
    let digits = digits.take_while(|&symbol| class_of(symbol) == Class::Number);
    at + digits.map(char::len_utf8).sum::<usize>()
}

/// The end of `\s+(?!\S)|\s+` at `at`, where white space begins.
fn space_run_end(text: &str, at: usize) -> usize {
    let end = run_end(text, at, Classes::SPACES);
    let Some(last) = text[at..end].chars().next_back() else { return end };
    let before_last = end - last.len_utf8();
    if end == text.len() || before_last == at { end } else { before_last }
}

/// The end of `\s*[\r\n]+|\s+(?!\S)|\s+` at `at`, where white space begins.
fn space_or_newlines_end(text: &str, at: usize) -> usize {
    let end = run_end(text, at, Classes::SPACES);
    match text[at..end].rfind(['\r', '\n']) {
        Some(last) => at + last + 1,
        None => space_run_end(text, at),
    }
}
