//! A piece of a text, its key in the cache, and the text it is a part of.
//!
//! **Invariant:** no two short pieces have the same key, and none has the key 0.

/// Bytes after a text's end that may be read and mean nothing.
pub(crate) const PADDING_BYTES: usize = 80;
/// The longest piece of the first table: with its length it fills a key of 16 bytes.
pub(crate) const SHORT_BYTES_MAX: usize = 15;

/// A piece of at most [`SHORT_BYTES_MAX`] bytes that is to be encoded.
#[derive(Clone, Copy)]
pub(crate) struct Short {
    /// Where it is needed: a number among the gaps, or [`NO_GAP`] for a part of a longer piece.
    pub(super) gap: u32,
    pub(super) start: u32,
    pub(super) length_bytes: u32,
}

/// No gap, where one is expected.
pub(super) const NO_GAP: u32 = u32::MAX;

impl Short {
    #[cfg(test)]
    pub(crate) fn new(start: usize, length_bytes: usize) -> Short {
        Short { gap: 0, start: start as u32, length_bytes: length_bytes as u32 }
    }

    /// Its bytes.
    #[inline]
    pub(crate) fn of(self, text: &[u8]) -> &[u8] {
        &text[self.start as usize..][..self.length_bytes as usize]
    }
}

/// Text with [`PADDING_BYTES`] after it.
#[derive(Default)]
pub(crate) struct Padded {
    bytes: Vec<u8>,
}

impl Padded {
    /// Empties it; [`Padded::finish`] has to follow what is appended.
    pub(crate) fn start(&mut self) -> &mut Vec<u8> {
        self.bytes.clear();
        &mut self.bytes
    }

    /// Appends the padding.
    pub(crate) fn finish(&mut self) {
        self.bytes.resize(self.bytes.len() + PADDING_BYTES, 0);
    }

    /// The text; none before the first one.
    pub(crate) fn text(&self) -> &[u8] {
        &self.bytes[..self.bytes.len().saturating_sub(PADDING_BYTES)]
    }

    /// The 64 bytes from `at` on, which is in the text.
    #[inline]
    pub(crate) fn block(&self, at: usize) -> &[u8; 64] {
        self.bytes[at..].first_chunk().expect("a place in the text is followed by the padding")
    }

    /// The character at `at` and its length in bytes; in the padding, and where none begins, one
    /// that means nothing.
    #[inline]
    pub(crate) fn char(&self, at: usize) -> (char, usize) {
        let bytes: &[u8; 4] =
            self.bytes[at..].first_chunk().expect("a place in the text is followed by the padding");
        let [a, b, c, d] = bytes.map(u32::from);
        let (code, length_bytes) = match a {
            0..0x80 => (a, 1),
            0x80..0xe0 => ((a & 0x1f) << 6 | (b & 0x3f), 2),
            0xe0..0xf0 => ((a & 0x0f) << 12 | (b & 0x3f) << 6 | (c & 0x3f), 3),
            _ => ((a & 0x07) << 18 | (b & 0x3f) << 12 | (c & 0x3f) << 6 | (d & 0x3f), 4),
        };
        (char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER), length_bytes)
    }

    /// The 16 bytes from `at` on, which is at most 16 bytes after the text.
    #[inline]
    pub(crate) fn word(&self, at: usize) -> u128 {
        let bytes = self.bytes[at..].first_chunk();
        u128::from_le_bytes(*bytes.expect("a place in the text is followed by the padding"))
    }
}

/// The first `length_bytes` of 16 bytes, with their number in the last one, so that no two pieces
/// have the same key and none has the key of an empty entry.
#[inline(always)]
pub(crate) fn short_key(word: u128, length_bytes: usize) -> u128 {
    (word & MASKS[length_bytes]) | (length_bytes as u128 + 1) << 120
}

/// The lowest `index` bytes.
static MASKS: [u128; SHORT_BYTES_MAX + 1] = {
    let mut masks = [0; SHORT_BYTES_MAX + 1];
    let mut index = 1;
    while index < masks.len() {
        masks[index] = masks[index - 1] << 8 | 0xff;
        index += 1;
    }
    masks
};
