//! Strings of a line: finds their ends and decodes their escapes.
//!
//! **Invariant:** the result is UTF-8, with U+FFFD for each unpaired half of a surrogate pair.

use std::borrow::Cow;

use super::Cursor;

impl<'a> Cursor<'a> {
    /// Advances to the next special byte in a string.
    fn find_special(&mut self) -> Result<u8, String> {
        let bytes = self.text.as_bytes();
        self.at = special_from(bytes, self.at);
        match bytes.get(self.at) {
            Some(&found @ (b'"' | b'\\')) => Ok(found),
            Some(_) => Err(self.control_fault()),
            None => Err(self.fault("'\"' at the end of the string")),
        }
    }

    fn control_fault(&self) -> String {
        self.fault("an escape for it: control characters cannot stand in a string")
    }

    fn escape_fault(&self) -> String {
        self.fault("one of \"\\/bfnrtu after the backslash")
    }

    pub(super) fn skip_string(&mut self) -> Result<(), String> {
        self.at += 1;
        while self.find_special()? == b'\\' {
            self.escape()?;
        }
        self.at += 1;
        Ok(())
    }

    /// Reads a string, borrowed if it has no escapes, with the number of surrogates replaced.
    #[expect(unsafe_code, reason = "1.2 to 1.6 times the speed of checking again what is UTF-8")]
    pub(super) fn string(&mut self, expected: &str) -> Result<(Cow<'a, str>, u64), String> {
        self.expect(b'"', expected)?;
        let (text, start) = (self.text, self.at);
        if self.find_special()? == b'"' {
            self.at += 1;
            return Ok((Cow::Borrowed(&text[start..self.at - 1]), 0));
        }
        // Escapes are longer than their characters, so the rest of the line is enough room.
        let mut owned = Vec::with_capacity(text.len() - start + LANE_BYTES);
        owned.extend_from_slice(&text.as_bytes()[start..self.at]);
        let replaced = self.unescape(&mut owned)?;
        // SAFETY: only parts of a `str`, cut at ASCII bytes, and characters in UTF-8 were appended.
        let owned = unsafe { String::from_utf8_unchecked(owned) };
        Ok((Cow::Owned(owned), replaced))
    }

    /// Reads the rest of a string from a backslash on.
    fn unescape(&mut self, owned: &mut Vec<u8>) -> Result<u64, String> {
        let bytes = self.text.as_bytes();
        let mut replaced = 0;
        loop {
            let Some(lane) = bytes[self.at..].first_chunk::<LANE_BYTES>() else {
                // The last bytes of the line.
                let start = self.at;
                let found = self.find_special()?;
                owned.extend_from_slice(&bytes[start..self.at]);
                if found == b'"' {
                    self.at += 1;
                    return Ok(replaced);
                }
                replaced += self.unescape_one(owned)?;
                continue;
            };
            // Copy the whole vector, then truncate: one store of a fixed size.
            let special = special_bits(lane);
            owned.extend_from_slice(lane);
            if special == 0 {
                self.at += LANE_BYTES;
                continue;
            }
            let offset = special.trailing_zeros() as usize;
            owned.truncate(owned.len() - LANE_BYTES + offset);
            self.at += offset;
            match lane[offset] {
                b'"' => {
                    self.at += 1;
                    return Ok(replaced);
                }
                b'\\' => {
                    replaced += self.unescape_one(owned)?;
                    while self.peek() == Some(b'\\') {
                        replaced += self.unescape_one(owned)?;
                    }
                }
                _ => return Err(self.control_fault()),
            }
        }
    }

    /// Reads the escape here; returns 1 for half a surrogate pair without the other half.
    #[inline]
    fn unescape_one(&mut self, owned: &mut Vec<u8>) -> Result<u64, String> {
        let next = self.text.as_bytes().get(self.at + 1).copied().unwrap_or_default();
        let plain = PLAIN_ESCAPES[usize::from(next)];
        if plain != 0 {
            owned.push(plain);
            self.at += 2;
            return Ok(0);
        }
        self.at += 1;
        if next != b'u' {
            return Err(self.escape_fault());
        }
        self.at += 1;
        let char = self.unicode_escape()?;
        push_char(owned, char.unwrap_or(char::REPLACEMENT_CHARACTER));
        Ok(u64::from(char.is_none()))
    }

    /// Reads an escape; `None` for half a surrogate pair without the other half.
    fn escape(&mut self) -> Result<Option<char>, String> {
        self.at += 1;
        let byte = self.peek().unwrap_or_default();
        let plain = PLAIN_ESCAPES[usize::from(byte)];
        if plain == 0 && byte != b'u' {
            return Err(self.escape_fault());
        }
        self.at += 1;
        if plain != 0 { Ok(Some(char::from(plain))) } else { self.unicode_escape() }
    }

    /// Reads the digits after `\u`, and the second half of a pair if it follows.
    #[inline]
    fn unicode_escape(&mut self) -> Result<Option<char>, String> {
        let bytes = self.text.as_bytes();
        let Some(first) = hex_unit(bytes, self.at) else {
            while self.peek().is_some_and(|byte| byte.is_ascii_hexdigit()) {
                self.at += 1;
            }
            return Err(self.fault("four hexadecimal digits after \\u"));
        };
        self.at += 4;
        if let Some(char) = char::from_u32(first) {
            return Ok(Some(char));
        }
        if first < 0xDC00 && bytes.get(self.at..self.at + 2) == Some(b"\\u") {
            // Without four digits there, the next escape reports the fault.
            if let Some(second @ 0xDC00..=0xDFFF) = hex_unit(bytes, self.at + 2) {
                self.at += 6;
                return Ok(char::from_u32(0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00)));
            }
        }
        Ok(None)
    }
}

/// Appends a character in UTF-8: one store of a fixed size, then a truncation.
#[inline]
fn push_char(text: &mut Vec<u8>, char: char) {
    let mut encoded = [0; 4];
    let bytes = char.encode_utf8(&mut encoded).len();
    text.extend_from_slice(&encoded);
    text.truncate(text.len() - 4 + bytes);
}

/// The character for each letter after a backslash; 0 for invalid escapes, and for `u`.
const PLAIN_ESCAPES: [u8; 256] = {
    let mut table = [0; 256];
    table[b'"' as usize] = b'"';
    table[b'\\' as usize] = b'\\';
    table[b'/' as usize] = b'/';
    table[b'b' as usize] = 8;
    table[b'f' as usize] = 12;
    table[b'n' as usize] = b'\n';
    table[b'r' as usize] = b'\r';
    table[b't' as usize] = b'\t';
    table
};

/// The value of four hexadecimal digits.
#[inline]
fn hex_unit(bytes: &[u8], at: usize) -> Option<u32> {
    let digits = bytes.get(at..at + 4)?;
    let unit = digits.iter().fold(0, |unit, &byte| unit << 4 | HEX[usize::from(byte)]);
    (unit <= 0xFFFF).then_some(unit)
}

/// The value of each hexadecimal digit; any other byte makes the number too large.
const HEX: [u32; 256] = {
    let mut table = [1 << 16; 256];
    let mut value = 0;
    while value < 16 {
        table[b"0123456789abcdef"[value] as usize] = value as u32;
        table[b"0123456789ABCDEF"[value] as usize] = value as u32;
        value += 1;
    }
    table
};

/// Bytes examined at once.
const LANE_BYTES: usize = 16;

/// The next special byte from `at` on (quote, backslash, control character), or the end.
fn special_from(bytes: &[u8], mut at: usize) -> usize {
    while let Some(lane) = bytes[at..].first_chunk::<LANE_BYTES>() {
        let found = special_bits(lane);
        if found != 0 {
            return at + found.trailing_zeros() as usize;
        }
        at += LANE_BYTES;
    }
    let rest = bytes[at..].iter().position(|&byte| is_special(byte));
    rest.map_or(bytes.len(), |offset| at + offset)
}

/// Bit `i` is set if byte `i` is special.
#[cfg(target_arch = "x86_64")]
#[expect(unsafe_code, reason = "1.2 times the speed of the same on 8 bytes of an integer")]
fn special_bits(lane: &[u8; LANE_BYTES]) -> u32 {
    // SAFETY: SSE2 is part of every x86-64, so the processor has it.
    unsafe { special_bits_sse2(lane) }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse2")]
fn special_bits_sse2(lane: &[u8; LANE_BYTES]) -> u32 {
    use std::arch::x86_64::{
        _mm_cmpeq_epi8, _mm_min_epu8, _mm_movemask_epi8, _mm_or_si128, _mm_set_epi64x,
        _mm_set1_epi8,
    };
    let whole = u128::from_le_bytes(*lane);
    let lane = _mm_set_epi64x((whole >> 64) as i64, whole as i64);
    let quote = _mm_cmpeq_epi8(lane, _mm_set1_epi8(b'"' as i8));
    let backslash = _mm_cmpeq_epi8(lane, _mm_set1_epi8(b'\\' as i8));
    let control = _mm_cmpeq_epi8(lane, _mm_min_epu8(lane, _mm_set1_epi8(b' ' as i8 - 1)));
    _mm_movemask_epi8(_mm_or_si128(_mm_or_si128(quote, backslash), control)) as u32
}

/// Bit `i` is set if byte `i` is special.
#[cfg(not(target_arch = "x86_64"))]
fn special_bits(lane: &[u8; LANE_BYTES]) -> u32 {
    lane.iter().rev().fold(0, |bits, &byte| bits << 1 | u32::from(is_special(byte)))
}

fn is_special(byte: u8) -> bool {
    (byte == b'"') | (byte == b'\\') | (byte < b' ')
}
