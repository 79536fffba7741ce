//! Whole runs of `patchmill-train pretrain` as a user starts them: killed, stopped, damaged,
//! changed, resumed.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::OnceLock;

use super::file::RUN_FILE;
use crate::support::process::{binary, repository};

mod cut_off;
mod models;
mod power;
mod ranks;

/// The optimizer's file in a checkpoint.
const OPTIMIZER: &str = "training_state/optimizer.safetensors";
/// Steps of the test run: 20 of K = 4, then 10 of K = 1.
const SWITCH_STEP: u64 = 20;
const STEP_COUNT: u64 = 30;

/// Corpora that all tests here share, made once by `patchmill tokenize`.
fn corpora() -> &'static Path {
    static CORPORA: OnceLock<tempfile::TempDir> = OnceLock::new();
    CORPORA
        .get_or_init(|| {
            let dir = tempfile::tempdir().unwrap();
            let valid = dir.path().join("valid.jsonl");
            let text =
                "The Bennets had five daughters, and a neighbour with four thousand a year. ";
            fs::write(&valid, format!("{{\"text\": {:?}}}\n", text.repeat(30))).unwrap();
            let train = repository().join("fixtures/text/train/train-01.jsonl.zst");
            for (input, name) in [(train, "train"), (valid, "valid")] {
                let status = Command::new(binary("patchmill"))
                    .arg("tokenize")
                    .arg("--tokenizer")
                    .arg(repository().join("fixtures/tokenizer"))
                    .arg("--out")
                    .arg(dir.path().join(name))
                    .arg(input)
                    .output()
                    .unwrap();
                assert!(status.status.success(), "{}", String::from_utf8_lossy(&status.stderr));
            }
            dir
        })
        .path()
}

/// A run of its own, in a folder of its own.
struct TestRun {
    dir: tempfile::TempDir,
}

impl TestRun {
    fn new() -> TestRun {
        TestRun::with(&[])
    }

    /// One whose run file also has these values.
    fn with(values: &[&str]) -> TestRun {
        let dir = tempfile::tempdir().unwrap();
        let corpora = corpora().display();
        let phase = |index: u64| {
            let schedule = "{ kind = \"cosine\", peak = 3e-3, warmup_steps = 2, final = 0.0 }";
            format!("phases.{index}.schedule={schedule}")
        };
        let corpora =
            [format!("data.corpus={corpora}/train"), format!("data.validation={corpora}/valid")];
        let smaller = [
            "data.subset_tokens=15_360",
            "plan.window_units=16",
            "phases.1.window_units=16",
            "plan.step_tokens=512",
            "plan.epochs=1",
            "model.hidden_size=32",
            "model.intermediate_size=64",
            "model.num_key_value_heads=2",
            "train.output=out",
            "train.checkpoint_every_steps=4",
            "train.eval_every_steps=5",
            "loader.ring_bytes=1_048_576",
        ];
        let values = smaller.iter().chain(values).map(|&value| value.to_owned());
        let values: Vec<String> =
            corpora.into_iter().chain([phase(0), phase(1)]).chain(values).collect();
        let file = schemas::run::parse(RUN_FILE, &values).unwrap();
        fs::write(dir.path().join("run.toml"), toml::to_string(&file).unwrap()).unwrap();
        TestRun { dir }
    }

    fn output(&self) -> PathBuf {
        self.dir.path().join("out")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(binary("patchmill-train"));
        command.arg("pretrain").arg(self.dir.path().join("run.toml")).args(args);
        command.env("OMP_NUM_THREADS", "1");
        command
    }

    fn run(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    fn run_to_the_end(&self) {
        let output = self.run(&[]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// Starts the run, sends `signal` once its log reports `step` as done, and waits for its end.
    fn signal_after(&self, step: u64, signal: i32) -> Option<i32> {
        self.signal_with(&[], step, signal)
    }

    /// The same, for a run with these arguments.
    fn signal_with(&self, args: &[&str], step: u64, signal: i32) -> Option<i32> {
        let mut child =
            self.command(args).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let wanted = format!("step {step}/{STEP_COUNT} phase");
        let met = lines.by_ref().map_while(Result::ok).find(|line| line.starts_with(&wanted));
        assert!(met.is_some(), "the run ended before step {step}");
        send(&child, signal);
        // So the child cannot block on a full pipe.
        lines.map_while(Result::ok).for_each(drop);
        child.wait().unwrap().code()
    }

    /// Loss, gradient norm and rate of each step, and the evaluations: all metrics except times and
    /// memory.
    fn curves(&self) -> Vec<String> {
        let text = fs::read_to_string(self.output().join("metrics.jsonl")).unwrap();
        let timeless = |line: &str| {
            let mut point: BTreeMap<String, serde_json::Value> =
                serde_json::from_str(line).unwrap();
            point.retain(|tag, _| {
                !["throughput/", "time/", "memory/"].iter().any(|kind| tag.starts_with(kind))
            });
            serde_json::to_string(&point).unwrap()
        };
        text.lines().map(timeless).collect()
    }

    fn final_bytes(&self, name: &str) -> Vec<u8> {
        fs::read(self.output().join(format!("checkpoint-{STEP_COUNT}")).join(name)).unwrap()
    }
}

fn send(child: &Child, signal: i32) {
    // It has not been waited for, so the id is still its own.
    send_to(i32::try_from(child.id()).unwrap(), signal);
}

#[expect(unsafe_code, reason = "the standard library can send no signal but SIGKILL")]
fn send_to(id: libc::pid_t, signal: i32) {
    // SAFETY: kill(2) touches no memory of ours.
    let sent = unsafe { libc::kill(id, signal) };
    assert_eq!(sent, 0);
}

/// The run never interrupted.
fn reference() -> &'static TestRun {
    static REFERENCE: OnceLock<TestRun> = OnceLock::new();
    REFERENCE.get_or_init(|| {
        let run = TestRun::new();
        run.run_to_the_end();
        run
    })
}

/// Losses, weights and optimizer state are bitwise those of the uninterrupted run.
fn assert_same_as_reference(run: &TestRun, what: &str) {
    let (curves, expected) = (run.curves(), reference().curves());
    if let Some((line, expected)) =
        curves.iter().zip(&expected).find(|(line, expected)| line != expected)
    {
        panic!("{what}: {line} in place of {expected}");
    }
    assert_eq!(curves.len(), expected.len(), "{what}");
    for name in ["model.safetensors", OPTIMIZER, "config.json"] {
        assert!(run.final_bytes(name) == reference().final_bytes(name), "{name} differs: {what}");
    }
}

#[test]
fn the_run_logs_every_step_of_both_phases() {
    let curves = reference().curves();
    let count = |tag: &str| curves.iter().filter(|line| line.contains(tag)).count() as u64;
    assert_eq!(count("\"train/loss\""), STEP_COUNT);
    assert_eq!(count("\"patch/size\":4.0"), SWITCH_STEP);
    // Before step 0, then every fifth.
    assert_eq!(count("\"eval/loss\""), 7);
}

#[test]
fn a_killed_run_goes_on_bitwise_as_if_it_had_not_been() {
    // Early in both phases, during a save (a multiple of 4), just before, at and after the switch,
    // at the last step.
    for step in [1, 4, 7, SWITCH_STEP - 1, SWITCH_STEP, SWITCH_STEP + 1, 27, STEP_COUNT] {
        let run = TestRun::new();
        assert_eq!(run.signal_after(step, libc::SIGKILL), None);
        run.run_to_the_end();
        assert_same_as_reference(&run, &format!("killed after step {step}"));
    }
}

/// Recomputed activations are the same: neither activation checkpointing nor a change of it in
/// mid-run affects the result.
#[test]
fn activation_checkpointing_changes_no_bit_and_may_change_within_a_run() {
    let run = TestRun::with(&["train.activation_checkpointing=attention"]);
    assert_eq!(run.signal_after(7, libc::SIGKILL), None);
    let output = run.run(&["--set", "train.activation_checkpointing=block"]);
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{log}");
    let notice = r#"train.activation_checkpointing: "attention" → "block""#;
    assert!(log.contains(notice), "{log}");
    assert_same_as_reference(&run, "checkpointing");
}

/// A run file whose second phase continues with the optimizer of the first, under a schedule of its
/// own.
fn carrying_run() -> TestRun {
    let schedule =
        "kind = \"wsd\", peak = 2e-3, warmup_steps = 0, decay_steps = 4, decay = \"1-sqrt\"";
    let schedule = format!("phases.1.schedule={{ {schedule}, final = 0.0 }}");
    TestRun::with(&[&schedule, "phases.1.carry=weights+optimizer"])
}

#[test]
fn a_run_that_carries_its_optimizer_over_resumes_bitwise_around_the_switch() {
    let expected = carrying_run();
    expected.run_to_the_end();
    let rates: Vec<f64> = (expected.curves().iter())
        .filter_map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["train/learning_rate"].as_f64()
        })
        .collect();
    assert_eq!(rates[20..27], [2e-3; 7], "the second phase has its own schedule, without warm-up");
    assert_eq!(rates[27], 2e-3 * 0.5, "a quarter of the decay is half of the way: 1 - √x");

    let state = |run: &TestRun, name: &str| {
        let bytes = run.final_bytes(OPTIMIZER);
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        tensors.tensor(name).unwrap().data().to_vec()
    };
    assert_eq!(state(&expected, "step"), (STEP_COUNT as f32).to_le_bytes());
    let fresh = (STEP_COUNT - SWITCH_STEP) as f32;
    assert_eq!(state(reference(), "step"), fresh.to_le_bytes());

    for step in [SWITCH_STEP - 1, SWITCH_STEP, SWITCH_STEP + 1] {
        let run = carrying_run();
        assert_eq!(run.signal_after(step, libc::SIGKILL), None);
        run.run_to_the_end();
        assert_eq!(run.curves(), expected.curves(), "killed after step {step}");
        for name in ["model.safetensors", OPTIMIZER] {
            assert!(
                run.final_bytes(name) == expected.final_bytes(name),
                "{name}: killed after step {step}"
            );
        }
    }
}

#[test]
fn maps_of_a_phase_are_trained_resumed_bitwise_and_dropped_at_the_switch() {
    let maps = ["phases.0.input_map=true", "phases.0.output_map=true"];
    let with_maps = || TestRun::with(&maps);
    let names = |run: &TestRun, step: u64, file: &str| {
        let bytes = fs::read(run.output().join(format!("checkpoint-{step}/{file}"))).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let mut names: Vec<String> =
            tensors.names().iter().map(|name| (*name).to_owned()).collect();
        names.sort();
        names
    };
    let (weights, optimizer) = ("model.safetensors", OPTIMIZER);
    let expected = with_maps();
    let keep = ["--set", "train.keep_every_steps=4"];
    assert!(expected.run(&keep).status.success());
    for step in [SWITCH_STEP - 4, STEP_COUNT] {
        assert_eq!(
            names(&expected, step.min(28), weights),
            names(reference(), STEP_COUNT, weights)
        );
    }
    let inside = names(&expected, SWITCH_STEP - 4, optimizer);
    for name in [
        "input_map.weight",
        "output_map.weight",
        "exp_avg.input_map.weight",
        "exp_avg_sq.output_map.weight",
    ] {
        assert!(inside.contains(&name.to_owned()), "{name} is not in {inside:?}");
    }
    assert_eq!(names(&expected, STEP_COUNT, optimizer), names(reference(), STEP_COUNT, optimizer));
    let first_loss = |run: &TestRun| run.curves()[1].clone();
    assert_ne!(first_loss(&expected), first_loss(reference()), "the maps take part");

    for step in [1, 7, SWITCH_STEP - 1, SWITCH_STEP, SWITCH_STEP + 1] {
        let run = with_maps();
        assert_eq!(run.signal_after(step, libc::SIGKILL), None);
        run.run_to_the_end();
        assert_eq!(run.curves(), expected.curves(), "killed after step {step}");
        for name in [weights, optimizer] {
            assert!(
                run.final_bytes(name) == expected.final_bytes(name),
                "{name}: killed after step {step}"
            );
        }
    }
    let run = TestRun::new();
    run.run_to_the_end();
    check_refusal(&run, &["--set", maps[0]], 4, &["phases.0.input_map: absent → true"]);
    check_refusal(
        &TestRun::new(),
        &["--set", "phases.1.output_map=true"],
        2,
        &["phases.1.output_map is true; expected no map"],
    );
}

#[test]
fn a_run_that_is_killed_again_and_again_still_arrives() {
    let run = TestRun::new();
    for step in [5, 9, 13, 18, 22, 26] {
        assert_eq!(run.signal_after(step, libc::SIGKILL), None);
    }
    run.run_to_the_end();
    assert_same_as_reference(&run, "killed six times");
}

#[test]
fn a_signal_finishes_the_step_saves_and_exits_75() {
    for signal in [libc::SIGTERM, libc::SIGINT, libc::SIGUSR1] {
        let run = TestRun::new();
        // An evaluation is due here.
        assert_eq!(run.signal_after(5, signal), Some(75));
        let latest = fs::read_link(run.output().join("latest")).unwrap();
        let step: u64 =
            latest.to_str().unwrap().strip_prefix("checkpoint-").unwrap().parse().unwrap();
        assert!((5..STEP_COUNT).contains(&step), "{latest:?}");
        run.run_to_the_end();
        assert_same_as_reference(&run, &format!("signal {signal}"));
    }
}

/// A stop works though the run hangs in a line nobody reads.
#[test]
fn a_second_signal_ends_a_run_whose_lines_nobody_reads() {
    let run = TestRun::new();
    let (unread, mut full) = std::io::pipe().unwrap();
    let mut command = run.command(&["--set", "plan.epochs=4000"]);
    command.stdout(Stdio::null()).stderr(full.try_clone().unwrap());
    let mut alone = command.spawn().unwrap();
    drop(command);
    let mut lines = BufReader::new(unread).lines().map_while(Result::ok);
    assert!(lines.any(|line| line.starts_with("step 5/")), "the run ended before");
    let fill = std::thread::spawn(move || full.write_all(&[b'.'; 1 << 20]));
    std::thread::sleep(std::time::Duration::from_millis(500));
    send(&alone, libc::SIGTERM);
    std::thread::sleep(std::time::Duration::from_millis(1300));
    assert!(alone.try_wait().unwrap().is_none(), "it hangs");
    send(&alone, libc::SIGTERM);
    assert_eq!(alone.wait().unwrap().code(), Some(143));
    drop(lines);
    assert!(fill.join().unwrap().is_err(), "the pipe was full");
}

#[test]
fn a_damaged_newest_checkpoint_is_named_and_the_one_before_used() {
    let run = TestRun::new();
    assert_eq!(run.signal_after(14, libc::SIGKILL), None);
    let path = run.output().join("checkpoint-12/model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&path, bytes).unwrap();
    let output = run.run(&[]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{stderr}");
    assert!(stderr.contains("a newer checkpoint is damaged and not used"), "{stderr}");
    assert!(stderr.contains("checkpoint-12/model.safetensors has BLAKE3"), "{stderr}");
    assert!(stderr.contains("checkpoint-8 at step 8"), "{stderr}");
    assert_same_as_reference(&run, "checkpoint-12 damaged");
}

#[test]
fn a_finished_run_reports_again_and_trains_no_more() {
    let run = TestRun::new();
    run.run_to_the_end();
    let before = run.curves();
    let output = run.run(&["--json"]);
    assert!(output.status.success());
    let stdout = String::from_utf8(output.stdout).unwrap();
    let report: serde_json::Value = serde_json::from_str(stdout.lines().last().unwrap()).unwrap();
    assert_eq!(report["phases"][0]["steps"], SWITCH_STEP);
    assert_eq!(report["phases"][1]["steps"], STEP_COUNT - SWITCH_STEP);
    assert!(report["validation"]["perplexity"].as_f64().unwrap() > 1.0);
    assert_eq!(run.curves(), before);
}

#[test]
fn a_folder_that_is_no_run_is_left_alone() {
    let run = TestRun::new();
    fs::create_dir(run.output()).unwrap();
    fs::write(run.output().join("metrics.jsonl"), "mine").unwrap();
    check_refusal(&run, &[], 2, &["holds other files (such as metrics.jsonl) and no run"]);
    check_refusal(&run, &["--set", "train.output=."], 2, &["holds other files"]);
    assert_eq!(fs::read(run.output().join("metrics.jsonl")).unwrap(), b"mine");
    assert_eq!(fs::read_dir(run.output()).unwrap().count(), 1);
}

#[test]
fn a_checkpoint_is_not_mixed_into_a_run_that_went_further() {
    let run = TestRun::new();
    run.run_to_the_end();
    let earlier = run.output().join("checkpoint-28");
    let expected = ["holds checkpoints up to step 30", "checkpoint-28", "--set train.output="];
    check_refusal(&run, &["--resume", earlier.to_str().unwrap()], 1, &expected);
    let elsewhere = TestRun::new();
    elsewhere.run_to_the_end();
    check_refusal(&elsewhere, &["--resume", earlier.to_str().unwrap()], 1, &expected);
    let fresh = TestRun::new();
    let output = fresh.run(&["--resume", earlier.to_str().unwrap()]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(fresh.final_bytes("model.safetensors") == reference().final_bytes("model.safetensors"));
    check_refusal(&fresh, &["--resume", "nowhere"], 1, &["nowhere is not a checkpoint folder"]);
}

#[test]
fn the_resolved_run_file_runs_from_where_it_lies() {
    let run = TestRun::new();
    run.run_to_the_end();
    let output = Command::new(binary("patchmill-train"))
        .arg("pretrain")
        .arg(run.output().join("run.toml"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_run_that_diverges_stops_before_the_update_and_can_go_on_by_skipping() {
    let run = TestRun::new();
    let blow_up = ["--set", "phases.1.schedule.peak=1e30"];
    check_refusal(
        &run,
        &blow_up,
        3,
        &[
            "diverged: loss",
            "no update was made",
            "checkpoint-20",
            "optimizer.nonfinite=skip",
            "document ",
        ],
    );
    let output =
        run.run(&[&blow_up[..], &["--set", "optimizer.nonfinite=skip", "--json"]].concat());
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{stderr}");
    assert!(stderr.contains("optimizer.nonfinite: \"stop\" → \"skip\""), "{stderr}");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(report["phases"][0]["skipped_steps"], 0);
    assert!(report["phases"][1]["skipped_steps"].as_u64().unwrap() > 0);
}

#[test]
fn a_run_that_skips_every_step_of_a_phase_fails() {
    let run = TestRun::new();
    let args =
        ["--set", "model.initializer_range=1e30", "--set", "optimizer.nonfinite=skip", "--json"];
    let expected = ["phases.0 made no update", "not finite", "another train.output"];
    check_refusal(&run, &args, 3, &expected);
    // The run is complete, and still no success.
    check_refusal(&run, &args, 3, &expected);
}

/// The only `diverged-step-N.json` in the run's folder.
fn divergence(run: &TestRun) -> serde_json::Value {
    let names = fs::read_dir(run.output()).unwrap().map(|entry| entry.unwrap().path());
    let found: Vec<PathBuf> =
        names.filter(|path| path.to_str().unwrap().contains("diverged-step-")).collect();
    assert_eq!(found.len(), 1, "{found:?}");
    serde_json::from_slice(&fs::read(&found[0]).unwrap()).unwrap()
}

#[test]
fn a_spike_stops_the_run_and_names_its_documents_or_is_skipped_bitwise_alike() {
    // A threshold so low makes noise a spike.
    let spike = |action: &str| {
        format!("optimizer.spike={{ window_steps = 4, sigma = 0.5, action = \"{action}\" }}")
    };
    let (stop, skip) = (spike("stop"), spike("skip"));
    let run = TestRun::new();
    let expected = [
        "diverged: loss",
        "optimizer.spike.action=skip",
        ".tok from token",
        "documents",
        "diverged-step-",
    ];
    check_refusal(&run, &["--set", &stop], 3, &expected);
    let record = divergence(&run);
    let step = record["step"].as_u64().unwrap();
    assert_eq!(record["reason"], "spike");
    // Looked at some steps later, it is the same step, and no later one counted.
    let late = TestRun::new();
    let rarely = ["train.log_every_steps=7", "train.checkpoint_every_steps=100"];
    check_refusal(&late, &["--set", &stop, "--set", rarely[0], "--set", rarely[1]], 3, &expected);
    assert_eq!(divergence(&late), record);
    let curves = run.curves();
    let steps = curves.iter().filter(|line| line.contains("train/loss")).count() as u64;
    assert_eq!(steps, step, "the step that stops is not logged as done, and no later one is");
    let plan = Command::new(binary("patchmill"))
        .args(["plan", "--json", "--step", &step.to_string()])
        .arg(run.dir.path().join("run.toml"))
        .output()
        .unwrap();
    let plan: serde_json::Value = serde_json::from_slice(&plan.stdout).unwrap();
    assert_eq!(
        record["read"]["windows"].as_array().unwrap().len(),
        if step < SWITCH_STEP { 8 } else { 32 }
    );
    assert!(
        plan.to_string().contains(&record["read"]["windows"].to_string()),
        "as `plan --step` says"
    );

    // Continues where the other stopped.
    let whole = run.run(&["--set", &skip, "--json"]);
    assert!(whole.status.success(), "{}", String::from_utf8_lossy(&whole.stderr));
    let report: serde_json::Value = serde_json::from_slice(&whole.stdout).unwrap();
    assert!(report["phases"][0]["skipped_steps"].as_u64().unwrap() > 0, "{report}");
    let from_scratch = TestRun::new();
    assert!(from_scratch.run(&["--set", &skip]).status.success());
    assert_eq!(
        run.curves(),
        from_scratch.curves(),
        "the window of losses went through the checkpoints"
    );
    for name in ["model.safetensors", OPTIMIZER] {
        assert!(run.final_bytes(name) == from_scratch.final_bytes(name), "{name}");
    }
}

#[test]
fn a_damaged_checkpoint_is_neither_evaluated_nor_started_from() {
    let run = TestRun::new();
    run.run_to_the_end();
    let model = run.output().join("checkpoint-30");
    let path = model.join("model.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    fs::write(&path, bytes).unwrap();
    let output = Command::new(binary("patchmill-train"))
        .args(["eval", "--data", "x", "--model"])
        .arg(&model)
        .output()
        .unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        !output.status.success() && stderr.contains("model.safetensors has BLAKE3"),
        "{stderr}"
    );
    let setting = format!("train.init_from={}", model.display());
    check_refusal(&TestRun::new(), &["--set", &setting], 1, &["train.init_from", "has BLAKE3"]);
}

/// A tokenizer with other ids would go into every checkpoint and turn its text into gibberish.
#[test]
fn a_corpus_whose_tokenizer_was_exchanged_is_refused() {
    let run = TestRun::new();
    let corpus = run.dir.path().join("corpus");
    fs::create_dir_all(corpus.join("tokenizer")).unwrap();
    for below in ["", "tokenizer"] {
        for entry in fs::read_dir(corpora().join("train").join(below)).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_file() {
                fs::copy(entry.path(), corpus.join(below).join(entry.file_name())).unwrap();
            }
        }
    }
    let path = corpus.join("tokenizer/tokenizer.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replacen("the", "teh", 1)).unwrap();
    let expected = ["tokenizer.json", "BLAKE3"];
    check_refusal(&run, &["--set", "data.corpus=corpus"], 4, &expected);
}

/// Checks that this run ends with `code` for these arguments, and that stderr holds each of
/// `expected`.
fn check_refusal(run: &TestRun, args: &[&str], code: i32, expected: &[&str]) {
    let output = run.run(args);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{args:?}: {stderr}");
    for part in expected {
        assert!(stderr.contains(part), "{args:?}: {part:?} is not in {stderr}");
    }
}

#[test]
fn a_checkpoint_of_another_run_is_refused_with_what_differs() {
    let run = TestRun::new();
    run.run_to_the_end();
    check_refusal(
        &run,
        &["--set", "plan.seed=2"],
        4,
        &["belongs to another run: its plan is", "plan.seed: 1 → 2"],
    );
    check_refusal(
        &run,
        &["--set", "optimizer.weight_decay=0.2"],
        4,
        &["optimizer.weight_decay: 0.1 → 0.2"],
    );
    check_refusal(
        &run,
        &["--set", "phases.0.schedule.peak=1e-3"],
        4,
        &["phases.0.schedule.peak: 0.003 → 0.001"],
    );
    check_refusal(
        &run,
        &["--set", "model.rope_theta=5e5"],
        4,
        &["model.rope_theta: 10000.0 → 500000.0"],
    );
    check_refusal(&run, &["--resume", "never"], 1, &["already holds checkpoints", "--resume auto"]);
    // Dtype, micro-batch, workers and paths may change.
    let output = run.run(&["--set", "train.micro_batch_windows=8", "--set", "loader.workers=1"]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{stderr}");
    assert!(stderr.contains("train.micro_batch_windows: 4 → 8"), "{stderr}");
}

#[test]
fn a_run_file_that_cannot_be_run_is_refused_before_any_work() {
    let run = TestRun::new();
    for (setting, code, expected) in [
        ("train.dtyp=fp32", 2, "did you mean `dtype`?"),
        ("plan.step_tokens=500", 2, "step_tokens"),
        ("phases.0.share=\"1/2\"", 2, "5/6"),
        ("data.subset_tokens=100000000", 2, "subset_tokens"),
        ("train.micro_batch_windows=3", 2, "micro_batch_windows"),
        ("phases.0.schedule.warmup_steps=20", 2, "warmup_steps"),
        (
            "phases.0.carry=weights+optimizer",
            2,
            "phases.0.carry is \"weights+optimizer\"; expected \"weights\"",
        ),
        ("model.num_attention_heads=5", 2, "num_attention_heads"),
        ("model.vocab_size=4095", 4, "model.vocab_size is 4095"),
        ("data.corpus=\"absent\"", 1, "absent/manifest.json: No such file"),
        ("train.device=cuda:7", 2, "cuda:7"),
        ("train", 2, "section.key=value"),
        ("plan.window_units=1", 2, "plan.window_units is 1; expected at least 2"),
        ("phases.1.window_units=1", 2, "phases.1.window_units is 1"),
        ("train.output=", 2, "train.output is \"\""),
    ] {
        check_refusal(&run, &["--set", setting], code, &[expected]);
    }
    assert!(!run.output().join("metrics.jsonl").exists());
}

/// The log shows where the time of a step goes, and the parts are no more than the whole.
#[test]
fn metrics_split_the_time_of_a_step() {
    let run = TestRun::new();
    run.run_to_the_end();
    let text = fs::read_to_string(run.output().join("metrics.jsonl")).unwrap();
    let points = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let points: Vec<_> = points.filter(|point| point.get("train/loss").is_some()).collect();
    assert_eq!(points.len() as u64, STEP_COUNT);
    for point in &points {
        let value = |tag: &str| point[tag].as_f64().unwrap_or_else(|| panic!("{tag} in {point}"));
        let parts = ["time/forward_ms", "time/backward_ms", "time/optimizer_ms"].map(value);
        assert!(parts.iter().all(|&part| part > 0.0), "{point}");
        assert!(parts.iter().sum::<f64>() <= value("time/step_ms"), "{point}");
        let units = value("throughput/units_per_sec") * value("patch/size");
        assert!((units / value("throughput/tokens_per_sec") - 1.0).abs() < 1e-9, "{point}");
        let ratio = value("throughput/mfu_causal_pct") / value("throughput/mfu_pct");
        assert!(0.5 < ratio && ratio < 1.0, "{point}");
        assert!(value("memory/peak_bytes") > 1e6 && value("train/param_norm") > 1.0, "{point}");
    }
}

#[test]
fn bench_measures_each_phase_and_leaves_nothing_behind() {
    let run = TestRun::new();
    let bench = |args: &[&str]| {
        let mut command = Command::new(binary("patchmill-train"));
        command.arg("bench").arg(run.dir.path().join("run.toml")).args(args);
        command.env("OMP_NUM_THREADS", "1").output().unwrap()
    };
    let output = bench(&["--json", "--steps", "4", "--set", "train.dtype=bf16"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["dtype"], &report["threads"]), (&"bf16".into(), &1.into()));
    let phases = report["phases"].as_array().unwrap();
    let of =
        |key: &str| phases.iter().map(|phase| phase[key].as_u64().unwrap()).collect::<Vec<_>>();
    assert_eq!((of("patch_size"), of("steps")), (vec![4, 1], vec![4, 4]));
    for phase in phases {
        let figures = phase["figures"].as_object().unwrap();
        for tag in ["throughput/tokens_per_sec", "time/step_ms", "time/forward_ms"] {
            let [min, median, max] =
                ["min", "median", "max"].map(|key| figures[tag][key].as_f64().unwrap());
            assert!(0.0 < min && min <= median && median <= max, "{tag}: {phase}");
        }
        assert!(phase["products_ms"]["median"].as_f64().unwrap() > 0.0);
        assert!(phase["peak_bytes"].as_u64() > phase["start_bytes"].as_u64());
    }
    let text = bench(&["--steps", "2", "--phase", "1"]);
    let text = String::from_utf8(text.stdout).unwrap();
    assert!(text.contains("phases.1: K = 1") && !text.contains("phases.0"), "{text}");
    let files: Vec<_> =
        fs::read_dir(run.dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(files, ["run.toml"]);
    for (args, code, message) in [
        (
            ["--phase", "2"],
            2,
            "phases.2 is not in the run file; there are 2 phases, counted from 0",
        ),
        (["--warm-up-steps", "10"], 2, "phases.1 has 10 steps; --warm-up-steps 10 leaves none"),
        (["--set", "model.vocab_size=7"], 4, "vocab"),
    ] {
        let output = bench(&args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{stderr}");
        assert!(stderr.contains(message), "{stderr}");
    }
}

#[test]
fn memory_is_planned_without_data_and_only_for_steps_that_can_be_made() {
    let run = TestRun::new();
    let plan = |args: &[&str]| {
        let mut command = Command::new(binary("patchmill-train"));
        command.arg("plan-memory").arg(run.dir.path().join("run.toml")).args(args);
        command.output().unwrap()
    };
    let output = plan(&["--json", "--set", "data.corpus=nowhere"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let phases = report["phases"].as_array().unwrap();
    assert_eq!(phases.len(), 2);
    for phase in phases {
        let bytes = |key: &str| phase[key].as_u64().unwrap();
        let parts = ["parameters", "gradients", "moments", "activations", "working"];
        let sum: u64 = parts.iter().map(|part| bytes(&format!("{part}_bytes"))).sum();
        assert_eq!(bytes("total_bytes"), sum);
        assert_eq!(bytes("moments_bytes"), 2 * bytes("parameters_bytes"));
    }
    // The run, whose model is small beside the probe for MFU, stays within the estimate.
    assert!(run.run(&[]).status.success());
    let metrics = fs::read_to_string(run.output().join("metrics.jsonl")).unwrap();
    let points = metrics.lines().map(|line| serde_json::from_str(line).unwrap());
    let peaks = points.filter_map(|point: serde_json::Value| point["memory/peak_bytes"].as_f64());
    let peak = peaks.fold(0.0, f64::max);
    let process = phases.iter().map(|phase| phase["process_bytes"].as_f64().unwrap());
    let process = process.fold(0.0, f64::max);
    assert!(0.0 < peak && peak < 1.1 * process, "{peak} of {process}");
    for wrong in [
        "plan.window_units=0",
        "phases.0.patch_size=0",
        "train.micro_batch_windows=3",
        "train.micro_batch_windows=9000000000000000",
        "plan.step_tokens=1000",
    ] {
        let output = plan(&["--set", wrong]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{wrong}: {stderr}");
        assert!(stderr.contains("phases.0: a step of"), "{wrong}: {stderr}");
    }
    let output = plan(&["--set", "phases.0.share=1/7"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("shares add up to"), "{stderr}");
}
