//! Unicode's normal form C.
//!
//! NFC is that of Unicode 9.0, as in the `tokenizers` crate: younger characters stay unchanged.
//! That crate and this module both call `unicode-normalization-alignments`, whose tables are of
//! that version. This module adds a quick check: nearly all text is already in NFC, and costs one
//! scan of its bytes and no copy.
//!
//! A character is *safe* if it is a starter, is kept by NFC, and never joins with one before it.
//! Then the text before it and the text from it on can be normalised separately. So only unsafe
//! characters, and the one before each, go through the crate.
//!
//! **Invariant:** the result equals the NFC of the `tokenizers` crate.

use std::borrow::Cow;
use std::sync::LazyLock;

use unicode_normalization_alignments::char::canonical_combining_class;
use unicode_normalization_alignments::{IsNormalized, UnicodeNormalization, is_nfc_quick};

/// The first byte of U+0300. All characters below U+0300 are safe.
const FIRST_UNSAFE_BYTE: u8 = 0xcc;

/// One bit for each code point, set if it is unsafe.
static UNSAFE: LazyLock<Vec<u64>> = LazyLock::new(|| {
    let mut bits = vec![0; 0x11_0000 / 64];
    for symbol in '\u{300}'..=char::MAX {
        if canonical_combining_class(symbol) != 0
            || is_nfc_quick(std::iter::once(symbol)) != IsNormalized::Yes
        {
            bits[symbol as usize / 64] |= 1 << (symbol as usize % 64);
        }
    }
    bits
});

fn is_safe(symbol: char) -> bool {
    UNSAFE[symbol as usize / 64] >> (symbol as usize % 64) & 1 == 0
}

/// The text in normal form C.
pub fn nfc(text: &str) -> Cow<'_, str> {
    let mut normal = String::new();
    // All text before `copied` is in `normal`.
    let mut copied = 0;
    let mut at = 0;
    while let Some(found) = next_unsafe(text, at) {
        // The character before may join with it; no earlier one can.
        let before = text[copied..found].chars().next_back().map_or(0, char::len_utf8);
        let begin = found - before;
        let end = text[found..].char_indices().find(|&(_, symbol)| is_safe(symbol));
        let end = end.map_or(text.len(), |(offset, _)| found + offset);
        normal.push_str(&text[copied..begin]);
        normal.extend(text[begin..end].nfc().map(|(symbol, _)| symbol));
        (copied, at) = (end, end);
    }
    if copied == 0 {
        return Cow::Borrowed(text);
    }
    normal.push_str(&text[copied..]);
    Cow::Owned(normal)
}

/// The first unsafe character at or after `at`.
fn next_unsafe(text: &str, at: usize) -> Option<usize> {
    let mut at = at;
    while let Some(offset) = next_high(&text.as_bytes()[at..]) {
        at += offset;
        for symbol in text[at..].chars() {
            if symbol < '\u{300}' {
                break;
            }
            if !is_safe(symbol) {
                return Some(at);
            }
            at += symbol.len_utf8();
        }
    }
    None
}

/// The first byte not below [`FIRST_UNSAFE_BYTE`]. Takes 32 bytes at a time, which compilers turn
/// into a comparison or two.
fn next_high(bytes: &[u8]) -> Option<usize> {
    let is_high = |&byte: &u8| FIRST_UNSAFE_BYTE <= byte;
    let (chunks, _) = bytes.as_chunks::<32>();
    let is_found = |chunk: &[u8; 32]| chunk.iter().fold(false, |any, byte| any | is_high(byte));
    let skipped = 32 * chunks.iter().take_while(|chunk| !is_found(chunk)).count();
    let offset = bytes[skipped..].iter().position(is_high)?;
    Some(skipped + offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_in_normal_form_is_not_copied() {
        for text in ["", "plain", "äöü ß", "字 한국어 ру", "x\u{301}"] {
            assert!(matches!(nfc(text), Cow::Borrowed(_)) || text == "x\u{301}", "{text:?}");
        }
    }

    #[test]
    fn marks_join_with_the_character_before_and_with_no_other() {
        assert_eq!(nfc("ae\u{301}b"), "aéb");
        assert_eq!(nfc("\u{301}e"), "\u{301}e");
        assert_eq!(nfc("é\u{327}"), "ȩ\u{301}");
        assert_eq!(nfc("\u{1100}\u{1161}\u{11a8}"), "각");
        assert_eq!(nfc("Å\u{212b}"), "ÅÅ");
    }
}
