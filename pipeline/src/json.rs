//! One line of JSON to a text and a set name, reading nothing else.
//!
//! **Invariant:** of duplicate keys the last one counts, as in Python's json and in most other readers.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::docs::{Columns, DEFAULT_SET_COLUMN};

/// Finds the text and the set name in lines.
pub(crate) struct Parser<'a> {
    text_key: &'a str,
    set_path: Vec<&'a str>,
    set_is_required_string: bool,
}

/// A text and a set name, borrowed from the line where it has no escapes.
type Found<'a> = (Cow<'a, str>, Option<Cow<'a, str>>);

impl<'c> Parser<'c> {
    pub(crate) fn new(columns: &'c Columns) -> Parser<'c> {
        let set = columns.set.as_deref();
        Parser {
            text_key: &columns.text,
            set_path: set.unwrap_or(DEFAULT_SET_COLUMN).split('.').collect(),
            set_is_required_string: set.is_some(),
        }
    }

    /// The text and the set name of a line, or the reason why it has none.
    pub(crate) fn parse<'a>(&self, line: &'a [u8]) -> Result<Found<'a>, String> {
        let mut deserializer = serde_json::Deserializer::from_slice(line);
        let object = ObjectSeed { text_key: Some(self.text_key), path: &self.set_path };
        let (text, set) = object.deserialize(&mut deserializer).map_err(|err| reason(&err))?;
        deserializer.end().map_err(|err| reason(&err))?;
        let text = match text {
            Some(Value::String(text)) => text,
            Some(Value::Other(found)) => {
                return Err(format!("{:?} is {found}; expected a string", self.text_key));
            }
            None => {
                return Err(format!(
                    "the object has no key {:?}; --text-column names another one",
                    self.text_key
                ));
            }
        };
        let set_name = match set {
            Some(Value::String(name)) => Some(name),
            Some(Value::Other(found)) if self.set_is_required_string && found != NULL => {
                let path = self.set_path.join(".");
                return Err(format!("{path:?} is {found}; expected a string"));
            }
            _ => None,
        };
        Ok((text, set_name))
    }
}

/// serde_json counts lines within what it was given, which is one line: only its column says something.
fn reason(err: &serde_json::Error) -> String {
    let text = err.to_string();
    let text = text.split(" at line ").next().unwrap_or(&text);
    format!("{text} at byte {} of the line", err.column())
}

const NULL: &str = "null";

/// A value, of which only strings are kept.
enum Value<'a> {
    String(Cow<'a, str>),
    Other(&'static str),
}

/// Reads an object: the text under a key and the value at the end of a path of keys.
struct ObjectSeed<'p> {
    text_key: Option<&'p str>,
    path: &'p [&'p str],
}

type Object<'de> = (Option<Value<'de>>, Option<Value<'de>>);

impl<'de> DeserializeSeed<'de> for ObjectSeed<'_> {
    type Value = Object<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Object<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ObjectSeed<'_> {
    type Value = Object<'de>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
        let (mut text, mut set) = (None, None);
        while let Some(key) = map.next_key_seed(StringSeed)? {
            if Some(&*key) == self.text_key {
                text = Some(map.next_value_seed(ValueSeed)?);
            } else if self.path.first() == Some(&&*key) {
                set = match &self.path[1..] {
                    [] => Some(map.next_value_seed(ValueSeed)?),
                    path => map.next_value_seed(NestedSeed { path })?,
                };
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok((text, set))
    }
}

/// Reads what may be an object on the way to the set name; anything else has no set name.
struct NestedSeed<'p> {
    path: &'p [&'p str],
}

impl<'de> DeserializeSeed<'de> for NestedSeed<'_> {
    type Value = Option<Value<'de>>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for NestedSeed<'_> {
    type Value = Option<Value<'de>>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        Ok(ObjectSeed { text_key: None, path: self.path }.visit_map(map)?.1)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(None)
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Self::Value, E> {
        Ok(None)
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(None)
    }
}

/// Reads a string, borrowed where it has no escapes.
struct StringSeed;

impl<'de> DeserializeSeed<'de> for StringSeed {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for StringSeed {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text.to_owned()))
    }
}

/// Reads any value and keeps it if it is a string.
struct ValueSeed;

impl<'de> DeserializeSeed<'de> for ValueSeed {
    type Value = Value<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ValueSeed {
    type Value = Value<'de>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Value::String(Cow::Borrowed(text)))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Value::String(Cow::Owned(text.to_owned())))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Value::Other("an object"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Value::Other("an array"))
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Self::Value, E> {
        Ok(Value::Other("a boolean"))
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Self::Value, E> {
        Ok(Value::Other("a number"))
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Self::Value, E> {
        Ok(Value::Other("a number"))
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Self::Value, E> {
        Ok(Value::Other("a number"))
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        Ok(Value::Other(NULL))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<(String, Option<String>), String> {
        let columns = Columns::default();
        let parsed = Parser::new(&columns).parse(line.as_bytes());
        parsed.map(|(text, set)| (text.into_owned(), set.map(Cow::into_owned)))
    }

    fn check(line: &str, text: &str, set: Option<&str>) {
        assert_eq!(parse(line), Ok((text.to_owned(), set.map(str::to_owned))), "{line}");
    }

    #[test]
    fn the_last_of_duplicate_keys_counts() {
        check(r#"{"text": "a", "text": "b"}"#, "b", None);
        check(r#"{"text": 1, "text": "b"}"#, "b", None);
        let line = r#"{"meta": {"pile_set_name": "x"}, "text": "a", "meta": {"pile_set_name": "y", "pile_set_name": "z"}}"#;
        check(line, "a", Some("z"));
        check(r#"{"meta": {"pile_set_name": "x"}, "text": "a", "meta": {}}"#, "a", None);
    }

    #[test]
    fn escapes_nul_and_unknown_fields_are_fine() {
        check(
            r#"{"x": [1, {"text": "no"}], "te\u0078t": "\u00e9\u0000\ud83d\ude00"}"#,
            "é\0😀",
            None,
        );
        check(r#"{"text": "", "meta": "c4"}"#, "", None);
        check(r#"{"text": "t", "meta": [{"pile_set_name": "x"}]}"#, "t", None);
        check(r#"{"text": "t", "meta": {"pile_set_name": null}}"#, "t", None);
    }

    #[test]
    fn every_reason_says_what_was_found_and_where() {
        for (line, reason) in [
            (r#"{"text": "a""#, "EOF while parsing an object at byte 12 of the line"),
            (r#"{"text": "a"} x"#, "trailing characters at byte 15 of the line"),
            (r#"["a"]"#, "invalid type: sequence, expected an object at byte 1 of the line"),
            (r#"{"text": null}"#, r#""text" is null; expected a string"#),
            (r#"{"text": 3}"#, r#""text" is a number; expected a string"#),
            (
                r#"{"Text": "a"}"#,
                r#"the object has no key "text"; --text-column names another one"#,
            ),
        ] {
            assert_eq!(parse(line), Err(reason.to_owned()), "{line}");
        }
        assert!(parse(r#"{"text": "\ud800"}"#).unwrap_err().contains("hex escape"));
    }

    #[test]
    fn a_set_column_that_was_asked_for_holds_strings() {
        let columns = Columns { set: Some("a.b".to_owned()), ..Columns::default() };
        let parser = Parser::new(&columns);
        let line = br#"{"text": "t", "a": {"b": 1}}"#;
        assert_eq!(parser.parse(line), Err(r#""a.b" is a number; expected a string"#.to_owned()));
        let line = br#"{"text": "t", "a": {"b": "s"}}"#;
        assert_eq!(parser.parse(line), Ok(("t".into(), Some("s".into()))));
    }
}
