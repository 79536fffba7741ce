//! The ASCII characters at a place in a text as sets of positions, one bit each. Borders between
//! pieces then come from a few operations on machine words instead of a branch per character.
//!
//! The sets are made with SSE2, which every x86-64 processor has, and in plain Rust elsewhere; a
//! test compares both. 64 bytes take some 15 ns; a text's pieces are 4 to 6 bytes long.
//!
//! **Invariant:** each position below `len` is in exactly one of `letters`, `digits`, `spaces` and
//! `others`; positions from `len` on are in no set.

/// The bytes of a block.
pub(crate) const BLOCK_BYTES: usize = 64;

/// Classes of up to 64 bytes: bit `i` represents byte `i`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block<'a> {
    /// The bytes.
    pub bytes: &'a [u8; BLOCK_BYTES],
    /// How many of them precede the first non-ASCII byte, up to 64.
    pub len: u32,
    /// A-Z, a-z.
    pub letters: u64,
    /// 0-9.
    pub digits: u64,
    /// White space: 9 to 13 and 32.
    pub spaces: u64,
    /// 32 alone.
    pub blanks: u64,
    /// `\r` and `\n`.
    pub newlines: u64,
    /// The rest.
    pub others: u64,
    /// `'`.
    pub quotes: u64,
}

/// The sets before they are limited to `len`: non-ASCII bytes are included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Masks {
    letters: u64,
    digits: u64,
    spaces: u64,
    blanks: u64,
    newlines: u64,
    quotes: u64,
    high: u64,
}

impl<'a> Block<'a> {
    /// Classifies `bytes`.
    #[inline]
    pub(super) fn new(bytes: &'a [u8; BLOCK_BYTES]) -> Block<'a> {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: every x86-64 processor has SSE2; the function accesses memory only through
        // references.
        #[expect(unsafe_code, reason = "a tenth of the time of plain Rust; just bench tokenize")]
        let masks = unsafe { Masks::by_sse2(bytes) };
        #[cfg(not(target_arch = "x86_64"))]
        let masks = Masks::plain(bytes);
        let len = masks.high.trailing_zeros();
        let known = Block::below(len);
        let Masks { letters, digits, spaces, blanks, newlines, quotes, .. } = masks;
        Block {
            bytes,
            len,
            letters: letters & known,
            digits: digits & known,
            spaces: spaces & known,
            blanks: blanks & known,
            newlines: newlines & known,
            others: !(letters | digits | spaces) & known,
            quotes: quotes & known,
        }
    }

    /// The positions below `limit`, at most 64.
    #[inline]
    pub(super) fn below(limit: u32) -> u64 {
        if limit == 0 { 0 } else { u64::MAX >> (64 - limit) }
    }

    /// The length of the contraction starting with the quote at `at`: 2 or 3 bytes, 0 for no
    /// contraction, `None` if the block ends too early.
    #[inline]
    pub(super) fn contraction(&self, at: u32, any_case: bool) -> Option<u32> {
        let at = at as usize;
        if self.len as usize <= at + 2 {
            return None;
        }
        let fold = if any_case { 0x20 } else { 0 };
        match (self.bytes[at + 1] | fold, self.bytes[at + 2] | fold) {
            (b's' | b't' | b'm' | b'd', _) => Some(2),
            (b'r' | b'v', b'e') | (b'l', b'l') => Some(3),
            _ => Some(0),
        }
    }
}

impl Masks {
    #[cfg(any(test, not(target_arch = "x86_64")))]
    fn plain(bytes: &[u8; BLOCK_BYTES]) -> Masks {
        let mut masks = Masks::default();
        for (index, &byte) in bytes.iter().enumerate() {
            masks.letters |= u64::from(byte.is_ascii_alphabetic()) << index;
            masks.digits |= u64::from(byte.is_ascii_digit()) << index;
            masks.spaces |= u64::from(matches!(byte, 9..=13 | 32)) << index;
            masks.blanks |= u64::from(byte == b' ') << index;
            masks.newlines |= u64::from(matches!(byte, b'\r' | b'\n')) << index;
            masks.quotes |= u64::from(byte == b'\'') << index;
            masks.high |= u64::from(!byte.is_ascii()) << index;
        }
        masks
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "sse2")]
    #[inline]
    fn by_sse2(bytes: &[u8; BLOCK_BYTES]) -> Masks {
        let mut masks = Masks::default();
        let (parts, _) = bytes.as_chunks::<16>();
        for (index, part) in parts.iter().enumerate() {
            masks.add_sse2(part, 16 * index as u32);
        }
        masks
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "sse2")]
    #[inline]
    fn add_sse2(&mut self, part: &[u8; 16], shift: u32) {
        use std::arch::x86_64::{
            __m128i, _mm_and_si128, _mm_cmpeq_epi8, _mm_cmplt_epi8, _mm_movemask_epi8,
            _mm_or_si128, _mm_set_epi64x, _mm_set1_epi8, _mm_sub_epi8,
        };
        let value = u128::from_le_bytes(*part);
        let text = _mm_set_epi64x((value >> 64) as i64, value as i64);
        let bits = |found: __m128i| u64::from(_mm_movemask_epi8(found) as u16) << shift;
        let is = |byte: u8| _mm_cmpeq_epi8(text, _mm_set1_epi8(byte as i8));
        // Whether a byte is one of the `count` bytes from `first` on: with these moved to the
        // lowest signed values, one comparison decides.
        let among = |text: __m128i, first: u8, count: u8| {
            let moved = _mm_sub_epi8(text, _mm_set1_epi8(first.wrapping_add(128) as i8));
            _mm_cmplt_epi8(moved, _mm_set1_epi8(count.wrapping_add(128) as i8))
        };
        let lower = _mm_or_si128(text, _mm_set1_epi8(0x20));
        let blank = is(b' ');
        self.letters |= bits(among(lower, b'a', 26));
        self.digits |= bits(among(text, b'0', 10));
        self.spaces |= bits(_mm_or_si128(among(text, 9, 5), blank));
        self.blanks |= bits(blank);
        self.newlines |= bits(_mm_or_si128(is(b'\n'), is(b'\r')));
        self.quotes |= bits(is(b'\''));
        self.high |= bits(_mm_and_si128(text, _mm_set1_epi8(-128)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn sse2_and_plain_rust_make_the_same_masks() {
        for shift in 0..=255u8 {
            let bytes: [u8; BLOCK_BYTES] =
                std::array::from_fn(|index| (index as u8).wrapping_mul(7).wrapping_add(shift));
            let block = Block::new(&bytes);
            let masks = Masks::plain(&bytes);
            let known = Block::below(masks.high.trailing_zeros());
            assert_eq!(block.len, masks.high.trailing_zeros());
            assert_eq!(block.letters, masks.letters & known, "{bytes:?}");
            assert_eq!(block.digits, masks.digits & known, "{bytes:?}");
            assert_eq!(block.spaces, masks.spaces & known, "{bytes:?}");
            assert_eq!(block.blanks, masks.blanks & known, "{bytes:?}");
            assert_eq!(block.newlines, masks.newlines & known, "{bytes:?}");
            assert_eq!(block.quotes, masks.quotes & known, "{bytes:?}");
            let others = !(masks.letters | masks.digits | masks.spaces);
            assert_eq!(block.others, others & known, "{bytes:?}");
        }
    }

    #[test]
    fn the_first_byte_that_is_not_ascii_ends_a_block() {
        let mut bytes = [b'a'; BLOCK_BYTES];
        let whole = Block::new(&bytes);
        assert_eq!((whole.len, whole.letters), (64, u64::MAX));
        bytes[3] = 0xc3;
        bytes[9] = b' ';
        let cut = Block::new(&bytes);
        assert_eq!((cut.len, cut.letters, cut.blanks), (3, 0b111, 0));
    }
}
