//! Byte-pair encoding whose first symbols are characters, as in LLaMA's vocabularies: where a text
//! may be cut, and what the pieces become.
//!
//! # The cut rule
//!
//! Such a tokenizer often has no pre-tokenizer, or one that does not cut: a whole document is one
//! word. Let P be the set of all pairs (last character of a, first character of b) over the merges
//! (a, b). *A cut between two characters x and y with (x, y) not in P changes no id.* For a merge
//! across the cut would join a symbol that ends in x with one that begins with y, so its pair would
//! be in P; so none is ever done, nor could one be. The merges to the left and to the right of the
//! cut then touch no common symbol, and the order by rank and place, looked at on one side alone,
//! is that side's own. The same holds for each of any number of such cuts, and for any choice of
//! them: P may be replaced by a set that contains it.
//!
//! This needs every symbol to represent the text it was made of, and so
//! - the model has no prefixes, suffixes or dropout, and no two texts share an id;
//! - a character that the vocabulary does not have becomes bytes or `unk`, whose symbols must be in
//!   no merge. Then it is in no pair of P, and it may be cut off on both sides, unless neighbours
//!   of its kind become one `unk`;
//! - a text in the vocabulary as a whole that goes before its merges (`ignore_merges`) is looked up
//!   before it is cut.
//!
//! # Spaces
//!
//! Where the tokenizer makes a marker U+2581 of each space, texts are kept with a space for each
//! marker, including markers of the text itself: no other space is left, so this loses nothing, and
//! nearly every text already has the right form.
//!
//! **Invariant:** every cut is one that the rule allows.

use std::collections::HashMap;

use super::merges::{Alphabet, Merges, Work};
use super::piece::Padded;
use crate::fast::cache::{PieceModel, Pieces};
use crate::token_id::TokenId;

/// The character that Metaspace and its like make of a space.
pub(crate) const MARKER: char = '\u{2581}';
/// No id, where one is expected.
const NO_ID: u32 = u32::MAX;
/// Pairs of P that are not both ASCII, as bits of a hash.
const PAIR_BITS: u32 = 16;

/// A model over characters.
pub(crate) struct CharModel {
    /// Of characters below U+10000, by code point.
    low_ids: Vec<u32>,
    high_ids: HashMap<char, u32>,
    unknown: Unknown,
    merges: Merges,
    /// Of ASCII characters; `NO_ID` for those that the vocabulary does not have.
    alphabet: Alphabet,
    cuts: Cuts,
    /// Whole words that go before their merges.
    whole: Option<Whole>,
}

type TextMerge<'a> = (&'a str, &'a str, [u32; 3]);

/// The merges that ever happen, and perhaps some more.
fn live_merges<'a>(
    parts: &CharModelParts<'a>,
    first_id: impl Fn(char) -> u32,
) -> Vec<TextMerge<'a>> {
    let list = parts.merges.iter().map(|&(_, _, [left, right, id])| (left, right, id));
    let text_of: HashMap<u32, &str> = parts.vocab.iter().map(|&(text, id)| (id, text)).collect();
    let is_live = Merges::live(&list.collect::<Vec<_>>(), |id, symbols| {
        let Some(text) = text_of.get(&id) else { return false };
        // No text has a space.
        if parts.space_is_marker && text.contains(' ') {
            return false;
        }
        symbols.extend(text_form(text, parts.space_is_marker).chars().map(&first_id));
        !symbols.contains(&NO_ID)
    });
    let live = parts.merges.iter().zip(is_live);
    live.filter_map(|(&merge, is_live)| is_live.then_some(merge)).collect()
}

/// How a character outside the vocabulary is encoded.
#[derive(Clone)]
pub(crate) enum Unknown {
    /// Its bytes.
    Bytes(Box<[u32; 256]>),
    /// A token for it, or for a run of such characters.
    Token {
        /// Its id.
        id: u32,
        /// Of a run it is one.
        is_fused: bool,
    },
}

/// Words that are ids although their merges may lead elsewhere.
pub(crate) struct Whole {
    ids: HashMap<Box<[u8]>, u32>,
    bytes_max: usize,
}

impl Whole {
    fn id(&self, word: &[u8]) -> Option<u32> {
        if word.len() <= self.bytes_max { self.ids.get(word).copied() } else { None }
    }
}

/// The parts of a [`CharModel`].
pub(crate) struct CharModelParts<'a> {
    /// Texts and their ids.
    pub(crate) vocab: &'a [(&'a str, u32)],
    /// Left and right text, and the three ids, in the order of the ranks.
    pub(crate) merges: Vec<(&'a str, &'a str, [u32; 3])>,
    pub(crate) unknown: Unknown,
    /// Spaces in the text represent markers.
    pub(crate) space_is_marker: bool,
    /// Every marker begins a word.
    pub(crate) cuts_at_markers: bool,
    /// Words in the vocabulary go before their merges.
    pub(crate) ignore_merges: bool,
}

impl CharModel {
    pub(crate) fn new(parts: CharModelParts<'_>) -> CharModel {
        let mut low_ids = vec![NO_ID; 1 << 16];
        let mut high_ids = HashMap::new();
        let mut whole = HashMap::new();
        for &(text, id) in parts.vocab {
            if parts.space_is_marker && text.contains(' ') {
                continue; // no text has a space
            }
            let text = text_form(text, parts.space_is_marker);
            let mut chars = text.chars();
            if let (Some(c), None) = (chars.next(), chars.next()) {
                match low_ids.get_mut(c as usize) {
                    Some(low_id) => *low_id = id,
                    None => drop(high_ids.insert(c, id)),
                }
            }
            whole.insert(text.into_bytes().into_boxed_slice(), id);
        }
        let first_id = |c: char| match low_ids.get(c as usize) {
            Some(&id) => id,
            None => high_ids.get(&c).copied().unwrap_or(NO_ID),
        };
        let live = live_merges(&parts, first_id);
        let list: Vec<_> =
            live.iter().map(|&(_, _, [left, right, id])| (left, right, id)).collect();
        let merges = Merges::new(&list);
        let mut ascii_ids = Box::new([NO_ID; 256]);
        ascii_ids[..128].copy_from_slice(&low_ids[..128]);
        let mut model = CharModel {
            alphabet: merges.alphabet(ascii_ids),
            low_ids,
            high_ids,
            unknown: parts.unknown,
            merges,
            cuts: Cuts {
                ascii: [[u64::MAX; 2]; 128],
                joins: vec![0; 1 << (PAIR_BITS - 6)],
                pair_count: 0,
                cuts_at_spaces: parts.cuts_at_markers,
                fuses: None,
            },
            whole: None,
        };
        model.derive_cuts(&live, parts.space_is_marker);
        if parts.ignore_merges {
            let bytes_max = parts.vocab.iter().map(|(text, _)| text.len()).max().unwrap_or(0);
            model.whole = Some(Whole { ids: whole, bytes_max });
        }
        model
    }

    fn derive_cuts(&mut self, merges: &[(&str, &str, [u32; 3])], space_is_marker: bool) {
        let form = |c: char| if space_is_marker && c == MARKER { ' ' } else { c };
        let mut pairs: Vec<(char, char)> = Vec::new();
        for (left, right, _) in merges {
            if let (Some(x), Some(y)) = (left.chars().next_back(), right.chars().next()) {
                pairs.push((form(x), form(y)));
            }
        }
        pairs.sort_unstable();
        pairs.dedup();
        self.cuts.pair_count = pairs.len();
        for (x, y) in pairs {
            self.cuts.join(x, y);
        }
        if let Unknown::Token { is_fused: true, .. } = self.unknown {
            let is_known = |c: char| self.id(c) != NO_ID;
            let fuses: Vec<bool> = ('\0'..='\u{ffff}').map(|c| !is_known(c)).collect();
            let mut bits = vec![u64::MAX; 1 << 10];
            for (c, fuses) in ('\0'..='\u{ffff}').zip(fuses) {
                if !fuses {
                    bits[c as usize / 64] &= !(1 << (c as u32 % 64));
                }
            }
            let unknown: Vec<char> = ('\0'..='\x7f').filter(|&c| !is_known(c)).collect();
            for &x in &unknown {
                for &y in &unknown {
                    self.cuts.join(x, y);
                }
            }
            self.cuts.fuses = Some(bits);
        }
    }

    fn id(&self, c: char) -> u32 {
        match self.low_ids.get(c as usize) {
            Some(&id) => id,
            None => self.high_ids.get(&c).copied().unwrap_or(NO_ID),
        }
    }

    /// The pairs of characters that some merge joins.
    pub(crate) fn pair_count(&self) -> usize {
        self.cuts.pair_count
    }

    /// Where texts may be cut.
    pub(crate) fn cuts(&self) -> &Cuts {
        &self.cuts
    }

    /// Whether words are looked up before they are cut.
    pub(crate) fn looks_up_words(&self) -> bool {
        self.whole.is_some()
    }

    /// Appends the ids of `start..end` of a text, which is a word, or all words between two added
    /// tokens.
    pub(crate) fn encode<I: TokenId>(
        &self,
        text: &Padded,
        start: usize,
        end: usize,
        pieces: &mut Pieces<I>,
        ids: &mut Vec<I>,
    ) {
        if let Some(whole) = &self.whole
            && let Some(id) = whole.id(&text.text()[start..end])
        {
            return ids.push(I::narrow(id));
        }
        let mut scan = Scan { last: '\0', next: start };
        let mut piece_start = start;
        let mut block_start = start;
        while block_start < end {
            let mut cuts = self.cuts.in_block(text, block_start, &mut scan);
            if block_start == start {
                cuts &= !1; // nothing is before it
            }
            if end - block_start < 64 {
                cuts &= (1 << (end - block_start)) - 1;
            }
            if pieces.is_full_for(64 + 1) {
                pieces.flush(self, text, ids);
            }
            while cuts != 0 {
                let cut = block_start + cuts.trailing_zeros() as usize;
                pieces.push(text, piece_start, cut);
                piece_start = cut;
                cuts &= cuts - 1;
            }
            block_start += 64;
        }
        if piece_start < end {
            pieces.push(text, piece_start, end);
        }
        pieces.flush(self, text, ids);
    }
}

impl PieceModel for CharModel {
    fn encode_piece(&self, piece: &[u8], work: &mut Work) {
        if piece.iter().all(|&byte| self.alphabet.id(byte) != NO_ID) {
            return self.merges.apply_to_bytes(&self.alphabet, piece, work);
        }
        let symbols = &mut work.symbols;
        symbols.clear();
        let piece = std::str::from_utf8(piece).expect("a text is cut between characters");
        let mut after_unknown = false;
        for c in piece.chars() {
            let id = self.id(c);
            if id != NO_ID {
                symbols.push(id);
                after_unknown = false;
                continue;
            }
            match &self.unknown {
                Unknown::Bytes(ids) => {
                    let mut bytes = [0; 4];
                    let bytes = c.encode_utf8(&mut bytes).bytes();
                    symbols.extend(bytes.map(|byte| ids[usize::from(byte)]));
                }
                Unknown::Token { is_fused: true, .. } if after_unknown => {}
                Unknown::Token { id, .. } => symbols.push(*id),
            }
            after_unknown = true;
        }
        self.merges.apply(work);
    }
}

/// The pairs of characters between which a text may be cut.
pub(crate) struct Cuts {
    /// Bit y of row x: a cut between two ASCII characters.
    ascii: [[u64; 2]; 128],
    /// Bits of a hash of all other pairs that may be joined, a superset.
    joins: Vec<u64>,
    pair_count: usize,
    /// A space begins a word, whatever the merges say.
    cuts_at_spaces: bool,
    /// Characters below U+10000 outside the vocabulary, and all above, if two of them become one
    /// token.
    fuses: Option<Vec<u64>>,
}

/// How far [`Cuts::in_block`] has come.
struct Scan {
    /// The character before `next`.
    last: char,
    /// Where the next character begins.
    next: usize,
}

impl Cuts {
    fn join(&mut self, x: char, y: char) {
        if self.cuts_at_spaces && y == ' ' {
            return;
        }
        if x.is_ascii() && y.is_ascii() {
            self.ascii[x as usize][y as usize / 64] &= !(1 << (y as u32 % 64));
        } else {
            let bit = pair_hash(x, y);
            self.joins[bit / 64] |= 1 << (bit % 64);
        }
    }

    /// Whether a text may be cut between these two.
    #[inline]
    pub(crate) fn is_cut(&self, x: char, y: char) -> bool {
        if x.is_ascii() && y.is_ascii() {
            return self.ascii[x as usize][y as usize / 64] >> (y as u32 % 64) & 1 == 1;
        }
        if self.cuts_at_spaces && y == ' ' {
            return true;
        }
        let bit = pair_hash(x, y);
        if self.joins[bit / 64] >> (bit % 64) & 1 == 1 {
            return false;
        }
        match &self.fuses {
            None => true,
            Some(bits) => {
                let fuses = |c: char| {
                    bits.get(c as usize / 64).is_none_or(|word| word >> (c as u32 % 64) & 1 == 1)
                };
                !(fuses(x) && fuses(y))
            }
        }
    }

    /// Bit i: the text may be cut before byte `start + i`. Blocks have to be asked for one after
    /// the other.
    #[inline]
    fn in_block(&self, text: &Padded, start: usize, scan: &mut Scan) -> u64 {
        let block = text.block(start);
        let is_ascii = block.iter().fold(0, |all, byte| all | byte) < 0x80;
        if !is_ascii || !scan.last.is_ascii() || scan.next != start {
            return self.in_mixed_block(text, start, scan);
        }
        let mut cuts = 0;
        let mut last = scan.last as usize & 0x7f;
        for (at, &byte) in block.iter().enumerate() {
            let row = &self.ascii[last];
            cuts |= (row[usize::from(byte >> 6) & 1] >> (byte & 63) & 1) << at;
            last = usize::from(byte & 0x7f);
        }
        *scan = Scan { last: char::from(block[63]), next: start + 64 };
        cuts
    }

    #[inline(never)]
    fn in_mixed_block(&self, text: &Padded, start: usize, scan: &mut Scan) -> u64 {
        let mut cuts = 0;
        while scan.next < start + 64 {
            let (c, length_bytes) = text.char(scan.next);
            cuts |= u64::from(self.is_cut(scan.last, c)) << (scan.next - start);
            *scan = Scan { last: c, next: scan.next + length_bytes };
        }
        cuts
    }
}

#[inline]
fn pair_hash(x: char, y: char) -> usize {
    let pair = u64::from(x as u32) << 32 | u64::from(y as u32);
    (pair.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - PAIR_BITS)) as usize
}

/// `text` as texts are kept.
fn text_form(text: &str, space_is_marker: bool) -> String {
    if space_is_marker { text.replace(MARKER, " ") } else { text.to_owned() }
}
