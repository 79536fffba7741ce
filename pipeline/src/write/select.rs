//! Selects the documents of a corpus by length, set, drop list, sample and hold-out, and cuts long
//! texts into parts.
//!
//! The decision on a document is a function of its text, its set, its row in the drop list and the
//! options. The hold-out is decided first.
//!
//! Sample and hold-out compare keyed hashes of the text with a rate, an exact decimal fraction.
//! They need no state and no order, and are the same on every machine. So rates nest: with the same
//! seed, a sample at a lower rate is part of the sample at a higher rate. Equal texts share their
//! fate, so no held-out text is trained on. The hold-out does not depend on the sample rate, so
//! subsets of all sizes have the same validation split.
//!
//! Totals take two passes. `duplicates` and `inspect --rate-for` read the document indexes of a
//! corpus, and a second `tokenize` uses the list or the rate. A list names inputs and rows, not
//! hashes: the first of equal texts stays, without tasks knowing of each other. The manifest
//! records the selection only where there was one.
//!
//! **Invariant:** a decision depends on no other document, and on no thread, task, machine or time.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context;
use schemas::drop_list::{DropList, DropListHead};
use schemas::index::CONTENT_HASH_BYTES;
use schemas::selection::{DropReason, Selection};

use crate::console::progress::notice;
use crate::console::usage::UsageError;
use crate::disk::source::read_file;

/// Distinguishes the key of the sample among all keys derived with BLAKE3.
const SAMPLE_CONTEXT: &str = "patchmill 2026 sample of documents, version 1";
/// The same for the hold-out.
const HOLDOUT_CONTEXT: &str = "patchmill 2026 hold-out of documents, version 1";

/// The sets to take.
#[derive(Clone, Debug, Default)]
pub struct SetChoice {
    /// Takes only these sets; empty for no such limit.
    pub keep_set: Vec<String>,
    /// Takes documents without a set; only those, or also those of `keep_set`.
    pub keep_no_set: bool,
    /// Drops these sets.
    pub drop_set: Vec<String>,
    /// Drops documents without a set.
    pub drop_no_set: bool,
}

/// The sample to take.
#[derive(Clone, Copy, Debug, Default)]
pub struct SampleSpec {
    /// Share of the documents; all when `None`.
    pub sample_rate: Option<Rate>,
    /// Seed of the sample and of the hold-out.
    pub sample_seed: u64,
}

/// The documents to write. By default all of them.
#[derive(Clone, Debug, Default)]
pub struct SelectSpec {
    /// Drops shorter texts.
    pub min_bytes: Option<u64>,
    /// Drops longer texts.
    pub max_bytes: Option<u64>,
    /// Selects by set.
    pub sets: SetChoice,
    /// Drops the documents listed here, a file from `patchmill duplicates`.
    pub drop_list: Option<PathBuf>,
    /// Selects by chance.
    pub sample: SampleSpec,
    /// Share of the documents to write into a separate corpus.
    pub holdout_rate: Option<Rate>,
    /// Cuts longer texts into documents of this many words, at least 1.
    pub split_words: Option<u64>,
}

/// A share above 0 and up to 1. It is exactly the decimal written, not the nearest binary fraction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    digits: u64,
    places: u32,
}

/// Maximum decimal places of a [`Rate`]. All values with one digit before the point fit.
const RATE_PLACES_MAX: usize = 18;

impl Rate {
    /// Every document.
    pub const ONE: Rate = Rate { digits: 1, places: 0 };

    /// The rate `digits` / 10^`places`.
    ///
    /// If the rate is not above 0 and up to 1, or has more than 18 places.
    pub fn of_digits(digits: u64, places: u32) -> Rate {
        let is_rate =
            places as usize <= RATE_PLACES_MAX && (1..=10u64.pow(places)).contains(&digits);
        assert!(is_rate, "{digits} of {places} places");
        Rate { digits, places }.reduced()
    }

    /// The threshold in 2^64 below which hashes are taken: ⌊rate · 2^64⌋, which rises with the
    /// rate.
    fn threshold(self) -> u128 {
        (u128::from(self.digits) << 64) / 10u128.pow(self.places)
    }

    /// Removes trailing zeros, so equal rates are equal values.
    fn reduced(mut self) -> Rate {
        while self.places > 0 && self.digits.is_multiple_of(10) {
            self.digits /= 10;
            self.places -= 1;
        }
        self
    }
}

impl std::str::FromStr for Rate {
    type Err = String;

    fn from_str(text: &str) -> Result<Rate, String> {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        let fraction = fraction.trim_end_matches('0');
        let is_decimal = !whole.is_empty()
            && whole.len() + fraction.len() <= RATE_PLACES_MAX + 1
            && whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit());
        let digits = format!("{whole}{fraction}").parse::<u64>().ok().filter(|_| is_decimal);
        let places = u32::try_from(fraction.len()).ok();
        let rate = digits.zip(places).map(|(digits, places)| Rate { digits, places });
        rate.filter(|rate| rate.digits > 0 && rate.digits <= 10u64.pow(rate.places)).ok_or_else(
            || {
                format!(
                    "{text:?} is not a rate; expected a decimal number above 0 and up to 1, such \
                     as 0.17, with at most {RATE_PLACES_MAX} decimal places"
                )
            },
        )
    }
}

impl std::fmt::Display for Rate {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.places == 0 {
            return write!(f, "{}", self.digits);
        }
        // A rate below 1 has no more digits than places.
        write!(f, "0.{:0places$}", self.digits, places = self.places as usize)
    }
}

/// Numbers texts under a key: a rate takes all texts with numbers below its threshold.
struct Lot {
    key: [u8; 32],
    threshold: u128,
}

impl Lot {
    fn new(context: &str, seed: u64, rate: Rate) -> Lot {
        Lot { key: blake3::derive_key(context, &seed.to_le_bytes()), threshold: rate.threshold() }
    }

    fn number(&self, content_hash: &[u8; CONTENT_HASH_BYTES]) -> u128 {
        let hash = blake3::keyed_hash(&self.key, content_hash);
        let first = hash.as_bytes().first_chunk().expect("a hash has 32 bytes");
        u128::from(u64::from_le_bytes(*first))
    }

    fn takes(&self, content_hash: &[u8; CONTENT_HASH_BYTES]) -> bool {
        self.number(content_hash) < self.threshold
    }
}

/// The order in which a rising sample rate takes documents.
pub(crate) struct SampleOrder(Lot);

impl SampleOrder {
    pub(crate) fn new(seed: u64) -> SampleOrder {
        SampleOrder(Lot::new(SAMPLE_CONTEXT, seed, Rate::ONE))
    }

    /// The lowest `n` up to `one` for which the rate `n / one` takes the text.
    pub(crate) fn lowest_rate(&self, content_hash: &[u8; CONTENT_HASH_BYTES], one: u64) -> u64 {
        // number < ⌊n · 2^64 / one⌋ is (number + 1) · one / 2^64 ≤ n.
        let lowest = ((self.0.number(content_hash) + 1) * u128::from(one)).div_ceil(1 << 64);
        u64::try_from(lowest).expect("at most `one`")
    }
}

/// The decision on a document.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It is written.
    Write,
    /// It is written into the corpus of the hold-out.
    WriteHoldout,
    /// It is left out.
    Drop(DropReason),
}

/// The properties of a document used in a decision.
#[derive(Clone, Copy, Debug)]
pub struct Candidate<'a> {
    /// 1-based line or row in the input.
    pub row: u64,
    /// Bytes of the text in UTF-8.
    pub text_bytes: u64,
    /// The set's name.
    pub set_name: Option<&'a str>,
    /// First bytes of the text's BLAKE3.
    pub content_hash: &'a [u8; CONTENT_HASH_BYTES],
}

/// Decides which documents a corpus holds.
#[derive(Default)]
pub struct Select {
    /// The selection, as recorded in the manifest.
    asked: Selection,
    sample: Option<Lot>,
    holdout: Option<Lot>,
    drop_list: Option<DropList>,
    /// For each of `keep_sets` or `drop_sets`, whether one of its documents was met. Relaxed: read
    /// only after all threads are done.
    met: Vec<AtomicBool>,
}

impl Select {
    /// Makes the selection of `spec`. The drop list is read and held in memory, 8 bytes a row.
    pub fn new(spec: &SelectSpec) -> anyhow::Result<Select> {
        let is_empty = spec.min_bytes.zip(spec.max_bytes).is_some_and(|(min, max)| max < min);
        if is_empty {
            return Err(UsageError("--max-bytes is below --min-bytes".to_owned()).into());
        }
        if spec.holdout_rate == Some(Rate::ONE) {
            let what = "--holdout-rate 1 leaves nothing to train on; it must be below 1";
            return Err(UsageError(what.to_owned()).into());
        }
        let mut select = Select::of_sets_and_sample(&spec.sets, spec.sample);
        let seed = spec.sample.sample_seed;
        select.holdout = spec.holdout_rate.map(|rate| Lot::new(HOLDOUT_CONTEXT, seed, rate));
        select.drop_list = spec.drop_list.as_deref().map(read_drop_list).transpose()?;
        let asked = &mut select.asked;
        asked.min_bytes = spec.min_bytes;
        asked.max_bytes = spec.max_bytes;
        asked.split_words = spec.split_words;
        asked.holdout_rate = spec.holdout_rate.map(|rate| rate.to_string());
        asked.drop_list = select.drop_list.as_ref().map(DropList::fingerprint);
        let has_seed = asked.sample_rate.is_some() || asked.holdout_rate.is_some();
        asked.sample_seed = has_seed.then_some(seed);
        Ok(select)
    }

    /// A selection by these sets and this sample alone.
    pub fn of_sets_and_sample(sets: &SetChoice, sample: SampleSpec) -> Select {
        // A rate of 1 takes all documents, as having none does, so it leaves no trace.
        let rate = sample.sample_rate.filter(|rate| *rate != Rate::ONE);
        let keep_sets = set_names(&sets.keep_set, sets.keep_no_set);
        let drop_sets = set_names(&sets.drop_set, sets.drop_no_set);
        let named = keep_sets.iter().chain(&drop_sets).flatten();
        Select {
            sample: rate.map(|rate| Lot::new(SAMPLE_CONTEXT, sample.sample_seed, rate)),
            met: named.map(|_| AtomicBool::new(false)).collect(),
            asked: Selection {
                keep_sets,
                drop_sets,
                sample_rate: rate.map(|rate| rate.to_string()),
                sample_seed: rate.map(|_| sample.sample_seed),
                ..Selection::default()
            },
            ..Select::default()
        }
    }

    /// The selection for the manifest, except for the side of the hold-out; `None` when everything
    /// is off.
    pub fn record(&self) -> Option<Selection> {
        (self.asked != Selection::default()).then(|| self.asked.clone())
    }

    /// Whether some documents go into a separate corpus.
    pub(crate) fn has_holdout(&self) -> bool {
        self.holdout.is_some()
    }

    /// Words after which a text is cut; `None` when texts are not cut.
    pub fn split_words(&self) -> Option<u64> {
        self.asked.split_words
    }

    /// Refuses a drop list made from other inputs than these names with their lengths, and warns of
    /// the effects of a list made with another selection.
    pub fn check_inputs<'a>(
        &self,
        inputs: impl Iterator<Item = (&'a str, u64)>,
    ) -> anyhow::Result<()> {
        let Some(list) = &self.drop_list else { return Ok(()) };
        check_drop_list_inputs(list.head(), &inputs.collect())?;
        if let Some(what) = unlike(list.head().selection.as_ref(), &self.asked) {
            notice(&format!("the drop list was made from a corpus of another selection: {what}"));
        }
        Ok(())
    }

    /// The decisions on one input's documents.
    pub fn of_input(&self, input: &str) -> SelectInput<'_> {
        let listed_rows = self.drop_list.as_ref().map_or(&[][..], |list| list.rows(input));
        SelectInput { select: self, listed_rows }
    }

    /// The options naming a set of which this value has seen no document.
    pub fn unmet_sets(&self) -> Vec<String> {
        let keep = self.asked.keep_sets.iter().flatten().map(|name| ("keep", name));
        let drop = self.asked.drop_sets.iter().flatten().map(|name| ("drop", name));
        let unmet = keep.chain(drop).zip(&self.met).filter(|(_, met)| !met.load(Ordering::Relaxed));
        let option = |((what, name), _): ((&str, &Option<String>), _)| match name {
            Some(name) => format!("--{what}-set {name:?}"),
            None => format!("--{what}-no-set"),
        };
        unmet.map(option).collect()
    }

    fn drops_set(&self, set_name: Option<&str>) -> bool {
        let named = self.asked.keep_sets.as_ref().or(self.asked.drop_sets.as_ref());
        let Some(named) = named else { return false };
        let at = named.iter().position(|name| name.as_deref() == set_name);
        if let Some(at) = at {
            self.met[at].store(true, Ordering::Relaxed);
        }
        at.is_some() == self.asked.drop_sets.is_some()
    }
}

/// Decides which documents of one input a corpus holds.
#[derive(Clone, Copy)]
pub struct SelectInput<'a> {
    select: &'a Select,
    listed_rows: &'a [u64],
}

impl SelectInput<'_> {
    /// Decides on a document, and reports the first reason to drop it.
    pub fn decide(&self, document: Candidate<'_>) -> Decision {
        let asked = &self.select.asked;
        if self.select.drops_set(document.set_name) {
            return Decision::Drop(DropReason::Set);
        }
        if asked.min_bytes.is_some_and(|min| document.text_bytes < min) {
            return Decision::Drop(DropReason::TooShort);
        }
        if asked.max_bytes.is_some_and(|max| max < document.text_bytes) {
            return Decision::Drop(DropReason::TooLong);
        }
        if self.listed_rows.binary_search(&document.row).is_ok() {
            return Decision::Drop(DropReason::Duplicate);
        }
        if self.select.holdout.as_ref().is_some_and(|lot| lot.takes(document.content_hash)) {
            return Decision::WriteHoldout;
        }
        if self.select.sample.as_ref().is_some_and(|lot| !lot.takes(document.content_hash)) {
            return Decision::Drop(DropReason::Sample);
        }
        Decision::Write
    }
}

/// First bytes of a text's BLAKE3, which represent it in the document index and in decisions.
pub fn content_hash(text: &str) -> [u8; CONTENT_HASH_BYTES] {
    *blake3::hash(text.as_bytes()).as_bytes().first_chunk().expect("a hash has 32 bytes")
}

/// The parts of a text cut at every `words`-th single space, which is in no part. At least one.
///
/// # Panics
/// If `words` is 0.
pub fn split_words(text: &str, words: u64) -> impl Iterator<Item = &str> {
    assert!(words > 0, "a part has at least one word");
    let mut rest = Some(text);
    std::iter::from_fn(move || {
        let text = rest?;
        let nth = usize::try_from(words - 1).unwrap_or(usize::MAX);
        match text.bytes().enumerate().filter(|(_, byte)| *byte == b' ').nth(nth) {
            Some((space, _)) => {
                rest = Some(&text[space + 1..]);
                Some(&text[..space])
            }
            None => rest.take(),
        }
    })
}

/// In byte order, null first, each once; `None` when empty.
fn set_names(names: &[String], without: bool) -> Option<Vec<Option<String>>> {
    let mut sets: Vec<Option<String>> = names.iter().cloned().map(Some).collect();
    sets.extend(without.then_some(None));
    sets.sort();
    sets.dedup();
    (!sets.is_empty()).then_some(sets)
}

/// A list made from other inputs than those it is used with.
#[derive(Debug, thiserror::Error)]
#[error(
    "the drop list is of other inputs: {what}; make it again with patchmill duplicates, from a \
     corpus of these inputs"
)]
pub struct DropListMismatch {
    what: String,
}

fn read_drop_list(path: &Path) -> anyhow::Result<DropList> {
    let context = || format!("read drop list {}", path.display());
    let bytes = read_file(path).with_context(context)?;
    DropList::decode(&bytes).with_context(context)
}

fn check_drop_list_inputs(
    head: &DropListHead,
    inputs: &BTreeMap<&str, u64>,
) -> Result<(), DropListMismatch> {
    let listed: BTreeMap<&str, u64> =
        head.inputs.iter().map(|input| (input.name.as_str(), input.bytes)).collect();
    for (name, bytes) in inputs {
        let what = match listed.get(name) {
            Some(expected) if expected == bytes => continue,
            Some(expected) => format!("{name} is {bytes} bytes; the list says {expected}"),
            None => format!("it does not know {name}"),
        };
        return Err(DropListMismatch { what });
    }
    match listed.keys().find(|name| !inputs.contains_key(*name)) {
        Some(name) => {
            Err(DropListMismatch { what: format!("{name}, which it knows, is not among them") })
        }
        None => Ok(()),
    }
}

/// Describes the problem of using a list from a corpus with selection `of` for `now`. Equal texts
/// share their fate except for their sets, so only sets and missing documents of the corpus matter.
fn unlike(of: Option<&Selection>, now: &Selection) -> Option<&'static str> {
    let everything = Selection::default();
    let of = of.unwrap_or(&everything);
    if of.keep_sets != now.keep_sets || of.drop_sets != now.drop_sets {
        return Some(
            "its sets differ, so of equal texts in several sets none or more than one may be \
             written",
        );
    }
    let is_within = |of: &Option<u64>, now: &Option<u64>| of.is_none() || of == now;
    let has_all = is_within(&of.min_bytes, &now.min_bytes)
        && is_within(&of.max_bytes, &now.max_bytes)
        && of.part.is_none()
        && (of.sample_rate.is_none()
            || (of.sample_rate == now.sample_rate && of.sample_seed == now.sample_seed));
    (!has_all).then_some("it held fewer documents, and duplicates among the others stay")
}
