//! The run file's part on the order of the data and the amounts of its sets.
//!
//! **Invariant:** fractions are exact and legal on their own; each value is written in one way
//! only.

use std::fmt;

use schemars::JsonSchema;
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::ser::{SerializeMap as _, Serializer};
use serde::{Deserialize, Serialize};

use crate::run::share::Share;

/// How the reading order is mixed. Written as `"global"`, `"none"` or `{ kind = "blocked",
/// group_blocks = 4096 }`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shuffle {
    /// Keyed permutations of the whole subset, different in each epoch.
    Global,
    /// Keyed permutations of groups of neighbouring blocks, and of the blocks inside each group:
    /// reads close in time lie in few places.
    Blocked {
        /// Blocks of a group; a block is the largest window of all phases.
        group_blocks: u64,
    },
    /// File order, as in the paper's scripts; a subset is the first part of the corpus.
    None,
}

const SHUFFLE_FORMS: &str = "\"global\", \"none\" or { kind = \"blocked\", group_blocks = N }";

impl Serialize for Shuffle {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Shuffle::Global => serializer.serialize_str("global"),
            Shuffle::None => serializer.serialize_str("none"),
            Shuffle::Blocked { group_blocks } => {
                let mut map = serializer.serialize_map(Some(2))?;
                map.serialize_entry("kind", "blocked")?;
                map.serialize_entry("group_blocks", group_blocks)?;
                map.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Shuffle {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Shuffle, D::Error> {
        deserializer.deserialize_any(ShuffleVisitor)
    }
}

struct ShuffleVisitor;

/// The table form.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ShuffleTable {
    kind: String,
    group_blocks: u64,
}

impl<'de> Visitor<'de> for ShuffleVisitor {
    type Value = Shuffle;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(SHUFFLE_FORMS)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Shuffle, E> {
        match text {
            "global" => Ok(Shuffle::Global),
            "none" => Ok(Shuffle::None),
            _ => Err(E::custom(format!("shuffle is {text:?}, expected {SHUFFLE_FORMS}"))),
        }
    }

    fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<Shuffle, M::Error> {
        let table = ShuffleTable::deserialize(de::value::MapAccessDeserializer::new(map))?;
        match (table.kind.as_str(), table.group_blocks) {
            ("blocked", 1..) => Ok(Shuffle::Blocked { group_blocks: table.group_blocks }),
            ("blocked", 0) => Err(de::Error::custom("group_blocks is 0, expected at least 1")),
            (kind, _) => Err(de::Error::custom(format!(
                "shuffle has kind {kind:?}, expected {SHUFFLE_FORMS}"
            ))),
        }
    }
}

impl JsonSchema for Shuffle {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Shuffle".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "How the reading order is mixed: keyed permutations of the whole \
                subset, of groups of neighbouring blocks and inside them, or file order.",
            "oneOf": [
                { "type": "string", "enum": ["global", "none"] },
                {
                    "type": "object",
                    "properties": {
                        "kind": { "const": "blocked" },
                        "group_blocks": {
                            "description": "Blocks of a group; \
                                a block is the largest window of all phases.",
                            "type": "integer",
                            "minimum": 1
                        }
                    },
                    "required": ["kind", "group_blocks"],
                    "additionalProperties": false
                }
            ]
        })
    }
}

/// How much of a set an epoch of the run reads. Written as `{ share = "1/10" }` or
/// `{ epochs = 2 }`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SetAmount {
    /// This part of an epoch's reads.
    Share(Share),
    /// The set itself, this many times.
    Epochs(Passes),
}

/// How often a set is read: an exact fraction, at least 0. Written as `2` or `"3/2"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passes {
    numer: u64,
    denom: u64,
}

const PASSES_FORMS: &str = "a whole number such as 2, or a fraction such as \"3/2\"";

impl Passes {
    /// The fraction `numer / denom`; `None` if the denominator is 0.
    pub fn new(numer: u64, denom: u64) -> Option<Passes> {
        (denom > 0).then_some(Passes { numer, denom })
    }

    /// Numerator as written, not reduced.
    pub fn numer(self) -> u64 {
        self.numer
    }

    /// Denominator as written, never 0.
    pub fn denom(self) -> u64 {
        self.denom
    }
}

impl fmt::Display for Passes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Passes { numer, denom: 1 } => write!(f, "{numer}"),
            Passes { numer, denom } => write!(f, "{numer}/{denom}"),
        }
    }
}

impl Serialize for Passes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Passes { numer, denom: 1 } => serializer.serialize_u64(*numer),
            fraction => serializer.collect_str(fraction),
        }
    }
}

impl<'de> Deserialize<'de> for Passes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Passes, D::Error> {
        deserializer.deserialize_any(PassesVisitor)
    }
}

struct PassesVisitor;

impl Visitor<'_> for PassesVisitor {
    type Value = Passes;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PASSES_FORMS)
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Passes, E> {
        let numer = u64::try_from(number).map_err(|_negative| {
            E::custom(format!("epochs is {number}, expected {PASSES_FORMS}, from 0 on"))
        })?;
        Ok(Passes { numer, denom: 1 })
    }

    fn visit_u64<E: de::Error>(self, numer: u64) -> Result<Passes, E> {
        Ok(Passes { numer, denom: 1 })
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Passes, E> {
        let parts = text.split_once('/');
        let passes =
            parts.and_then(|(numer, denom)| Passes::new(numer.parse().ok()?, denom.parse().ok()?));
        passes.ok_or_else(|| E::custom(format!("epochs is {text:?}, expected {PASSES_FORMS}")))
    }
}

impl JsonSchema for Passes {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Passes".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "description": "How often a set is read, an exact fraction.",
            "oneOf": [
                { "type": "integer", "minimum": 0 },
                { "type": "string", "pattern": "^[0-9]+/[0-9]+$" }
            ]
        })
    }
}
