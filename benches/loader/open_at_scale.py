"""Time from the start to the first batch, with a corpus of 720 GB in 1,000 shards, and when resumed
at 50 %.

    open_at_scale.py --patchmill target/release/patchmill --examples target/release/examples \\
        --work WORK

The corpus has correct headers, footers and manifest, and holes for ids (all 0, with correct
checksums). It takes 1.9 GB of disk, almost all of it the document ends and checksums of the
footers. Made once, in WORK/sparse-SHARDSxTOKENS.

First the parts, within one process (open_corpus.rs). Then `patchmill stream`, a process each, mmap
and pread: the time it prints (`first_batch_ms`, from opening the corpus on) and the whole process
with one step read. *Cold* is after asking the system to drop the shards' pages (posix_fadvise);
names, lengths and the manifest stay in memory. Median and range over --rounds. Exits with 1 if a
warm median is above --limit-ms. Needs only Python's standard library.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

STEP_TOKENS, BATCH_WINDOWS = 2_097_152, 16


def said(command):
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit {done.returncode}: {done.stderr.strip()}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def make(args):
    corpus = os.path.join(args.work, f"sparse-{args.shards}x{args.shard_tokens}")
    if not os.path.exists(os.path.join(corpus, "manifest.json")):
        os.makedirs(args.work, exist_ok=True)
        said(
            [
                os.path.join(args.examples, "make_corpus"),
                "sparse",
                corpus,
                "--shards",
                str(args.shards),
                "--shard-tokens",
                str(args.shard_tokens),
            ]
        )
    return corpus


def drop_pages(corpus):
    for entry in os.scandir(corpus):
        file = os.open(entry.path, os.O_RDONLY)
        if not entry.name.endswith(".json"):
            os.fsync(file)  # what is not on the disk yet cannot be dropped
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        os.close(file)


def run_words(args, corpus, io):
    """The fixtures' run file over the sparse corpus: the paper's windows, single tokens."""
    fixture = os.path.join(
        os.path.dirname(os.path.abspath(__file__)), "..", "..", "fixtures", "pretrain.toml"
    )
    values = [
        f"data.corpus={json.dumps(os.path.abspath(corpus))}",
        "plan.window_units=2048",
        f"plan.step_tokens={STEP_TOKENS}",
        "plan.epochs=1",
        "phases.0.share=0/1",
        "phases.1.share=1/1",
        "model.vocab_size=50257",
        f"loader.io={io}",
        f"train.micro_batch_windows={BATCH_WINDOWS}",
        f"loader.workers={args.workers}",
        "loader.ring_bytes=67108864",
    ]
    return [fixture] + [word for value in values for word in ("--set", value)]


def stream(args, run, from_step):
    command = [
        args.patchmill,
        "stream",
        *run,
        "--from",
        str(from_step),
        "--steps",
        "1",
        "--sink",
        "null",
        "--json",
    ]
    started = time.perf_counter()
    report = said(command)
    wall_ms = (time.perf_counter() - started) * 1e3
    assert report["tokens"] == STEP_TOKENS, report
    return report["first_batch_ms"], wall_ms


def spread(values):
    return f"{statistics.median(values):.1f} ({min(values):.1f}–{max(values):.1f})"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    count = lambda text: int(float(text.replace("_", "")))
    parser.add_argument("--patchmill", required=True)
    parser.add_argument("--examples", required=True, help="folder with make_corpus and open_corpus")
    parser.add_argument("--work", required=True)
    parser.add_argument("--shards", type=count, default=1000)
    parser.add_argument("--shard-tokens", type=count, default=360_000_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--limit-ms", type=float, help="fail above this")
    args = parser.parse_args()
    corpus = make(args)
    size = args.shards * args.shard_tokens * 2
    print(
        f"{args.shards:,} shards, {size / 1e9:,.0f} GB, "
        f"{args.workers} workers, {args.rounds} rounds: median (range) in ms\n"
    )
    for io in ("mmap", "pread"):
        print(f"parts, {io}; the first round is cold:", flush=True)
        drop_pages(corpus)
        command = [
            os.path.join(args.examples, "open_corpus"),
            corpus,
            "--io",
            io,
            "--rounds",
            str(args.rounds),
        ]
        subprocess.run(command, check=True)
        print()
    cases, times = [], {}
    for io in ("mmap", "pread"):
        run = run_words(args, corpus, io)
        steps = said([args.patchmill, "plan", *run, "--json"])["steps_total"]
        cases += [(io, "from the start", run, 0), (io, "from 50 %", run, steps // 2)]
    for cold in (False, True):
        for _ in range(args.rounds):
            for io, where, run, step in cases:
                if cold:
                    drop_pages(corpus)
                times.setdefault((io, where, cold), []).append(stream(args, run, step))
    print("| patchmill stream | first batch | whole process, one step |\n|---|---|---|")
    for (io, where, cold), pairs in times.items():
        first, wall = zip(*pairs)
        print(f"| {io}, {where}, {'cold' if cold else 'warm'} | {spread(first)} | {spread(wall)} |")
        line = {"io": io, "where": where, "cold": cold, "first_batch_ms": first, "process_ms": wall}
        print(json.dumps(line), file=sys.stderr)
    medians = [
        statistics.median([first for first, _ in pairs])
        for (_, _, cold), pairs in times.items()
        if not cold
    ]
    if args.limit_ms is not None and max(medians) > args.limit_ms:
        sys.exit(
            f"the first batch takes up to {max(medians):.1f} ms in the median; "
            f"the limit is {args.limit_ms}"
        )


if __name__ == "__main__":
    main()
