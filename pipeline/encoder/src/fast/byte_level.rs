//! Byte-level byte-pair encoding, as in GPT-2's vocabulary and those after it: a pre-tokenizer cuts
//! the text, and the first symbols of each piece are its bytes.
//!
//! Why it is exact: pieces are those of the pre-tokenizer ([`crate::fast::pretokenize`]), a piece's
//! ids depend on its bytes alone, and every byte that UTF-8 has is in the vocabulary, so that
//! nothing in a text is unknown. In tokenizer.json a byte is written as a character that can be
//! shown; texts are never written so here, the vocabulary is read back into bytes.
//!
//! **Invariant:** the ids are those of the pieces, in order; no piece reaches over an added token.

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::Range;

use super::joins::Joins;
use super::merges::{Alphabet, Merges, Work};
use super::piece::{Padded, Short};
use crate::fast::cache::tables::Known;
use crate::fast::cache::{PieceModel, Pieces};
use crate::fast::pretokenize::ByteLevel;
use crate::fast::unicode::nfc::nfc;
use crate::token_id::TokenId;

/// The least first byte of a character of three bytes or more.
const THREE_BYTES: u8 = 0xe0;

/// A model over bytes.
pub(crate) struct ByteModel {
    /// Whether texts are brought into normal form C first.
    pub(super) is_nfc: bool,
    pub(super) pre_tokenizer: ByteLevel,
    pub(super) alphabet: Alphabet,
    pub(super) merges: Merges,
    pub(super) joins: Joins,
    pub(super) whole: Whole,
    /// Pieces that are one id.
    pub(super) known: Known,
}

impl ByteModel {
    /// The text that added tokens of the normalized kind are looked for in.
    pub(crate) fn normalize<'t>(&self, text: &'t str) -> Cow<'t, str> {
        if self.is_nfc { nfc(text) } else { Cow::Borrowed(text) }
    }

    /// Whether a cut before byte `at` changes no id, whatever the rest of the text is.
    ///
    /// There a piece begins, and so does a text that can be normalised apart: white space of ASCII
    /// joins with nothing.
    pub(crate) fn is_cut(&self, text: &str, at: usize) -> bool {
        self.pre_tokenizer.split.is_cut(text, at)
    }

    /// Pieces that are one id.
    pub(crate) fn known(&self) -> &Known {
        &self.known
    }

    /// Appends the ids of a text without added tokens, which is not empty; `begins` if nothing was
    /// cut off before it.
    pub(crate) fn encode<I: TokenId>(
        &self,
        text: &str,
        begins: bool,
        padded: &mut Padded,
        pieces: &mut Pieces<I>,
        ids: &mut Vec<I>,
    ) {
        let prefixed = self.pre_tokenizer.add_prefix_space && begins && !text.starts_with(' ');
        let text = if prefixed { Cow::Owned(format!(" {text}")) } else { Cow::Borrowed(text) };
        padded.start().extend_from_slice(text.as_bytes());
        padded.finish();
        let mut begin = 0;
        self.pre_tokenizer.split.for_each_end(&text, |end| {
            if pieces.is_full_for(1) {
                pieces.flush(self, padded, ids);
            }
            pieces.push(padded, begin, end);
            begin = end;
        });
        pieces.flush(self, padded, ids);
    }
}

/// Pieces that are ids although their merges lead elsewhere (`ignore_merges`); there are few, if
/// any.
pub(super) struct Whole {
    pub(super) ids: HashMap<Box<[u8]>, u32>,
    /// A bit for the last bytes of each: nearly no piece has them.
    pub(super) ends: Box<[u64; 64]>,
}

impl Whole {
    pub(super) fn insert(&mut self, piece: Box<[u8]>, id: u32) {
        let bit = Whole::end(&piece);
        self.ends[bit / 64] |= 1 << (bit % 64);
        self.ids.insert(piece, id);
    }

    #[inline]
    fn id(&self, piece: &[u8]) -> Option<u32> {
        let bit = Whole::end(piece);
        if self.ends[bit / 64] >> (bit % 64) & 1 == 0 {
            return None;
        }
        self.ids.get(piece).copied()
    }

    /// A number below 4096.
    #[inline]
    fn end(piece: &[u8]) -> usize {
        let last = |offset: usize| piece.len().checked_sub(offset).map_or(0, |at| piece[at]);
        (usize::from(last(1)) + (usize::from(last(2)) << 4) + (piece.len() << 8)) % 4096
    }
}

impl PieceModel for ByteModel {
    fn encode_short(
        &self,
        text: &[u8],
        pieces: &[Short],
        work: &mut Work,
        mut take: impl FnMut(usize, &[u32]),
    ) {
        self.merges.apply_to_all(&self.alphabet, text, pieces, work, |index, ids| {
            match self.whole.id(pieces[index].of(text)) {
                Some(id) => take(index, &[id]),
                None => take(index, ids),
            }
        });
    }

    const HAS_PARTS: bool = true;

    fn for_each_part(
        &self,
        text: &Padded,
        piece: Range<usize>,
        mut take: impl FnMut(usize),
    ) -> bool {
        let bytes = text.text();
        // Scripts whose characters take less write words apart: there is hardly ever a cut in one.
        // A space may come first.
        let first_bytes = &bytes[piece.start..piece.end.min(piece.start + 2)];
        if first_bytes.iter().all(|&byte| byte < THREE_BYTES) {
            return false;
        }
        let mut begin = piece.start;
        let mut is_exact = self.whole.id(&bytes[piece.clone()]).is_none();
        self.joins.for_each_end(text, piece, |end| {
            is_exact &= self.whole.id(&bytes[begin..end]).is_none();
            begin = end;
            take(end);
        });
        is_exact
    }

    fn encode_piece(&self, piece: &[u8], work: &mut Work) {
        if let Some(id) = self.whole.id(piece) {
            work.symbols.clear();
            return work.symbols.push(id);
        }
        self.merges.apply_to_bytes(&self.alphabet, piece, work);
    }
}

/// The character that represents a byte in tokenizer.json: itself if printable, otherwise one from
/// U+0100 on.
pub(super) fn char_of_byte(byte: u8) -> char {
    let is_shown = |byte: &u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if is_shown(&byte) {
        return char::from(byte);
    }
    let hidden_before = (0..byte).filter(|byte| !is_shown(byte)).count();
    char::from_u32(0x100 + hidden_before as u32).expect("there are 68 bytes that cannot be shown")
}

/// The bytes of a vocabulary entry, if its characters represent bytes.
pub(super) fn bytes_of(entry: &str, byte_of_char: &HashMap<char, u8>) -> Option<Box<[u8]>> {
    entry.chars().map(|symbol| byte_of_char.get(&symbol).copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_cannot_be_shown_have_the_characters_from_u_0100_on() {
        let chars: Vec<char> = (0..=255).map(char_of_byte).collect();
        assert_eq!((chars[0], chars[b' ' as usize], chars[b'\n' as usize]), ('Ā', 'Ġ', 'Ċ'));
        assert_eq!((chars[b'a' as usize], chars[0xad], chars[0xff]), ('a', 'Ń', 'ÿ'));
        let mut distinct = chars.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), 256);
    }
}
