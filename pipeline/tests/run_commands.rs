//! The commands that read run files, as their users run them.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use std::path::Path;

use assert_cmd::Command;
use serde_json::Value;

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

/// Makes `corpus` and `valid` of the texts of the fixtures.
fn make_corpora(dir: &Path) {
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures");
    let tokenizer = fixtures.join("tokenizer/tokenizer.json");
    for (out, input) in [("corpus", "text/train/train-00.jsonl.zst"), ("valid", "text/valid")] {
        let (tokenizer, input) = (tokenizer.to_str().unwrap().to_owned(), fixtures.join(input));
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
    // The document that a window begins with is found at that window.
    let document = plan["steps"][0]["windows"][0]["first_document"].to_string();
    let found = json(dir, &["plan", "run/run.toml", "--json", "--find", &document]);
    let readings = found["documents"][0]["readings"].as_array().unwrap();
    assert!(readings.iter().any(|reading| reading["step"] == 0 && reading["slot"] == 0), "{found}");

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
    fail(dir, &["plan", "run/run.toml", "--step", "100000"], 1, "numbered from 0");
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
    let set = ["--set", "train.micro_batch_windows=1", "--world-size", "2", "--rank"];
    let halves = ["0", "1"].map(|rank| digest(&stream(&[&set[..], &[rank]].concat())));
    assert_eq!(halves[0].wrapping_add(halves[1]), digest(&whole));
    let parts = [&["--steps", "5"], &["--from-step", "5"]].map(|part| digest(&stream(part)));
    assert_eq!(parts[0].wrapping_add(parts[1]), digest(&whole));

    stream(&["--steps", "2", "--sink", "file", "ids.bin"]);
    let ids = std::fs::read(dir.join("ids.bin")).unwrap();
    assert_eq!(ids.len() as u64, 4 * 2 * plan["step_tokens"].as_u64().unwrap());
    fail(dir, &["stream", "run/run.toml", "--sink", "tape"], 2, "--sink tape; expected none");
    fail(dir, &["stream", "run/run.toml", "--steps", "100000"], 2, "are wanted; the plan has");
    fail(
        dir,
        &["stream", "run/run.toml", "--from-step", "100000"],
        2,
        "--from-step is 100000; the plan has",
    );
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
