//! Commands that read the model of a run.

use std::fs;
use std::process::Command;

use super::{OPTIMIZER, TestRun, assert_same_as_reference};
use crate::support::process::binary;

/// Stdout of a command that succeeds.
fn stdout(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Servers without an index, such as vLLM, load every `*.safetensors` at the top of the folder.
#[test]
fn weights_at_the_top_of_a_checkpoint_are_those_of_the_model_once_each() {
    let run = TestRun::with(&["phases.0.input_map=true", "phases.0.output_map=true"]);
    assert!(run.run(&["--set", "train.keep_every_steps=4"]).status.success());
    let mut checkpoints = 0;
    for checkpoint in fs::read_dir(run.output()).unwrap().map(|entry| entry.unwrap().path()) {
        let name = checkpoint.file_name().unwrap().to_str().unwrap();
        if !name.starts_with("checkpoint-") {
            continue;
        }
        checkpoints += 1;
        let files = fs::read_dir(&checkpoint).unwrap().map(|entry| entry.unwrap().path());
        let mut names = Vec::new();
        for file in files {
            let end = file.extension().and_then(|end| end.to_str()).unwrap_or_default();
            assert!(!["bin", "pt", "pth", "gguf"].contains(&end), "{}", file.display());
            if end == "safetensors" {
                let bytes = fs::read(file).unwrap();
                let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
                names.extend(tensors.names().iter().map(|name| (*name).to_owned()));
            }
        }
        let config = fs::read(checkpoint.join("config.json")).unwrap();
        let config: serde_json::Value = serde_json::from_slice(&config).unwrap();
        let layers = config["num_hidden_layers"].as_u64().unwrap();
        assert_eq!(names.len() as u64, 3 + 9 * layers, "{names:?}");
        for name in &names {
            assert!(name.starts_with("model.") || name == "lm_head.weight", "{name}");
            assert_eq!(names.iter().filter(|other| *other == name).count(), 1, "{name}");
        }
    }
    assert!(checkpoints > 2);
}

/// Checkpoints of earlier builds had the optimizer's file next to the weights.
#[test]
fn a_checkpoint_with_the_optimizer_at_its_old_place_resumes_bitwise() {
    let run = TestRun::new();
    assert_eq!(run.signal_after(9, libc::SIGKILL), None);
    let checkpoint = run.output().join("checkpoint-8");
    let old = "optim-00000-of-00001.safetensors";
    fs::rename(checkpoint.join(OPTIMIZER), checkpoint.join(old)).unwrap();
    fs::remove_dir(checkpoint.join("training_state")).unwrap();
    let path = checkpoint.join("MANIFEST.json");
    fs::write(&path, fs::read_to_string(&path).unwrap().replace(OPTIMIZER, old)).unwrap();
    run.run_to_the_end();
    assert_same_as_reference(&run, "old place");
}

/// `eval` names each perplexity by its unit: they follow from one sum, and a patch loss has none.
#[test]
fn eval_prints_perplexities_by_token_word_and_byte_and_none_of_patches() {
    let run = TestRun::new();
    run.run_to_the_end();
    let text = "It is a truth universally acknowledged,\nthat  a single man. ".repeat(20);
    let (words, bytes) = (text.split_whitespace().count() as f64, text.len() as f64);
    let path = run.dir.path().join("text.jsonl");
    fs::write(&path, format!("{}\n", serde_json::json!({ "text": text }))).unwrap();
    let eval = |args: &[&str]| {
        let mut command = Command::new(binary("patchmill-train"));
        command.arg("eval").arg("--model").arg(run.output().join("latest"));
        stdout(command.arg("--data").arg(&path).args(args))
    };
    let report: serde_json::Value = serde_json::from_str(&eval(&["--json"])).unwrap();
    let number = |key: &str| report[key].as_f64().unwrap();
    let sum = number("loss") * (number("tokens") + number("dropped_tokens"));
    for (key, expected) in [
        ("perplexity", number("loss").exp()),
        ("word_perplexity", (sum / words).exp()),
        ("byte_perplexity", (sum / bytes).exp()),
        ("bits_per_byte", sum / bytes / std::f64::consts::LN_2),
    ] {
        assert!((number(key) / expected - 1.0).abs() < 1e-9, "{key}: {report}, {expected}");
    }
    let shown = eval(&[]);
    for part in ["nats a token, perplexity", "per token, word perplexity", "byte perplexity"] {
        assert!(shown.contains(part), "{shown}");
    }
    let patches = ["--patch-size", "4", "--window-units", "4"];
    let report: serde_json::Value =
        serde_json::from_str(&eval(&[&patches[..], &["--json"]].concat())).unwrap();
    for key in ["perplexity", "word_perplexity", "byte_perplexity", "bits_per_byte"] {
        assert!(report[key].is_null(), "{key}: {report}");
    }
    let shown = eval(&patches);
    assert!(shown.starts_with("patch loss ") && shown.contains("has no perplexity"), "{shown}");
}

/// A prompt is text, whatever it begins with.
#[test]
fn a_prompt_may_begin_with_a_hyphen() {
    let run = TestRun::new();
    run.run_to_the_end();
    let mut command = Command::new(binary("patchmill-train"));
    command.arg("generate").arg("--model").arg(run.output().join("latest"));
    let text = stdout(command.args(["--prompt", "- a", "--max-tokens", "2", "--greedy"]));
    assert!(text.starts_with("- a"), "{text}");
}
