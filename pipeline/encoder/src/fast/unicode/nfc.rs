//! Unicode's normal form C, as `tokenizers` makes it.
//!
//! That crate normalises with `unicode-normalization-alignments`, whose tables are those of Unicode
//! 9.0: younger characters stay as they are. So the same crate does it here. This module adds a
//! quick check, so text already in that form, as nearly all text is, costs a look at its bytes and
//! no copy.
//!
//! A character is *safe* if it is a starter that NFC keeps and that never joins with one before it.
//! Then what comes before it and what begins with it can be normalised apart. So only characters
//! that are not safe, and the one before each, go through the crate.
//!
//! **Invariant:** the result is what `tokenizers`' NFC makes of the text.

use std::borrow::Cow;
use std::sync::LazyLock;

use unicode_normalization_alignments::char::canonical_combining_class;
use unicode_normalization_alignments::{IsNormalized, UnicodeNormalization, is_nfc_quick};

/// The first byte of U+0300. All characters below that one are safe.
const FIRST_UNSAFE_BYTE: u8 = 0xcc;

/// One bit a code point: it is not safe.
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
    let mut copied = 0; // all before it is in `normal`, once anything is
    let mut at = 0;
    while let Some(found) = next_unsafe(text, at) {
        // The character before may join with it; nothing before that one can.
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

/// The first character at or after `at` that is not safe.
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

/// The first byte from [`FIRST_UNSAFE_BYTE`] on. 32 bytes at a time, which compilers turn into a
/// comparison or two.
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
