#!/usr/bin/env python3
"""Runs the commands that the documents show for clusters, on two machines made of namespaces.

    check.py --programs FOLDER --work WORK [--torchrun PATH] [NAME...]

A command is a fenced block of README.md or of a page in docs whose fence says `cluster=NAME`; it is
run as it is printed. Each NAME has a check below, and a block without one is an error; without a
NAME all are checked. FOLDER holds patchmill and patchmill-train. WORK receives corpora of our own
sources, runs of a tiny model on CPUs, and the logs of a private Slurm; `WORK/cluster` is replaced.

Needs Python 3.10 and root on Linux, for namespaces (sandbox.py), and for parts of it slurm-wlm,
munge and openmpi-bin (Debian), and torchrun of PyTorch. What is not there is skipped, with the
reason. All of it takes about 10 minutes on 2 cores.
Exits with 1 if anything is not as the documents say, with 77 if nothing could be checked.
"""

import argparse
import glob
import json
import os
import re
import shutil
import subprocess
import sys
import time

import sandbox

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
RANKS = 8  # of every command that starts several
TASKS = 30  # of the array
SKIPPED = 77
COMMAND_SECONDS = 600
JOB_SECONDS = 900
# Slurm looks at limits twice a minute and sends its warning up to 30 s early: here 30 to 60 s after
# the start of a job. A long run lasts longer than that.
LIMIT_MINUTES, WARNING_SECONDS = 2, 60
LONG_SECONDS = 80

# fixtures/pretrain.toml becomes a tiny run by these.
SETTINGS = {
    "corpus": '"../corpora/pile"',
    "validation": '"../corpora/wikitext103"',
    "window_units": "64",
    "step_tokens": "8192",
    "epochs": "1",
    "hidden_size": "32",
    "intermediate_size": "64",
    "num_hidden_layers": "2",
    "device": '"cpu"',
    "micro_batch_windows": "2",
    "output": '"output"',
    "checkpoint_every_steps": "100000",
    "eval_every_steps": "100000",
    "log_every_steps": "1",
}
# Runs that end with 1, 2, 3 and 4.
NO_OUTPUT = {"output": '"run.toml/output"'}
UNKNOWN_KEY = {"workers": "2\nunknown = 1"}
DIVERGES = {"initializer_range": "1e30"}
DAMAGED = {"corpus": '"../../damaged"'}


class Failed(Exception):
    """Something is not as the documents say."""


class Skip(Exception):
    """Something cannot be checked here."""


def expect(holds, message):
    if not holds:
        raise Failed(message)


def say(text):
    print(text, flush=True)


def blocks():
    """The documents' commands by name: {name: (path, text)}."""
    found = {}
    for path in ["README.md", *sorted(glob.glob("docs/**/*.md", root_dir=ROOT, recursive=True))]:
        with open(os.path.join(ROOT, path), encoding="utf-8") as file:
            document = file.read()
        for info, text in re.findall(r"^```(.*)\n((?:(?!```).*\n)*)```$", document, re.MULTILINE):
            for name in re.findall(r"(?:^| )cluster=(\S+)", info):
                expect(name not in found, f"{path}: there is another block {name}")
                found[name] = (path, text)
    return found


class Job:
    """What Slurm says of a job, or of all tasks of an array."""

    ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL")

    def __init__(self, number):
        self.number = number
        shown = output("scontrol", "--oneliner", "show", "job", number)
        self.tasks = [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in shown.splitlines()]

    def __str__(self):
        fields = ("JobState", "ExitCode", "Restarts", "Reason")
        tasks = {" ".join(f"{key}={task[key]}" for key in fields) for task in self.tasks}
        return f"job {self.number}, {len(self.tasks)} tasks: {'; '.join(sorted(tasks))}"

    def has_ended(self):
        return all(task["JobState"] in self.ENDED for task in self.tasks)

    def expect(self, **wanted):
        for task in self.tasks:
            for key, value in wanted.items():
                expect(task[key] == value, f"{key} is not {value}: {self}")


def wait_until_ended(number):
    """The job, once it has."""
    sandbox.wait_until(lambda: Job(number).has_ended(), f"job {number}", JOB_SECONDS)
    job = Job(number)
    say(f"    {job}")
    return job


def output(*command, **options):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, **options).stdout


def write_jsonl(path, sources):
    with open(path, "w", encoding="utf-8") as file:
        for source in sources:
            with open(os.path.join(ROOT, source), encoding="utf-8") as text:
                document = {"text": text.read(), "meta": {"pile_set_name": "Github"}}
            file.write(json.dumps(document) + "\n")


class Case:
    """A folder with what the documents name: inputs, corpora, batch scripts and a run file."""

    def __init__(self, check, name, has_corpora=True, **settings):
        self.check = check
        self.home = os.path.join(check.folder, name)
        self.log = os.path.join(self.home, "log.txt")
        os.makedirs(os.path.join(self.home, "my-run"))
        linked = ["llama2", "pile"] + (["corpora"] if has_corpora else [])
        for entry in linked:
            os.symlink(os.path.join("..", "inputs", entry), os.path.join(self.home, entry))
        for block, (_, text) in check.blocks.items():
            if block.endswith(".sbatch"):
                self.write(block, text)
        self.write("my-run/run.toml", run_file({**SETTINGS, **settings}))

    def write(self, name, text):
        with open(os.path.join(self.home, name), "w", encoding="utf-8") as file:
            file.write(text)

    def path(self, *names):
        return os.path.join(self.home, *names)

    def block(self, name, **replaced):
        """A command of bash: a block of the documents, with its placeholders replaced."""
        path, text = self.check.blocks[name]
        for old, new in replaced.items():
            expect(old in text, f"{path}: block {name} has no {old}")
            text = text.replace(old, new)
        return ["bash", "-euc", text]

    def start(self, *command, **environment):
        with open(self.log, "a", encoding="utf-8") as log:
            environment = {**os.environ, **environment}
            return subprocess.Popen(
                command,
                cwd=self.home,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def wait(self, *processes):
        """Waits for processes that all are to end with 0."""
        for process in processes:
            try:
                code = process.wait(COMMAND_SECONDS)
            except subprocess.TimeoutExpired:
                raise Failed(
                    f"not ended after {COMMAND_SECONDS} s: {process.args}; see {self.log}"
                ) from None
            expect(code == 0, f"exit code {code}: {process.args}; see {self.log}")

    def run(self, *command, **environment):
        self.wait(self.start(*command, **environment))

    def submit(self, name, **environment):
        """Runs a block that submits a job and one that depends on it; returns both numbers."""
        *bash, text = self.block(name)
        environment = {**os.environ, **environment}
        printed = output(*bash, text + 'echo "first $job"\n', cwd=self.home, env=environment)
        first = re.search(r"^first (\d+)$", printed, re.M)
        second = re.search(r"^Submitted batch job (\d+)$", printed, re.M)
        expect(first and second, f"block {name} printed {printed!r}")
        return first[1], second[1]

    def curve(self):
        """Losses by step."""
        path = self.path("my-run", "output", "metrics.jsonl")
        if not os.path.exists(path):
            return {}
        with open(path, encoding="utf-8") as file:
            points = [json.loads(line) for line in file if line.endswith("\n")]
        return {point["step"]: point["train/loss"] for point in points if "train/loss" in point}

    def weights(self):
        with open(self.path("my-run", "output", "latest", "model.safetensors"), "rb") as file:
            return file.read()

    def expect_same_as(self, other):
        """The same losses and weights as another run's, bit by bit."""
        ours, theirs = self.curve(), other.curve()
        expect(
            len(ours) > 10 and ours.keys() == theirs.keys(),
            f"{len(ours)} steps, not the {len(theirs)} of {other.home}",
        )
        differing = [step for step in ours if ours[step] != theirs[step]]
        expect(not differing, f"losses differ from {other.home} from step {differing[:1]} on")
        expect(self.weights() == other.weights(), f"weights differ from those of {other.home}")
        name = os.path.basename(other.home)
        say(f"    {len(ours)} steps; losses and weights are those of {name}")

    def expect_learned(self):
        losses = list(self.curve().values())
        expect(losses[-1] < losses[0] - 0.5, f"the loss went from {losses[0]} to {losses[-1]}")


def run_file(settings):
    """fixtures/pretrain.toml with other values."""
    with open(os.path.join(ROOT, "fixtures", "pretrain.toml"), encoding="utf-8") as file:
        text = file.read()
    for key, value in settings.items():
        text, count = re.subn(rf"(?m)^({key} *=).*$", rf"\1 {value}", text)
        expect(count == 1, f"fixtures/pretrain.toml has {key} {count} times")
    return re.sub(r"warmup_steps = \d+", "warmup_steps = 5", text)


def same_tree(one, other):
    found = subprocess.run(
        ["diff", "--recursive", "--brief", one, other],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    expect(found.returncode == 0, found.stdout)
    say(f"    {len(os.listdir(one))} entries, the same as in {other}")


class Check:
    """The programs, the machines, and one method for each block of the documents."""

    def __init__(self, args):
        self.args = args
        self.folder = os.path.join(args.work, "cluster")
        self.blocks = blocks()
        self.corpus = os.path.join(self.folder, "inputs", "corpora", "pile")  # of one single run
        self.machines = None
        self.made = {}

    def prepare(self):
        shutil.rmtree(self.folder, ignore_errors=True)
        os.makedirs(self.folder)
        os.environ["PATH"] = f"{self.args.programs}:{os.environ['PATH']}"
        os.environ["OMP_NUM_THREADS"] = "1"  # the same everywhere, so that sums are
        self.machines = sandbox.Machines(os.path.join(self.folder, "state"))
        if not sandbox.missing_slurm():
            self.machines.start_slurm()
        home = os.path.join(self.folder, "inputs")
        shutil.copytree(os.path.join(ROOT, "fixtures", "tokenizer"), os.path.join(home, "llama2"))
        os.makedirs(os.path.join(home, "pile", "train"))
        # Our own sources, in more files than there are tasks.
        sources = sorted(glob.glob("*/src/**/*.rs", root_dir=ROOT, recursive=True))
        count = TASKS + 11
        for index in range(count):
            path = os.path.join(home, "pile", "train", f"{index:02}.jsonl")
            write_jsonl(path, sources[index::count])
        write_jsonl(os.path.join(home, "valid.jsonl"), ["README.md"])
        for name, inputs in (("pile", "pile/train"), ("wikitext103", "valid.jsonl")):
            tokenize = ["patchmill", "tokenize", "--tokenizer", "llama2"]
            command = [*tokenize, "--out", f"corpora/{name}", inputs]
            subprocess.run(command, cwd=home, check=True, capture_output=True)
        damaged = os.path.join(self.folder, "damaged")
        shutil.copytree(self.corpus, damaged)
        for shard in glob.glob(os.path.join(damaged, "*.tok")):
            with open(shard, "r+b") as file:
                file.seek(5000)  # an id
                byte = file.read(1)
                file.seek(5000)
                file.write(bytes([byte[0] ^ 1]))

    def on(self, node, *command):
        return self.machines.on(node, *command)

    def reference(self):
        """RANKS ranks on one machine, by our own launcher."""
        if "ranks" not in self.made:
            case = Case(self, "ranks")
            case.run(*case.block("ranks"))
            case.expect_learned()
            self.made["ranks"] = case
        return self.made["ranks"]

    # One machine, and machines without Slurm.

    def ranks(self):
        say(f"    {len(self.reference().curve())} steps")

    def mpirun(self):
        if not shutil.which("mpirun"):
            raise Skip("mpirun is not installed (Debian: apt install openmpi-bin)")
        case = Case(self, "mpirun")
        allowed = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
        case.run(*case.block("mpirun"), OMPI_MCA_rmaps_base_oversubscribe="1", **allowed)
        case.expect_same_as(self.reference())

    def torchrun(self):
        self.on_both_nodes("torchrun", {"node1": {"HOST": "node1"}, "node2": {"HOST": "node1"}})

    def torchrun_static(self):
        second = {"HOST": "node1", "--node-rank=0": "--node-rank=1"}
        self.on_both_nodes("torchrun-static", {"node1": {"HOST": "node1"}, "node2": second})

    def on_both_nodes(self, name, replaced):
        torchrun = self.args.torchrun or shutil.which("torchrun")
        if not torchrun:
            raise Skip("there is no torchrun: set HF_VENV to a folder that hf_venv.sh made")
        case = Case(self, name)
        path = f"{os.path.dirname(os.path.abspath(torchrun))}:{os.environ['PATH']}"
        processes = [
            case.start(*self.on(node, *case.block(name, **words)), PATH=path)
            for node, words in replaced.items()
        ]
        try:
            case.wait(*processes)
        finally:
            for process in processes:
                process.terminate()
        case.expect_same_as(self.reference())

    # Slurm.

    def srun(self):
        case = Case(self, "srun")
        case.run(*case.block("srun"))
        case.expect_same_as(self.reference())

    def tokenize(self):
        case = Case(self, "tokenize", has_corpora=False)
        array, merge = case.submit("tokenize")
        job = wait_until_ended(array)
        expect(len(job.tasks) == TASKS, f"{len(job.tasks)} tasks, not {TASKS}")
        job.expect(JobState="COMPLETED", ExitCode="0:0")
        wait_until_ended(merge).expect(JobState="COMPLETED", ExitCode="0:0")
        same_tree(case.path("corpora", "pile"), self.corpus)

    def task(self):
        """Half of the tasks by their numbers, the others as a Kubernetes job's."""
        case = Case(self, "task", has_corpora=False)
        for index in range(TASKS // 2):
            case.run(*case.block("task", **{"3/30": f"{index}/{TASKS}"}))
        for index in range(TASKS // 2, TASKS):
            case.run(*case.block("kubernetes-task"), JOB_COMPLETION_INDEX=str(index))
        case.run("patchmill", "merge", "corpora/pile")
        same_tree(case.path("corpora", "pile"), self.corpus)

    def submit(self):
        """A run that met time limits equals one that was never stopped; its dependents wait."""
        limits = {
            "SBATCH_TIMELIMIT": str(LIMIT_MINUTES),
            "SBATCH_SIGNAL": f"B:USR1@{WARNING_SECONDS}",
        }
        epochs, restarts = 1, 0
        while restarts == 0:
            whole = Case(self, f"whole-{epochs}", epochs=epochs)
            started = time.monotonic()
            whole.run("patchmill-train", "pretrain", "my-run/run.toml")
            seconds = time.monotonic() - started
            if seconds < LONG_SECONDS:
                epochs = int(epochs * 1.5 * LONG_SECONDS / seconds) + 1
                continue
            case = Case(self, f"submit-{epochs}", epochs=epochs)
            run, after = case.submit("submit", **limits)
            job = wait_until_ended(run)
            job.expect(JobState="COMPLETED", ExitCode="0:0")
            case.expect_same_as(whole)
            wait_until_ended(after).expect(JobState="COMPLETED", ExitCode="0:0")
            restarts = int(job.tasks[0]["Restarts"])
            epochs *= 2  # if it has ended before Slurm's warning

    def batch_script(self):
        self.codes("pretrain.sbatch")
        self.cancelled("pretrain.sbatch")

    def batch_script_of_ranks(self):
        self.codes("pretrain-ranks.sbatch")
        self.cancelled("pretrain-ranks.sbatch")
        case = Case(self, "requeued-ranks")
        run, after = sbatch(case, "pretrain-ranks.sbatch")
        sandbox.wait_until(lambda: len(case.curve()) > 2, "the first steps", COMMAND_SECONDS)
        output("scancel", "--batch", "--signal=USR1", run)
        job = wait_until_ended(run)
        job.expect(JobState="COMPLETED", ExitCode="0:0", Restarts="1")
        wait_until_ended(after).expect(JobState="COMPLETED")
        case.expect_same_as(self.reference())

    def codes(self, script):
        """The exit code of a failed run is its job's, and what depends on the job never starts."""
        for code, settings in ((1, NO_OUTPUT), (2, UNKNOWN_KEY), (3, DIVERGES), (4, DAMAGED)):
            case = Case(self, f"{script}-{code}", **settings)
            run, after = sbatch(case, script)
            wait_until_ended(run).expect(JobState="FAILED", ExitCode=f"{code}:0", Restarts="0")
            sandbox.wait_until(
                lambda: Job(after).tasks[0]["Reason"] == "DependencyNeverSatisfied", f"job {after}"
            )
            output("scancel", after)

    def cancelled(self, script):
        """scancel lets the run save, and ends the job."""
        case = Case(self, f"{script}-cancelled", epochs=100)
        run, after = sbatch(case, script)
        sandbox.wait_until(lambda: len(case.curve()) > 2, "the first steps", COMMAND_SECONDS)
        output("scancel", run)
        wait_until_ended(run).expect(JobState="CANCELLED", Restarts="0")
        checkpoints = glob.glob(case.path("my-run", "output", "checkpoint-*"))
        expect(len(checkpoints) == 1, f"checkpoints after scancel: {checkpoints}")
        output("scancel", after)


def sbatch(case, script):
    """Submits a batch script and a job that waits for it."""
    run = output("sbatch", "--parsable", script, cwd=case.home).strip()
    after = output(
        "sbatch", "--parsable", f"--dependency=afterok:{run}", "--wrap", "true", cwd=case.home
    ).strip()
    return run, after


# Of each block the method that runs it, and whether that takes Slurm.
CHECKS = {
    "ranks": (Check.ranks, False),
    "mpirun": (Check.mpirun, False),
    "torchrun": (Check.torchrun, False),
    "torchrun-static": (Check.torchrun_static, False),
    "task": (Check.task, False),
    "kubernetes-task": (Check.task, False),
    "tokenize": (Check.tokenize, True),
    "srun": (Check.srun, True),
    "pretrain.sbatch": (Check.batch_script, True),
    "pretrain-ranks.sbatch": (Check.batch_script_of_ranks, True),
    "submit": (Check.submit, True),
}


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--programs", required=True, type=os.path.abspath)
    parser.add_argument("--work", required=True, type=os.path.abspath)
    parser.add_argument("--torchrun")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(CHECKS)}")
    args = parser.parse_args()
    unknown = [name for name in args.names if name not in CHECKS]
    if unknown:
        parser.error(f"no checks: {unknown}")
    return args


def main():
    args = arguments()
    reason = sandbox.missing()
    if reason:
        say(f"skipped all: {reason}")
        return SKIPPED
    if not sandbox.is_inside():
        return sandbox.enter()
    sandbox.be_first()
    check = Check(args)
    expect(
        check.blocks.keys() == CHECKS.keys(),
        f"blocks {sorted(check.blocks)}, checks {sorted(CHECKS)}",
    )
    check.prepare()
    no_slurm = sandbox.missing_slurm()
    results, done = {}, set()
    for name, (method, takes_slurm) in CHECKS.items():
        if (args.names and name not in args.names) or method in done:
            continue
        done.add(method)
        say(f"{name} ({check.blocks[name][0]})")
        started = time.monotonic()
        try:
            if takes_slurm and no_slurm:
                raise Skip(no_slurm)
            method(check)
            results[name] = "ok"
        except Skip as err:
            results[name] = f"skipped: {err}"
        except (Failed, RuntimeError, OSError, subprocess.SubprocessError) as err:
            results[name] = f"FAILED: {err}"
        say(f"    {results[name]} ({time.monotonic() - started:.0f} s)")
    failed = [name for name in results if results[name].startswith("FAILED")]
    skipped = [name for name in results if results[name].startswith("skipped")]
    ok = len(results) - len(failed) - len(skipped)
    say(f"{ok} ok, failed: {failed}, skipped: {skipped}; logs in {check.folder}")
    return 1 if failed else SKIPPED if len(skipped) == len(results) else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (Failed, RuntimeError) as err:
        sys.exit(f"error: {err}")
