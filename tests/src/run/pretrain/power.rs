//! Power cuts: a run whose syncs and renames are recorded by a preloaded library, replayed to every
//! published checkpoint without the bytes that were not synced by then.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use super::{TestRun, assert_same_as_reference};

/// Appends `sync BYTES PATH` for each sync and `name PATH` for each rename to the file `$RECORD`.
const RECORDER: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
static void record(const char *line, int bytes) {
    int fd = open(getenv("RECORD"), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0 || write(fd, line, bytes) != bytes) abort();
    close(fd);
}
static int sync_with(const char *name, int fd) {
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    char link[64], path[4096], line[4200];
    struct stat found;
    fstat(fd, &found);
    int code = real(fd);
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    path[length < 0 ? 0 : length] = 0;
    if (code == 0)
        record(line, snprintf(line, sizeof line, "sync %lld %s\n", (long long)found.st_size, path));
    return code;
}
int fsync(int fd) { return sync_with("fsync", fd); }
int fdatasync(int fd) { return sync_with("fdatasync", fd); }
int rename(const char *from, const char *to) {
    int (*real)(const char *, const char *) =
        (int (*)(const char *, const char *))dlsym(RTLD_NEXT, "rename");
    char line[4200];
    int code = real(from, to);
    if (code == 0) record(line, snprintf(line, sizeof line, "name %s\n", to));
    return code;
}
"#;

/// At the moment a checkpoint has its name, all its files are on disk, and both logs up to its
/// step; a run that resumes from that state ends like one that was never cut.
#[test]
fn a_power_cut_loses_nothing_that_a_checkpoint_claims() {
    let tools = tempfile::tempdir().unwrap();
    let (source, library) = (tools.path().join("record.c"), tools.path().join("record.so"));
    fs::write(&source, RECORDER).unwrap();
    let mut compiler = Command::new("cc");
    compiler.args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).arg("-ldl");
    assert!(compiler.status().unwrap().success());
    let run = TestRun::new();
    let recorded = tools.path().join("recorded");
    let keep = ["--set", "train.keep_every_steps=1"];
    let mut command = run.command(&keep);
    let output = command.env("LD_PRELOAD", &library).env("RECORD", &recorded).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let out = run.output().canonicalize().unwrap();
    let mut synced: BTreeMap<String, usize> = BTreeMap::new();
    let (mut checkpoints, mut operations) = (0, 0);
    for line in fs::read_to_string(&recorded).unwrap().lines() {
        operations += 1;
        if let Some(sync) = line.strip_prefix("sync ") {
            let (bytes, path) = sync.split_once(' ').unwrap();
            let path = Path::new(path).strip_prefix(&out);
            let Ok(path) = path else { continue };
            synced.insert(path.to_str().unwrap().to_owned(), bytes.parse().unwrap());
        } else if let Some((_, step)) = line.rsplit_once("/checkpoint-") {
            checkpoints += 1;
            check_state(&out, &synced, step.parse().unwrap());
        }
    }
    assert!(
        checkpoints >= 8 && operations > 10 * checkpoints,
        "{operations} recorded operations, {checkpoints} states at a published checkpoint"
    );
}

/// The state on disk when `checkpoint-<step>` was published: logs are appended to, so what was
/// synced is the beginning of what they hold now.
fn check_state(out: &Path, synced: &BTreeMap<String, usize>, step: u64) {
    let name = format!("checkpoint-{step}");
    let mut pending = vec![String::new()];
    while let Some(below) = pending.pop() {
        for entry in fs::read_dir(out.join(&name).join(&below)).unwrap() {
            let entry = entry.unwrap();
            let file = entry.file_name().into_string().unwrap();
            let path = if below.is_empty() { file } else { format!("{below}/{file}") };
            let found = synced.get(&format!(".tmp-checkpoint-{step}/{path}")).copied();
            if entry.path().is_dir() {
                assert!(found.is_some(), "the folder {name}/{path} was not synced");
                pending.push(path);
            } else {
                let expected = entry.metadata().unwrap().len() as usize;
                assert_eq!(found, Some(expected), "bytes of {name}/{path} on disk");
            }
        }
    }
    assert!(synced.contains_key(""), "the run's folder was not synced before {name}");
    assert!(synced.contains_key("tensorboard"), "its event file has no name on disk");

    let cut = TestRun::new();
    fs::create_dir_all(cut.output().join("tensorboard")).unwrap();
    let copied = Command::new("cp").arg("-r").arg(out.join(&name)).arg(cut.output()).status();
    assert!(copied.unwrap().success());
    for (path, &bytes) in synced {
        if path == "metrics.jsonl" || path.starts_with("tensorboard/") {
            let whole = fs::read(out.join(path)).unwrap();
            fs::write(cut.output().join(path), &whole[..bytes]).unwrap();
        }
    }
    let output = cut.run(&[]);
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{log}");
    assert!(!log.contains("notice: metrics.jsonl"), "a log lacks steps at {name}: {log}");
    assert_same_as_reference(&cut, &format!("power cut at {name}"));
}
