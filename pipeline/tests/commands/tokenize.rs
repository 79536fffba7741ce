//! `patchmill tokenize` and `merge` under threads, tasks, kills, full disks and signals: the corpus
//! is the same, byte for byte.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::support::{assert_fails, fixtures, patchmill, stderr, tokenizer};
use crate::trees::{assert_same_tree, tree};

/// Small shards, so every input has several.
fn tokenize(out: &Path, inputs: &Path, options: &[&str]) -> Command {
    let mut command = patchmill();
    command.arg("tokenize").arg("--tokenizer").arg(tokenizer());
    command.args(["--shard-bytes", "20000", "--on-error", "skip"]).args(options);
    command.arg("--out").arg(out).arg(inputs);
    command
}

fn merge(out: &Path) -> Command {
    let mut command = patchmill();
    command.arg("merge").arg(out);
    command
}

#[track_caller]
fn succeed(mut command: Command) -> Output {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", stderr(&output));
    output
}

#[track_caller]
fn fail(mut command: Command, status: i32, expected: &[&str]) {
    let output = command.output().unwrap();
    expected.iter().for_each(|part| assert_fails(&output, status, part));
}

/// About 0.4 MB of the fixtures' texts in three inputs, with invalid documents among the lines, and
/// a document encoded in parts.
fn inputs(dir: &Path) -> PathBuf {
    let inputs = dir.join("in");
    fs::create_dir(&inputs).unwrap();
    let zst = fs::read(fixtures().join("text/valid/valid.jsonl.zst")).unwrap();
    let text = String::from_utf8(zstd::decode_all(zst.as_slice()).unwrap()).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    let (first, second) = lines.split_at(lines.len() / 3);
    let with_refused: String =
        second.iter().map(|line| format!("{line}\nno document\n\n")).collect();
    fs::write(inputs.join("a.jsonl"), with_refused).unwrap();
    let first = zstd::encode_all(first.join("\n").as_bytes(), 3).unwrap();
    fs::write(inputs.join("b.jsonl.zst"), first).unwrap();
    let long = serde_json::json!({"text": "some words of its own, ".repeat(50_000)});
    let end = "no document at the end";
    fs::write(inputs.join("c.jsonl"), format!("{}\n{long}\n{end}\n", lines[0])).unwrap();
    inputs
}

/// The corpus of an undisturbed run, by one thread.
fn reference(dir: &Path, inputs: &Path, options: &[&str]) -> PathBuf {
    let out = dir.join(format!("reference{}", options.concat()));
    succeed(tokenize(&out, inputs, &[&["--threads", "1"], options].concat()));
    out
}

#[test]
fn any_number_of_threads_and_tasks_gives_the_same_bytes() {
    let dir = tempfile::tempdir().unwrap();
    let inputs = inputs(dir.path());
    for options in [&[][..], &["--by-set"]] {
        let one = reference(dir.path(), &inputs, options);
        let mut verify = patchmill();
        verify.arg("verify").arg(&one);
        succeed(verify);
        for threads in ["1", "2", "5"] {
            let out = dir.path().join("out");
            succeed(tokenize(&out, &inputs, &[&["--threads", threads], options].concat()));
            assert_same_tree(&one, &out);
            fs::remove_dir_all(&out).unwrap();
            for tasks in [1, 2, 6] {
                for task in (0..tasks).rev() {
                    let task = format!("{task}/{tasks}");
                    let task = ["--threads", threads, "--task", &task];
                    succeed(tokenize(&out, &inputs, &[&task, options].concat()));
                    assert!(!out.join("manifest.json").exists(), "a task writes no manifest");
                }
                succeed(merge(&out));
                assert_same_tree(&one, &out);
                succeed(merge(&out));
                assert_same_tree(&one, &out);
                fs::remove_dir_all(&out).unwrap();
            }
        }
    }
}

#[test]
fn tasks_write_at_the_same_time() {
    let dir = tempfile::tempdir().unwrap();
    let inputs = inputs(dir.path());
    let one = reference(dir.path(), &inputs, &[]);
    let out = dir.path().join("out");
    let tasks = ["0/3", "1/3", "2/3"];
    let running: Vec<_> =
        tasks.map(|task| tokenize(&out, &inputs, &["--task", task]).spawn().unwrap()).into();
    for mut task in running {
        assert!(task.wait().unwrap().success());
    }
    succeed(merge(&out));
    assert_same_tree(&one, &out);
}

/// Killed at each step of publishing, for the first time or a later one, and run again: the same
/// tree.
#[test]
fn a_killed_run_goes_on_behind_the_last_closed_shard() {
    let dir = tempfile::tempdir().unwrap();
    let inputs = inputs(dir.path());
    let places = ["part-begin", "part-shard", "part-rows", "part-record", "series-tail"];
    let places = places.into_iter().chain(["series-joined", "series-record", "manifest"]);
    for options in [&[][..], &["--by-set"]] {
        let one = reference(dir.path(), &inputs, options);
        for place in places.clone() {
            for (time, threads) in [(0, "1"), (2, "2")] {
                let out = dir.path().join("out");
                let options = [&["--threads", threads], options].concat();
                let mut killed = tokenize(&out, &inputs, &options);
                killed.env("PATCHMILL_ABORT_AT", format!("{place}#{time}"));
                let killed = killed.output().unwrap();
                let reached = !(place == "manifest" && time > 0);
                assert_eq!(killed.status.success(), !reached, "{place}: {}", stderr(&killed));
                if reached {
                    assert!(!out.join("manifest.json").exists());
                    succeed(tokenize(&out, &inputs, &options));
                }
                assert_same_tree(&one, &out);
                fs::remove_dir_all(&out).unwrap();
            }
        }
    }
}

/// Killed while it removes the files only unfinished corpora have: only the rest of the removal is
/// left to do.
#[test]
fn a_run_killed_behind_its_manifest_makes_nothing_again() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let inputs = inputs(dir.path());
    let one = reference(dir.path(), &inputs, &[]);
    for place in ["finish", "finish#1", "finish#2"] {
        let out = dir.path().join("out");
        let mut killed = tokenize(&out, &inputs, &[]);
        killed.env("PATCHMILL_ABORT_AT", place);
        assert!(!killed.status().unwrap().success());
        let inodes = || {
            ["00000-00000.tok", "00001-00000.tok", "manifest.json"]
                .map(|name| fs::metadata(out.join(name)).unwrap().ino())
        };
        let before = inodes();
        assert!(out.join("build.json").exists() && !out.join("00000.series.json").exists());
        succeed(tokenize(&out, &inputs, &[]));
        assert_eq!(inodes(), before);
        assert_same_tree(&one, &out);
        fs::remove_dir_all(&out).unwrap();
    }
}

/// Closed shards are not written again: their files stay the same ones.
#[test]
fn closed_shards_are_not_made_again() {
    use std::os::unix::fs::MetadataExt;
    let dir = tempfile::tempdir().unwrap();
    let inputs = inputs(dir.path());
    let out = dir.path().join("out");
    let mut killed = tokenize(&out, &inputs, &["--threads", "1"]);
    killed.env("PATCHMILL_ABORT_AT", "part-record#2");
    assert!(!killed.status().unwrap().success());
    let shards = ["00000-00000.tok", "00000-00001.tok", "00000-00002.tok"];
    let inodes = || shards.map(|name| fs::metadata(out.join(name)).unwrap().ino());
    let before = inodes();
    assert!(!out.join("00000-00003.tok").exists(), "it was killed behind the third one");
    succeed(tokenize(&out, &inputs, &["--threads", "1"]));
    assert_eq!(inodes(), before);
    assert_same_tree(&reference(dir.path(), &inputs, &[]), &out);
}

/// A part whose files differ from their record is made again, and so are all parts after it.
#[test]
fn a_damaged_part_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let inputs = inputs(dir.path());
    let one = reference(dir.path(), &inputs, &[]);
    for name in ["00000-00001.tok", "00000-00001.rows.parquet", "00000-00001.part.json"] {
        let out = dir.path().join("out");
        let mut killed = tokenize(&out, &inputs, &["--threads", "1"]);
        killed.env("PATCHMILL_ABORT_AT", "part-record#2");
        assert!(!killed.status().unwrap().success());
        let mut bytes = fs::read(out.join(name)).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::write(out.join(name), bytes).unwrap();
        let output = succeed(tokenize(&out, &inputs, &["--threads", "1"]));
        assert!(stderr(&output).contains("00000-00001.part.json"), "{}", stderr(&output));
        assert_same_tree(&one, &out);
        fs::remove_dir_all(&out).unwrap();
    }
}

#[test]
fn a_killed_merge_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let inputs = inputs(dir.path());
    let one = reference(dir.path(), &inputs, &[]);
    for place in ["manifest", "merge-manifest", "finish", "finish#2"] {
        let out = dir.path().join("out");
        succeed(tokenize(&out, &inputs, &["--task", "0/1"]));
        let mut killed = merge(&out);
        killed.env("PATCHMILL_ABORT_AT", place);
        assert!(!killed.status().unwrap().success());
        succeed(merge(&out));
        assert_same_tree(&one, &out);
        fs::remove_dir_all(&out).unwrap();
    }
}

#[test]
fn merge_names_all_that_is_missing_or_does_not_fit() {
    let dir = tempfile::tempdir().unwrap();
    let inputs = inputs(dir.path());
    let out = dir.path().join("out");
    fail(merge(&out), 2, &["is not a folder"]);
    fs::create_dir(&out).unwrap();
    fail(merge(&out), 2, &["holds no corpus that tasks have begun"]);
    // The longest input, which is dealt first.
    succeed(tokenize(&out, &inputs, &["--task", "0/4"]));
    let missing = ["series 0 (a.jsonl) is missing", "series 1 (b.jsonl.zst) is missing"];
    fail(merge(&out), 4, &missing);
    fail(merge(&out), 4, &["run the tasks that have them to their end"]);

    let other = ["--task", "1/4", "--shard-bytes", "50000"];
    let mut command = patchmill();
    command.arg("tokenize").arg("--tokenizer").arg(tokenizer()).args(other);
    command.args(["--on-error", "skip", "--out"]).arg(&out).arg(&inputs);
    fail(command, 2, &["begun with other options (shard_bytes was 20000, now 50000)"]);
    fs::copy(inputs.join("c.jsonl"), inputs.join("more.jsonl")).unwrap();
    let changed = ["the inputs are not those that", "more.jsonl is"];
    fail(tokenize(&out, &inputs, &["--task", "1/4"]), 2, &changed);
    fs::remove_file(inputs.join("more.jsonl")).unwrap();

    for task in ["1/4", "2/4", "3/4"] {
        succeed(tokenize(&out, &inputs, &["--task", task]));
    }
    let record = out.join("00002.series.json");
    let before = fs::read(&record).unwrap();
    let foreign = dir.path().join("foreign");
    let mut command = tokenize(&foreign, &inputs, &["--task", "0/1"]);
    command.arg("--eos");
    succeed(command);
    fs::copy(foreign.join("00002.series.json"), &record).unwrap();
    fail(merge(&out), 4, &["00002.series.json was made with other options"]);
    fs::write(&record, before).unwrap();
    let shard = out.join("00001-00000.tok");
    let mut bytes = fs::read(&shard).unwrap();
    bytes[5000] ^= 1;
    fs::write(&shard, &bytes).unwrap();
    fail(merge(&out), 4, &["00001.series.json fits no longer: 00001-00000.tok is", "BLAKE3"]);
    bytes[5000] ^= 1;
    fs::write(&shard, &bytes).unwrap();
    succeed(merge(&out));
    assert_same_tree(&reference(dir.path(), &inputs, &[]), &out);
}

#[test]
fn writers_that_would_meet_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let inputs = inputs(dir.path());
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    let lock = |name: &str| {
        fs::write(out.join(name), "task 0 of 2, process 77\n").unwrap();
        fs::File::open(out.join(name)).unwrap()
    };
    let task = lock(".task-0-of-2.lock");
    task.lock().unwrap();
    let folder = lock(".lock");
    folder.lock_shared().unwrap();
    let held = "is being written by another process";
    fail(tokenize(&out, &inputs, &["--task", "0/2"]), 1, &[held, "task 0 of 2, process 77"]);
    fail(tokenize(&out, &inputs, &["--task", "1/3"]), 1, &["another number of tasks", held]);
    fail(tokenize(&out, &inputs, &[]), 1, &[held, "task 0 of 2, process 77"]);
    fail(merge(&out), 1, &[held, "task 0 of 2, process 77"]);
    succeed(tokenize(&out, &inputs, &["--task", "1/2"]));
    // Closing would not be enough: a child just started by another test may hold both files as
    // well.
    task.unlock().unwrap();
    folder.unlock().unwrap();
    succeed(tokenize(&out, &inputs, &["--task", "0/2"]));
    succeed(merge(&out));
    assert_same_tree(&reference(dir.path(), &inputs, &[]), &out);
}

#[test]
fn a_run_that_is_asked_to_stop_says_how_to_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let inputs = inputs(dir.path());
    let out = dir.path().join("out");
    let mut stopped = tokenize(&out, &inputs, &["--threads", "1"]);
    stopped.env("PATCHMILL_TERM_AT", "part-record#1");
    fail(stopped, 75, &["stopped on request", "run the same command again"]);
    let names: Vec<String> = tree(&out).into_keys().collect();
    assert!(names.iter().any(|name| name == "00000-00001.part.json"), "{names:?}");
    assert!(names.iter().all(|name| !name.ends_with(".tmp") && name != ".lock"), "{names:?}");
    succeed(tokenize(&out, &inputs, &[]));
    assert_same_tree(&reference(dir.path(), &inputs, &[]), &out);
}

/// The old corpus stays until the new one is complete, whatever happens to the new one.
#[test]
fn a_forced_run_that_fails_or_is_killed_leaves_the_old_corpus() {
    let dir = tempfile::tempdir().unwrap();
    let inputs = inputs(dir.path());
    let (out, old) = (dir.path().join("out"), dir.path().join("old"));
    for out in [&out, &old] {
        let mut first = patchmill();
        first.arg("tokenize").arg("--tokenizer").arg(tokenizer());
        first.arg("--out").arg(out).arg(fixtures().join("text/valid"));
        succeed(first);
    }
    let mut strict = patchmill();
    strict.arg("tokenize").arg("--tokenizer").arg(tokenizer());
    strict.arg("--force").arg("--out").arg(&out).arg(&inputs);
    fail(strict, 1, &["a.jsonl", "--on-error skip"]);
    let without_next = |out: &Path| {
        let mut files = tree(out);
        files.retain(|name, _| !name.starts_with(".next/") && name != ".lock");
        files
    };
    assert!(without_next(&out) == tree(&old), "the old corpus stays");
    let mut killed = tokenize(&out, &inputs, &["--force"]);
    killed.env("PATCHMILL_ABORT_AT", "manifest");
    assert!(!killed.status().unwrap().success());
    assert!(without_next(&out) == tree(&old), "the old corpus stays");
    let mut verify = patchmill();
    verify.arg("verify").arg(&out);
    succeed(verify);
    succeed(tokenize(&out, &inputs, &["--force"]));
    assert_same_tree(&reference(dir.path(), &inputs, &[]), &out);
}

/// Foreign files stay, even under names a corpus uses for a while.
#[test]
fn files_of_others_are_never_removed() {
    let dir = tempfile::tempdir().unwrap();
    let inputs = inputs(dir.path());
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    fs::write(out.join(".notes.tmp"), "mine").unwrap();
    fail(tokenize(&out, &inputs, &[]), 2, &[".notes.tmp", "not part of a corpus"]);
    succeed(tokenize(&out, &inputs, &["--force"]));
    fs::create_dir_all(out.join(".next/sub")).unwrap();
    fs::write(out.join(".next/thesis.tex"), "mine").unwrap();
    fs::write(out.join(".next/sub/x"), "mine").unwrap();
    succeed(tokenize(&out, &inputs, &["--force", "--eos"]));
    let files = tree(&out);
    for name in [".notes.tmp", ".next/thesis.tex", ".next/sub/x"] {
        assert_eq!(files[name], b"mine");
    }
}

/// A corpus with a hold-out and few files, for one test of each file.
fn small(out: &Path, input: &Path, options: &[&str]) -> Command {
    let mut command = patchmill();
    command.arg("tokenize").arg("--tokenizer").arg(tokenizer());
    command.args(["--holdout-rate", "0.3", "--on-error", "skip"]).args(options);
    command.arg("--out").arg(out).arg(input);
    command
}

fn small_input(dir: &Path) -> PathBuf {
    let input = dir.join("small.jsonl");
    let line = |at: u32| format!("{{\"text\": \"document {at} of a small input\"}}\n");
    fs::write(&input, (0..40).map(line).collect::<String>() + "no document\n").unwrap();
    input
}

/// Cut off at any file while the new corpus replaces the old one: the same command ends with the
/// new one and nothing else, and whoever comes before it reads what to do.
#[test]
fn a_replacement_that_was_cut_off_is_made_to_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let input = small_input(dir.path());
    let (one, out) = (dir.path().join("one"), dir.path().join("out"));
    succeed(small(&one, &input, &["--eos"]));
    let mut passed = 0;
    let moves = (0..).map(|time| format!("replace#{time}"));
    let last = ["replace-manifest", "replaced"].map(str::to_owned);
    for point in last.into_iter().chain(moves) {
        succeed(small(&out, &input, &[]));
        let mut killed = small(&out, &input, &["--force", "--eos"]);
        killed.env("PATCHMILL_ABORT_AT", &point);
        if killed.status().unwrap().success() {
            break;
        }
        passed += 1;
        if point != "replaced" {
            let hint = ["was interrupted", "--force, finishes it"];
            fail(small(&out, &input, &["--eos"]), 2, &hint);
            let mut verify = patchmill();
            verify.arg("verify").arg(&out);
            fail(verify, 4, &hint);
        }
        succeed(small(&out, &input, &["--force", "--eos"]));
        assert_same_tree(&one, &out);
        fs::remove_dir_all(&out).unwrap();
    }
    // Shard and index of both parts, the list of skipped documents, the hold-out's manifest, and
    // the tokenizer's files twice.
    assert!(passed >= 10, "{passed}");
}

/// What a resumed run builds on is compared with a recorded hash: the tokenizer's copies, and after
/// a finish that was cut off also the shards.
#[test]
fn damage_to_an_unfinished_corpus_is_mended_by_the_run_that_finishes_it() {
    let dir = tempfile::tempdir().unwrap();
    let input = small_input(dir.path());
    let (one, out) = (dir.path().join("one"), dir.path().join("out"));
    succeed(small(&one, &input, &[]));
    let copies: Vec<String> =
        tree(&one).into_keys().filter(|n| n.starts_with("tokenizer/")).collect();
    assert!(copies.len() > 1, "{copies:?}");
    let shard = "00000-00000.tok".to_owned();
    let cases = copies.iter().map(|name| ("series-record", name));
    let cases = cases.chain(copies.iter().chain([&shard]).map(|name| ("finish", name)));
    for (point, name) in cases {
        for damage in ["empty", "change", "remove"] {
            let mut killed = small(&out, &input, &[]);
            killed.env("PATCHMILL_ABORT_AT", point);
            assert!(!killed.status().unwrap().success(), "{point}");
            let path = out.join(name);
            let mut bytes = fs::read(&path).unwrap();
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            match damage {
                "empty" => fs::write(&path, "").unwrap(),
                "change" => fs::write(&path, bytes).unwrap(),
                _ => fs::remove_file(&path).unwrap(),
            }
            let resumed = succeed(small(&out, &input, &[]));
            assert!(stderr(&resumed).contains(name), "{}", stderr(&resumed));
            assert_same_tree(&one, &out);
            fs::remove_dir_all(&out).unwrap();
        }
    }
}

/// Merging has no source of the tokenizer; the next task has.
#[test]
fn a_damaged_tokenizer_of_tasks_is_refused_by_merge_and_restored_by_a_task() {
    let dir = tempfile::tempdir().unwrap();
    let input = small_input(dir.path());
    let (one, out) = (dir.path().join("one"), dir.path().join("out"));
    succeed(small(&one, &input, &[]));
    let task = || small(&out, &input, &["--task", "0/1"]);
    succeed(task());
    let config = out.join("tokenizer/tokenizer_config.json");
    fs::write(&config, "{}").unwrap();
    fail(merge(&out), 4, &["tokenizer_config.json is 2 bytes", "run any task again"]);
    succeed(task());
    succeed(merge(&out));
    assert_same_tree(&one, &out);
}

/// Files beside tokenizer.json belong to the corpus: a run does not continue with others.
#[test]
fn a_tokenizer_that_changed_since_the_corpus_was_begun_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let input = small_input(dir.path());
    let (own, out) = (dir.path().join("tokenizer"), dir.path().join("out"));
    fs::create_dir(&own).unwrap();
    for entry in fs::read_dir(tokenizer()).unwrap().map(|entry| entry.unwrap()) {
        fs::copy(entry.path(), own.join(entry.file_name())).unwrap();
    }
    let run = || {
        let mut command = patchmill();
        command.arg("tokenize").arg("--tokenizer").arg(&own).arg("--out").arg(&out);
        command.args(["--on-error", "skip", "--bos", "--no-eos"]).arg(&input);
        command
    };
    let mut killed = run();
    killed.env("PATCHMILL_ABORT_AT", "series-record");
    assert!(!killed.status().unwrap().success());
    let config = own.join("tokenizer_config.json");
    let before = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("{before} ")).unwrap();
    fail(run(), 2, &["tokenizer/tokenizer_config.json of the source has changed", "--force"]);
    fs::write(&config, before).unwrap();
    succeed(run());
}

/// Without its tokenizer a corpus is of no use: each command that plans for it refuses.
#[test]
fn a_corpus_without_a_readable_tokenizer_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let input = small_input(dir.path());
    let (out, run) = (dir.path().join("out"), dir.path().join("run"));
    succeed(small(&out, &input, &[]));
    let mut init = patchmill();
    init.arg("init").arg(&run).arg("--corpus").arg(&out);
    succeed(init);
    let copy = out.join("tokenizer/tokenizer.json");
    let bytes = fs::read(&copy).unwrap();
    for damage in ["remove", "change"] {
        match damage {
            "remove" => fs::remove_file(&copy).unwrap(),
            _ => fs::write(&copy, [&bytes[..], b" "].concat()).unwrap(),
        }
        for arguments in [["verify", "out"], ["plan", "run/run.toml"]] {
            let mut command = patchmill();
            command.current_dir(dir.path()).args(arguments);
            fail(command, 4, &["tokenizer.json"]);
        }
    }
}

/// Cut off between any two of its files, and repeated, it leaves what an undisturbed run leaves.
/// Nobody's own files are replaced.
#[test]
fn a_tokenizer_whose_training_was_cut_off_is_trained_again() {
    let dir = tempfile::tempdir().unwrap();
    let input = small_input(dir.path());
    let train = |out: &Path| {
        let mut command = patchmill();
        command.arg("train-tokenizer").args(["--vocab-size", "512", "--out"]).arg(out).arg(&input);
        command
    };
    let (one, out) = (dir.path().join("one"), dir.path().join("out"));
    let clean: PathBuf = dir.path().join("clean.jsonl");
    let text = fs::read_to_string(&input).unwrap().replace("no document\n", "");
    fs::write(&clean, text).unwrap();
    fs::rename(&clean, &input).unwrap();
    succeed(train(&one));
    for file in 0..3 {
        let mut killed = train(&out);
        killed.env("PATCHMILL_ABORT_AT", format!("train-tokenizer#{file}"));
        assert!(!killed.status().unwrap().success());
        if file < 2 {
            succeed(train(&out));
        }
        fail(train(&out), 2, &["tokenizer.json exists"]);
        let (mut found, expected) = (tree(&out), tree(&one));
        found.retain(|name, _| !name.ends_with(".lock"));
        assert!(found == expected, "{file}");
        fs::remove_dir_all(&out).unwrap();
    }
    fs::create_dir(&out).unwrap();
    fs::write(out.join("tokenizer_config.json"), "mine").unwrap();
    fail(train(&out), 2, &["tokenizer_config.json exists"]);
    assert_eq!(fs::read(out.join("tokenizer_config.json")).unwrap(), b"mine");
}

/// The next run would read its own output as an input.
#[test]
fn an_output_inside_a_folder_of_inputs_is_refused_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let inputs = inputs(dir.path());
    let before = tree(&inputs);
    let message = "lies inside the folder of inputs";
    for out in ["c", "deep/er/c", "../in/c"] {
        fail(tokenize(&inputs.join(out), &inputs, &[]), 2, &[message]);
    }
    fail(tokenize(&inputs, &inputs, &[]), 2, &["lies inside"]);
    let mut train = patchmill();
    train.args(["train-tokenizer", "--vocab-size", "512", "--out"]).arg(inputs.join("t"));
    train.arg(&inputs);
    fail(train, 2, &[message]);
    assert!(tree(&inputs) == before);
    // Beside it is fine, and so is a file of the folder.
    succeed(tokenize(&inputs.join("d"), &inputs.join("a.jsonl"), &[]));
}

/// Files elsewhere are neither written nor removed through a link.
#[test]
fn links_in_an_output_folder_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let input = small_input(dir.path());
    let (out, other) = (dir.path().join("out"), dir.path().join("other"));
    succeed(small(&other, &input, &[]));
    let before = tree(&other);
    for name in ["holdout", "tokenizer", ".next", ".lock", "holdout/tokenizer"] {
        fs::create_dir(&out).unwrap();
        let link = out.join(name);
        fs::create_dir_all(link.parent().unwrap()).unwrap();
        let target = if name == ".lock" { "other/manifest.json" } else { "other" };
        std::os::unix::fs::symlink(dir.path().join(target), link).unwrap();
        let output = small(&out, &input, &["--force"]).output().unwrap();
        assert!(!output.status.success(), "{name}");
        assert!(stderr(&output).contains(name.rsplit('/').next().unwrap()), "{}", stderr(&output));
        assert!(tree(&other) == before, "{name}");
        fs::remove_dir_all(&out).unwrap();
    }
}

#[test]
fn a_pipe_is_refused_before_anything_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let pipe = dir.path().join("pipe.jsonl");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let out = dir.path().join("out");
    fail(tokenize(&out, &pipe, &[]), 2, &["is a pipe or a device", "write it into a file"]);
    assert!(!out.exists());
}

/// A file system that is unmounted in the end.
struct Mount(PathBuf);

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_is_named_and_the_run_goes_on_when_there_is_room() {
    let dir = tempfile::tempdir().unwrap();
    // Digits: as many tokens as bytes, so the corpus is larger than estimated beforehand.
    let inputs = dir.path().join("in");
    fs::create_dir(&inputs).unwrap();
    let line = |seed: u64| {
        let digits: String =
            (1..400u64).map(|at| (seed * 7919 + at * at * 31).to_string()).collect();
        format!("{}\n", serde_json::json!({ "text": digits }))
    };
    for name in ["0.jsonl", "1.jsonl"] {
        fs::write(inputs.join(name), (0..250).map(line).collect::<String>()).unwrap();
    }
    let bytes: u64 = 2 * fs::metadata(inputs.join("0.jsonl")).unwrap().len();
    let mount = dir.path().join("mount");
    fs::create_dir(&mount).unwrap();
    let size = |bytes: u64| format!("size={bytes}");
    let mut tmpfs = Command::new("mount");
    tmpfs.args(["-t", "tmpfs", "-o", &size(bytes), "tmpfs"]).arg(&mount);
    if !tmpfs.output().is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: no tmpfs can be mounted here");
        return;
    }
    let mount = Mount(mount);
    let out = mount.0.join("out");
    let full = ["is full", "bytes are free", "needs about", "run the same command again"];
    fail(tokenize(&out, &inputs, &["--threads", "2"]), 1, &full);
    assert!(!out.join("manifest.json").exists());
    assert!(tree(&out).keys().all(|name| !name.ends_with(".tmp")), "{:?}", tree(&out).keys());
    assert!(out.join("00000-00000.tok").exists(), "what was closed stays");
    let mut grow = Command::new("mount");
    grow.args(["-o", &format!("remount,{}", size(4 * bytes))]).arg(&mount.0);
    assert!(grow.status().unwrap().success());
    succeed(tokenize(&out, &inputs, &["--threads", "2"]));
    assert_same_tree(&reference(dir.path(), &inputs, &[]), &out);
}
