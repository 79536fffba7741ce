//! The patterns of DeepSeek-V3, each applied to the text left by the one before: numbers,
//! ideographs and kana, the rest.
//!
//! **Invariant:** pieces are the matches of the last pattern and the text between them.

use super::block::Block;
use super::{Scanner, space_or_newlines_end};
use crate::fast::unicode::classes::{Class, Classes, class_at, class_of, run_end};

/// The first pattern.
pub(super) const NUMBERS: &str = r"\p{N}{1,3}";
/// The second pattern.
pub(super) const IDEOGRAPHS: &str = "[一-龥぀-ゟ゠-ヿ]+";
/// The third pattern.
pub(super) const WORDS: &str = concat!(
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+",
    "|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*",
    "|\\s*[\r\n]+|\\s+(?!\\S)|\\s+"
);

/// `[\p{L}\p{M}]`.
const WORD: Classes = Classes::LETTERS.and(Classes::of(&[Class::Mark]));
/// `[\p{P}\p{S}]`.
const MARKS: Classes = Classes::of(&[Class::Punctuation, Class::Symbol]);
/// `[^\r\n\p{L}\p{P}\p{S}]`.
const BEFORE_WORD: Classes = Classes::of(&[Class::Newline]).and(Classes::LETTERS).and(MARKS).not();
/// `[\r\n]`.
const NEWLINES: Classes = Classes::of(&[Class::Newline]);

/// The scanner of the last pattern, for one section of the first two.
#[derive(Clone, Copy, Debug)]
pub(super) struct DeepSeek;

impl Scanner for DeepSeek {
    fn piece_end(self, text: &str, at: usize) -> usize {
        if let Some(end) = match_end(text, at) {
            return end;
        }
        // Text matched by no alternative is one piece up to the next match.
        let next_match = text[at..].char_indices().skip(1);
        let mut next_match = next_match.map(|(offset, _)| at + offset);
        next_match.find(|&begin| match_end(text, begin).is_some()).unwrap_or(text.len())
    }

    /// The sets of a block alone determine no borders.
    #[inline]
    fn starts(self, _block: &Block) -> u64 {
        0
    }
}

/// The end of a match of the last pattern at `at`.
fn match_end(text: &str, at: usize) -> Option<usize> {
    let (symbol, class) = class_at(text, at)?;
    let next = at + symbol.len_utf8();
    if symbol.is_ascii_punctuation() {
        let letters = text[next..].bytes().take_while(u8::is_ascii_alphabetic).count();
        if 0 < letters {
            return Some(next + letters);
        }
    }
    if BEFORE_WORD.has(class) {
        let end = run_end(text, next, WORD);
        if next < end {
            return Some(end);
        }
    }
    let end = run_end(text, at, WORD);
    if at < end {
        return Some(end);
    }
    let marks = if symbol == ' ' { next } else { at };
    let end = run_end(text, marks, MARKS);
    if marks < end {
        return Some(run_end(text, end, NEWLINES));
    }
    Classes::SPACES.has(class).then(|| space_or_newlines_end(text, at))
}

/// The class of a character in the first two patterns.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Number,
    Ideograph,
    Rest,
}

fn kind_of(symbol: char) -> Kind {
    match symbol {
        '一'..='龥' | '\u{3040}'..='ゟ' | '゠'..='ヿ' => Kind::Ideograph,
        _ if class_of(symbol) == Class::Number => Kind::Number,
        _ => Kind::Rest,
    }
}

/// Calls `take` with the start and end of each section matched or left by the first two patterns,
/// in order.
pub(super) fn for_each_section(text: &str, mut take: impl FnMut(usize, usize)) {
    let (mut begin, mut count, mut kind) = (0, 0, Kind::Rest);
    for (at, symbol) in text.char_indices() {
        let this = kind_of(symbol);
        if this != kind || (kind == Kind::Number && count == 3) {
            if begin < at {
                take(begin, at);
            }
            (begin, count, kind) = (at, 0, this);
        }
        count += 1;
    }
    if begin < text.len() {
        take(begin, text.len());
    }
}
