"""Kills `patchmill tokenize` and `merge` at random moments and fills the disk under them. A resumed
run must end as if nothing had happened.

    faults.py --patchmill target/release/patchmill --tokenizer TOKENIZER --work WORK [INPUT...]

Without INPUT it takes the fixtures, several times. Four parts, each compared byte by byte with one
undisturbed run: undisturbed runs for threads 1, 2, 5 and task splits 1, 2, 6; SIGKILLs; full disks
(a small tmpfs, for root alone). It counts the shards complete before a fault and made again after
it, in all and by the process (a worker) that made them; each may redo one. It also counts the
unfinished ones.
Nothing but Python's own library. Exits with 1 if anything differs.
"""

import argparse
import collections
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
THREADS = (1, 2, 5)
SPLITS = (1, 2, 6)
KILLS_PER_FOLDER = 6
TIMEOUT_SECONDS = 600


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--patchmill", required=True)
    parser.add_argument("--tokenizer", default=os.path.join(ROOT, "fixtures", "tokenizer"))
    parser.add_argument(
        "--work", required=True, help="a folder of our own; out folders in it are removed"
    )
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--disk-full", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--copies", type=int, default=6, help="how often the fixtures are taken")
    parser.add_argument("--shard-bytes", type=int, default=1 << 17)
    parser.add_argument("--on", default="", help="more options for tokenize, separated by spaces")
    parser.add_argument("--json", help="receives the summary")
    parser.add_argument("inputs", nargs="*")
    return parser.parse_args()


class Failed(Exception):
    """Something that must not be."""


class Corpus:
    """The one corpus that all runs make, by different ways."""

    def __init__(self, args):
        self.args = args
        self.inputs = [os.path.abspath(path) for path in args.inputs] or [self.copies()]
        self.has_tasks = "--task" in self.output("tokenize", "--help")
        self.expected = None
        self.seconds = None
        self.input_bytes = []

    def copies(self):
        """A folder of links to the fixtures under different names."""
        folder = os.path.join(self.args.work, "inputs")
        shutil.rmtree(folder, ignore_errors=True)
        source = os.path.join(ROOT, "fixtures", "text", "train")
        for copy in range(self.args.copies):
            os.makedirs(os.path.join(folder, f"copy-{copy:02}"))
            for name in sorted(os.listdir(source)):
                os.symlink(
                    os.path.join(source, name), os.path.join(folder, f"copy-{copy:02}", name)
                )
        return folder

    def output(self, *command):
        done = subprocess.run(
            [self.args.patchmill, *command], capture_output=True, text=True, timeout=TIMEOUT_SECONDS
        )
        if done.returncode != 0:
            raise Failed(
                f"patchmill {command[0]} ended with {done.returncode}: {done.stderr.strip()[-500:]}"
            )
        return done.stdout

    def commands(self, out, threads, tasks):
        """One command a task; they run at the same time."""
        head = [self.args.patchmill, "tokenize", "--tokenizer", self.args.tokenizer, "--out", out]
        head += [
            "--shard-bytes",
            str(self.args.shard_bytes),
            "--threads",
            str(threads),
        ] + self.args.on.split()
        parts = [["--task", f"{index}/{tasks}"] for index in range(tasks)] if tasks > 1 else [[]]
        return [head + part + self.inputs for part in parts]

    def start(self, command):
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def finish(self, out, threads, tasks):
        """Runs to the end; then merges what tasks made."""
        running = [self.start(command) for command in self.commands(out, threads, tasks)]
        for process in running:
            error = process.communicate(timeout=TIMEOUT_SECONDS)[1]
            if process.returncode != 0:
                raise Failed(f"{out}: ended with {process.returncode}: {error.decode()[-500:]}")

    def compare(self, out, what):
        found = tree(out)
        if found != self.expected:
            names = sorted(set(found) | set(self.expected))
            wrong = [name for name in names if found.get(name) != self.expected.get(name)]
            raise Failed(
                f"{what}: {len(wrong)} files differ from the undisturbed run: {wrong[:6]} "
                f"({out} is kept)"
            )

    def worker_of(self, shard, tasks):
        """The task that makes a shard: largest inputs first, each to the task with fewest bytes."""
        series = int(os.path.basename(shard).split("-")[0])
        position = series // 1000 if "--by-set" in self.args.on.split() else series
        loads = [(0, task) for task in range(tasks)]
        for at in sorted(range(len(self.input_bytes)), key=lambda at: (-self.input_bytes[at], at)):
            load, task = min(loads)
            loads[task] = (load + max(self.input_bytes[at], 1), task)
            if at == position:
                return task
        raise Failed(f"shard {shard} is of none of {len(self.input_bytes)} inputs")


def input_bytes(manifest):
    """Sizes of the inputs, in their order."""
    with open(manifest, encoding="utf-8") as file:
        series = json.load(file)["series"]
    return list({one["input"]: one["input_bytes"] for one in series}.values())


def tree(folder):
    """Relative path to SHA-256 of every file below."""
    hashes = {}
    for path, _, names in os.walk(folder):
        for name in names:
            full = os.path.join(path, name)
            with open(full, "rb") as file:
                hashes[os.path.relpath(full, folder)] = hashlib.sha256(file.read()).hexdigest()
    return hashes


def shards(folder):
    """Complete shards, each with its file's identity (it changes when the shard is made again), and
    the number of others."""
    complete, unfinished = {}, 0
    for path, _, names in os.walk(folder):
        for name in names:
            if ".tok" not in name:
                continue
            full = os.path.join(path, name)
            if name.endswith(".tok") and not name.startswith("."):
                status = os.stat(full)
                complete[os.path.relpath(full, folder)] = (status.st_ino, status.st_mtime_ns)
            else:
                unfinished += 1
    return complete, unfinished


class Redone:
    """Shards made again, over all resumed runs."""

    def __init__(self, corpus):
        self.corpus = corpus
        self.complete_again = collections.Counter()
        self.of_a_worker = collections.Counter()
        self.unfinished = collections.Counter()
        self.resumes = 0
        self.kept = 0

    def add(self, before, after, threads, tasks, stopped):
        """`stopped` are the tasks that a fault ended before."""
        complete, unfinished = before
        made_again = [name for name, file in complete.items() if after[0].get(name) != file]
        workers = collections.Counter({task: 0 for task in stopped})
        workers.update(self.corpus.worker_of(name, tasks) for name in made_again)
        again = len(made_again)
        self.resumes += 1
        self.kept += len(complete) - again
        self.complete_again[again] += 1
        self.unfinished[unfinished] += 1
        self.of_a_worker.update(workers.values())
        if max(workers.values()) > 1 or not set(workers) <= set(stopped):
            raise Failed(
                f"complete shards made again, by task: {dict(workers)}; "
                f"stopped were {sorted(stopped)}"
            )
        # With sets apart each of them has a shard open.
        if "--by-set" not in self.corpus.args.on.split() and again + unfinished > threads * tasks:
            raise Failed(
                f"{again} complete and {unfinished} unfinished shards redone by {tasks} tasks "
                f"of {threads} threads"
            )

    def summary(self):
        return {
            "resumes": self.resumes,
            "complete_shards_kept": self.kept,
            "complete_shards_made_again": dict(sorted(self.complete_again.items())),
            "complete_shards_made_again_by_a_stopped_worker": dict(
                sorted(self.of_a_worker.items())
            ),
            "unfinished_shards": dict(sorted(self.unfinished.items())),
        }


def undisturbed(corpus):
    out = os.path.join(corpus.args.work, "undisturbed")
    shutil.rmtree(out, ignore_errors=True)
    started = time.monotonic()
    corpus.finish(out, 2, 1)
    corpus.seconds = time.monotonic() - started
    corpus.expected = tree(out)
    corpus.input_bytes = input_bytes(os.path.join(out, "manifest.json"))
    corpus.output("verify", out)
    count = sum(name.endswith(".tok") for name in corpus.expected)
    print(
        f"undisturbed: {corpus.seconds:.2f} s, {len(corpus.expected)} files, {count} shards",
        flush=True,
    )
    runs = 0
    for threads in THREADS:
        for tasks in SPLITS if corpus.has_tasks else (1,):
            out = fresh(corpus, "split")
            corpus.finish(out, threads, tasks)
            if tasks > 1:
                corpus.output("merge", out)
            corpus.compare(out, f"{threads} threads, {tasks} tasks")
            runs += 1
    print(
        f"undisturbed, threads {THREADS} x tasks {SPLITS if corpus.has_tasks else (1,)}: "
        f"{runs} runs, equal",
        flush=True,
    )
    return {"runs": runs, "shards": count, "seconds": corpus.seconds}


def fresh(corpus, name):
    out = os.path.join(corpus.args.work, name)
    shutil.rmtree(out, ignore_errors=True)
    return out


def kill_round(corpus, out, threads, tasks, chance, redone, counts):
    """Kills one folder's runs a few times, then lets them finish."""
    before, stopped, pending = None, [], list(enumerate(corpus.commands(out, threads, tasks)))
    for kills_left in reversed(range(KILLS_PER_FOLDER + 1)):
        running = [corpus.start(command) for _, command in pending]
        if kills_left > 0:
            time.sleep(chance.uniform(0, corpus.seconds * 0.7))
            for process in running if chance.random() < 0.5 else [chance.choice(running)]:
                if process.poll() is None:
                    process.send_signal(signal.SIGKILL)
        for process in running:
            error = process.communicate(timeout=TIMEOUT_SECONDS)[1]
            if process.returncode == -signal.SIGKILL:
                counts["tokenize"] += 1
            elif process.returncode != 0:
                raise Failed(f"{out}: ended with {process.returncode}: {error.decode()[-500:]}")
        after = shards(out) if os.path.isdir(out) else ({}, 0)
        if before is not None:
            redone.add(before, after, threads, tasks, stopped)
        before = after
        # A run that is finished is not started again.
        pending = [run for run, process in zip(pending, running) if process.returncode != 0]
        stopped = [task for task, _ in pending]
        if not pending:
            return


def kill_merge(corpus, out, chance, counts):
    started = time.monotonic()
    trial = out + "-merged"
    shutil.rmtree(trial, ignore_errors=True)
    shutil.copytree(out, trial)
    corpus.output("merge", trial)
    seconds = time.monotonic() - started
    shutil.rmtree(trial)
    for _ in range(4):
        process = corpus.start([corpus.args.patchmill, "merge", out])
        time.sleep(chance.uniform(0, min(seconds, 0.2)))
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=TIMEOUT_SECONDS)
        counts["merge"] += process.returncode == -signal.SIGKILL
    corpus.output("merge", out)


def kills(corpus):
    chance = random.Random(corpus.args.seed)
    redone, counts, folders = Redone(corpus), collections.Counter(), 0
    ways = [
        (threads, tasks) for threads in THREADS for tasks in (SPLITS if corpus.has_tasks else (1,))
    ]
    while counts.total() < corpus.args.kills:
        threads, tasks = ways[folders % len(ways)]
        out = fresh(corpus, "killed")
        kill_round(corpus, out, threads, tasks, chance, redone, counts)
        if tasks > 1:
            kill_merge(corpus, out, chance, counts)
        corpus.compare(out, f"folder {folders}, {threads} threads, {tasks} tasks, after kills")
        folders += 1
        print(
            f"kills: {counts['tokenize']} of tokenize, {counts['merge']} of merge, "
            f"{folders} folders equal",
            flush=True,
        )
    return {"kills": dict(counts), "folders": folders, **redone.summary()}


class SmallDisk:
    """A tmpfs whose size is ours to change."""

    def __init__(self, folder, size):
        self.folder = folder
        os.makedirs(folder, exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)

    def resize(self, size):
        subprocess.run(
            ["mount", "-o", f"remount,size={size}", self.folder],
            check=True,
            stderr=subprocess.DEVNULL,
        )

    def used(self):
        status = os.statvfs(self.folder)
        return (status.f_blocks - status.f_bfree) * status.f_frsize

    def unmount(self):
        subprocess.run(["umount", self.folder], check=True)


def refused(corpus, disk, out, process):
    """The run must have ended by itself, with a message on space, and publish only whole files."""
    error = process.communicate(timeout=TIMEOUT_SECONDS)[1].decode()
    if process.returncode == 0:
        return None
    if process.returncode < 0:
        raise Failed(f"died of signal {-process.returncode} on a full disk: {error[-500:]}")
    if "space" not in error.lower() and "free" not in error.lower():
        raise Failed(f"the message does not mention space: {error[-500:]}")
    if os.path.exists(os.path.join(out, "manifest.json")):
        raise Failed("a manifest was written on a full disk")
    for name in shards(out)[0] if os.path.isdir(out) else ():
        if tree_file(out, name) != corpus.expected.get(name):
            raise Failed(f"shard {name} was published and is not whole")
    return error.strip().splitlines()[-1]


def tree_file(folder, name):
    with open(os.path.join(folder, name), "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def disk_full(corpus):
    if os.geteuid() != 0:
        print("disk full: skipped, mounting a tmpfs takes root", flush=True)
        return {"skipped": "not root"}
    chance = random.Random(corpus.args.seed + 1)
    size = sum(
        os.path.getsize(os.path.join(corpus.args.work, "undisturbed", name))
        for name in corpus.expected
    )
    folder = os.path.join(corpus.args.work, "small-disk")
    redone, counts, messages, attempts = Redone(corpus), collections.Counter(), set(), 0
    while counts.total() < corpus.args.disk_full:
        attempts += 1
        if attempts > 20 * corpus.args.disk_full:
            raise Failed(f"only {counts.total()} runs met a full disk in {attempts} attempts")
        threads = chance.choice(THREADS)
        at_start = counts["at the start"] < corpus.args.disk_full // 4
        disk = SmallDisk(folder, int(size * chance.uniform(0.05, 0.9)) if at_start else 8 * size)
        try:
            out = os.path.join(folder, "out")
            process = corpus.start(corpus.commands(out, threads, 1)[0])
            if not at_start:
                shrink(corpus, disk, chance, size)
            message = refused(corpus, disk, out, process)
            if message is None:
                continue  # it was done before the disk was full
            before = shards(out) if os.path.isdir(out) else ({}, 0)
            counts["at the start" if at_start else "while writing"] += 1
            messages.add("".join("0" if c.isdigit() else c for c in message)[:160])
            disk.resize(8 * size)
            corpus.finish(out, threads, 1)
            redone.add(before, shards(out), threads, 1, [0])
            corpus.compare(out, f"{threads} threads after a full disk")
        finally:
            disk.unmount()
        print(f"disk full: {dict(counts)}, equal after resuming", flush=True)
    for message in sorted(messages):
        print(f"  message: {message}")
    return {"faults": dict(counts), **redone.summary()}


def shrink(corpus, disk, chance, size):
    """Waits until some of the tree is written, then leaves room for a part of the rest."""
    wanted = size * chance.uniform(0, 0.8)
    deadline = time.monotonic() + 2 * corpus.seconds + 1
    while disk.used() < wanted and time.monotonic() < deadline:
        time.sleep(0.0005)
    while True:
        try:
            disk.resize(int(disk.used() + size * chance.uniform(0.01, 0.1)) // 4096 * 4096)
            return
        except subprocess.CalledProcessError:
            pass  # more was written meanwhile than there was to be left


def main():
    args = arguments()
    args.work = os.path.abspath(args.work)
    args.patchmill, args.tokenizer = (
        os.path.abspath(args.patchmill),
        os.path.abspath(args.tokenizer),
    )
    os.makedirs(args.work, exist_ok=True)
    summary = {"seed": args.seed}
    try:
        corpus = Corpus(args)
        if not corpus.has_tasks:
            print("notice: this patchmill has no --task; splits are left out", flush=True)
        summary["undisturbed"] = undisturbed(corpus)
        summary["killed"] = kills(corpus)
        summary["disk_full"] = disk_full(corpus)
    except Failed as failure:
        print(f"FAILED (seed {args.seed}): {failure}", flush=True)
        summary["failed"] = str(failure)
    print(json.dumps(summary, indent=1))
    if args.json:
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(summary, file, indent=1)
    sys.exit("failed" in summary)


if __name__ == "__main__":
    main()
