//! The series of a corpus by their sets, for the streams of a mixture.
//!
//! **Invariant:** each series with tokens belongs to exactly one stream; streams are in byte order
//! of their names, the series of a stream in the manifest's order.

use std::collections::BTreeMap;

use schemas::manifest::Manifest;

/// All series of one set, one after the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetStream {
    /// The set's name; empty for documents without one.
    pub name: String,
    /// Tokens of all its series.
    pub tokens: u64,
    /// Indexes into the manifest's list of series.
    pub series: Vec<usize>,
}

/// A corpus with several sets in one series.
#[derive(Debug, thiserror::Error)]
#[error(
    "the series of {input} holds {} sets ({}); data.sets needs a corpus with one set a series: \
     make it with `patchmill tokenize --by-set`", names.len(), names.join(", ")
)]
pub struct MixedSeries {
    /// Input file of the series.
    pub input: String,
    /// The sets found in it.
    pub names: Vec<String>,
}

/// The streams of a corpus, one a set.
pub fn set_streams(manifest: &Manifest) -> Result<Vec<SetStream>, MixedSeries> {
    let mut streams: BTreeMap<String, SetStream> = BTreeMap::new();
    for (series_index, series) in manifest.series.iter().enumerate() {
        let sets = series.sets.iter().filter(|set| set.tokens > 0);
        let names: Vec<String> = sets.map(|set| set.set_name.clone().unwrap_or_default()).collect();
        match names.as_slice() {
            [] => {}
            [name] => {
                let empty = || SetStream { name: name.clone(), tokens: 0, series: Vec::new() };
                let stream = streams.entry(name.clone()).or_insert_with(empty);
                stream.tokens += series.totals.tokens; // the manifest's sums were checked
                stream.series.push(series_index);
            }
            _ => return Err(MixedSeries { input: series.input.clone(), names }),
        }
    }
    Ok(streams.into_values().collect())
}
