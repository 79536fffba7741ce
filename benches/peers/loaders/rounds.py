"""Interleaved rounds of loaders: the memory limit, ours in all its forms, then each peer, A B C … A
B C …

All read the same random ids, which lie in the page cache, in shuffled order as batches [16, T];
each measurement is a process (for peers a fork of one that has imported its library). Reports
median and range over the rounds, and the ratio to ours within a round. Before the rounds each
loader checks its answer on a small corpus: the ids of one pass add up to the corpus', and the batch
after a resume at 50 % is the one that comes next without one. run.sh builds and installs what this
starts.
"""

import argparse
import glob
import itertools
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
WINDOWS = (2048, 8192)
# Of one window in all forms: whole batches of both lengths, so that every loader can read every
# token.
BATCH_TOKENS = 16 * max(WINDOWS)
CHECK_TOKENS = 32 * BATCH_TOKENS
PEERS = [
    "torch DataLoader",
    "torchdata StatefulDataLoader",
    "datatrove FolderDataset",
    "litdata TokensLoader",
    "grain MapDataset",
    "nanoGPT get_batch",
    "OLMo-core NumpyFSL",
    "megatron-core GPTDataset",
    "MosaicML streaming py1e",
]
BASE = "patchmill i64 mmap, 1 worker"  # "ours / it" is to it


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", required=True)
    parser.add_argument(
        "--release", required=True, help="folder with examples/read_corpus and the like"
    )
    parser.add_argument("--python", required=True, help="one that has the peers")
    parser.add_argument("--report", required=True, help="receives .md and .json")
    parser.add_argument(
        "--tokens", type=float, default=400e6, help="of the corpus, rounded down to whole batches"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--seconds", type=float, default=1.0, help="for which a peer reads, at most one pass"
    )
    parser.add_argument(
        "--peer-workers",
        default="0",
        help="worker processes of the peers, a list; 0 is in the process itself",
    )
    parser.add_argument(
        "--peers",
        default=",".join(PEERS),
        help="which, by their names or parts of them; none for ours alone",
    )
    parser.add_argument("--resumes", type=int, default=3, help="how often each peer is resumed")
    return parser.parse_args()


def run(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit {done.returncode}: {done.stderr.strip()[-400:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def make_corpus(args, folder, tokens):
    """The corpus in both forms, unless it is there; its sum and sizes."""
    tokens = tokens // BATCH_TOKENS * BATCH_TOKENS
    record = os.path.join(folder, "made.json")
    if os.path.exists(record):
        with open(record) as file:
            found = json.load(file)
        if found["tokens"] == tokens:
            return found
    shutil.rmtree(folder, ignore_errors=True)
    command = [
        os.path.join(args.release, "examples", "make_corpus"),
        "random",
        folder,
        "--tokens",
        str(tokens),
    ]
    # Four shards, and not at a batch's border, so that windows cross from one into the next.
    made = run(command + ["--shard-tokens", str(tokens // 4 + 1001)])
    with open(record, "w") as file:
        json.dump(made, file)
    return made


def warm(folder):
    """Reads all files once, so that they lie in the page cache."""
    for path in glob.glob(os.path.join(folder, "**"), recursive=True):
        if os.path.isfile(path):
            with open(path, "rb", buffering=0) as file:
                while file.read(1 << 24):
                    pass


class Server:
    """A peer's process; see serve.py."""

    def __init__(self, args, name):
        self.name = name
        self.log = tempfile.TemporaryFile(mode="w+")
        command = [args.python, os.path.join(HERE, "serve.py"), name]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log, text=True
        )

    def hello(self):
        line = self.process.stdout.readline()
        self.about = json.loads(line) if line else {"error": "it died: " + self.last_words()}
        return self.about

    def ask(self, action, folder, window_tokens, workers, **more):
        request = dict(
            action=action, folder=folder, window_tokens=window_tokens, workers=workers, **more
        )
        print(json.dumps(request), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"error": "it died: " + self.last_words()}

    def last_words(self):
        self.log.seek(0)
        return self.log.read()[-300:]

    def end(self):
        self.process.stdin.close()
        self.process.wait()


class Results:
    """Runs by (name, window, what was measured), one a round."""

    def __init__(self):
        self.runs = {}

    def add(self, name, window_tokens, measured):
        for key, value in measured.items():
            if isinstance(value, (int, float)):
                self.runs.setdefault((name, window_tokens, key), []).append(value)

    def values(self, name, window_tokens, key):
        return self.runs.get((name, window_tokens, key), [])


def start_peers(args):
    wanted = [
        part.strip() for part in args.peers.split(",") if part.strip() and args.peers != "none"
    ]
    names = [name for name in PEERS if any(part in name for part in wanted)]
    servers, left_out = [Server(args, name) for name in names], {}
    for server in list(servers):
        about = server.hello()
        if "error" in about:
            left_out[server.name] = about["error"]
            servers.remove(server)
            server.end()
    return servers, left_out


def check_peers(args, servers, folder, left_out):
    """Each peer reads the small corpus once, and is resumed in it; wrong answers are reported,
    peers that fail are left out."""
    checks = {}
    for server in list(servers):
        try:
            checks[server.name] = check_peer(args, server, folder)
        except RuntimeError as err:
            left_out[server.name] = str(err)
            servers.remove(server)
            server.end()
    return checks


def asked(server, *request, **more):
    said = server.ask(*request, **more)
    if "error" in said:
        raise RuntimeError(f"{request[0]}: {said['error']}")
    return said


def check_peer(args, server, folder):
    found = []
    for window_tokens in WINDOWS:
        asked(server, "convert", folder, window_tokens, 0)
        for workers in args.workers:
            said = asked(server, "check", folder, window_tokens, workers)
            left = said["corpus_tokens"] - said["tokens"]
            if said["sum"] == said["expected_sum"]:
                rest = (
                    f", {left:,} of {said['corpus_tokens']:,} tokens left out at T = "
                    f"{window_tokens}"
                    if left
                    else ""
                )
                found.append("each token once" + rest)
            elif server.about["reads"] == "once":
                raise RuntimeError(
                    f"ids add up to {said['sum']}; expected {said['expected_sum']}: "
                    f"{said['tokens']:,} tokens"
                )
            else:
                found.append(server.about["reads"])
            if server.about["can_resume"]:
                following = asked(server, "state", folder, window_tokens, workers)["next_sum"]
                resumed = asked(server, "resume", folder, window_tokens, workers)["next_sum"]
                found.append("resumes exactly" if resumed == following else "RESUMES ELSEWHERE")
    return "; ".join(dict.fromkeys(found))


def prepare_peers(args, servers, folder, left_out, results):
    """Writes the peers' own files and saves their states at 50 %."""
    for server in list(servers):
        try:
            for window_tokens in WINDOWS:
                asked(server, "convert", folder, window_tokens, 0)
            warm(folder)
            window_tokens, workers = WINDOWS[0], args.workers[0]
            if server.about["can_resume"]:
                asked(server, "state", folder, window_tokens, workers)
                for _ in range(args.resumes):
                    said = asked(server, "resume", folder, window_tokens, workers)
                    results.add(
                        peer_name(server.name, workers),
                        window_tokens,
                        {"resume_ms": said["resume_ms"]},
                    )
        except RuntimeError as err:
            left_out[server.name] = str(err)
            servers.remove(server)
            server.end()
        print(f"{server.name}: ready", file=sys.stderr)


def peer_name(name, workers):
    return f"{name}, {workers} processes" if workers else name


def limits(args, folder, results):
    for window_tokens in WINDOWS:
        for threads in (1, 2):
            command = [
                os.path.join(args.release, "examples", "memory_limit"),
                os.path.join(folder, "tokens.bin"),
            ]
            command += ["--window-tokens", str(window_tokens), "--threads", str(threads)]
            said = run(command)
            for mode, rate in said["tokens_per_sec"].items():
                measured = {
                    "tokens_per_sec": rate,
                    "tokens_per_cpu_sec": said["tokens_per_cpu_sec"][mode],
                }
                results.add(
                    f"{mode}, {threads} thread" + "s" * (threads > 1), window_tokens, measured
                )


def ours(args, folder, id_sum, results):
    for window_tokens, output, io, workers in itertools.product(
        WINDOWS, ("i64", "u16"), ("mmap", "pread"), (1, 2)
    ):
        command = [
            os.path.join(args.release, "examples", "read_corpus"),
            os.path.join(folder, "corpus"),
        ]
        command += [
            "--id-sum",
            str(id_sum),
            "--window-tokens",
            str(window_tokens),
            "--output",
            output,
        ]
        said = run(command + ["--workers", str(workers), "--io", io])
        results.add(
            f"patchmill {output} {io}, {workers} worker" + "s" * (workers > 1), window_tokens, said
        )


def spread(values, scale=1e-6, digits=0):
    if not values:
        return "–"
    low, mid, high = (
        f"{scale * x:.{digits}f}" for x in (min(values), statistics.median(values), max(values))
    )
    return f"{mid} ({low}–{high})"


def ratio(results, above, below, window_tokens):
    """Median over the rounds of the ratio within a round."""
    pairs = zip(*(results.values(name, window_tokens, "tokens_per_sec") for name in (above, below)))
    values = [above / below for above, below in pairs]
    return f"{statistics.median(values):.2f}" if values else "–"


def limit_of(name):
    """The copy that does no more than what the loader is asked for, with as many threads."""
    work = "random, populated" if "u16" in name else "random, populated, widened"
    return work + (", 2 threads" if "2 workers" in name else ", 1 thread")


def names_with(results, key):
    return list(dict.fromkeys(name for name, _, found in results.runs if found == key))


def table(head, rows):
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def report(args, made, results, checks, left_out, versions):
    windows = [f"T = {window}" for window in WINDOWS]
    loaders = names_with(results, "first_batch_ms")
    rate = lambda name, key: [spread(results.values(name, window, key)) for window in WINDOWS]
    text = [
        f"{made['tokens']:,} tokens in the page cache, batches [16, T], {args.rounds} interleaved "
        "rounds on "
        f"{os.cpu_count()} cores: median (range)."
    ]
    rows = [
        [name, *rate(name, "tokens_per_sec"), *rate(name, "tokens_per_cpu_sec")]
        for name in names_with(results, "tokens_per_sec")
        if name not in loaders
    ]
    per_cpu = [f"per CPU s, {window}" for window in windows]
    text.append(
        "**The limit of memory**, M tokens/s\n\n" + table(["mode", *windows, *per_cpu], rows)
    )
    rows = [
        [
            name,
            *rate(name, "tokens_per_sec"),
            *rate(name, "tokens_per_cpu_sec"),
            *(ratio(results, name, limit_of(name), window) for window in WINDOWS),
            *(ratio(results, BASE, name, window) for window in WINDOWS),
            spread(results.values(name, WINDOWS[0], "first_batch_ms"), 1, 1),
            spread(results.values(name, WINDOWS[0], "resume_ms"), 1, 1),
        ]
        for name in loaders
    ]
    head = [
        "loader",
        *windows,
        *per_cpu,
        *(f"of the limit, {window}" for window in windows),
        *(f"ours / it, {window}" for window in windows),
    ]
    text.append(
        f"**Loaders**, M tokens/s, peers as 64-bit ids; *ours* is {BASE}, *the limit* the random "
        "copy from a populated "
        "mapping, widened for 64-bit ids; first batch and resume at 50 % in ms, T = "
        f"{WINDOWS[0]}\n\n"
        + table([*head, "first batch", "resume"], rows)
    )
    first = names_with(results, "first_touch_tokens_per_sec")
    text.append(
        "**Ours at the first touch**, checksums included, M tokens/s\n\n"
        + table(
            ["loader", *windows],
            [[name, *rate(name, "first_touch_tokens_per_sec")] for name in first],
        )
    )
    text.append(
        "**Tokens one pass reads** (small corpus)\n\n"
        + table(
            ["loader", "version", "found"],
            [["patchmill", "", "each token once, checked in every run above"]]
            + [[name, versions[name], found] for name, found in checks.items()],
        )
    )
    text += [f"Left out: {name}: {why}" for name, why in left_out.items()]
    text = "\n\n".join(text) + "\n"
    print(text)
    with open(args.report + ".md", "w") as file:
        file.write(text)
    runs = [
        {"name": name, "window_tokens": window, "measured": key, "runs": values}
        for (name, window, key), values in results.runs.items()
    ]
    with open(args.report + ".json", "w") as file:
        json.dump(
            {
                "rounds": args.rounds,
                "corpus": made,
                "checks": checks,
                "left_out": left_out,
                "versions": versions,
                "runs": runs,
            },
            file,
            indent=1,
        )


def main():
    args = arguments()
    args.workers = [int(text) for text in args.peer_workers.split(",")]
    os.makedirs(args.work, exist_ok=True)
    servers, left_out = start_peers(args)
    versions = {server.name: server.about["version"] for server in servers}
    small, folder = os.path.join(args.work, "small"), os.path.join(args.work, "data")
    make_corpus(args, small, CHECK_TOKENS)
    made = make_corpus(args, folder, int(args.tokens))
    checks = check_peers(args, servers, small, left_out)
    results = Results()
    prepare_peers(args, servers, folder, left_out, results)
    warm(folder)
    for number in range(args.rounds):
        limits(args, folder, results)
        ours(args, folder, made["id_sum"], results)
        for workers in args.workers:
            for window_tokens in WINDOWS:
                for server in list(servers):
                    said = server.ask("read", folder, window_tokens, workers, seconds=args.seconds)
                    if "error" in said:
                        left_out[server.name] = said["error"]
                        servers.remove(server)
                    else:
                        results.add(peer_name(server.name, workers), window_tokens, said)
        print(
            f"round {number + 1} of {args.rounds}, load {os.getloadavg()[0]:.1f}", file=sys.stderr
        )
    for server in servers:
        server.end()
    report(args, made, results, checks, left_out, versions)


if __name__ == "__main__":
    main()
