//! Which documents of the inputs a corpus holds, when it does not hold all.
//!
//! **Invariant:** a corpus of all documents has no trace of a selection: an option that is off is
//! absent from every record.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The requested selection. Options that are off are absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Selection {
    /// Which side of the hold-out this corpus is; absent without one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub part: Option<SelectionPart>,
    /// Bytes of the shortest text written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_bytes: Option<u64>,
    /// Bytes of the longest text written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<u64>,
    /// The sets written, in byte order; null is documents without a set. Absent: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_sets: Option<Vec<Option<String>>>,
    /// The sets not written, in byte order; null is documents without a set.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drop_sets: Option<Vec<Option<String>>>,
    /// BLAKE3 in hex of the list of duplicates not written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub drop_list: Option<String>,
    /// Share of the documents written, as a decimal number in `(0, 1]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample_rate: Option<String>,
    /// Share of the documents held out, as a decimal number in `(0, 1]`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub holdout_rate: Option<String>,
    /// Key of the hashes sampling and hold-out use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sample_seed: Option<u64>,
    /// Words after which a document is cut into several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub split_words: Option<u64>,
}

/// The two corpora written by a run with a hold-out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum SelectionPart {
    /// The documents not held out.
    Main,
    /// The documents held out.
    Holdout,
}

/// Why a document was not selected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// Its text is too short.
    TooShort,
    /// Its text is too long.
    TooLong,
    /// Its set is not written.
    Set,
    /// The drop list names it.
    Duplicate,
    /// It is not in the sample.
    Sample,
}

/// Documents read but not selected, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Dropped {
    /// Texts that are too short.
    pub too_short: u64,
    /// Texts that are too long.
    pub too_long: u64,
    /// Documents of sets not written.
    pub set: u64,
    /// Named by the drop list.
    pub duplicate: u64,
    /// Not in the sample.
    pub sample: u64,
}

impl Dropped {
    /// Counts a document.
    pub fn add(&mut self, reason: DropReason) {
        *match reason {
            DropReason::TooShort => &mut self.too_short,
            DropReason::TooLong => &mut self.too_long,
            DropReason::Set => &mut self.set,
            DropReason::Duplicate => &mut self.duplicate,
            DropReason::Sample => &mut self.sample,
        } += 1;
    }

    /// Their sum; `None` on overflow.
    pub fn checked_sum(self) -> Option<u64> {
        let Dropped { too_short, too_long, set, duplicate, sample } = self;
        [too_long, set, duplicate, sample].into_iter().try_fold(too_short, u64::checked_add)
    }

    /// Adds `other`; `None` on overflow.
    pub fn checked_add(self, other: Dropped) -> Option<Dropped> {
        Some(Dropped {
            too_short: self.too_short.checked_add(other.too_short)?,
            too_long: self.too_long.checked_add(other.too_long)?,
            set: self.set.checked_add(other.set)?,
            duplicate: self.duplicate.checked_add(other.duplicate)?,
            sample: self.sample.checked_add(other.sample)?,
        })
    }

    /// Whether nothing was dropped, in which case records omit it.
    pub fn is_none(&self) -> bool {
        *self == Dropped::default()
    }
}
