//! The law that relates the reader of JSON lines to serde_json, as a check of one input, for a fuzz
//! target and a test.
//!
//! The differences, all of them wanted:
//! - the line must be UTF-8 everywhere; serde_json does not look into strings that it passes over;
//! - half a surrogate pair is U+FFFD; serde_json refuses it where it makes a string
//!   ([`whole_surrogates`] takes that away);
//! - at most 1,024 levels; serde_json has no limit where it passes over values and 128 where it
//!   keeps them;
//! - a number of any size is fine; serde_json refuses one out of range where it keeps it;
//! - `NaN`, `Infinity` and `-Infinity`, which Python's json writes, are numbers ([`finite`] takes
//!   them away).
//!
//! **Invariant:** an input on which the two differ in any other way panics.

use serde::de::IgnoredAny;

use super::json::{NESTING_MAX, Parser};

/// Compares the two on one line. The parser is the default one: `text` and `meta.pile_set_name`.
pub(crate) fn check(line: &[u8], parser: &Parser<'_>) {
    let found = parser.parse(line);
    if std::str::from_utf8(line).is_err() {
        assert!(found.is_err(), "no UTF-8, but accepted");
        return;
    }
    let line = &finite(line);
    let opened = line.iter().filter(|byte| b"[{".contains(byte)).count();
    let first = line.iter().find(|byte| !b" \t\r\n".contains(byte));
    let is_object = first == Some(&b'{') && serde_json::from_slice::<IgnoredAny>(line).is_ok();
    if !is_object {
        assert!(found.is_err(), "no JSON object, but accepted: {found:?}");
        return;
    }
    let (whole, replaced) = whole_surrogates(line);
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(&whole) else {
        // Too deep or out of range for values that are kept: here only text and set name are.
        let refused = found.as_ref().err().map_or("", String::as_str);
        let known = ["levels of nesting", "expected a string", "has no key"];
        assert!(refused.is_empty() || known.iter().any(|part| refused.contains(part)), "{refused}");
        return;
    };
    match (value["text"].as_str(), found) {
        (Some(text), Ok(found)) => {
            assert_eq!(found.text, text);
            assert_eq!(found.set_name.as_deref(), value["meta"]["pile_set_name"].as_str());
            assert!(found.surrogates_replaced <= replaced, "more than there are");
        }
        (None, Err(_)) => {}
        (Some(_), Err(reason)) => assert!(opened > NESTING_MAX, "refused: {reason}"),
        (None, Ok(found)) => panic!("accepted without a text: {found:?}"),
    }
}

/// The line with `null` for each of Python's numbers that are not finite. Like these, `null` is no
/// part of a number, a word or a key.
fn finite(line: &[u8]) -> Vec<u8> {
    let (mut made, mut at, mut is_string) = (Vec::new(), 0, false);
    while at < line.len() {
        let words = [&b"-Infinity"[..], b"Infinity", b"NaN"];
        if let Some(word) = words.iter().find(|word| line[at..].starts_with(word) && !is_string) {
            made.extend_from_slice(b"null");
            at += word.len();
            continue;
        }
        let bytes = if is_string && line[at] == b'\\' { 2.min(line.len() - at) } else { 1 };
        is_string ^= line[at] == b'"';
        made.extend_from_slice(&line[at..at + bytes]);
        at += bytes;
    }
    made
}

/// The line with `\ufffd` for each unpaired surrogate, and their number.
fn whole_surrogates(line: &[u8]) -> (Vec<u8>, u64) {
    let unit = |at: usize| {
        let escape = line.get(at..at + 6).filter(|escape| escape.starts_with(b"\\u"))?;
        let digits = std::str::from_utf8(&escape[2..]).ok()?;
        u32::from_str_radix(digits, 16).ok()
    };
    let (mut whole, mut replaced, mut at) = (Vec::new(), 0, 0);
    while at < line.len() {
        let bytes = match (line[at], unit(at)) {
            (b'\\', Some(0xd800..=0xdbff)) if matches!(unit(at + 6), Some(0xdc00..=0xdfff)) => 12,
            (b'\\', Some(0xd800..=0xdfff)) => {
                whole.extend_from_slice(b"\\ufffd");
                replaced += 1;
                at += 6;
                continue;
            }
            (b'\\', _) => 2.min(line.len() - at),
            _ => 1,
        };
        whole.extend_from_slice(&line[at..at + bytes]);
        at += bytes;
    }
    (whole, replaced)
}
