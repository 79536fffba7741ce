//! The pattern of GPT-4's cl100k_base, also used by Llama-3, OLMo-2 and, with numbers of one digit,
//! Qwen.
//!
//! ```text
//! (?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}
//! | ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+
//! ```
//!
//! **Invariant:** pieces are the matches of this pattern, which leaves out no character.

use super::block::Block;
use super::{Scanner, contraction_end, number_end, space_or_newlines_end};
use crate::fast::unicode::classes::{Class, Classes, class_at, run_end};

/// Not white space, a letter or a number.
const MARKS: Classes = Classes::SPACES.and(Classes::LETTERS).and(Classes::NUMBERS).not();
/// `[\r\n]`.
const NEWLINES: Classes = Classes::of(&[Class::Newline]);

/// The scanner of cl100k_base's pattern.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cl100k {
    /// The most digits in a piece of a number: 1 or 3.
    pub(super) digits_max: usize,
}

impl Scanner for Cl100k {
    fn piece_end(self, text: &str, at: usize) -> usize {
        if let Some(end) = contraction_end(text, at, true) {
            return end;
        }
        let Some((symbol, class)) = class_at(text, at) else { return at };
        let next = at + symbol.len_utf8();
        match class {
            Class::Upper | Class::Lower | Class::Caseless => {
                return run_end(text, next, Classes::LETTERS);
            }
            Class::Number => return number_end(text, at, self.digits_max),
            Class::Newline => return space_or_newlines_end(text, at),
            _ => {}
        }
        let end = run_end(text, next, Classes::LETTERS);
        if next < end {
            return end;
        }
        let marks = if symbol == ' ' { next } else { at };
        let end = run_end(text, marks, MARKS);
        if marks < end {
            return run_end(text, end, NEWLINES);
        }
        space_or_newlines_end(text, at)
    }

    /// A word includes one character before it other than a newline, letter or number. Marks
    /// include a space before and newlines after them. Of other white space, all up to its last
    /// newline is one piece; the rest is a piece up to its last character, exclusive.
    #[inline]
    fn starts(self, block: &Block) -> u64 {
        let Block { letters, digits, blanks, newlines, others, .. } = *block;
        let first = |mask: u64| mask & !(mask << 1);
        let first_others = first(others) & !(blanks << 1);
        // Newlines right after marks belong to the marks: adding a run's lowest bit to the run
        // carries through all of it.
        let carried = newlines.wrapping_add(newlines & (others << 1));
        let spaces = block.spaces & !(newlines & !carried);
        let gaps = spaces & !newlines;
        let single = first_others & !(others >> 1);
        let first_letters = first(letters) & !(gaps << 1) & !(single << 1);
        let mut limit = block.len.saturating_sub(1);
        let indents = self.indents(block, gaps, &mut limit);
        let last_gaps = gaps & !(block.spaces >> 1);
        let mut starts = first_letters
            | first_others
            | first(spaces)
            | indents
            | last_gaps
            | self.numbers(digits);
        let mut quotes = block.quotes & single;
        while quotes != 0 {
            let at = quotes.trailing_zeros();
            quotes &= quotes - 1;
            if limit <= at {
                break;
            }
            match block.contraction(at, true) {
                Some(0) => {}
                Some(bytes) => starts |= 1u64.checked_shl(at + bytes).unwrap_or(0),
                None => limit = at + 1,
            }
        }
        starts & Block::below(limit)
    }
}

impl Cl100k {
    /// The starts of white space between a newline and a character other than white space. If the
    /// block ends inside such white space, `limit` becomes its start.
    #[inline]
    fn indents(self, block: &Block, gaps: u64, limit: &mut u32) -> u64 {
        let mut indents = gaps & (block.newlines << 1);
        // White space before a newline belongs to the piece ending at that newline.
        let mut trailing = block.newlines & (gaps << 1);
        while trailing != 0 {
            let end = trailing.trailing_zeros();
            trailing &= trailing - 1;
            indents &= !(1 << gap_begin(gaps, end));
        }
        if block.len != 0 && gaps >> (block.len - 1) & 1 != 0 {
            let begin = gap_begin(gaps, block.len);
            if indents >> begin & 1 != 0 {
                *limit = (*limit).min(begin);
            }
        }
        indents
    }

    /// The starts of pieces of numbers.
    #[inline]
    fn numbers(self, digits: u64) -> u64 {
        if self.digits_max == 1 {
            return digits;
        }
        let mut begins = digits & !(digits << 1);
        let third = digits & (digits << 1) & (digits << 2) & (digits << 3);
        let mut next = (begins << 3) & third;
        while next != 0 {
            begins |= next;
            next = (next << 3) & third;
        }
        begins
    }
}

/// The first position of the run of `gaps` whose last position is `end - 1`.
#[inline]
fn gap_begin(gaps: u64, end: u32) -> u32 {
    let below = !gaps & Block::below(end);
    64 - below.leading_zeros()
}
