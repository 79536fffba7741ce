//! Exact fractions in run files.
//!
//! **Invariant:** `0 <= numer <= denom`, and the denominator is never 0.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// An exact fraction `0 <= numer <= denom`, so that 2/3 is 2/3. Written as `"2/3"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Share {
    numer: u64,
    denom: u64,
}

impl Share {
    /// The fraction `numer / denom`; an error unless `0 <= numer <= denom` and `0 < denom`.
    pub fn new(numer: u64, denom: u64) -> Result<Share, String> {
        if 0 < denom && numer <= denom {
            Ok(Share { numer, denom })
        } else {
            Err(share_error(&format!("{numer}/{denom}")))
        }
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

fn share_error(found: &str) -> String {
    format!("share is {found:?}, expected a fraction from \"0/1\" to \"1/1\", such as \"2/3\"")
}

impl TryFrom<String> for Share {
    type Error = String;

    fn try_from(text: String) -> Result<Share, String> {
        let parts = text.split_once('/');
        match parts.and_then(|(numer, denom)| Some((numer.parse().ok()?, denom.parse().ok()?))) {
            Some((numer, denom)) => Share::new(numer, denom),
            None => Err(share_error(&text)),
        }
    }
}

impl From<Share> for String {
    fn from(share: Share) -> String {
        share.to_string()
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.numer, self.denom)
    }
}

impl JsonSchema for Share {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Share".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "pattern": "^[0-9]+/[0-9]+$",
            "description": "An exact fraction from \"0/1\" to \"1/1\"."
        })
    }
}
