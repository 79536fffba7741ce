//! Commands that read the model of a run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use super::{OPTIMIZER, TestRun, assert_same_as_reference};
use crate::support::process::{binary, repository};

/// Stdout of a command that succeeds.
fn stdout(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// BOS and EOS of the corpus travel into the checkpoint: a text file has the loss of the corpus
/// that the same policy makes of it, and generation ends at the same tokens elsewhere.
#[test]
fn the_policy_of_the_corpus_rules_the_texts_of_its_model() {
    let texts: String = (0..60)
        .map(|at| format!("{}\n", serde_json::json!({ "text": format!("{at} men of fortune") })))
        .collect();
    for [bos, eos] in [["--bos", "--eos"], ["--bos", "--no-eos"], ["--no-bos", "--eos"]] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("text.jsonl");
        fs::write(&path, &texts).unwrap();
        let train = repository().join("fixtures/text/train/train-01.jsonl.zst");
        for (name, input) in [("train", &train), ("valid", &path)] {
            let mut command = Command::new(binary("patchmill"));
            command.arg("tokenize").arg("--tokenizer").arg(repository().join("fixtures/tokenizer"));
            command.args([bos, eos]).arg("--out").arg(dir.path().join(name)).arg(input);
            stdout(&mut command);
        }
        let place = dir.path().display();
        let corpora =
            [format!("data.corpus={place}/train"), format!("data.validation={place}/valid")];
        let run = TestRun::with(&[&corpora[0], &corpora[1]]);
        run.run_to_the_end();
        let loss = |data: &Path| {
            let mut command = Command::new(binary("patchmill-train"));
            command.arg("eval").arg("--model").arg(run.output().join("latest"));
            let report = stdout(command.arg("--json").arg("--data").arg(data));
            let report: serde_json::Value = serde_json::from_str(&report).unwrap();
            (report["loss"].to_string(), report["tokens"].to_string())
        };
        assert_eq!(loss(&path), loss(&dir.path().join("valid")), "{bos} {eos}");
        let json = |name: &str| -> serde_json::Value {
            serde_json::from_slice(&run.final_bytes(name)).unwrap()
        };
        let config = json("tokenizer_config.json");
        assert_eq!(config["tokenizer_class"], "PreTrainedTokenizerFast");
        assert_eq!(config["add_bos_token"], bos == "--bos");
        assert_eq!(config["add_eos_token"], eos == "--eos");
        let ends: &[u64] = match [bos, eos] {
            ["--bos", "--eos"] => &[2, 1],
            ["--bos", _] => &[1],
            _ => &[2],
        };
        let found = &json("generation_config.json")["eos_token_id"];
        let found: Vec<u64> = match found.as_array() {
            Some(ids) => ids.iter().map(|id| id.as_u64().unwrap()).collect(),
            None => vec![found.as_u64().unwrap()],
        };
        assert_eq!(found, ends, "{bos} {eos}");
    }
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

/// The model's own files of a run's last checkpoint, in a folder without its manifest.
fn model_of(run: &TestRun) -> PathBuf {
    let folder = run.dir.path().join("model");
    fs::create_dir(&folder).unwrap();
    for name in ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"] {
        fs::write(folder.join(name), run.final_bytes(name)).unwrap();
    }
    folder
}

fn pretrain_from(model: &Path, args: &[&str]) -> Output {
    let run = TestRun::new();
    let from = format!("train.init_from={}", model.display());
    run.run(&[&["--set", &from, "--json"], args].concat())
}

/// Weights in several files, as in one; pickles, other tokenizers and numbers that are not finite
/// are refused by name.
#[test]
fn weights_to_start_from_are_checked() {
    let run = TestRun::new();
    run.run_to_the_end();
    let model = model_of(&run);
    let fail = |code: i32, args: &[&str], expected: &[&str]| {
        let output = pretrain_from(&model, args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{stderr}");
        expected.iter().for_each(|part| assert!(stderr.contains(part), "{part}: {stderr}"));
    };
    let losses = |output: Output| {
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        report["phases"][0]["first_eval_loss"].as_f64().unwrap()
    };
    let expected = losses(pretrain_from(&model, &[]));
    let weights = model.join("model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    let whole = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut map = serde_json::Map::new();
    for (part, name) in ["a.safetensors", "b.safetensors"].into_iter().enumerate() {
        let tensors = whole.tensors().into_iter().enumerate();
        let tensors = tensors.filter(|(at, _)| at % 2 == part).map(|(_, tensor)| tensor);
        let tensors: Vec<_> = tensors.collect();
        map.extend(tensors.iter().map(|(tensor, _)| (tensor.clone(), name.into())));
        safetensors::serialize_to_file(tensors, None, &model.join(name)).unwrap();
    }
    fs::remove_file(&weights).unwrap();
    let index = serde_json::json!({ "weight_map": map });
    let index_path = model.join("model.safetensors.index.json");
    fs::write(&index_path, index.to_string()).unwrap();
    assert_eq!(losses(pretrain_from(&model, &[])), expected, "in two files");
    fs::remove_file(index_path).unwrap();
    fs::write(model.join("pytorch_model.bin"), "").unwrap();
    fail(1, &[], &["pytorch_model.bin", "pickle", "save_pretrained"]);
    let mut damaged = bytes.clone();
    let end = damaged.len();
    damaged[end - 4..].copy_from_slice(&f32::NAN.to_le_bytes());
    fs::write(&weights, damaged).unwrap();
    fail(1, &[], &["model.safetensors: ", "] is NaN"]);
    let mut command = Command::new(binary("patchmill-train"));
    command.arg("generate").arg("--model").arg(&model).args(["--prompt", "a"]);
    let output = command.output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("] is NaN"), "generate as well");
    fs::write(&weights, &bytes).unwrap();
    let tokenizer = model.join("tokenizer.json");
    let text = fs::read_to_string(&tokenizer).unwrap();
    fs::write(&tokenizer, text + " ").unwrap();
    fail(4, &[], &["tokenizer.json has BLAKE3", "train.init_tokenizer"]);
    let ignoring = pretrain_from(&model, &["--set", "train.init_tokenizer=ignore"]);
    assert_eq!(losses(ignoring), expected);
}

/// No file of a model's folder is waited for, or read without bounds.
#[test]
fn pipes_devices_and_huge_files_of_a_model_are_refused() {
    let run = TestRun::new();
    run.run_to_the_end();
    let model = model_of(&run);
    for name in ["config.json", "model.safetensors"] {
        let path = model.join(name);
        let before = fs::read(&path).unwrap();
        for kind in ["pipe", "device", "huge"] {
            fs::remove_file(&path).unwrap();
            match kind {
                "pipe" => {
                    assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
                }
                "device" => std::os::unix::fs::symlink("/dev/zero", &path).unwrap(),
                _ => fs::File::create(&path).unwrap().set_len(1 << 40).unwrap(),
            }
            let mut command = Command::new(binary("patchmill-train"));
            command.arg("generate").arg("--model").arg(&model);
            let mut child = command
                .args(["--prompt", "a", "--max-tokens", "1"])
                .stderr(Stdio::piped())
                .spawn()
                .unwrap();
            let started = Instant::now();
            while child.try_wait().unwrap().is_none() {
                if started.elapsed().as_secs() > 30 {
                    child.kill().unwrap();
                    child.wait().unwrap();
                    panic!("{name} as {kind} is waited for");
                }
                std::thread::sleep(std::time::Duration::from_millis(10));
            }
            let output = child.wait_with_output().unwrap();
            let stderr = String::from_utf8_lossy(&output.stderr);
            assert!(!output.status.success() && stderr.contains(name), "{name}, {kind}: {stderr}");
        }
        fs::remove_file(&path).unwrap();
        fs::write(&path, before).unwrap();
    }
}

/// A tensor's name, a path of a manifest or a key may hold anything; a terminal obeys none of it.
#[test]
fn names_from_files_give_a_terminal_no_command() {
    let run = TestRun::new();
    run.run_to_the_end();
    let model = model_of(&run);
    let evil = "\u{1b}]0;x\u{7}";
    let weights = model.join("model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    let whole = safetensors::SafeTensors::deserialize(&bytes).unwrap();
    let mut tensors = whole.tensors();
    let first = tensors[0].1.clone();
    tensors.push((evil.to_owned(), first));
    let data = safetensors::serialize(tensors, None).unwrap();
    fs::write(&weights, data).unwrap();
    let mut command = Command::new(binary("patchmill-train"));
    command.arg("generate").arg("--model").arg(&model).args(["--prompt", "a"]);
    let stderr = String::from_utf8(command.output().unwrap().stderr).unwrap();
    assert!(stderr.contains("is unexpected"), "{stderr}");
    assert!(!stderr.contains(['\u{1b}', '\u{7}']), "{stderr:?}");
    let set = format!("train.{evil}=1");
    let stderr = String::from_utf8(run.run(&["--set", &set]).stderr).unwrap();
    assert!(stderr.contains("unknown field"), "{stderr}");
    assert!(!stderr.contains(['\u{1b}', '\u{7}']), "{stderr:?}");
}

/// A clone without `git lfs pull` has pointers for weights and tokenizers.
#[test]
fn pointers_of_git_lfs_are_named() {
    let run = TestRun::new();
    run.run_to_the_end();
    let model = model_of(&run);
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n";
    for name in ["model.safetensors", "tokenizer.json"] {
        let path = model.join(name);
        let before = fs::read(&path).unwrap();
        fs::write(&path, pointer).unwrap();
        let mut command = Command::new(binary("patchmill-train"));
        command.arg("generate").arg("--model").arg(&model).args(["--prompt", "a"]);
        let output = command.output().unwrap();
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{stderr}");
        assert!(stderr.contains(name) && stderr.contains("git lfs pull"), "{stderr}");
        fs::write(&path, before).unwrap();
    }
}
