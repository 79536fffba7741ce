//! `patchmill` on awkward input: its messages are true, help, and do nothing to a terminal.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::{self, assert_fails, stderr, stdout, tokenizer};

/// Runs a command in a folder.
fn patchmill(dir: &Path, arguments: &[&str]) -> Output {
    support::patchmill().current_dir(dir).args(arguments).output().unwrap()
}

fn tokenize(dir: &Path, arguments: &[&str]) -> Output {
    let tokenizer = tokenizer().display().to_string();
    patchmill(dir, &[&["tokenize", "--tokenizer", &tokenizer], arguments].concat())
}

/// Fails with all of `expected` in its message; returns the message.
#[track_caller]
fn fail(output: &Output, code: i32, expected: &[&str]) -> String {
    expected.iter().for_each(|part| assert_fails(output, code, part));
    stderr(output)
}

/// A line of the Pile.
fn line(text: &str, set_name: &str) -> String {
    json!({"text": text, "meta": {"pile_set_name": set_name}}).to_string() + "\n"
}

#[test]
fn as_many_sets_as_by_set_says_it_takes_are_taken() {
    let dir = tempfile::tempdir().unwrap();
    let sets = |count: usize| (0..count).map(|n| line("a", &format!("S{n}"))).collect::<String>();
    fs::write(dir.path().join("999.jsonl"), sets(999)).unwrap();
    fs::write(dir.path().join("1000.jsonl"), sets(1000)).unwrap();
    stdout(&tokenize(dir.path(), &["--by-set", "--out", "a", "999.jsonl"]));
    let refused = tokenize(dir.path(), &["--by-set", "--out", "b", "1000.jsonl"]);
    fail(&refused, 1, &["1000.jsonl has more than 999 sets", "--drop-set"]);
}

#[test]
fn a_corpus_that_would_be_empty_says_where_its_documents_went() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("in.jsonl"), line("one text", "S").repeat(3) + "{}\n").unwrap();
    let run = |out: &str, options: &[&str]| {
        tokenize(dir.path(), &[&["--on-error", "skip", "--out", out, "in.jsonl"], options].concat())
    };
    let said = "no document to write (4 read, 1 skipped";
    // Nearly every text is held out.
    let held_out = run("a", &["--holdout-rate", "0.999999999999999999"]);
    fail(&held_out, 2, &[&format!("{said}, 3 held out)")]);
    fail(&run("b", &["--min-bytes", "100"]), 2, &[&format!("{said}, 3 not selected)")]);
}

#[test]
fn what_stands_in_data_gives_a_terminal_no_command() {
    let dir = tempfile::tempdir().unwrap();
    let name = "S\u{1b}[2J\n\u{202e}";
    let shown = r"S\u{1b}[2J\n\u{202e}";
    let input = "\u{1b}]0;x\u{7}.jsonl";
    let documents = line("a text of some words that are long enough for a window or two", name);
    fs::write(dir.path().join(input), documents.repeat(50)).unwrap();
    let run = |arguments: &[&str]| {
        let output = patchmill(dir.path(), arguments);
        let printed = stdout(&output) + &stderr(&output);
        let command = printed.chars().find(|&c| c.is_control() && c != '\n' || c == '\u{202e}');
        assert_eq!(command, None, "{arguments:?}: {printed:?}");
        printed
    };
    stdout(&tokenize(dir.path(), &["--by-set", "--out", "corpus", input]));
    run(&["init", "run", "--corpus", "corpus"]);
    let tokenizer = tokenizer().display().to_string();
    let again = ["tokenize", "--tokenizer", &tokenizer, "--force", "--out", "corpus", input];
    let keep = ["--by-set", "--keep-set", name, "--keep-set", "none\u{1b}"];
    let sets = "data.sets={ \"S\\u001b[2J\\n\\u202e\" = { epochs = 1 } }";
    for arguments in [
        &[&again[..], &keep].concat()[..],
        &["inspect", "corpus"],
        &["inspect", "corpus", "--doc", "0"],
        &["duplicates", "corpus", "--out", "list"],
        &["plan", "run/run.toml", "--set", sets, "--step", "0", "--find", "0", "--verify"],
    ] {
        assert!(run(arguments).contains(shown), "{arguments:?}");
    }
    let dry_run = [&again[..], &["--dry-run"]].concat();
    assert!(run(&dry_run).contains(r"\u{1b}]0;x\u{7}.jsonl"));
    // Machines get it unescaped.
    let made = patchmill(dir.path(), &["inspect", "--json", "corpus"]);
    let made: serde_json::Value = serde_json::from_str(&stdout(&made)).unwrap();
    assert_eq!(made["sets"][0]["set_name"], name);

    fs::write(dir.path().join(input), "{\"text\": \u{1b}}\n").unwrap();
    let refused = tokenize(dir.path(), &["--out", "refused", input]);
    let said = fail(&refused, 1, &[r"\u{1b}]0;x\u{7}.jsonl: line 1"]);
    assert!(said.chars().all(|c| !c.is_control() || c == '\n'), "{said:?}");
}

#[test]
fn a_run_file_for_a_tiny_corpus_plans_or_says_what_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    for (name, documents) in [("few", 23), ("enough", 24)] {
        // A document without text is one token.
        let input = format!("{name}.jsonl");
        fs::write(dir.path().join(&input), line("", "S").repeat(documents)).unwrap();
        stdout(&tokenize(dir.path(), &["--out", name, &input]));
    }
    let refused = patchmill(dir.path(), &["init", "run", "--corpus", "few"]);
    let said = "few has 23 tokens; a run of two phases needs at least 24";
    fail(&refused, 2, &[said]);
    assert!(!dir.path().join("run").exists());
    let made = patchmill(dir.path(), &["init", "run", "--corpus", "enough"]);
    assert!(stdout(&made).contains("3 steps"), "{}", stdout(&made));
    stdout(&patchmill(dir.path(), &["plan", "run/run.toml", "--verify"]));
}

/// The result of a command that ends within half a minute; waiting for a pipe would take longer.
fn ends(dir: &Path, arguments: &[&str]) -> Output {
    let mut command = support::patchmill();
    command.current_dir(dir).args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(30);
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            panic!("{arguments:?} waits");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    child.wait_with_output().unwrap()
}

#[test]
fn a_pipe_in_place_of_a_file_is_named_and_not_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("in.jsonl"), line("a", "S").repeat(30)).unwrap();
    stdout(&tokenize(dir.path(), &["--out", "corpus", "in.jsonl"]));
    let inspected = ["inspect", "corpus", "--doc", "0"];
    let verified = ["verify", "corpus"];
    let listed = ["duplicates", "corpus", "--out", "list"];
    for (name, commands) in [
        (
            "00000-00000.tok",
            &[&inspected[..], &verified, &["inspect", "corpus/00000-00000.tok"]][..],
        ),
        ("00000.index.parquet", &[&inspected, &verified, &listed]),
        ("tokenizer/tokenizer.json", &[&inspected, &verified]),
    ] {
        let path = dir.path().join("corpus").join(name);
        let bytes = fs::read(&path).unwrap();
        fs::remove_file(&path).unwrap();
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        for arguments in commands {
            let output = ends(dir.path(), arguments);
            let said = String::from_utf8_lossy(&output.stdout).into_owned() + &stderr(&output);
            assert!(!output.status.success() && said.contains(name), "{arguments:?}: {said}");
            let reason = ["a pipe or a device; expected a file", "is not a file"];
            assert!(reason.iter().any(|reason| said.contains(reason)), "{arguments:?}: {said}");
        }
        fs::remove_file(&path).unwrap();
        fs::write(&path, bytes).unwrap();
    }
    stdout(&ends(dir.path(), &verified));
    for arguments in [
        &["inspect", "--tokenizer", "/dev/zero"][..],
        &["tokenize", "--tokenizer", "/dev/zero", "--out", "x", "in.jsonl"],
    ] {
        fail(&ends(dir.path(), arguments), 1, &["/dev/zero", "expected a file"]);
    }
}

#[test]
fn sizes_that_no_machine_has_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("in.jsonl"), line("a", "S")).unwrap();
    for option in [["--threads", "65535"], ["--cache-bytes", "18446744073709551615"]] {
        let refused = tokenize(dir.path(), &[&["--out", "x", "in.jsonl"][..], &option].concat());
        fail(&refused, 2, &[option[0], option[1]]);
    }
    let huge = ["train-tokenizer", "--vocab-size", "4294967295", "--out", "x", "in.jsonl"];
    fail(&patchmill(dir.path(), &huge), 2, &["--vocab-size", "4194304"]);
}

#[test]
fn a_run_of_another_version_is_not_gone_on_with_and_missing_series_are_told_in_a_line() {
    let dir = tempfile::tempdir().unwrap();
    let inputs = dir.path().join("in");
    fs::create_dir(&inputs).unwrap();
    for number in 0..50 {
        fs::write(inputs.join(format!("{number}.jsonl")), line("a", "S")).unwrap();
    }
    stdout(&tokenize(dir.path(), &["--task", "0/50", "--out", "out", "in"]));
    let merge = || patchmill(dir.path(), &["merge", "out"]);
    let missing = "run the tasks that have them to their end; series 1 (1.jsonl) is missing";
    fail(&merge(), 4, &[missing, "and 30 more"]);
    let path = dir.path().join("out/build.json");
    let record = fs::read_to_string(&path).unwrap();
    let mut record: serde_json::Value = serde_json::from_str(&record).unwrap();
    record["version"] = 99.into();
    fs::write(&path, record.to_string()).unwrap();
    let said = "build.json is of another version of Patchmill (version 99, not 2)";
    fail(&merge(), 2, &[said]);
    fail(&tokenize(dir.path(), &["--task", "0/50", "--out", "out", "in"]), 2, &[said]);
}

#[test]
fn an_obstacle_is_shown_in_a_line() {
    let dir = tempfile::tempdir().unwrap();
    let definition = fs::read(tokenizer().join("tokenizer.json")).unwrap();
    let mut definition: serde_json::Value = serde_json::from_slice(&definition).unwrap();
    definition["normalizer"] = json!({ "type": "Prepend", "prepend": "x".repeat(1_000_000) });
    fs::write(dir.path().join("tokenizer.json"), definition.to_string()).unwrap();
    let shown = patchmill(dir.path(), &["inspect", "--tokenizer", "tokenizer.json", "--json"]);
    let shown: serde_json::Value = serde_json::from_str(&stdout(&shown)).unwrap();
    let obstacle = shown["obstacles"][0].as_str().unwrap();
    assert!(obstacle.contains("normalizer") && obstacle.len() < 600, "{} bytes", obstacle.len());
}

/// As tapes and some writers leave it, and as `gzip -d` reads it.
#[test]
fn zeros_after_gzip_data_are_padding_and_other_bytes_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let text: String = (0..50).map(|n| line(&format!("text {n}"), "S")).collect();
    let member = crate::exchange::gz(&text);
    let write = |name: &str, parts: &[&[u8]]| {
        fs::write(dir.path().join(name), parts.concat()).unwrap();
    };
    write("plain.jsonl.gz", &[&member, &member]);
    write("padded.jsonl.gz", &[&member, &member, &[0; 70_000]]);
    write("byte.jsonl.gz", &[&member, &member, &[0]]);
    for name in ["plain", "padded", "byte"] {
        stdout(&tokenize(dir.path(), &["--out", name, &format!("{name}.jsonl.gz")]));
        let ids = |name: &str| fs::read(dir.path().join(name).join("00000-00000.tok")).unwrap();
        assert!(ids(name) == ids("plain"), "{name}");
    }
    write("more.jsonl.gz", &[&member, &[0; 512], &member]);
    write("rubbish.jsonl.gz", &[&member, &[0; 512], b"x"]);
    for name in ["more", "rubbish"] {
        let refused = tokenize(dir.path(), &["--out", name, &format!("{name}.jsonl.gz")]);
        fail(&refused, 1, &[name, "zeros and other bytes follow"]);
    }
}

#[test]
fn a_corpus_of_more_shards_than_the_soft_limit_of_open_files_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let valid = support::fixtures().join("text/valid").display().to_string();
    stdout(&tokenize(dir.path(), &["--shard-bytes", "1000", "--out", "c", &valid]));
    let shards = fs::read_dir(dir.path().join("c"))
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().path().extension().is_some_and(|end| end == "tok"));
    assert!(shards.count() > 35, "there are more shards than the limit below");
    stdout(&patchmill(dir.path(), &["init", "r", "--corpus", "c"]));
    for io in ["mmap", "pread"] {
        let program = support::patchmill().get_program().to_owned();
        let mut limited = Command::new("sh");
        limited.current_dir(dir.path()).arg("-c");
        limited.arg("ulimit -S -n 30 && exec \"$0\" \"$@\"").arg(program);
        limited.args(["stream", "r/run.toml", "--sink", "null"]);
        stdout(&limited.args(["--set", &format!("loader.io=\"{io}\"")]).output().unwrap());
    }
}

/// Until object stores are supported, an URL is no name of a local folder.
#[test]
fn urls_are_refused_wherever_a_path_is_expected() {
    let dir = tempfile::tempdir().unwrap();
    let (url, message) = ("s3://bucket/a", "s3:// is not supported");
    let valid = support::fixtures().join("text/valid").display().to_string();
    stdout(&tokenize(dir.path(), &["--out", "c", &valid]));
    stdout(&patchmill(dir.path(), &["init", "r", "--corpus", "c"]));
    let tokenizer = support::fixtures().join("tokenizer").display().to_string();
    for arguments in [
        &["tokenize", "--tokenizer", &tokenizer, "--out", url, &valid][..],
        &["tokenize", "--tokenizer", &tokenizer, "--out", "d", url],
        &["tokenize", "--tokenizer", url, "--out", "d", &valid],
        &["merge", url],
        &["verify", url],
        &["inspect", url],
        &["duplicates", "c", "--out", url],
        &["export", "c", "--to", "nanogpt", "--out", url],
        &["import", url, "--tokenizer", &tokenizer, "--out", "d"],
        &["train-tokenizer", "--vocab-size", "600", "--out", url, &valid],
        &["init", url],
        &["plan", url],
        &["plan", "r/run.toml", "--set", "data.corpus=gs://a/b"],
        &["plan", "r/run.toml", "--set", "train.output=https://a/b"],
        &["stream", "r/run.toml", "--sink", "file", url],
    ] {
        let output = patchmill(dir.path(), arguments);
        let scheme = if arguments.iter().any(|word| word.contains("gs:")) {
            "gs:// is not supported"
        } else if arguments.iter().any(|word| word.contains("https:")) {
            "https:// is not supported"
        } else {
            message
        };
        fail(&output, 2, &[scheme]);
    }
    for made in ["s3:", "d", "gs:", "https:"] {
        assert!(!dir.path().join(made).exists(), "{made}");
    }
    // A colon or slashes alone are part of a name.
    stdout(&tokenize(dir.path(), &["--out", "a:/b//c", &valid]));
}

/// On a full disk (here: a limit of the file's size) no part of a file gets the final name.
#[test]
fn a_stream_into_a_file_is_complete_or_absent() {
    let dir = tempfile::tempdir().unwrap();
    let valid = support::fixtures().join("text/valid").display().to_string();
    stdout(&tokenize(dir.path(), &["--out", "c", &valid]));
    stdout(&patchmill(dir.path(), &["init", "r", "--corpus", "c"]));
    let stream = ["stream", "r/run.toml", "--sink", "file", "ids.bin"];
    let limited = |blocks: u64| {
        let mut command = Command::new("sh");
        command.current_dir(dir.path()).arg("-c");
        command.arg(format!("trap '' XFSZ; ulimit -f {blocks} && exec \"$0\" \"$@\""));
        command.arg(support::patchmill().get_program()).args(stream).output().unwrap()
    };
    fail(&limited(8), 1, &["ids.bin"]);
    let names = fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let names: Vec<_> = names.filter(|name| name.to_string_lossy().contains("ids.bin")).collect();
    assert!(names.is_empty(), "{names:?}");
    stdout(&patchmill(dir.path(), &stream));
    let whole = fs::read(dir.path().join("ids.bin")).unwrap();
    fail(&limited(8), 1, &["ids.bin"]);
    assert!(fs::read(dir.path().join("ids.bin")).unwrap() == whole, "the old file is as it was");
}

/// Whatever the format, and also when a run continues or tasks are merged.
#[test]
fn a_set_column_that_documents_lack_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let rows = |sets: [Option<&str>; 3]| {
        let line = |set: Option<&str>| match set {
            Some(set) => json!({"text": "a", "source": set}).to_string() + "\n",
            None => json!({"text": "a"}).to_string() + "\n",
        };
        sets.map(line).concat()
    };
    fs::write(dir.path().join("some.jsonl"), rows([None, Some("S"), None])).unwrap();
    fs::write(dir.path().join("all.jsonl"), rows([Some("S"); 3])).unwrap();
    let early = "no document at the beginning of any input has a set name at";
    let run = |out: &str, column: &str, inputs: &[&str], options: &[&str]| {
        let fixed = ["--out", out, "--set-column", column];
        let output = tokenize(dir.path(), &[&fixed, inputs, options].concat());
        stdout(&output);
        stderr(&output)
    };
    let said = run("a", "sourc", &["some.jsonl"], &[]);
    assert!(said.contains(early) && said.contains("3 of the 3 documents"), "{said}");
    let said = run("b", "source", &["some.jsonl"], &[]);
    assert!(!said.contains(early) && said.contains("2 of the 3 documents"), "{said}");
    for (out, inputs) in [("c", &["all.jsonl"][..]), ("d", &["all.jsonl", "some.jsonl"])] {
        let said = run(out, "source", inputs, &[]);
        assert_eq!(said.contains("2 of the 6 documents"), inputs.len() > 1, "{said}");
        assert!(!said.contains(early), "{said}");
    }
    let said = run("e", "sourc", &["some.jsonl"], &["--dry-run"]);
    assert!(said.contains(early), "{said}");
    // Tasks count their shares, and the merge counts all of them.
    for task in ["0/2", "1/2"] {
        run("f", "source", &["all.jsonl", "some.jsonl"], &["--task", task]);
    }
    let merged = patchmill(dir.path(), &["merge", "f"]);
    assert!(stderr(&merged).contains("2 of the 6 documents"), "{}", stderr(&merged));
    // A schema shows at once that there is no such column.
    let parquet = support::fixtures().join("parquet/checksums.parquet").display().to_string();
    let refused = tokenize(dir.path(), &["--out", "g", "--set-column", "sourc", &parquet]);
    fail(&refused, 1, &["has no column \"sourc\"", "--set-column"]);
}

#[test]
fn a_pointer_of_git_lfs_is_named_wherever_a_file_is_read() {
    let dir = tempfile::tempdir().unwrap();
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a214614ab2935c943f9e0\
                   ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n";
    let write = |name: &str| fs::write(dir.path().join(name), pointer).unwrap();
    for name in ["a.jsonl", "a.jsonl.gz", "a.jsonl.zst", "a.parquet"] {
        write(name);
        for options in [&[][..], &["--on-error", "skip"], &["--dry-run"]] {
            let refused = tokenize(dir.path(), &[&["--out", "x", name], options].concat());
            fail(&refused, 1, &[name, "is a pointer of Git LFS", "git lfs pull"]);
        }
    }
    for (name, from) in [("a.bin", "nanogpt"), ("a.npy", "olmo"), ("a.idx", "megatron")] {
        write(name);
        let tokenizer = tokenizer().display().to_string();
        let fixed = ["import", name, "--from", from, "--tokenizer", &tokenizer, "--out", "x"];
        let refused = patchmill(dir.path(), &[&fixed[..], &["--no-bos", "--no-eos"]].concat());
        fail(&refused, 4, &["is a pointer of Git LFS", "git lfs pull"]);
    }
    assert!(!dir.path().join("x/manifest.json").exists());
}

#[test]
fn what_is_no_file_in_a_folder_of_inputs_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let inputs = dir.path().join("in");
    fs::create_dir(&inputs).unwrap();
    fs::write(inputs.join("a.jsonl"), line("a", "S")).unwrap();
    for name in ["b.jsonl", "pipe"] {
        assert!(Command::new("mkfifo").arg(inputs.join(name)).status().unwrap().success());
    }
    let _socket = std::os::unix::net::UnixListener::bind(inputs.join("socket")).unwrap();
    for (out, argument, named) in
        [("x", "in", &["b.jsonl", "pipe", "socket"][..]), ("y", "in/*.jsonl", &["b.jsonl"])]
    {
        let output = ends(
            dir.path(),
            &[
                "tokenize",
                "--tokenizer",
                &tokenizer().display().to_string(),
                "--out",
                out,
                argument,
            ],
        );
        assert!(stdout(&output).contains("1 read = 1 written"));
        for name in named {
            let said = format!("in/{name} is a pipe, a socket or a device and was left out");
            assert!(stderr(&output).contains(&said), "{}", stderr(&output));
        }
    }
}

/// As in a cache of the Hugging Face Hub: two snapshots share a blob.
#[test]
fn one_file_by_two_symbolic_links_is_refused_and_hard_links_are_files() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join("cache").join(name);
    for folder in ["blobs", "snapshots/1", "snapshots/2"] {
        fs::create_dir_all(at(folder)).unwrap();
    }
    fs::write(at("blobs/4d7a"), line("a", "S")).unwrap();
    for snapshot in ["1", "2"] {
        let link = at(&format!("snapshots/{snapshot}/train.jsonl"));
        std::os::unix::fs::symlink("../../blobs/4d7a", link).unwrap();
    }
    let refused = tokenize(dir.path(), &["--out", "x", "cache"]);
    let parts = ["snapshots/1/train.jsonl", "snapshots/2/train.jsonl", "are one file"];
    fail(&refused, 2, &parts);
    stdout(&tokenize(dir.path(), &["--out", "y", "cache/snapshots/2"]));
    fs::create_dir(dir.path().join("hard")).unwrap();
    for name in ["a.jsonl", "b.jsonl"] {
        fs::hard_link(at("blobs/4d7a"), dir.path().join("hard").join(name)).unwrap();
    }
    let both = tokenize(dir.path(), &["--out", "z", "hard"]);
    assert!(stdout(&both).contains("2 read = 2 written"));
}

#[test]
fn a_folder_that_exists_is_taken_literally_at_the_beginning_of_a_glob() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["[D_DATA]/train", "D/train", "[ab]", "b"] {
        fs::create_dir_all(dir.path().join(name)).unwrap();
    }
    for name in ["[D_DATA]/train/a.jsonl", "D/train/b.jsonl", "b/c.jsonl"] {
        fs::write(dir.path().join(name), line("a", "S")).unwrap();
    }
    for (number, (argument, input)) in [
        ("[D_DATA]/train/*.jsonl", "a.jsonl"),
        ("[D_DATA]/train/a.jsonl", "a.jsonl"),
        ("[D_DATA]/**/*.jsonl", "train/a.jsonl"),
        ("[D_DATA]", "train/a.jsonl"),
        ("[D]/train/*.jsonl", "D/train/b.jsonl"),
        // Nothing in the folder of that name matches.
        ("[ab]/*.jsonl", "b/c.jsonl"),
    ]
    .into_iter()
    .enumerate()
    {
        let out = format!("x{number}");
        stdout(&tokenize(dir.path(), &["--out", &out, argument]));
        let manifest = fs::read_to_string(dir.path().join(out).join("manifest.json")).unwrap();
        let manifest: serde_json::Value = serde_json::from_str(&manifest).unwrap();
        assert_eq!(manifest["series"][0]["input"], input, "{argument}");
        assert_eq!(manifest["series"].as_array().unwrap().len(), 1, "{argument}");
    }
    fail(&tokenize(dir.path(), &["--out", "x", "[D_DATA]/*.json"]), 2, &["no such file"]);
}
