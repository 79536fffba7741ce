//! Runs cut off inside a save, and run folders that lost their link.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;

use super::{TestRun, assert_same_as_reference, reference, send};

/// Every file, folder and link below `folder`, with the target of each link.
fn tree(folder: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut open = vec![folder.to_owned()];
    while let Some(place) = open.pop() {
        for path in fs::read_dir(place).unwrap().map(|entry| entry.unwrap().path()) {
            let name = path.strip_prefix(folder).unwrap().display().to_string();
            // Each writer of an event file has its own.
            let is_event = name.contains("/events.");
            let target = fs::read_link(&path).map(|target| target.display().to_string());
            if path.is_dir() && target.is_err() {
                open.push(path);
            }
            if !is_event {
                found.insert(name, target.unwrap_or_default());
            }
        }
    }
    found
}

/// A run killed at any file operation of a save, and started again, leaves what an undisturbed one
/// leaves: `latest`, the checkpoints kept, and no leftover.
#[test]
fn a_run_killed_inside_a_save_leaves_the_same_tree_after_the_next_start() {
    let expected = tree(&reference().output());
    assert_eq!(expected["latest"], "checkpoint-30");
    let points =
        ["checkpoint-written", "checkpoint-published", "checkpoint-linked", "checkpoint-pruning"];
    for point in points {
        // The saves at steps 4, 8, 12 … 28 and 30; the first two remove nothing.
        let last = if point == "checkpoint-pruning" { 5 } else { 7 };
        for count in [0, 3, last] {
            let run = TestRun::new();
            let mut command = run.command(&[]);
            let output = command.env("PATCHMILL_ABORT_AT", format!("{point}#{count}")).output();
            assert!(output.unwrap().status.code().is_none(), "{point}#{count} was passed");
            run.run_to_the_end();
            assert_eq!(tree(&run.output()), expected, "{point}#{count}");
            assert_same_as_reference(&run, point);
        }
    }
}

/// A copy that followed links has a folder `latest`. It is left alone, and a file takes its part.
#[test]
fn a_latest_that_is_a_folder_is_left_alone_and_a_file_names_the_newest_checkpoint() {
    let run = TestRun::new();
    assert_eq!(run.signal_after(9, libc::SIGKILL), None);
    let latest = run.output().join("latest");
    fs::remove_file(&latest).unwrap();
    fs::create_dir(&latest).unwrap();
    fs::write(latest.join("config.json"), "mine").unwrap();
    let output = run.run(&[]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert_eq!(stderr.matches("latest is not a link").count(), 1, "{stderr}");
    assert_eq!(fs::read_to_string(latest.join("config.json")).unwrap(), "mine");
    let text = fs::read_to_string(run.output().join("latest.txt")).unwrap();
    assert_eq!(text, "checkpoint-30\n");
    assert_same_as_reference(&run, "a folder named latest");
    // Commands that are given `latest` read the file; `eval` with a wrong use of data shows it.
    let mut command =
        std::process::Command::new(crate::support::process::binary("patchmill-train"));
    command.arg("generate").arg("--model").arg(&latest);
    let output = command.args(["--prompt", "a", "--max-tokens", "1"]).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    // Once the folder is gone, the link returns.
    fs::remove_dir_all(&latest).unwrap();
    run.run_to_the_end();
    assert_eq!(fs::read_link(&latest).unwrap(), Path::new("checkpoint-30"));
    assert!(!run.output().join("latest.txt").exists());
}

/// A signal waits for the handlers, also while the program restarts itself. Nothing is lost yet.
#[test]
fn a_signal_in_the_first_moment_stops_a_run_as_one_at_any_other_time_does() {
    let run = TestRun::new();
    let output = run.command(&[]).env("PATCHMILL_TERM_AT", "starting").output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(75), "{stderr}");
    assert!(stderr.contains("stopped on request before the first step"), "{stderr}");
    let ranks = run.command(&["--ranks", "2"]).env("PATCHMILL_TERM_AT", "starting").output();
    assert_eq!(ranks.unwrap().status.code(), Some(75));
    run.run_to_the_end();
    assert_same_as_reference(&run, "asked to stop in the first moment");
}

/// A terminal that closes sends SIGHUP; under nohup it means nothing.
#[test]
fn a_hangup_stops_a_run_unless_it_was_started_to_ignore_it() {
    let run = TestRun::new();
    assert_eq!(run.signal_after(7, libc::SIGHUP), Some(75));
    run.run_to_the_end();
    assert_same_as_reference(&run, "hung up");
    let run = TestRun::new();
    let mut nohup = std::process::Command::new("nohup");
    let command = run.command(&[]);
    nohup.arg(command.get_program()).args(command.get_args()).env("OMP_NUM_THREADS", "1");
    nohup.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = nohup.spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    lines.find(|line| line.as_ref().unwrap().starts_with("step 7/")).unwrap().unwrap();
    send(&child, libc::SIGHUP);
    lines.for_each(drop);
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert_same_as_reference(&run, "ignored a hangup");
}

/// Points that a checkpoint claims are missed aloud; the weights do not depend on them.
#[test]
fn a_log_that_is_shorter_than_its_checkpoint_is_named() {
    for damage in ["remove", "cut"] {
        let run = TestRun::new();
        assert_eq!(run.signal_after(9, libc::SIGKILL), None);
        let path = run.output().join("metrics.jsonl");
        let text = fs::read_to_string(&path).unwrap();
        match damage {
            "remove" => fs::remove_file(&path).unwrap(),
            _ => fs::write(&path, &text[..text.len() / 2]).unwrap(),
        }
        let output = run.run(&[]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{stderr}");
        assert!(stderr.contains("notice: metrics.jsonl "), "{damage}: {stderr}");
        assert!(stderr.contains("the checkpoint at step 8 was saved"), "{damage}: {stderr}");
        for name in ["model.safetensors", super::OPTIMIZER] {
            assert!(run.final_bytes(name) == reference().final_bytes(name), "{name}");
        }
    }
    let run = TestRun::new();
    assert_eq!(run.signal_after(9, libc::SIGKILL), None);
    let stderr = String::from_utf8(run.run(&[]).stderr).unwrap();
    assert!(!stderr.contains("metrics.jsonl"), "{stderr}");
}

/// A run is known by what it holds: a copy without dotfiles resumes, and files of others next to it
/// are named and left alone.
#[test]
fn a_copy_without_dotfiles_and_with_other_files_resumes() {
    let run = TestRun::new();
    assert_eq!(run.signal_after(9, libc::SIGKILL), None);
    fs::remove_file(run.output().join(".lock")).unwrap();
    fs::create_dir(run.output().join("lost+found")).unwrap();
    for name in ["train.log", "notes~", "thesis.tex"] {
        fs::write(run.output().join(name), "mine").unwrap();
    }
    let output = run.run(&[]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert!(stderr.contains("not the run's: notes~, thesis.tex, train.log;"), "{stderr}");
    assert_eq!(fs::read(run.output().join("thesis.tex")).unwrap(), b"mine");
    assert_same_as_reference(&run, "a copy");
}

/// Other programs name their checkpoints alike.
#[test]
fn checkpoints_of_another_program_are_no_run() {
    let run = TestRun::new();
    let theirs = run.output().join("checkpoint-500");
    fs::create_dir_all(&theirs).unwrap();
    fs::write(theirs.join("trainer_state.json"), "{}").unwrap();
    super::check_refusal(&run, &[], 2, &["holds other files (such as checkpoint-500) and no run"]);
}

/// The output of the command itself may lie in the new folder.
#[test]
fn a_new_run_starts_next_to_its_own_log() {
    let run = TestRun::new();
    fs::create_dir_all(run.output().join("lost+found")).unwrap();
    fs::write(run.output().join("train.log"), "").unwrap();
    run.run_to_the_end();
    assert_same_as_reference(&run, "next to a log");
}

/// Whatever is written into a removed folder is lost: the run says so.
#[test]
fn a_run_whose_folder_is_removed_fails() {
    let run = TestRun::new();
    let mut command = run.command(&[]);
    command.stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    lines.find(|line| line.as_ref().unwrap().starts_with("step 5/")).unwrap().unwrap();
    fs::rename(run.output(), run.dir.path().join("moved")).unwrap();
    let last = lines.last().unwrap().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert!(last.contains("was removed or replaced while the run was writing"), "{last}");
    assert!(!run.output().exists());
}
