//! The pattern of GPT-2, applied by `ByteLevel` with `use_regex`: GPT-2, GPT-NeoX, OLMo, StarCoder
//! and many more.
//!
//! ```text
//! 's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
//! ```
//!
//! **Invariant:** pieces are the matches of this pattern, which leaves out no character.

use super::block::Block;
use super::{Scanner, contraction_end, space_run_end};
use crate::fast::unicode::classes::{Class, Classes, class_at, run_end};

/// Not white space, a letter or a number.
const MARKS: Classes = Classes::SPACES.and(Classes::LETTERS).and(Classes::NUMBERS).not();

/// The scanner of GPT-2's pattern.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gpt2;

impl Scanner for Gpt2 {
    fn piece_end(self, text: &str, at: usize) -> usize {
        if let Some(end) = contraction_end(text, at, false) {
            return end;
        }
        let after_space = if text[at..].starts_with(' ') { at + 1 } else { at };
        let Some((_, class)) = class_at(text, after_space) else { return after_space };
        match class {
            Class::Upper | Class::Lower | Class::Caseless => {
                run_end(text, after_space, Classes::LETTERS)
            }
            Class::Number => run_end(text, after_space, Classes::NUMBERS),
            Class::Space | Class::Newline => space_run_end(text, at),
            _ => run_end(text, after_space, MARKS),
        }
    }

    /// A run of one class begins a piece, or the space before it does. The last character of white
    /// space before anything else also begins a piece.
    #[inline]
    fn starts(self, block: &Block) -> u64 {
        let Block { letters, digits, spaces, blanks, others, .. } = *block;
        let first = |mask: u64| mask & !(mask << 1);
        let runs = first(letters) | first(digits) | first(others);
        let mut starts = (runs & !(blanks << 1)) | first(spaces) | (spaces & !(spaces >> 1));
        // The last byte may be white space that continues past the block: whether it begins a piece
        // is unknown.
        let mut limit = block.len.saturating_sub(1);
        let mut quotes = block.quotes & starts;
        while quotes != 0 {
            let at = quotes.trailing_zeros();
            quotes &= quotes - 1;
            if limit <= at {
                break;
            }
            match block.contraction(at, false) {
                Some(0) => {}
                Some(bytes) => {
                    starts &= !(2 << at);
                    starts |= 1u64.checked_shl(at + bytes).unwrap_or(0);
                }
                None => limit = at + 1,
            }
        }
        starts & Block::below(limit)
    }
}
