//! `patchmill-train` on the command line: help, exit codes, and the split between stdout and
//! stderr.
#![expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
use std::path::Path;

use assert_cmd::Command;

fn command(args: &[&str]) -> assert_cmd::assert::Assert {
    Command::cargo_bin("patchmill-train").unwrap().args(args).assert()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[test]
fn help_names_every_command() {
    let help = text(&command(&["--help"]).success().get_output().stdout);
    for name in ["pretrain", "eval", "generate", "doctor", "completions", "man"] {
        assert!(help.contains(name), "{name} is not in {help}");
    }
}

#[test]
fn wrong_use_exits_2() {
    for args in [
        &["pretrain"][..],
        &["pretrian"],
        &["eval", "--model", "x"],
        &["eval", "--model", "x", "--data", "y", "--device", "gpu"],
        &["eval", "--model", "x", "--data", "y", "--patch-size", "0"],
        &["generate", "--model", "x", "--prompt", "y", "--greedy", "--seed", "1"],
    ] {
        command(args).code(2).stdout("");
    }
}

#[test]
fn a_missing_run_file_or_model_is_named() {
    for args in [
        &["pretrain", "absent.toml"][..],
        &["eval", "--model", "absent", "--data", "y"],
        &["generate", "--model", "absent", "--prompt", "y"],
        &["generate", "--model", "absent", "--prompt", "- y"],
    ] {
        let output = command(args).failure().stdout("").get_output().clone();
        let stderr = text(&output.stderr);
        assert!(stderr.starts_with("error: ") && stderr.contains("absent"), "{stderr}");
        assert!(stderr.contains("No such file"), "{stderr}");
        assert_eq!(stderr.matches("No such file").count(), 1, "a cause is printed once: {stderr}");
    }
}

#[test]
fn doctor_reports_libtorch_and_kinds() {
    let report = text(&command(&["doctor"]).success().get_output().stdout);
    for part in [
        "libtorch           2.13.0",
        "fp32 works on Cpu",
        "bf16 works on Cpu",
        "torch threads",
        "/dev/shm",
    ] {
        assert!(report.contains(part), "{part} is not in {report}");
    }
}

#[test]
fn completions_and_man_pages_are_generated() {
    let script = text(&command(&["completions", "bash"]).success().get_output().stdout);
    assert!(script.contains("patchmill-train"));
    let folder = tempfile::tempdir().unwrap();
    command(&["man", folder.path().to_str().unwrap()]).success();
    for page in ["patchmill-train.1", "patchmill-train-pretrain.1"] {
        assert!(Path::new(folder.path()).join(page).exists(), "{page}");
    }
}
