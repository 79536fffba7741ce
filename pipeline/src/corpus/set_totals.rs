//! Sums by set.
//!
//! **Invariant:** each set has one sum; sums are in byte order of their names, documents without a
//! set first.

use std::collections::BTreeMap;

use schemas::manifest::SetTotals;

/// Sums in byte order of the set names, documents without one first.
#[derive(Default)]
pub(crate) struct Sets(BTreeMap<Option<String>, SetTotals>);

impl Sets {
    pub(crate) fn add(&mut self, set_name: Option<&str>, text_bytes: u64, tokens: u64) {
        let set_name = set_name.map(str::to_owned);
        self.add_totals(&SetTotals { set_name, documents: 1, text_bytes, tokens });
    }

    /// Adds the sums of a series.
    pub(crate) fn add_totals(&mut self, add: &SetTotals) {
        let set = self.0.entry(add.set_name.clone()).or_insert_with(|| SetTotals {
            set_name: add.set_name.clone(),
            documents: 0,
            text_bytes: 0,
            tokens: 0,
        });
        set.documents += add.documents;
        set.text_bytes += add.text_bytes;
        set.tokens += add.tokens;
    }

    pub(crate) fn into_totals(self) -> Vec<SetTotals> {
        self.0.into_values().collect()
    }
}
