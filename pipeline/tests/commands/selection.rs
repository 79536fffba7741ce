//! Choosing documents as a user does it: lists of duplicates, samples, hold-outs, sets, parts, and
//! the messages about them.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use serde_json::{Value, json};

use crate::support::{self, assert_fails, fixtures, last_json, stderr, stdout, tokenizer};
use crate::trees::{assert_same_tree, tree};

fn patchmill(arguments: &[&str]) -> Output {
    support::patchmill().args(arguments).output().unwrap()
}

fn tokenize(out: &Path, inputs: &Path, options: &[&str]) -> Output {
    let tokenizer = tokenizer().display().to_string();
    let (out, inputs) = (out.display().to_string(), inputs.display().to_string());
    let fixed = ["tokenize", "--tokenizer", &tokenizer, "--json", "--out", &out, &inputs];
    patchmill(&[&fixed, options].concat())
}

fn verify(corpus: &Path) {
    let corpus = corpus.display().to_string();
    assert_eq!(last_json(&patchmill(&["verify", "--json", &corpus]))["faults"], json!([]));
}

fn manifest(corpus: &Path) -> Value {
    serde_json::from_slice(&fs::read(corpus.join("manifest.json")).unwrap()).unwrap()
}

/// Texts and sets as lines of the Pile.
fn write_lines(path: &Path, documents: &[(&str, Option<&str>)]) {
    let line = |(text, set_name): &(&str, Option<&str>)| match set_name {
        Some(name) => json!({"text": text, "meta": {"pile_set_name": name}}).to_string() + "\n",
        None => json!({ "text": text }).to_string() + "\n",
    };
    fs::write(path, documents.iter().map(line).collect::<String>()).unwrap();
}

/// Row, input and text of every document, in corpus order.
fn documents(corpus: &Path) -> Vec<(String, u64, String)> {
    let count = manifest(corpus)["totals"]["documents_written"].as_u64().unwrap();
    let path = corpus.display().to_string();
    let document = |number: u64| {
        let shown =
            last_json(&patchmill(&["inspect", "--json", "--doc", &number.to_string(), &path]));
        let text = |key: &str| shown[key].as_str().unwrap().to_owned();
        (text("input"), shown["row"].as_u64().unwrap(), text("text"))
    };
    (0..count).map(document).collect()
}

/// Two inputs with five texts in eight documents.
fn twice(dir: &Path) -> PathBuf {
    let inputs = dir.join("in");
    fs::create_dir(&inputs).unwrap();
    let first = [("one", Some("A")), ("two", Some("B")), ("one", Some("B")), ("three", None)];
    let second = [("two", Some("A")), ("four", None), ("one", Some("A")), ("five", Some("A"))];
    write_lines(&inputs.join("0.jsonl"), &first);
    write_lines(&inputs.join("1.jsonl"), &second);
    inputs
}

#[test]
fn of_equal_texts_the_first_stays_and_the_second_pass_drops_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let inputs = twice(dir.path());
    let (all, list) = (dir.path().join("all"), dir.path().join("list.dup"));
    let (all_name, list_name) = (all.display().to_string(), list.display().to_string());
    stdout(&tokenize(&all, &inputs, &[]));
    let made = patchmill(&["duplicates", &all_name, "--out", &list_name, "--json"]);
    let made = last_json(&made);
    assert_eq!((&made["documents"], &made["duplicates"]), (&json!(8), &json!(3)));
    assert_eq!(made["text_bytes"], 9);
    let sets = made["sets"].as_array().unwrap();
    let counts: Vec<_> = sets.iter().map(|set| (&set["set_name"], &set["documents"])).collect();
    assert_eq!(counts, [(&json!("A"), &json!(2)), (&json!("B"), &json!(1))]);

    let once = dir.path().join("once");
    let report = last_json(&tokenize(&once, &inputs, &["--drop-list", &list_name]));
    assert_eq!((&report["documents_read"], &report["documents_written"]), (&json!(8), &json!(5)));
    verify(&once);
    let rows: Vec<_> = documents(&once).into_iter().map(|(input, row, _)| (input, row)).collect();
    let of = |input: &str, row| (input.to_owned(), row);
    let expected =
        [of("0.jsonl", 1), of("0.jsonl", 2), of("0.jsonl", 4), of("1.jsonl", 2), of("1.jsonl", 4)];
    assert_eq!(rows, expected);
    let manifest = manifest(&once);
    assert_eq!(manifest["totals"]["dropped"]["duplicate"], 3);
    assert_eq!(manifest["selection"]["drop_list"], made["fingerprint"]);

    // Dropping twice finds nothing more, and a second list of the same corpus is the same.
    let (again, once_name) = (dir.path().join("again.dup"), once.display().to_string());
    let again =
        patchmill(&["duplicates", &once_name, "--out", &again.display().to_string(), "--json"]);
    assert_eq!(last_json(&again)["duplicates"], 0);
    let same = dir.path().join("same.dup");
    stdout(&patchmill(&[
        "duplicates",
        &all_name,
        "--out",
        &same.display().to_string(),
        "--memory-bytes",
        "1",
    ]));
    assert_eq!(fs::read(&same).unwrap(), fs::read(&list).unwrap());
}

#[test]
fn a_list_of_other_inputs_or_a_damaged_one_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let inputs = twice(dir.path());
    let (all, list) = (dir.path().join("all"), dir.path().join("list.dup"));
    let (all_name, list_name) = (all.display().to_string(), list.display().to_string());
    stdout(&tokenize(&all, &inputs, &[]));
    stdout(&patchmill(&["duplicates", &all_name, "--out", &list_name]));
    let exists = patchmill(&["duplicates", &all_name, "--out", &list_name]);
    assert_fails(&exists, 2, "exists; remove it or name another file");

    let once = dir.path().join("once");
    let fewer = tokenize(&once, &inputs.join("0.jsonl"), &["--drop-list", &list_name]);
    assert_fails(&fewer, 4, "1.jsonl, which it knows, is not among them");
    write_lines(&inputs.join("2.jsonl"), &[("six", None)]);
    let more = tokenize(&once, &inputs, &["--drop-list", &list_name]);
    assert_fails(&more, 4, "it does not know 2.jsonl");
    fs::remove_file(inputs.join("2.jsonl")).unwrap();
    write_lines(&inputs.join("1.jsonl"), &[("two", None)]);
    let changed = tokenize(&once, &inputs, &["--drop-list", &list_name]);
    assert_fails(&changed, 4, "1.jsonl is 15 bytes; the list says ");

    let mut bytes = fs::read(&list).unwrap();
    bytes[40] ^= 1;
    fs::write(&list, bytes).unwrap();
    let damaged = tokenize(&once, &inputs, &["--drop-list", &list_name]);
    assert_fails(&damaged, 4, "it was changed after it was written");
    assert!(!once.join("manifest.json").exists());
}

/// The texts of a corpus, in its order.
fn texts(corpus: &Path) -> Vec<String> {
    documents(corpus).into_iter().map(|(_, _, text)| text).collect()
}

#[test]
fn a_hold_out_is_a_whole_corpus_and_with_the_rest_all_documents() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("in.jsonl");
    let texts_of = |range: std::ops::Range<u32>| range.map(|n| format!("text number {n}"));
    let all: Vec<String> = texts_of(0..60).collect();
    write_lines(&input, &all.iter().map(|text| (text.as_str(), None)).collect::<Vec<_>>());
    let out = dir.path().join("corpus");
    let options = ["--holdout-rate", "0.2", "--shard-bytes", "200"];
    let report = last_json(&tokenize(&out, &input, &options));
    let holdout = out.join("holdout");
    verify(&out);
    verify(&holdout);
    let (main, held_out) = (texts(&out), texts(&holdout));
    assert!(!held_out.is_empty() && held_out.len() < 30, "{held_out:?}");
    assert_eq!(report["documents_written"], main.len());
    let mut both = [main.clone(), held_out.clone()].concat();
    both.sort();
    let mut expected = all.clone();
    expected.sort();
    assert_eq!(both, expected);
    assert_eq!(manifest(&out)["totals"]["documents_held_out"], held_out.len());
    assert_eq!(manifest(&out)["selection"]["part"], "main");
    assert_eq!(manifest(&holdout)["selection"]["part"], "holdout");

    // The same at another sample rate, and for any number of threads.
    let sampled = dir.path().join("sampled");
    let options = ["--holdout-rate", "0.2", "--sample-rate", "0.5", "--threads", "1"];
    stdout(&tokenize(&sampled, &input, &options));
    assert_eq!(texts(&sampled.join("holdout")), held_out);
    let sample = texts(&sampled);
    assert!(sample.len() < main.len() && sample.iter().all(|text| main.contains(text)));
    let totals = manifest(&sampled)["totals"].clone();
    let count = |key: &str| totals[key].as_u64().unwrap();
    let dropped = totals["dropped"]["sample"].as_u64().unwrap();
    assert_eq!(60, count("documents_written") + count("documents_held_out") + dropped);
}

#[test]
fn what_is_chosen_does_not_depend_on_threads_and_tasks() {
    let dir = tempfile::tempdir().unwrap();
    let inputs = fixtures().join("text/train");
    let all = dir.path().join("all");
    stdout(&tokenize(&all, &inputs, &[]));
    let (all, list) = (all.display().to_string(), dir.path().join("list").display().to_string());
    stdout(&patchmill(&["duplicates", &all, "--out", &list]));
    let chosen = ["--sample-rate", "0.6", "--holdout-rate", "0.2", "--min-bytes", "300"];
    let cut = ["--split-words", "150", "--shard-bytes", "40000", "--drop-list", &list];
    for by_set in [&[][..], &["--by-set"]] {
        let options = [&chosen[..], &cut, by_set].concat();
        let name = |what: &str| dir.path().join(format!("{what}-{}", by_set.len()));
        let once = name("once");
        stdout(&tokenize(&once, &inputs, &[&options[..], &["--threads", "1"]].concat()));
        verify(&once);
        verify(&once.join("holdout"));
        assert!(tree(&once).keys().filter(|name| name.ends_with(".tok")).count() > 6);
        for threads in ["2", "5"] {
            let out = name(threads);
            stdout(&tokenize(&out, &inputs, &[&options[..], &["--threads", threads]].concat()));
            assert_same_tree(&out, &once);
        }
        let tasks = name("tasks");
        for task in ["1/2", "0/2"] {
            stdout(&tokenize(&tasks, &inputs, &[&options[..], &["--task", task]].concat()));
        }
        stdout(&patchmill(&["merge", &tasks.display().to_string()]));
        assert_same_tree(&tasks, &once);
    }
}

/// A corpus and its hold-out are data and validation of a run.
#[test]
fn a_run_reads_a_sample_and_its_hold_out() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("corpus");
    let options = ["--sample-rate", "0.7", "--holdout-rate", "0.1"];
    stdout(&tokenize(&out, &fixtures().join("text/train"), &options));
    let run = dir.path().join("run").display().to_string();
    let (out_name, holdout) = (out.display().to_string(), out.join("holdout"));
    let holdout_name = holdout.display().to_string();
    stdout(&patchmill(&["init", &run, "--corpus", &out_name, "--validation", &holdout_name]));
    let file = format!("{run}/run.toml");
    let plan = last_json(&patchmill(&["plan", &file, "--json"]));
    assert_eq!(plan["corpus_tokens"], manifest(&out)["totals"]["tokens"]);
    assert!(last_json(&patchmill(&["stream", &file, "--json"]))["tokens"].as_u64().unwrap() > 0);
    let shown = last_json(&patchmill(&["inspect", &holdout_name, "--json", "--doc", "0"]));
    assert!(shown["token_count"].as_u64().unwrap() > 1 && shown["is_exact"] == true);
}

/// A series' number is its input's position, in the hold-out too, whatever the inputs before it
/// hold.
#[test]
fn a_hold_out_of_which_an_input_has_nothing_is_whole() {
    let dir = tempfile::tempdir().unwrap();
    let inputs = dir.path().join("in");
    fs::create_dir(&inputs).unwrap();
    let texts: Vec<String> = (0..60).map(|number| format!("text number {number}")).collect();
    let lines: Vec<(&str, Option<&str>)> = texts.iter().map(|text| (&**text, None)).collect();
    write_lines(&inputs.join("b.jsonl"), &lines);
    write_lines(&inputs.join("c.jsonl"), &lines);
    let out = dir.path().join("all");
    tokenize(&out, &inputs, &["--holdout-rate", "0.3"]);
    let held = manifest(&out.join("holdout"))["totals"]["documents_written"].clone();
    assert!(held.as_u64().unwrap() > 0);
    // A document that is not held out, alone in the first input.
    let names: Vec<String> = texts.iter().map(|text| format!("{text} alone")).collect();
    for name in &names {
        write_lines(&inputs.join("a.jsonl"), &[(name, None)]);
        let out = dir.path().join("out");
        tokenize(&out, &inputs, &["--holdout-rate", "0.3", "--force"]);
        verify(&out.join("holdout"));
        if manifest(&out.join("holdout"))["totals"]["documents_written"] == held {
            return;
        }
    }
    panic!("every first document was held out");
}

#[test]
fn parts_are_the_documents_that_cut_texts_would_give() {
    let dir = tempfile::tempdir().unwrap();
    let whole = dir.path().join("whole.jsonl");
    let cut = dir.path().join("cut.jsonl");
    write_lines(&whole, &[("a b c d e", Some("A")), ("x  y", None), ("", None), ("p q", None)]);
    let parts = ["a b", "c d", "e", "x ", "y", "", "p q"];
    write_lines(&cut, &parts.map(|text| (text, None)));
    let (a, b) = (dir.path().join("a"), dir.path().join("b"));
    let report = last_json(&tokenize(&a, &whole, &["--split-words", "2"]));
    stdout(&tokenize(&b, &cut, &[]));
    let shard = |corpus: &Path| fs::read(corpus.join("00000-00000.tok")).unwrap();
    assert_eq!(shard(&a), shard(&b));
    assert_eq!((&report["documents_read"], &report["documents_written"]), (&json!(4), &json!(4)));
    verify(&a);
    let totals = manifest(&a)["totals"].clone();
    assert_eq!((&totals["parts_added"], &totals["text_bytes"]), (&json!(3), &json!(13)));
    let name = a.display().to_string();
    let list = dir.path().join("list").display().to_string();
    let refused = patchmill(&["duplicates", &name, "--out", &list]);
    assert_fails(&refused, 2, "in parts of 2 words");
    for (document, (row, text)) in [(2, (1, "e")), (4, (2, "y")), (6, (4, "p q"))] {
        let shown = patchmill(&["inspect", &name, "--json", "--doc", &document.to_string()]);
        let shown = last_json(&shown);
        assert_eq!((&shown["row"], &shown["text"]), (&json!(row), &json!(text)));
        assert_eq!(shown["is_exact"], true);
    }
}

/// Documents of a later input are numbered after all parts of the inputs before.
#[test]
fn parts_are_numbered_over_all_inputs() {
    let dir = tempfile::tempdir().unwrap();
    let inputs = dir.path().join("inputs");
    fs::create_dir(&inputs).unwrap();
    for name in ["a.jsonl", "b.jsonl"] {
        write_lines(&inputs.join(name), &[("a b c d e", Some("A")), ("p q", None)]);
    }
    let out = dir.path().join("out");
    stdout(&tokenize(&out, &inputs, &["--split-words", "2"]));
    let out = out.display().to_string();
    for (document, input, row, text) in
        [(2, "a.jsonl", 1, "e"), (6, "b.jsonl", 1, "e"), (7, "b.jsonl", 2, "p q")]
    {
        let shown = patchmill(&["inspect", &out, "--json", "--doc", &document.to_string()]);
        let shown = last_json(&shown);
        assert_eq!((&shown["input"], &shown["row"]), (&json!(input), &json!(row)), "{document}");
        assert_eq!(shown["text"], json!(text));
    }
}

#[test]
fn what_was_left_out_is_counted_by_reason_and_a_name_that_fits_nothing_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let inputs = twice(dir.path());
    let out = dir.path().join("corpus");
    let options = ["--min-bytes", "4", "--keep-set", "A", "--keep-no-set", "--keep-set", "Z"];
    let made = tokenize(&out, &inputs, &options);
    let report = last_json(&made);
    assert_eq!((&report["documents_read"], &report["documents_written"]), (&json!(8), &json!(3)));
    assert_eq!(
        (&report["dropped"]["set"], &report["dropped"]["too_short"]),
        (&json!(2), &json!(3))
    );
    assert_eq!(report["documents_dropped"], 5);
    assert!(stderr(&made).contains("--keep-set \"Z\""), "{}", stderr(&made));
    let none = tokenize(&dir.path().join("none"), &inputs, &["--keep-set", "Z"]);
    assert_fails(&none, 2, "8 read");
}

#[test]
fn the_rate_for_a_number_of_tokens_gives_just_what_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let all = dir.path().join("all");
    let all_name = all.display().to_string();
    let made = last_json(&tokenize(&all, &fixtures().join("text/train"), &[]));
    let tokens = made["tokens"].as_u64().unwrap();
    let check = |corpus: &str, wanted: u64, others: &[&str]| {
        let fixed = ["inspect", corpus, "--json", "--rate-for", &wanted.to_string()];
        let rate = last_json(&patchmill(&[&fixed, others].concat()));
        let given = rate["tokens"].as_u64().unwrap();
        assert!(wanted <= given && given < wanted + wanted / 10, "{rate}");
        let sample = dir.path().join(format!("sample-{wanted}"));
        let options = ["--sample-rate", rate["sample_rate"].as_str().unwrap()];
        let options = [&options, others].concat();
        let sampled = last_json(&tokenize(&sample, &fixtures().join("text/train"), &options));
        assert_eq!(sampled["tokens"], given);
        verify(&sample);
        sample.display().to_string()
    };
    check(&all_name, tokens / 4, &["--sample-seed", "3"]);
    check(&all_name, tokens / 5, &["--holdout-rate", "0.1", "--min-bytes", "100"]);
    // A corpus that is a sample predicts smaller samples of the inputs.
    let half = check(&all_name, tokens / 2, &[]);
    check(&half, tokens / 6, &[]);
    let other = patchmill(&["inspect", &half, "--rate-for", "1K", "--sample-seed", "1"]);
    assert_fails(&other, 2, "has only some of its inputs' documents");

    let text = stdout(&patchmill(&["inspect", &all_name, "--rate-for", "1K"]));
    assert!(text.starts_with("--sample-rate 0.0"), "{text}");
    let beyond = patchmill(&["inspect", &all_name, "--rate-for", "60B"]);
    assert_fails(&beyond, 2, "60000000000 tokens are wanted");
    let neither = patchmill(&["inspect", &all_name, "--min-bytes", "9"]);
    assert_fails(&neither, 2, "need --rate-for");
}

#[test]
fn a_tokenizer_learns_from_the_sets_and_the_sample_that_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let input = dir.path().join("in.jsonl");
    let mut documents = vec![("moon moonlight moonlit", Some("A")); 30];
    documents.extend(vec![("sunny sunnier sunniest", Some("B")); 30]);
    write_lines(&input, &documents);
    let input = input.display().to_string();
    let train = |name: &str, options: &[&str]| {
        let out = dir.path().join(name);
        let out_name = out.display().to_string();
        let fixed = ["train-tokenizer", "--out", &out_name, "--vocab-size", "512", &input];
        stdout(&patchmill(&[&fixed, options].concat()));
        let text = fs::read_to_string(out.join("tokenizer.json")).unwrap();
        let json: Value = serde_json::from_str(&text).unwrap();
        let vocabulary: BTreeMap<String, u64> =
            serde_json::from_value(json["model"]["vocab"].clone()).unwrap();
        (vocabulary.contains_key("\u{2581}moon"), vocabulary.contains_key("\u{2581}sunn"), text)
    };
    let (all, a, b) =
        (train("all", &[]), train("a", &["--keep-set", "A"]), train("b", &["--drop-set", "A"]));
    assert_eq!(
        [(all.0, all.1), (a.0, a.1), (b.0, b.1)],
        [(true, true), (true, false), (false, true)]
    );
    let first = train("first", &["--max-text-bytes", "100"]);
    assert_eq!((first.0, first.1), (true, false));
    assert_eq!(train("again", &["--keep-set", "A"]).2, a.2, "the same every time");
}
