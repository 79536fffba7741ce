//! One line of JSON to a text and a set name; skips everything else.
//!
//! The parser is written by hand because no crate replaces and counts lone surrogates, accepts
//! numbers of any size nobody needs to read, and names the byte at fault. On two files of a mixed
//! corpus (33,968 lines) it reached 0.84 to 0.98 of simd-json's speed and 1.4 to 1.7 times that of
//! sonic-rs and serde_json (medians of seven interleaved rounds on a busy machine with 2 cores).
//!
//! Tests and a fuzz target compare its results with serde_json's. The module imports nothing from
//! the crate, so the target can include it.
//!
//! Python's json and pandas write numbers that are not finite as `NaN`, `Infinity` and `-Infinity`,
//! which RFC 8259 lacks. They are skipped like any number; a text or a set name is never one.
//!
//! **Invariant:** it accepts one JSON object in UTF-8 with nothing after it (RFC 8259, plus
//! unpaired surrogate escapes and Python's numbers that are not finite). The last of duplicate keys
//! counts, as in Python's json and most other readers.

use std::borrow::Cow;

// By path, because the fuzz target includes this file from elsewhere.
#[path = "json/strings.rs"]
mod strings;

/// Levels of arrays and objects in one line, the object itself included.
pub const NESTING_MAX: usize = 1024;

/// Finds the text and the set name in lines.
#[derive(Clone, Debug)]
pub struct Parser<'a> {
    text_key: &'a str,
    set_path: Vec<&'a str>,
    set_is_required_string: bool,
}

/// The result for a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found<'a> {
    /// The text, borrowed from the line if it has no escapes.
    pub text: Cow<'a, str>,
    /// The string at the end of the path to the set name.
    pub set_name: Option<Cow<'a, str>>,
    /// Unpaired surrogate escapes in both, each replaced by U+FFFD.
    pub surrogates_replaced: u64,
}

impl<'p> Parser<'p> {
    /// Looks for the text under `text_key` and for the set name at the end of a dotted path, which
    /// must be a string wherever present if `set_is_required_string`.
    pub fn new(text_key: &'p str, set_path: &'p str, set_is_required_string: bool) -> Parser<'p> {
        Parser { text_key, set_path: set_path.split('.').collect(), set_is_required_string }
    }

    /// The text and the set name of a line, or the reason it has none; offsets in it count bytes of
    /// the line from 0.
    pub fn parse<'a>(&self, line: &'a [u8]) -> Result<Found<'a>, String> {
        let mut cursor = Cursor::new(line)?;
        let (mut text, mut set) = (None, None);
        cursor.skip_space();
        if cursor.peek() != Some(b'{') {
            return Err(cursor.fault("an object"));
        }
        cursor.object(1, |cursor, key| {
            if key == self.text_key {
                text = Some(cursor.value(1)?);
            } else if key == self.set_path[0] {
                set = cursor.nested(1, &self.set_path[1..])?;
            } else {
                cursor.skip_value(1)?;
            }
            Ok(())
        })?;
        cursor.skip_space();
        if cursor.peek().is_some() {
            return Err(cursor.fault("the end of the line after the object"));
        }
        self.found(text, set)
    }

    fn found<'a>(
        &self,
        text: Option<Value<'a>>,
        set: Option<Value<'a>>,
    ) -> Result<Found<'a>, String> {
        let (text, in_text) = match text {
            Some(Value::String(text, replaced)) => (text, replaced),
            Some(Value::Other(found)) => {
                return Err(format!("{:?} is {found}; expected a string", self.text_key));
            }
            Some(Value::NotFinite(at)) => return Err(not_finite(self.text_key, at)),
            None => {
                let advice = match self.text_key.contains('.') {
                    true => "names a key of the object itself, not one inside it",
                    false => "names another one",
                };
                let key = self.text_key;
                return Err(format!("the object has no key {key:?}; --text-column {advice}"));
            }
        };
        let (set_name, in_set) = match set {
            Some(Value::String(name, replaced)) => (Some(name), replaced),
            Some(Value::Other(found)) if self.set_is_required_string && found != NULL => {
                let path = self.set_path.join(".");
                return Err(format!("{path:?} is {found}; expected a string"));
            }
            Some(Value::NotFinite(at)) if self.set_is_required_string => {
                return Err(not_finite(&self.set_path.join("."), at));
            }
            _ => (None, 0),
        };
        Ok(Found { text, set_name, surrogates_replaced: in_text + in_set })
    }
}

/// The string at the end of a path of keys in JSON, with the number of surrogates replaced in it;
/// `None` if the string is missing or the JSON invalid.
pub fn string_at<'a>(json: &'a str, path: &[&str]) -> Option<(Cow<'a, str>, u64)> {
    let mut cursor = Cursor { text: json, at: 0 };
    cursor.skip_space();
    let found = cursor.nested(0, path).ok()?;
    cursor.skip_space();
    match found {
        Some(Value::String(text, replaced)) if cursor.peek().is_none() => Some((text, replaced)),
        _ => None,
    }
}

#[cold]
fn not_finite(key: &str, at: usize) -> String {
    format!("{key:?} is NaN or Infinity at byte {at} of the line; expected a string")
}

const NULL: &str = "null";
/// The numbers that are not finite, as Python's json writes them.
const NOT_FINITE: [&str; 3] = ["NaN", "Infinity", "-Infinity"];

/// A value; only strings are kept, with the number of surrogates replaced in them.
enum Value<'a> {
    String(Cow<'a, str>, u64),
    Other(&'static str),
    /// A number that is not finite, and its byte of the line.
    NotFinite(usize),
}

/// A position in a line.
struct Cursor<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Cursor<'a> {
    fn new(line: &'a [u8]) -> Result<Cursor<'a>, String> {
        match simdutf8::basic::from_utf8(line) {
            Ok(text) => Ok(Cursor { text, at: 0 }),
            Err(_) => {
                let at = std::str::from_utf8(line).err().map_or(0, |err| err.valid_up_to());
                let found = line.get(at).copied().unwrap_or_default();
                Err(format!("byte {at} of the line is {found:#04x}, which is not UTF-8 there"))
            }
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn skip_space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    /// The message for an unexpected character here.
    #[cold]
    fn fault(&self, expected: &str) -> String {
        let at = self.at;
        match self.text.get(at..).and_then(|rest| rest.chars().next()) {
            Some(found) => format!("found {found:?} at byte {at} of the line; expected {expected}"),
            None => format!("the line ends at its byte {at}; expected {expected}"),
        }
    }

    fn expect(&mut self, byte: u8, expected: &str) -> Result<(), String> {
        if self.peek() != Some(byte) {
            return Err(self.fault(expected));
        }
        self.at += 1;
        Ok(())
    }

    /// Reads an object of this depth, which begins here; `each` gets every key and reads its value.
    fn object(
        &mut self,
        depth: usize,
        mut each: impl FnMut(&mut Self, &str) -> Result<(), String>,
    ) -> Result<(), String> {
        self.check_depth(depth)?;
        self.expect(b'{', "an object")?;
        self.skip_space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        loop {
            let (key, _) = self.string("a key in quotes")?;
            self.skip_space();
            self.expect(b':', "':' after the key")?;
            self.skip_space();
            each(self, &key)?;
            self.skip_space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return Err(self.fault("',' or '}' in the object")),
            }
            self.skip_space();
        }
    }

    /// Reads a value inside `depth` levels and keeps it if it is a string.
    fn value(&mut self, depth: usize) -> Result<Value<'a>, String> {
        let kind = match self.peek() {
            Some(b'"') => {
                let (text, replaced) = self.string("a string")?;
                return Ok(Value::String(text, replaced));
            }
            Some(b'{') => "an object",
            Some(b'[') => "an array",
            Some(b't' | b'f') => "a boolean",
            Some(b'n') => NULL,
            _ => "a number",
        };
        let at = self.at;
        self.skip_value(depth)?;
        if NOT_FINITE.contains(&&self.text[at..self.at]) {
            return Ok(Value::NotFinite(at));
        }
        Ok(Value::Other(kind))
    }

    /// Reads the value at the end of a path of keys; `None` if the path crosses a non-object.
    fn nested(&mut self, depth: usize, path: &[&str]) -> Result<Option<Value<'a>>, String> {
        let Some((first, rest)) = path.split_first() else {
            return self.value(depth).map(Some);
        };
        if self.peek() != Some(b'{') {
            self.skip_value(depth)?;
            return Ok(None);
        }
        let mut found = None;
        self.object(depth + 1, |cursor, key| {
            if key == *first {
                found = cursor.nested(depth + 1, rest)?;
            } else {
                cursor.skip_value(depth + 1)?;
            }
            Ok(())
        })?;
        Ok(found)
    }

    fn check_depth(&self, depth: usize) -> Result<(), String> {
        if depth <= NESTING_MAX {
            return Ok(());
        }
        let at = self.at;
        Err(format!("more than {NESTING_MAX} levels of nesting at byte {at} of the line"))
    }

    /// Skips a value inside `outer_depth` levels, without recursion.
    fn skip_value(&mut self, outer_depth: usize) -> Result<(), String> {
        let mut open = Vec::new(); // the closing bracket of each open level
        loop {
            match self.peek() {
                Some(bracket @ (b'{' | b'[')) => {
                    self.check_depth(outer_depth + open.len() + 1)?;
                    self.at += 1;
                    self.skip_space();
                    let close = bracket + 2; // '}' and ']' are two after '{' and '[' in ASCII
                    if self.peek() == Some(close) {
                        self.at += 1;
                    } else {
                        open.push(close);
                        self.skip_key(close)?;
                        continue;
                    }
                }
                Some(b'"') => self.skip_string()?,
                Some(b'-' | b'0'..=b'9') => self.skip_number()?,
                Some(b't') => self.word("true")?,
                Some(b'f') => self.word("false")?,
                Some(b'n') => self.word("null")?,
                Some(b'N') => self.word("NaN")?,
                Some(b'I') => self.word("Infinity")?,
                _ => return Err(self.fault("a value")),
            }
            // A value has ended; levels may end too.
            loop {
                let Some(&close) = open.last() else { return Ok(()) };
                self.skip_space();
                match self.peek() {
                    Some(b',') => {
                        self.at += 1;
                        self.skip_space();
                        self.skip_key(close)?;
                        break;
                    }
                    Some(found) if found == close => {
                        self.at += 1;
                        open.pop();
                    }
                    _ if close == b'}' => return Err(self.fault("',' or '}' in the object")),
                    _ => return Err(self.fault("',' or ']' in the array")),
                }
            }
        }
    }

    /// In an object, skips the key before a value.
    fn skip_key(&mut self, close: u8) -> Result<(), String> {
        if close == b'}' {
            if self.peek() != Some(b'"') {
                return Err(self.fault("a key in quotes"));
            }
            self.skip_string()?;
            self.skip_space();
            self.expect(b':', "':' after the key")?;
            self.skip_space();
        }
        Ok(())
    }

    fn word(&mut self, word: &str) -> Result<(), String> {
        for byte in word.bytes() {
            self.expect(byte, &format!("{word:?}"))?;
        }
        Ok(())
    }

    /// Skips a number of any size.
    fn skip_number(&mut self) -> Result<(), String> {
        if self.peek() == Some(b'-') {
            self.at += 1;
            if self.peek() == Some(b'I') {
                return self.word("Infinity");
            }
        }
        if self.peek() == Some(b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), String> {
        let first = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at == first { Err(self.fault("a digit")) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Text, set name, surrogates replaced.
    fn parse(line: impl AsRef<[u8]>) -> Result<(String, Option<String>, u64), String> {
        let found = Parser::new("text", "meta.pile_set_name", false).parse(line.as_ref())?;
        let Found { text, set_name, surrogates_replaced } = found;
        Ok((text.into_owned(), set_name.map(Cow::into_owned), surrogates_replaced))
    }

    fn check(line: &str, text: &str, set: Option<&str>) {
        assert_eq!(parse(line), Ok((text.to_owned(), set.map(str::to_owned), 0)), "{line}");
    }

    #[test]
    fn the_last_of_duplicate_keys_counts() {
        check(r#"{"text": "a", "text": "b"}"#, "b", None);
        check(r#"{"text": 1, "text": "b"}"#, "b", None);
        let line = concat!(
            r#"{"meta": {"pile_set_name": "x"}, "text": "a", "#,
            r#""meta": {"pile_set_name": "y", "pile_set_name": "z"}}"#
        );
        check(line, "a", Some("z"));
        check(r#"{"meta": {"pile_set_name": "x"}, "text": "a", "meta": {}}"#, "a", None);
        assert_eq!(
            parse(r#"{"text": "a", "text": 1}"#),
            Err(r#""text" is a number; expected a string"#.to_owned())
        );
    }

    #[test]
    fn escapes_nul_and_unknown_fields_are_fine() {
        check(
            r#"{"x": [1, {"text": "no"}], "te\u0078t": "\u00e9\u0000\ud83d\ude00"}"#,
            "é\0😀",
            None,
        );
        check(r#"{"text": "\"\\\/\b\f\n\r\t\u00AF"}"#, "\"\\/\u{8}\u{c}\n\r\t\u{af}", None);
        check(r#"{"text": "", "meta": "c4"}"#, "", None);
        check(r#"{"text": "t", "meta": [{"pile_set_name": "x"}]}"#, "t", None);
        check(r#"{"text": "t", "meta": {"pile_set_name": null}}"#, "t", None);
        check(" \t{ \"text\"\r:\n\"t\" , \"\" : 1e999 } ", "t", None);
        let digits = "7".repeat(300);
        check(
            &format!(r#"{{"n": -{digits}.{digits}E+{digits}, "meta": 1e999, "text": "t"}}"#),
            "t",
            None,
        );
    }

    /// Wherever the special bytes are: vectors have borders.
    #[test]
    fn a_string_of_any_length_is_read() {
        for length in 0..70 {
            let plain = "é".repeat(length / 2) + &"x".repeat(length % 2);
            check(&format!("{{\"text\":\"{plain}\"}}"), &plain, None);
            check(
                &format!("{{\"text\":\"{plain}\\n{plain}\\u6f22\"}}"),
                &format!("{plain}\n{plain}漢"),
                None,
            );
            let error = parse(format!("{{\"text\":\"{plain}\u{1f}{plain}\"}}")).unwrap_err();
            let at = 9 + plain.len();
            assert!(
                error.starts_with(&format!("found '\\u{{1f}}' at byte {at} of the line")),
                "{error}"
            );
            let error = parse(format!("{{\"text\":\"\\n{plain}")).unwrap_err();
            assert_eq!(
                error,
                format!(
                    "the line ends at its byte {}; expected '\"' at the end of the string",
                    at + 2
                )
            );
        }
    }

    #[test]
    fn each_half_of_a_surrogate_pair_that_stands_alone_is_replaced_and_counted() {
        for (escapes, text, replaced) in [
            (r"\ud800", "\u{fffd}", 1),
            (r"a\udfffb", "a\u{fffd}b", 1),
            (r"\ud800\ud800\udc00", "\u{fffd}\u{10000}", 1),
            (r"\udc00\ud800", "\u{fffd}\u{fffd}", 2),
            (r"\ud83dx\n\ud83d\n", "\u{fffd}x\n\u{fffd}\n", 2),
            (r"\uDBFF\uDFFF", "\u{10ffff}", 0),
            (r"\ud83d\u0041", "\u{fffd}A", 1),
        ] {
            let expected = Ok((text.to_owned(), None, replaced));
            assert_eq!(parse(format!(r#"{{"text": "{escapes}"}}"#)), expected, "{escapes}");
        }
        let line = r#"{"text": "", "x": "\ud800", "meta": {"pile_set_name": "\ud800S"}}"#;
        assert_eq!(parse(line), Ok((String::new(), Some("\u{fffd}S".to_owned()), 1)));
    }

    #[test]
    fn every_reason_says_what_was_found_and_where() {
        let deep = format!(r#"{{"text": "a", "x": {}"#, "[".repeat(1024));
        for (line, reason) in [
            (r#"{"text": "a""#, "the line ends at its byte 12; expected ',' or '}' in the object"),
            (
                r#"{"text": "a"} x"#,
                "found 'x' at byte 14 of the line; expected the end of the line after the object",
            ),
            (r#"["a"]"#, "found '[' at byte 0 of the line; expected an object"),
            (r#"{"text": null}"#, r#""text" is null; expected a string"#),
            (r#"{"text": 3}"#, r#""text" is a number; expected a string"#),
            (
                r#"{"Text": "a"}"#,
                r#"the object has no key "text"; --text-column names another one"#,
            ),
            (r#"{"text": "a",}"#, "found '}' at byte 13 of the line; expected a key in quotes"),
            (r#"{"text" "a"}"#, "found '\"' at byte 8 of the line; expected ':' after the key"),
            (
                r#"{"text": "\x41"}"#,
                concat!(
                    "found 'x' at byte 11 of the line; ",
                    r#"expected one of "\/bfnrtu after the backslash"#
                ),
            ),
            (
                r#"{"text": "\u00g1"}"#,
                "found 'g' at byte 14 of the line; expected four hexadecimal digits after \\u",
            ),
            (
                r#"{"text": "\ud800\u12"}"#,
                "found '\"' at byte 20 of the line; expected four hexadecimal digits after \\u",
            ),
            (
                r#"{"x": 01, "text": "a"}"#,
                "found '1' at byte 7 of the line; expected ',' or '}' in the object",
            ),
            (
                r#"{"x": [1 2]}"#,
                "found '2' at byte 9 of the line; expected ',' or ']' in the array",
            ),
            (r#"{"x": -}"#, "found '}' at byte 7 of the line; expected a digit"),
            (r#"{"x": nul}"#, "found '}' at byte 9 of the line; expected \"null\""),
            (r#"{"x": é}"#, "found 'é' at byte 6 of the line; expected a value"),
            (&deep, "more than 1024 levels of nesting at byte 1042 of the line"),
        ] {
            assert_eq!(parse(line), Err(reason.to_owned()), "{line}");
        }
        let found = parse(b"{\"x\": \"ab\xffc\", \"text\": \"a\"}");
        assert_eq!(found, Err("byte 9 of the line is 0xff, which is not UTF-8 there".to_owned()));
    }

    #[test]
    fn as_deep_as_the_limit_is_fine() {
        let (open, close) = ("[".repeat(NESTING_MAX - 1), "]".repeat(NESTING_MAX - 1));
        check(&format!(r#"{{"x": {open}{close}, "text": "t"}}"#), "t", None);
    }

    #[test]
    fn a_set_column_that_was_asked_for_holds_strings() {
        let parser = Parser::new("text", "a.b", true);
        let line = br#"{"text": "t", "a": {"b": 1}}"#;
        assert_eq!(parser.parse(line), Err(r#""a.b" is a number; expected a string"#.to_owned()));
        let line = br#"{"text": "t", "a": {"b": "s"}}"#;
        assert_eq!(parser.parse(line).unwrap().set_name.as_deref(), Some("s"));
    }

    /// As Python's json and pandas write them, at any depth.
    #[test]
    fn numbers_that_are_not_finite_pass_where_nobody_reads_them() {
        for number in NOT_FINITE {
            for field in [
                format!(r#""x": {number}"#),
                format!(r#""x": [{number}, {{"y":{number}}},{number}]"#),
                format!(r#""meta": {number}"#),
                format!(r#""meta": {{"x": {number}, "pile_set_name":{number} }}"#),
            ] {
                check(&format!(r#"{{{field}, "text": "t"}}"#), "t", None);
                check(&format!(r#"{{"text": "t",{field}}}"#), "t", None);
            }
            let line = format!(r#"{{"text": {number}}}"#);
            let reason = r#""text" is NaN or Infinity at byte 9 of the line; expected a string"#;
            assert_eq!(parse(&line), Err(reason.to_owned()), "{line}");
            let line = format!(r#"{{"text": "t", "a": {{"b": {number}}}}}"#);
            let reason = r#""a.b" is NaN or Infinity at byte 25 of the line; expected a string"#;
            let found = Parser::new("text", "a.b", true).parse(line.as_bytes()).map(|_| ());
            assert_eq!(found, Err(reason.to_owned()), "{line}");
            let json = format!(r#"{{"n": {number}, "s": "a"}}"#);
            assert_eq!(string_at(&json, &["s"]), Some(("a".into(), 0)));
        }
        for near in ["Nan", "-NaN", "+Infinity", "Inf", "--Infinity", "infinity", "NaN1", "1NaN"] {
            let line = format!(r#"{{"x": {near}, "text": "t"}}"#);
            let reason = parse(&line).unwrap_err();
            assert!(reason.starts_with("found ") && reason.contains(" at byte "), "{reason}");
        }
    }

    #[test]
    fn a_string_inside_of_json_is_found() {
        let path = ["pile_set_name"];
        assert_eq!(string_at(r#" {"pile_set_name": "a\n"} "#, &path), Some(("a\n".into(), 0)));
        for json in [
            "c4",
            r#"{"pile_set_name": 1}"#,
            r#"{"pile_set_name": "a"} x"#,
            "{'pile_set_name': 'a'}",
            "",
        ] {
            assert_eq!(string_at(json, &path), None, "{json}");
        }
    }

    /// Does the same as the fuzz target, on fixed inputs.
    #[test]
    fn mutated_lines_are_read_as_serde_json_reads_them() {
        let seeds = [
            r#"{"text": "a", "meta": {"pile_set_name": "Pile-CC"}}"#,
            r#"{"text":"\ud83d\ude00\ud800x\u0000\"\\\/\b\f\n\r\t","meta":null}"#,
            concat!(
                r#"{"meta":{"pile_set_name":1,"x":[1e999,-0.5E+3,true,false,null,{}]},"#,
                r#""text":"é漢😀","text":""}"#
            ),
            r#"{"te\u0078t":"x","":[[[]],{"a":{"b":"c"}}]}"#,
            r#"{"a":NaN,"text":"NaN","b":[-Infinity,Infinity,-1],"meta":{"pile_set_name":NaN}}"#,
        ];
        let parser = Parser::new("text", "meta.pile_set_name", false);
        let mut state = 1u64;
        let mut random = |below: usize| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % below
        };
        for round in 0..40_000 {
            let mut line = seeds[round % seeds.len()].as_bytes().to_vec();
            for _ in 0..random(4) {
                let (at, from) = (random(line.len()), random(line.len()));
                match random(4) {
                    0 => line[at] = br#"{}[]":,\u0dDe1 -.tnNIa"#[random(22)],
                    1 => line[at] = random(256) as u8,
                    2 => line[at] = line[from],
                    _ => drop(line.drain(at.min(from)..at.max(from).min(at.min(from) + 3))),
                }
                if line.is_empty() {
                    line.push(b'{');
                }
            }
            super::super::json_law::check(&line, &parser);
        }
    }
}
