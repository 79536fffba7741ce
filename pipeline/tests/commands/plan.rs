//! The commands that read run files, as their users run them.

use std::path::Path;

use assert_cmd::Command;
use serde_json::Value;

use crate::support::{fixtures, tokenizer};

fn patchmill(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_patchmill"));
    command.current_dir(dir);
    command
}

fn succeed(dir: &Path, args: &[&str]) -> String {
    let output = patchmill(dir).args(args).assert().success().get_output().stdout.clone();
    String::from_utf8(output).unwrap()
}

fn json(dir: &Path, args: &[&str]) -> Value {
    let text = succeed(dir, args);
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

fn fail(dir: &Path, args: &[&str], code: i32, expected: &str) {
    let output = patchmill(dir).args(args).assert().code(code).get_output().stderr.clone();
    let found = String::from_utf8(output).unwrap();
    assert!(
        found.starts_with("error: ") && found.contains(expected),
        "found {found:?}\nexpected {expected:?}"
    );
}

/// Makes `corpus` and `valid` of the fixtures' texts.
fn make_corpora(dir: &Path) {
    let tokenizer = tokenizer().join("tokenizer.json");
    for (out, input) in [("corpus", "text/train/train-00.jsonl.zst"), ("valid", "text/valid")] {
        let (tokenizer, input) = (tokenizer.to_str().unwrap().to_owned(), fixtures().join(input));
        let args = ["tokenize", "--tokenizer", &tokenizer, "--out", out, input.to_str().unwrap()];
        succeed(dir, &args);
    }
}

#[test]
fn init_writes_a_run_file_that_plans_and_streams() {
    let dir = tempfile::tempdir().unwrap();
    make_corpora(dir.path());
    let said = succeed(dir.path(), &["init", "run", "--corpus", "corpus", "--validation", "valid"]);
    assert!(said.contains("wrote run/run.toml"), "{said}");
    let text = std::fs::read_to_string(dir.path().join("run/run.toml")).unwrap();
    assert!(text.contains("corpus = \"../corpus\"") && text.contains("validation = \"../valid\""));
    let manifest = std::fs::read_to_string(dir.path().join("corpus/manifest.json")).unwrap();
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    assert!(text.contains(&format!("vocab_size = {} ", manifest["tokenizer"]["vocab_size"])));

    fail(dir.path(), &["init", "run"], 2, "run/run.toml exists; give --force");
    check_plan(dir.path(), &manifest);
    check_stream(dir.path());
}

fn check_plan(dir: &Path, manifest: &Value) {
    let plan = json(dir, &["plan", "run/run.toml", "--json", "--step", "0", "--find", "3"]);
    let of = |key: &str| plan[key].as_u64().unwrap();
    let phases = plan["phases"].as_array().unwrap();
    let steps: u64 = phases.iter().map(|phase| phase["steps"].as_u64().unwrap()).sum();
    assert_eq!(of("corpus_tokens"), manifest["totals"]["tokens"].as_u64().unwrap());
    assert_eq!(of("subset_tokens") - of("unread_tokens"), steps * of("step_tokens"));
    assert_eq!(plan["fingerprint"].as_str().unwrap().len(), 64);
    for (phase, patch_size) in phases.iter().zip([4, 1]) {
        assert_eq!(phase["patch_size"], patch_size);
        assert_eq!(
            phase["window_tokens"].as_u64(),
            Some(patch_size * phase["window_units"].as_u64().unwrap())
        );
        assert_eq!(
            phase["windows"].as_u64().unwrap() * phase["window_tokens"].as_u64().unwrap(),
            phase["tokens"]
        );
    }
    // The first document of a window is found at this window.
    let document = plan["steps"][0]["windows"][0]["first_document"].to_string();
    let found = json(dir, &["plan", "run/run.toml", "--json", "--find", &document]);
    let readings = found["documents"][0]["readings"].as_array().unwrap();
    assert!(readings.iter().any(|reading| reading["step"] == 0 && reading["slot"] == 0), "{found}");

    check_look_ups(dir, &plan["steps"][0]["windows"], &found["documents"][0]);
    check_verify_and_diff(dir, &plan);
    let text = succeed(dir, &["plan", "run/run.toml", "--step", "1", "--find", "0"]);
    for part in
        ["units;", "fingerprint", "stay unread", "\nstep 1, K = 4", "\ndocument 0, tokens 0.."]
    {
        assert!(text.contains(part), "found {text}\nexpected {part:?}");
    }
    fail(dir, &["plan", "run/run.toml", "--set", "plan.step_tokens=100"], 2, "step_tokens is 100");
    fail(
        dir,
        &["plan", "run/run.toml", "--set", "model.vocab_size=100"],
        4,
        "model.vocab_size is 100",
    );
    fail(dir, &["plan", "run/run.toml", "--set", "data.corpus=nowhere"], 1, "--assume-tokens");
    fail(dir, &["plan", "run/run.toml", "--step", "100000"], 2, "numbered from 0");
    fail(dir, &["plan", "run/run.toml", "--find", "100000"], 2, "numbered from 0");
}

#[test]
fn every_reading_of_a_document_is_found_where_no_window_divides_another() {
    let dir = tempfile::tempdir().unwrap();
    make_corpora(dir.path());
    succeed(dir.path(), &["init", "run", "--corpus", "corpus"]);
    let path = dir.path().join("run/run.toml");
    let text = std::fs::read_to_string(&path).unwrap();
    let (before, model) = text.split_once("[[phases]]").unwrap();
    let (_, model) = model.split_once("[model]").unwrap();
    let phase = |patch_size: u64, share: &str| {
        let schedule = "{ kind = \"constant\", peak = 1e-3, warmup_steps = 0 }";
        format!(
            "[[phases]]\npatch_size = {patch_size}\nshare = \"{share}\"\nschedule = {schedule}\n\
             carry = \"weights\"\n"
        )
    };
    let phases = [phase(6, "1/2"), phase(3, "1/2"), phase(2, "0/1")].concat();
    std::fs::write(&path, [before, &phases, "[model]", model].concat()).unwrap();
    let mut args = vec!["plan", "run/run.toml", "--json", "--step", "0..2"];
    for set in [
        "plan.window_units=2",
        "plan.step_tokens=7200",
        "plan.epochs=1",
        "data.subset_tokens=16428",
    ] {
        args.extend(["--set", set]);
    }
    let documents: Vec<String> = (0..300).map(|document| document.to_string()).collect();
    args.extend(documents.iter().flat_map(|document| ["--find", document]));
    let plan = json(dir.path(), &args);
    let of = |value: &Value, key: &str| value[key].as_u64().unwrap();
    let list = |value: &Value, key: &str| value[key].as_array().unwrap().clone();
    let mut read_parts = 0;
    for document in list(&plan, "documents") {
        let mut expected = Vec::new();
        for step in list(&plan, "steps") {
            for window in list(&step, "windows") {
                let first = of(&window, "first_token");
                let end = first + of(&window, "token_count");
                if first < of(&document, "end_token") && of(&document, "first_token") < end {
                    expected.push((of(&step, "step"), of(&window, "slot")));
                }
            }
        }
        let readings = list(&document, "readings");
        let read = readings.iter().filter(|reading| !reading["step"].is_null());
        let mut found: Vec<_> =
            read.map(|reading| (of(reading, "step"), of(reading, "slot"))).collect();
        found.sort_unstable();
        expected.sort_unstable();
        assert_eq!(found, expected, "{document}");
        read_parts += found.len();
    }
    assert!(read_parts > 100, "{read_parts}");
}

/// Shards, documents and sets of windows, and documents by keys other than their number.
fn check_look_ups(dir: &Path, windows: &Value, found: &Value) {
    let windows = windows.as_array().unwrap();
    let sum = |list: &Value, key: &str| -> u64 {
        list.as_array().unwrap().iter().map(|entry| entry[key].as_u64().unwrap()).sum()
    };
    for window in windows {
        assert_eq!(sum(&window["parts"], "token_count"), window["token_count"].as_u64().unwrap());
        for part in window["parts"].as_array().unwrap() {
            assert_eq!(sum(&part["sets"], "tokens"), part["token_count"].as_u64().unwrap());
            let offset = 4096 + 2 * part["first_token"].as_u64().unwrap();
            assert_eq!(part["file_offset"], offset);
            assert!(dir.join("corpus").join(part["shard"].as_str().unwrap()).is_file());
        }
    }
    let mut of_ranks = Vec::new();
    for rank in ["0/2", "1/2"] {
        let args = ["plan", "run/run.toml", "--json", "--step", "0", "--rank", rank];
        let part = json(dir, &args);
        of_ranks.extend(part["steps"][0]["windows"].as_array().unwrap().clone());
    }
    assert_eq!(&of_ranks, windows);
    let name = format!("{}:{}", found["input"].as_str().unwrap(), found["row"]);
    let by_row = json(dir, &["plan", "run/run.toml", "--json", "--find", &name]);
    assert_eq!(&by_row["documents"][0], found);
    let shown =
        json(dir, &["inspect", "corpus", "--doc", &found["document"].to_string(), "--json"]);
    assert_eq!(shown["is_exact"], true);
    let hash = blake3::hash(shown["text"].as_str().unwrap().as_bytes()).to_hex();
    let by_hash = json(dir, &["plan", "run/run.toml", "--json", "--find", &hash[..32]]);
    assert_eq!(&by_hash["documents"][0], found);
    let plan = |args: &[&str], code, expected: &str| {
        fail(dir, &[&["plan", "run/run.toml"], args].concat(), code, expected);
    };
    plan(&["--find", &"0".repeat(32)], 2, "no document of the corpus has this content");
    plan(&["--find", "nothing.jsonl:1"], 2, "the corpus has no input \"nothing.jsonl\"");
    plan(&["--step", "0", "--rank", "0/7"], 2, "7 ranks do not divide a step's");
}

fn check_verify_and_diff(dir: &Path, plan: &Value) {
    let walked = json(dir, &["plan", "run/run.toml", "--json", "--verify", "--threads", "2"]);
    let read = plan["run_tokens"].as_u64().unwrap() - plan["unread_tokens"].as_u64().unwrap();
    assert_eq!(walked["verify"]["tokens"], read);
    assert!(walked["verify"]["tokens_per_sec"].as_f64().unwrap() > 0.0);

    let text = std::fs::read_to_string(dir.join("run/run.toml")).unwrap();
    let write = |name: &str, text: &str| std::fs::write(dir.join("run").join(name), text).unwrap();
    let replaced = |key: &str, value: u64| -> String {
        let is_key = |line: &&str| line.starts_with(&format!("{key} ="));
        let line = text.lines().find(is_key).unwrap();
        text.replace(line, &format!("{key} = {value}"))
    };
    write("longer.toml", &replaced("epochs", 3));
    write("other.toml", &replaced("seed", 77));
    let diff = |other: &str| json(dir, &["plan", "--diff", "run/run.toml", other, "--json"]);
    let switch = plan["phases"][1]["first_step"].as_u64().unwrap();
    assert_eq!(diff("run/longer.toml")["same_steps"], switch);
    assert_eq!(diff("run/other.toml")["same_steps"], 0);
    assert_eq!(diff("run/other.toml")["differences"][0]["name"], "plan.seed");
    assert_eq!(diff("run/run.toml")["same"], true);
    let said = succeed(dir, &["plan", "--diff", "run/run.toml", "run/longer.toml"]);
    assert!(said.contains("read the same windows in both"), "{said}");
    fail(dir, &["plan", "run/run.toml", "run/other.toml"], 2, "--diff");
}

/// One input a set makes one series a set, as `--by-set` does.
#[test]
fn a_mixture_is_planned_verified_and_streamed() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("text")).unwrap();
    for (set, lines) in [("A", 40), ("B", 120)] {
        let line = |number: usize| {
            let text = format!("{set} {number} ").repeat(200 + number);
            format!("{{\"text\": {text:?}, \"meta\": {{\"pile_set_name\": {set:?}}}}}\n")
        };
        let text: String = (0..lines).map(line).collect();
        std::fs::write(dir.path().join(format!("text/{set}.jsonl")), text).unwrap();
    }
    let tokenizer = tokenizer().join("tokenizer.json");
    let dir = dir.path();
    let tokenizer = tokenizer.to_str().unwrap();
    succeed(dir, &["tokenize", "--tokenizer", tokenizer, "--out", "corpus", "text"]);
    succeed(dir, &["init", "run", "--corpus", "corpus"]);
    let sets = "data.sets={ A = { epochs = 2 }, B = { epochs = \"1/1\" } }";
    let with = |args: &[&str]| {
        json(dir, &[&["plan", "run/run.toml", "--json", "--set", sets], args].concat())
    };
    let plan = with(&["--verify", "--step", "0", "--find", "0"]);
    let of = |set: usize, key: &str| plan["sets"][set][key].as_u64().unwrap();
    assert_eq!(of(0, "epoch_tokens"), 2 * of(0, "subset_tokens"));
    assert_eq!(of(1, "epoch_tokens"), of(1, "subset_tokens"));
    assert_eq!(
        of(0, "epoch_tokens") + of(1, "epoch_tokens"),
        plan["subset_tokens"].as_u64().unwrap()
    );
    let read = of(0, "read_tokens") + of(1, "read_tokens");
    assert_eq!(plan["verify"]["tokens"], read);
    for window in plan["steps"][0]["windows"].as_array().unwrap() {
        for part in window["parts"].as_array().unwrap() {
            assert_eq!(part["sets"][0]["set_name"], window["set"]);
            assert!(part["shard"].as_str().unwrap().starts_with(if window["set"] == "A" {
                "00000"
            } else {
                "00001"
            }));
        }
    }
    assert_eq!(plan["documents"][0]["set_name"], "A");
    let streamed = json(dir, &["stream", "run/run.toml", "--json", "--set", sets]);
    assert_eq!(streamed["tokens"], read);
    let said = succeed(dir, &["plan", "run/run.toml", "--set", sets]);
    assert!(said.contains("in the subset"), "{said}");
    let refused = |sets: &str, code, expected: &str| {
        fail(dir, &["plan", "run/run.toml", "--set", sets], code, expected);
    };
    refused("data.sets={ A = { epochs = 1 } }", 2, "it leaves out \"B\"");
    refused(
        "data.sets={ A = { epochs = 1 }, B = { epochs = 1 }, C = { epochs = 1 } }",
        2,
        "has no \"C\"",
    );
}

fn check_stream(dir: &Path) {
    let stream = |args: &[&str]| {
        let common = ["stream", "run/run.toml", "--json"];
        json(dir, &[&common[..], args].concat())
    };
    let digest = |value: &Value| value["digest"].as_u64().unwrap();
    let whole = stream(&[]);
    let plan = json(dir, &["plan", "run/run.toml", "--json"]);
    assert_eq!(whole["steps"], plan["steps_total"]);
    assert_eq!(
        whole["tokens"].as_u64().unwrap(),
        plan["subset_tokens"].as_u64().unwrap() - plan["unread_tokens"].as_u64().unwrap()
    );
    for io in ["mmap", "pread"] {
        let again = stream(&["--set", &format!("loader.io={io}"), "--set", "loader.workers=3"]);
        assert_eq!(digest(&again), digest(&whole));
    }
    let set = ["--set", "train.micro_batch_windows=1", "--rank"];
    let halves = ["0/2", "1/2"].map(|rank| digest(&stream(&[&set[..], &[rank]].concat())));
    assert_eq!(halves[0].wrapping_add(halves[1]), digest(&whole));
    let parts = [&["--steps", "5"], &["--from", "5"]].map(|part| digest(&stream(part)));
    assert_eq!(parts[0].wrapping_add(parts[1]), digest(&whole));

    for output in ["u16", "u32", "i32", "i64"] {
        let again = stream(&["--output", output, "--workers", "2"]);
        assert_eq!(digest(&again), digest(&whole), "{output}");
    }
    assert_eq!(stream(&["--sink", "null"])["digest"], Value::Null);

    stream(&["--steps", "2", "--sink", "file", "ids.bin"]);
    let ids = std::fs::read(dir.join("ids.bin")).unwrap();
    assert_eq!(ids.len() as u64, 4 * 2 * plan["step_tokens"].as_u64().unwrap());
    fail(dir, &["stream", "run/run.toml", "--sink", "tape"], 2, "--sink tape; expected null");
    let manifest = std::fs::read(dir.join("corpus/manifest.json")).unwrap();
    for path in ["corpus/manifest.json", "corpus/new.bin", "run/../corpus/x", "run/run.toml"] {
        fail(dir, &["stream", "run/run.toml", "--sink", "file", path], 2, "choose another place");
    }
    assert_eq!(std::fs::read(dir.join("corpus/manifest.json")).unwrap(), manifest);
    stream(&["--steps", "1", "--sink", "file", "/dev/null"]);
    fail(dir, &["plan", "run/run.toml", "--step", "18446744073709551615"], 2, "is not a step");
    fail(dir, &["plan", "run/run.toml", "--verify", "--threads", "0"], 2, "0 is not in 1..=1024");
    fail(dir, &["stream", "run/run.toml", "--rank", "2/2"], 2, "\"2/2\" is not a rank");
    fail(dir, &["stream", "run/run.toml", "--workers", "0"], 2, "expected at least 1");
    fail(dir, &["stream", "run/run.toml", "--steps", "100000"], 2, "are wanted; the plan has");
    fail(dir, &["stream", "run/run.toml", "--from", "100000"], 2, "--from is 100000; the plan has");
}

#[test]
fn a_run_is_planned_before_there_is_a_corpus() {
    let dir = tempfile::tempdir().unwrap();
    succeed(dir.path(), &["init", "run"]);
    let plan = json(dir.path(), &["plan", "run/run.toml", "--assume-tokens", "360e9", "--json"]);
    // 360e9 / 8192 = 43,945,312.5 blocks, of which 256 make a step.
    assert_eq!(plan["subset_tokens"], 43_945_312u64 * 8192);
    assert_eq!(plan["steps_total"], 171_661);
    assert_eq!(
        (&plan["phases"][0]["steps"], &plan["phases"][1]["steps"]),
        (&114_440.into(), &57_221.into())
    );
    assert_eq!(plan["corpus_fingerprint"], Value::Null);
    let text = succeed(dir.path(), &["plan", "run/run.toml", "--assume-tokens", "360_000_000_000"]);
    assert!(text.contains("2_048 units; 8_192 tokens") && text.contains("(assumed)"), "{text}");
    fail(dir.path(), &["plan", "run/run.toml"], 1, "run/corpus");
    fail(
        dir.path(),
        &["plan", "run/run.toml", "--assume-tokens", "1000"],
        2,
        "less than one block",
    );
}

#[test]
fn config_shows_what_a_run_file_comes_to() {
    let dir = tempfile::tempdir().unwrap();
    succeed(dir.path(), &["init", "."]);
    let text = succeed(dir.path(), &["config", "show", "run.toml", "--set", "plan.epochs=7"]);
    std::fs::write(dir.path().join("resolved.toml"), &text).unwrap();
    assert!(text.contains("epochs = 7"), "{text}");
    assert_eq!(succeed(dir.path(), &["config", "show", "resolved.toml"]), text);
    let schema: Value = serde_json::from_str(&succeed(dir.path(), &["config", "schema"])).unwrap();
    assert!(schema["properties"]["phases"].is_object());
}

#[test]
fn completions_and_man_pages_know_the_commands() {
    let dir = tempfile::tempdir().unwrap();
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = succeed(dir.path(), &["completions", shell]);
        assert!(script.contains("patchmill") && script.contains("assume-tokens"), "{shell}");
    }
    succeed(dir.path(), &["man", "pages"]);
    let page = std::fs::read_to_string(dir.path().join("pages/patchmill-plan.1")).unwrap();
    assert!(page.contains("assume\\-tokens"), "{page}");
    assert!(dir.path().join("pages/patchmill.1").exists());
}

/// The reader of docs/shards.md is the tested one, and reads the same ids as `patchmill`. Without
/// NumPy, which not every machine has, only the first is checked.
#[test]
fn the_documented_reader_reads_shards_as_patchmill_does() {
    let script = "../benches/corpus/check_read_shards.py";
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(script);
    let mut command = std::process::Command::new("python3");
    command.arg(script).arg("--patchmill").arg(env!("CARGO_BIN_EXE_patchmill"));
    match command.output() {
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
            eprintln!("{said}");
        }
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => eprintln!("skipped: no python3"),
        Err(err) => panic!("python3: {err}"),
    }
}
