//! The pattern of GPT-4o's o200k_base, also used by gpt-oss and others. Mistral's Tekken is the
//! same without contractions and with numbers of one digit.
//!
//! ```text
//! [^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+
//! (?i:'s|'t|'re|'ve|'m|'ll|'d)?
//! |[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*
//! (?i:'s|'t|'re|'ve|'m|'ll|'d)?
//! |\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+
//! ```
//!
//! **Invariant:** pieces are the matches of this pattern, which leaves out no character.

use super::block::Block;
use super::{Scanner, contraction_end, number_end, space_or_newlines_end};
use crate::fast::unicode::classes::{Class, Classes, class_at, run_end};

/// Not white space, a letter or a number.
const MARKS: Classes = Classes::SPACES.and(Classes::LETTERS).and(Classes::NUMBERS).not();
/// `[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]`.
const UPPER: Classes = Classes::of(&[Class::Upper, Class::Caseless, Class::Mark]);
/// `[\p{Ll}\p{Lm}\p{Lo}\p{M}]`.
const LOWER: Classes = Classes::of(&[Class::Lower, Class::Caseless, Class::Mark]);
/// `[^\r\n\p{L}\p{N}]`.
const BEFORE_WORD: Classes =
    Classes::of(&[Class::Newline]).and(Classes::LETTERS).and(Classes::NUMBERS).not();

/// The scanner of o200k_base's pattern.
#[derive(Clone, Copy, Debug)]
pub(super) struct O200k {
    /// The most digits in a piece of a number: 1 or 3.
    pub(super) digits_max: usize,
    /// Whether a word includes a contraction after it.
    pub(super) contractions: bool,
}

impl Scanner for O200k {
    fn piece_end(self, text: &str, at: usize) -> usize {
        let Some((symbol, class)) = class_at(text, at) else { return at };
        let next = at + symbol.len_utf8();
        // Tries the word with the character before it first, then without.
        let word_end = if BEFORE_WORD.has(class) {
            word_end(text, next).or_else(|| word_end(text, at))
        } else {
            word_end(text, at)
        };
        // The same for the second alternative: words without a lower-case end.
        let word_end = word_end.or_else(|| {
            let optional = BEFORE_WORD.has(class).then(|| capitals_end(text, next)).flatten();
            optional.or_else(|| capitals_end(text, at))
        });
        if let Some(end) = word_end {
            let contraction = self.contractions.then(|| contraction_end(text, end, true));
            return contraction.flatten().unwrap_or(end);
        }
        if class == Class::Number {
            return number_end(text, at, self.digits_max);
        }
        let marks = if symbol == ' ' { next } else { at };
        let end = run_end(text, marks, MARKS);
        if marks < end {
            let behind = text[end..].bytes().take_while(|byte| b"\r\n/".contains(byte)).count();
            return end + behind;
        }
        space_or_newlines_end(text, at)
    }

    /// The sets of a block alone determine no borders.
    #[inline]
    fn starts(self, _block: &Block) -> u64 {
        0
    }
}

/// The end of `UPPER* LOWER+` at `at`.
///
/// The first run gives back characters until the second has one. Either a lower-case letter follows
/// the first run, or the first run's last character in both sets becomes the second run.
fn word_end(text: &str, at: usize) -> Option<usize> {
    let upper_end = run_end(text, at, UPPER);
    let end = run_end(text, upper_end, LOWER);
    if upper_end < end {
        return Some(end);
    }
    let mut end = upper_end;
    for symbol in text[at..upper_end].chars().rev() {
        if LOWER.has(crate::fast::unicode::classes::class_of(symbol)) {
            return Some(end);
        }
        end -= symbol.len_utf8();
    }
    None
}

/// The end of `UPPER+ LOWER*` at `at`.
fn capitals_end(text: &str, at: usize) -> Option<usize> {
    let upper_end = run_end(text, at, UPPER);
    (at < upper_end).then(|| run_end(text, upper_end, LOWER))
}
