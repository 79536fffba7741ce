//! Commands for clusters that documents show: the batch scripts with stubs in place of training and
//! Slurm, and whether `just check-cluster` runs every command.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

const SCRIPTS: [&str; 2] = ["pretrain.sbatch", "pretrain-ranks.sbatch"];
/// Programs that start something on a cluster.
const STARTERS: [&str; 5] = ["sbatch", "srun", "torchrun", "mpirun", "scontrol"];
/// How long a stub may take, on a machine that does other things too.
const LIMIT: Duration = Duration::from_secs(60);

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

/// README.md and the pages of docs, by name.
fn documents() -> BTreeMap<String, String> {
    let entries = fs::read_dir(root().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let pages = entries.filter(|path| path.extension().is_some_and(|end| end == "md"));
    let paths: Vec<PathBuf> = pages.chain([root().join("README.md")]).collect();
    assert!(paths.len() > 1, "the pages were found");
    let read = |path: PathBuf| {
        let name = path.strip_prefix(root()).unwrap().display().to_string();
        (name, fs::read_to_string(path).unwrap())
    };
    paths.into_iter().map(read).collect()
}

/// Fenced blocks of a document: what follows the fence's three ticks, and the text.
fn blocks(document: &str) -> Vec<(&str, String)> {
    let mut blocks: Vec<(&str, String)> = Vec::new();
    let mut open: Option<(&str, String)> = None;
    for line in document.lines() {
        open = match (open, line.strip_prefix("```")) {
            (None, info) => info.map(|info| (info, String::new())),
            (Some(block), Some(_)) => {
                blocks.push(block);
                None
            }
            (Some((info, text)), None) => Some((info, text + line + "\n")),
        };
    }
    assert!(open.is_none(), "the last fence is open: {open:?}");
    blocks
}

/// The name under which `just check-cluster` runs a block: `NAME` of "sh cluster=NAME".
fn name_of(info: &str) -> Option<&str> {
    info.split(' ').find_map(|word| word.strip_prefix("cluster="))
}

/// The program of a command line, also inside of a variable: `sbatch` of `job=$(sbatch …)`.
fn program_of(line: &str) -> &str {
    let line = line.split_once("=$(").map_or(line, |(_, command)| command);
    line.split_whitespace().next().unwrap_or_default()
}

/// Command lines of a block without comments; one that continues over several lines is one.
fn commands(text: &str) -> Vec<String> {
    let text = text.replace("\\\n", " ");
    let code = text.lines().map(|line| line.split_once(" #").map_or(line, |(code, _)| code));
    code.map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect()
}

#[test]
fn documents_show_the_batch_scripts_word_for_word() {
    for script in SCRIPTS {
        let text = fs::read_to_string(root().join("docs/slurm").join(script)).unwrap();
        let documents = documents();
        let all = documents.values().flat_map(|document| blocks(document));
        let shown: Vec<String> =
            all.filter(|(info, _)| name_of(info) == Some(script)).map(|(_, text)| text).collect();
        assert_eq!(shown, [text], "the one block `cluster={script}` is docs/slurm/{script}");
    }
}

/// Documents print no command for a cluster that `just check-cluster` does not run.
#[test]
fn every_cluster_command_in_a_document_is_one_that_is_checked() {
    let documents = documents();
    let all: Vec<_> = documents
        .iter()
        .flat_map(|(path, document)| blocks(document).into_iter().map(move |block| (path, block)))
        .collect();
    let named = all.iter().filter(|(_, (info, _))| name_of(info).is_some());
    let checked: BTreeSet<String> = named.flat_map(|(_, (_, text))| commands(text)).collect();
    let starters: BTreeSet<&str> = checked.iter().map(|line| program_of(line)).collect();
    for program in STARTERS {
        assert!(starters.contains(program), "no {program} in blocks with `cluster=NAME`");
    }
    for (path, (_, text)) in &all {
        for line in commands(text).iter().filter(|line| STARTERS.contains(&program_of(line))) {
            assert!(checked.contains(line), "{path}: `{line}` is in no block with `cluster=NAME`");
        }
    }
    let program = fs::read_to_string(root().join("tools/cluster/check.py")).unwrap();
    for (path, (info, _)) in &all {
        if let Some(name) = name_of(info) {
            assert!(program.contains(&format!("{name:?}")), "{path}: check.py does not run {name}");
        }
    }
}

/// A folder with a batch script's surroundings: `patchmill-train` is the body of a bash script,
/// `srun` starts it once, and `scontrol` notes what it is asked. A stub that waits ends with the
/// folder.
struct Job {
    dir: TempDir,
}

impl Job {
    fn new(train: &str) -> Job {
        let job = Job { dir: tempfile::tempdir().unwrap() };
        job.stub("patchmill-train", train);
        job.stub("srun", r#"while [ "${1#-}" != "$1" ]; do shift; done; exec "$@""#);
        job.stub("scontrol", r#"echo "$*" >> scontrol.txt"#);
        job
    }

    fn stub(&self, name: &str, body: &str) {
        let path = self.dir.path().join(name);
        fs::write(&path, format!("#!/bin/bash\n{body}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn start(&self, script: &str) -> Child {
        let path = std::env::var("PATH").unwrap();
        let mut command = Command::new("bash");
        command.arg(root().join("docs/slurm").join(script)).current_dir(&self.dir);
        command.env("PATH", format!("{}:{path}", self.dir.path().display()));
        command.env("SLURM_JOB_ID", "17").env("SLURM_CPUS_PER_TASK", "1");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// Waits until a stub has made a file of that name.
    fn wait_for(&self, name: &str) {
        let started = Instant::now();
        while !self.dir.path().join(name).exists() {
            assert!(started.elapsed() < LIMIT, "{name} is not there");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The exit code of the script, and what `scontrol` was asked.
    fn end(&self, mut child: Child) -> (Option<i32>, String) {
        let code = child.wait().unwrap().code();
        (code, fs::read_to_string(self.dir.path().join("scontrol.txt")).unwrap_or_default())
    }
}

fn send(signal: &str, child: &Child) {
    let sent =
        Command::new("bash").args(["-c", &format!("kill -{signal} {}", child.id())]).status();
    assert!(sent.unwrap().success(), "SIG{signal} was sent");
}

#[test]
fn a_batch_script_ends_with_the_code_of_its_run() {
    for script in SCRIPTS {
        for (code, asked) in
            [(0, ""), (1, ""), (2, ""), (3, ""), (4, ""), (75, "requeue 17\n"), (137, "")]
        {
            let job = Job::new(&format!("[ \"$*\" = 'pretrain my-run/run.toml' ] && exit {code}"));
            let found = job.end(job.start(script));
            assert_eq!(found, (Some(code), asked.to_owned()), "{script}, code {code}");
        }
    }
}

/// A signal ends the script's `wait`, not the script: it waits for the run, however often it is
/// asked, and ends with its code.
#[test]
fn a_batch_script_waits_for_a_run_that_it_has_asked_to_stop() {
    for script in SCRIPTS {
        for (signal, code, asked) in [
            ("USR1", 75, "requeue 17\n"),
            ("USR1", 0, ""),
            ("USR1", 3, ""),
            ("TERM", 75, ""),
            ("TERM", 4, ""),
        ] {
            let job = Job::new(&format!(
                "trap 'echo >> asked.txt' USR1; trap 'exit 99' TERM; touch started; \
                 while [ -e started ] && [ ! -e may-end ]; do sleep 0.01; done; exit {code}"
            ));
            let child = job.start(script);
            job.wait_for("started");
            for _ in 0..2 {
                send(signal, &child);
                job.wait_for("asked.txt");
                fs::remove_file(job.dir.path().join("asked.txt")).unwrap();
            }
            fs::write(job.dir.path().join("may-end"), "").unwrap();
            let found = job.end(child);
            assert_eq!(found, (Some(code), asked.to_owned()), "{script}, {signal}, code {code}");
        }
    }
}

/// The run may be gone before the script waits again.
#[test]
fn a_batch_script_knows_the_code_of_a_run_that_ended_at_once() {
    for script in SCRIPTS {
        for _ in 0..10 {
            let job = Job::new(
                "trap 'exit 75' USR1; touch started; while [ -e started ]; do sleep 0.001; done",
            );
            let child = job.start(script);
            job.wait_for("started");
            send("USR1", &child);
            assert_eq!(job.end(child), (Some(75), "requeue 17\n".to_owned()), "{script}");
        }
    }
}
