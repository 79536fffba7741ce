//! Laws of choosing documents: rates nest, hold-out and sample are independent, equal texts share
//! their fate, and parts join to the text they were cut from.

use std::collections::BTreeSet;

use clap::Parser;
use pipeline::commands::values::SelectArgs;
use pipeline::write::select::{Candidate, Decision, Rate, Select, content_hash, split_words};
use proptest::prelude::*;
use schemas::selection::DropReason;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: SelectArgs,
}

/// The documents chosen by these `options` of `patchmill tokenize`.
fn select(options: &[&str]) -> Select {
    let line = ["tokenize"].iter().chain(options);
    let args = Line::try_parse_from(line).unwrap_or_else(|err| panic!("{err}")).args;
    Select::new(&args.spec()).unwrap()
}

fn select_error(options: &[&str]) -> String {
    let line = ["tokenize"].iter().chain(options);
    match Line::try_parse_from(line) {
        Ok(line) => match Select::new(&line.args.spec()) {
            Ok(_) => panic!("{options:?} was accepted"),
            Err(err) => format!("{err:#}"),
        },
        Err(err) => err.to_string(),
    }
}

fn decide(select: &Select, text: &str, set_name: Option<&str>) -> Decision {
    let (row, text_bytes) = (1, text.len() as u64);
    let content_hash = &content_hash(text);
    select.of_input("00.jsonl").decide(Candidate { row, text_bytes, set_name, content_hash })
}

fn texts() -> impl Iterator<Item = String> {
    (0..20_000).map(|number| format!("text {number}"))
}

/// The numbers of the texts in this selection.
fn chosen(select: &Select, decision: Decision) -> BTreeSet<usize> {
    let chosen = texts().enumerate().filter(|(_, text)| decide(select, text, None) == decision);
    chosen.map(|(number, _)| number).collect()
}

#[test]
fn a_lower_rate_takes_a_part_of_what_a_higher_one_takes() {
    let rates = ["0.000001", "0.05", "0.1", "0.2", "0.25", "0.999999"];
    let samples = rates.map(|rate| chosen(&select(&["--sample-rate", rate]), Decision::Write));
    for pair in samples.windows(2) {
        assert!(pair[0].is_subset(&pair[1]) && pair[0] != pair[1]);
    }
    assert_eq!(chosen(&select(&["--sample-rate", "1"]), Decision::Write).len(), 20_000);
}

/// Five standard deviations of a binomial. Chance plays no part in a run of this test, because the
/// hashes are fixed.
fn assert_about(found: usize, expected: f64) {
    let deviation = (found as f64 - expected).abs();
    assert!(deviation < 5.0 * expected.sqrt(), "{found} of about {expected}");
}

#[test]
fn hold_out_and_sample_do_not_depend_on_each_other() {
    let all = &["--holdout-rate", "0.1"];
    let held_out = chosen(&select(all), Decision::WriteHoldout);
    assert_about(held_out.len(), 2000.0);
    for rate in ["0.02", "0.5"] {
        let both = select(&["--holdout-rate", "0.1", "--sample-rate", rate]);
        assert_eq!(chosen(&both, Decision::WriteHoldout), held_out, "at every rate the same");
        let sample = chosen(&select(&["--sample-rate", rate]), Decision::Write);
        let main = chosen(&both, Decision::Write);
        assert_eq!(main, &sample - &held_out);
        let rate: f64 = rate.parse().unwrap();
        assert_about((&sample & &held_out).len(), 2000.0 * rate);
    }
}

#[test]
fn another_seed_takes_another_sample() {
    let sample =
        |seed| chosen(&select(&["--sample-rate", "0.1", "--sample-seed", seed]), Decision::Write);
    let (a, b) = (sample("0"), sample("1"));
    assert_about((&a & &b).len(), 200.0);
    assert_eq!(a, chosen(&select(&["--sample-rate", "0.1"]), Decision::Write));
}

/// Every later version takes whatever an earlier one took: corpora sampled at different times nest.
#[test]
fn the_sample_is_the_same_for_ever() {
    let first = |options: &[&str], decision| {
        chosen(&select(options), decision).into_iter().take(6).collect::<Vec<_>>()
    };
    assert_eq!(first(&["--sample-rate", "0.001"], Decision::Write), SAMPLE);
    assert_eq!(first(&["--holdout-rate", "0.001"], Decision::WriteHoldout), HELD_OUT);
}

// Computed independently of this program, with another implementation of BLAKE3 and the description
// in schemas/README.md.
const SAMPLE: [usize; 6] = [785, 1473, 3810, 4654, 5626, 7008];
const HELD_OUT: [usize; 6] = [597, 659, 1031, 1143, 2353, 2818];

#[test]
fn hold_out_and_main_part_are_all() {
    let both = select(&["--holdout-rate", "0.3"]);
    let (main, held_out) = (chosen(&both, Decision::Write), chosen(&both, Decision::WriteHoldout));
    assert!(main.is_disjoint(&held_out));
    assert_eq!((&main | &held_out).len(), 20_000);
    let asked = both.record().unwrap();
    assert_eq!((asked.holdout_rate.as_deref(), asked.sample_seed), (Some("0.3"), Some(0)));
}

#[test]
fn what_is_off_leaves_no_trace() {
    for options in [&[][..], &["--sample-rate", "1.0"], &["--sample-seed", "7"]] {
        let off = select(options);
        assert_eq!(off.record(), None, "{options:?}");
        assert_eq!(decide(&off, "", None), Decision::Write);
    }
}

#[test]
fn a_document_is_dropped_for_its_first_reason() {
    let drop = Decision::Drop;
    let lengths = select(&["--min-bytes", "3", "--max-bytes", "4", "--drop-set", "a"]);
    for (text, set_name, expected) in [
        ("ää", Some("b"), Decision::Write),
        ("abc", None, Decision::Write),
        ("ab", None, drop(DropReason::TooShort)),
        ("abcde", Some("b"), drop(DropReason::TooLong)),
        ("abcde", Some("a"), drop(DropReason::Set)),
    ] {
        assert_eq!(decide(&lengths, text, set_name), expected, "{text} {set_name:?}");
    }
    assert_eq!(
        select_error(&["--min-bytes", "3", "--max-bytes", "2"]),
        "--max-bytes is below --min-bytes"
    );
}

#[test]
fn sets_are_kept_and_dropped_by_name_and_without_one() {
    let check = |options: &[&str], expected: [bool; 3]| {
        let select = select(options);
        let written = [None, Some("a"), Some("b (c)")]
            .map(|set_name| decide(&select, "x", set_name) == Decision::Write);
        assert_eq!(written, expected, "{options:?}");
    };
    check(&["--keep-set", "a"], [false, true, false]);
    check(&["--keep-set", "a", "--keep-set", "b (c)"], [false, true, true]);
    check(&["--keep-no-set"], [true, false, false]);
    check(&["--keep-set", "b (c)", "--keep-no-set"], [true, false, true]);
    check(&["--drop-set", "a"], [true, false, true]);
    check(&["--drop-no-set"], [false, true, true]);
    check(&["--drop-set", "a", "--drop-no-set", "--drop-set", "b (c)"], [false, false, false]);
    assert!(select_error(&["--keep-set", "a", "--drop-set", "b"]).contains("cannot be used with"));
}

#[test]
fn names_of_sets_that_no_document_has_are_told() {
    let drop = select(&["--drop-set", "a", "--drop-set", "x", "--drop-no-set"]);
    decide(&drop, "text", Some("a"));
    decide(&drop, "text", Some("c"));
    assert_eq!(drop.unmet_sets(), ["--drop-no-set", "--drop-set \"x\""]);
    let keep = select(&["--keep-set", "a", "--keep-set", "x", "--min-bytes", "9"]);
    decide(&keep, "text", Some("a"));
    assert_eq!(keep.unmet_sets(), ["--keep-set \"x\""]);
}

#[test]
fn rates_are_read_exactly_or_refused() {
    for (text, expected) in [
        ("0.1", Some("0.1")),
        ("0.10", Some("0.1")),
        ("1", Some("1")),
        ("1.000", Some("1")),
        ("0.000000000000000001", Some("0.000000000000000001")),
        ("0.0000000000000000001", None),
        ("0", None),
        ("0.0", None),
        ("1.1", None),
        ("00.5", Some("0.5")),
        (".5", None),
        ("-0.5", None),
        ("+0.5", None),
        ("5e-1", None),
        ("0.5.5", None),
        ("nan", None),
        ("", None),
    ] {
        assert_eq!(
            text.parse::<Rate>().ok().map(|rate| rate.to_string()).as_deref(),
            expected,
            "{text:?}"
        );
    }
    assert!(select_error(&["--holdout-rate", "1"]).contains("leaves nothing to train on"));
}

proptest! {
    #[test]
    fn a_rate_is_written_as_it_is_read(digits in 1u64..=1_000_000_000) {
        let rate = Rate::of_digits(digits, 9);
        prop_assert_eq!(rate.to_string().parse::<Rate>(), Ok(rate));
        prop_assert_eq!(rate.to_string().parse::<f64>(), Ok(digits as f64 / 1e9));
    }

    /// As the authors' script does: split at single spaces, take so many words at a time, join.
    #[test]
    fn parts_are_those_of_splitting_at_single_spaces(text in "[ab é]{0,40}", words in 1u64..6) {
        let all: Vec<&str> = text.split(' ').collect();
        let expected: Vec<String> =
            all.chunks(words as usize).map(|words| words.join(" ")).collect();
        let found: Vec<&str> = split_words(&text, words).collect();
        prop_assert_eq!(found.join(" "), text.as_str());
        prop_assert_eq!(found, expected);
    }
}
