//! Where a piece of a byte-level tokenizer may be cut between characters.
//!
//! The rule is that of [`crate::fast::char_level`], over bytes: *a cut is exact if no merge (a, b)
//! joins there*: for no merge does the text before the cut end in a and the text after it begin
//! with b. Symbols of bytes need not be whole characters, so a pair is kept for the parts of the
//! characters at the cut that a and b show: a whole character, or less if a is only its last bytes,
//! or b only its first; then its last byte represents it, or its first.
//!
//! Words of an alphabet are seldom cut this way, texts written without spaces nearly everywhere:
//! their long pieces, all different, become short ones that recur.
//!
//! **Invariant:** every cut is one that the rule allows.

use std::ops::Range;

use super::piece::Padded;

/// Bits of a hash of pairs of characters; Qwen3 has 26,000 pairs.
const CHARS_BITS: u32 = 19;
/// Bits of a hash of pairs with a byte in them; Llama-3 has 200.
const BYTES_BITS: u32 = 14;
/// Above all characters: bytes that represent characters.
const BYTES: u32 = 0x11_0000;

/// The pairs that merges join, as bits of a hash: a superset.
pub(super) struct Joins {
    of_chars: Bits<CHARS_BITS>,
    of_bytes: Bits<BYTES_BITS>,
}

struct Bits<const HASH_BITS: u32>(Box<[u64]>);

impl<const HASH_BITS: u32> Bits<HASH_BITS> {
    fn new() -> Self {
        Bits(vec![0; 1 << (HASH_BITS - 6)].into_boxed_slice())
    }

    fn insert(&mut self, left: u32, right: u32) {
        let bit = Self::hash(left, right);
        self.0[bit / 64] |= 1 << (bit % 64);
    }

    #[inline(always)]
    fn has(&self, left: u32, right: u32) -> bool {
        let bit = Self::hash(left, right);
        self.0[bit / 64] >> (bit % 64) & 1 != 0
    }

    #[inline(always)]
    fn hash(left: u32, right: u32) -> usize {
        let pair = u64::from(left) << 32 | u64::from(right);
        (pair.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - HASH_BITS)) as usize
    }
}

impl Joins {
    /// Of the left and right texts of merges.
    pub(super) fn new<'m>(merges: impl Iterator<Item = (&'m [u8], &'m [u8])>) -> Joins {
        let mut joins = Joins { of_chars: Bits::new(), of_bytes: Bits::new() };
        for (left, right) in merges {
            // Others join within a character.
            if !is_inner(right[0]) {
                let (last, first) = (last_of(left), first_of(right));
                if last < BYTES && first < BYTES {
                    joins.of_chars.insert(last, first);
                } else {
                    joins.of_bytes.insert(last, first);
                }
            }
        }
        joins
    }

    /// Calls `take` with the end of each part that the piece `start..end` of a text may be cut
    /// into, in order.
    pub(super) fn for_each_end(
        &self,
        text: &Padded,
        Range { start, end }: Range<usize>,
        mut take: impl FnMut(usize),
    ) {
        let bytes = text.text();
        let (mut last, length_bytes) = text.char(start);
        let mut at = start + length_bytes;
        while at < end {
            let (next, length_bytes) = text.char(at);
            let (left, right) = (u32::from(last), u32::from(next));
            let (left_byte, right_byte) =
                (BYTES | u32::from(bytes[at - 1]), BYTES | u32::from(bytes[at]));
            let joins = self.of_chars.has(left, right)
                | self.of_bytes.has(left, right_byte)
                | self.of_bytes.has(left_byte, right)
                | self.of_bytes.has(left_byte, right_byte);
            if !joins {
                take(at);
            }
            (last, at) = (next, at + length_bytes);
        }
        take(end);
    }
}

/// Whether a byte is in a character, and not its first.
fn is_inner(byte: u8) -> bool {
    byte & 0xc0 == 0x80
}

/// The last character of the left side of a merge, or the byte that represents it.
fn last_of(text: &[u8]) -> u32 {
    let start = text.iter().rposition(|&byte| !is_inner(byte));
    let last = start.and_then(|start| std::str::from_utf8(&text[start..]).ok());
    last.and_then(|last| last.chars().next())
        .map_or_else(|| BYTES | u32::from(text[text.len() - 1]), u32::from)
}

/// The first character of the right side of a merge, or the byte that represents it.
fn first_of(text: &[u8]) -> u32 {
    let end = text.iter().skip(1).position(|&byte| !is_inner(byte));
    let end = end.map_or(text.len(), |end| end + 1);
    let first = std::str::from_utf8(&text[..end]).ok();
    first
        .and_then(|first| first.chars().next())
        .map_or_else(|| BYTES | u32::from(text[0]), u32::from)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::fast::merges::Merges;
    use crate::fast::merges::Work;

    fn padded(text: &str) -> Padded {
        let mut padded = Padded::default();
        padded.start().extend_from_slice(text.as_bytes());
        padded.finish();
        padded
    }

    const CHARS: &str = "a'é字学\u{1f600}";

    proptest! {
        /// Whatever the merges are, those that join parts of characters included.
        #[test]
        fn parts_become_what_the_piece_becomes(
            choices in proptest::collection::vec(any::<(u16, u16)>(), 0..60),
            text in "[a'é字学\u{1f600}]{1,20}",
        ) {
            let mut symbols: Vec<(u32, Vec<u8>)> =
                CHARS.bytes().map(|byte| (u32::from(byte), vec![byte])).collect();
            let mut list = Vec::new();
            for (left, right) in choices {
                let of = |choice: u16| symbols[usize::from(choice) % symbols.len()].clone();
                let ((left, left_bytes), (right, right_bytes)) = (of(left), of(right));
                let (id, bytes) = (256 + list.len() as u32, [left_bytes, right_bytes].concat());
                if symbols.iter().all(|(_, other)| *other != bytes) {
                    list.push((left, right, id));
                    symbols.push((id, bytes));
                }
            }
            let bytes_of = |id: u32| {
                let symbol = symbols.iter().find(|(other, _)| *other == id);
                &symbol.expect("it was made here").1[..]
            };
            let joins =
                Joins::new(list.iter().map(|&(left, right, _)| (bytes_of(left), bytes_of(right))));
            let merges = Merges::new(&list);
            let alphabet = merges.alphabet(Box::new(std::array::from_fn(|byte| byte as u32)));
            let mut work = Work::default();
            let mut encoded = |bytes: &[u8]| {
                merges.apply_to_bytes(&alphabet, bytes, &mut work);
                work.symbols.clone()
            };
            let padded = padded(&text);
            let (mut parts, mut begin) = (Vec::new(), 0);
            joins.for_each_end(&padded, 0..text.len(), |end| {
                parts.extend(encoded(&text.as_bytes()[begin..end]));
                begin = end;
            });
            prop_assert_eq!(begin, text.len());
            prop_assert_eq!(parts, encoded(text.as_bytes()));
        }
    }

    #[test]
    fn a_piece_is_cut_where_no_merge_joins() {
        let ends = |merges: &[(&str, &[u8])], text: &str| {
            let merges = merges.iter().map(|&(left, right)| (left.as_bytes(), right));
            let joins = Joins::new(merges);
            let padded = padded(text);
            let mut ends = Vec::new();
            joins.for_each_end(&padded, 0..text.len(), |end| ends.push(end));
            ends
        };
        assert_eq!(ends(&[], "字学a"), [3, 6, 7]);
        assert_eq!(ends(&[("学", "a".as_bytes())], "字学a"), [3, 7]);
        assert_eq!(ends(&[("字", &[0xe5])], "字学a"), [6, 7]);
    }
}
