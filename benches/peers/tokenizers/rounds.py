"""Interleaved rounds of tokenizers, ours among them: A B C … A B C …, on one core and on two,
pinned by taskset.

Each run is a process of its own with a cold cache. Reports median and range of MB (10^6 bytes of
text) a second, and whether the ids are the same. run.sh builds what this starts.
"""

import argparse
import glob
import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
SUBSET_STRIDE = 13  # slow peers take each 13th document


def arguments():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokenizer", required=True)
    parser.add_argument("--work", required=True)
    parser.add_argument("--report", required=True, help="receives .md and .json")
    parser.add_argument("--release", required=True, help="folder of our programs")
    parser.add_argument("--peers", required=True, help="folder of the peers' programs")
    parser.add_argument("--prototype")
    parser.add_argument("--python", help="one that has gigatoken")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--cores", default="0,1", help="two of them")
    parser.add_argument("--stride", type=int, default=1, help="encode each N-th document alone")
    parser.add_argument("--encoder-only", action="store_true")
    parser.add_argument("--stage-only", action="store_true")
    parser.add_argument("--cache-bytes", help="handed to patchmill where given")
    parser.add_argument("corpus", nargs="+")
    return parser.parse_args()


def inputs(paths):
    """All .jsonl and .jsonl.zst below the paths, in byte order."""
    found = []
    for path in paths:
        if os.path.isdir(path):
            below = glob.glob(os.path.join(glob.escape(path), "**"), recursive=True)
            found += [name for name in below if name.endswith((".jsonl", ".jsonl.zst"))]
        else:
            found.append(path)
    if not found:
        sys.exit(f"no .jsonl or .jsonl.zst below {paths}")
    return sorted(found, key=os.fsencode)


def lines(path):
    if path.endswith(".zst"):
        with subprocess.Popen(["zstd", "-dcq", path], stdout=subprocess.PIPE) as process:
            yield from process.stdout
        if process.returncode != 0:
            sys.exit(f"zstd -dc {path} failed with {process.returncode}")
    else:
        with open(path, "rb") as file:
            yield from file


def write_plain(files, path, stride):
    """Every N-th document as plain JSON lines, which all peers can read."""
    number = 0
    with open(path, "wb") as out:
        for file in files:
            for line in lines(file):
                if line.strip():
                    if number % stride == 0:
                        out.write(line.rstrip(b"\r\n") + b"\n")
                    number += 1
    return path


def run(command, cores):
    """Runs a command on the cores; its last line's object with wall seconds and peak memory, or
    what went wrong."""
    started = time.monotonic()
    pinned = ["taskset", "-c", ",".join(cores)] + command
    process = subprocess.Popen(pinned, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    # A thread for each pipe, and wait4 here: subprocess does not hand out the resources that a
    # child used.
    pipes = {}
    readers = []
    for name in ("stdout", "stderr"):
        pipe = getattr(process, name)
        readers.append(threading.Thread(target=lambda n=name, p=pipe: pipes.update({n: p.read()})))
        readers[-1].start()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.monotonic() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    for reader in readers:
        reader.join()
    out, err = pipes["stdout"].decode(errors="replace"), pipes["stderr"].decode(errors="replace")
    if process.returncode != 0:
        last = err.strip().splitlines()[-1:] or ["no message"]
        return {"error": f"exit {process.returncode}: {last[0][:200]}"}
    result = json.loads(out.strip().splitlines()[-1])
    result["wall_seconds"] = wall
    result["process_peak_rss_bytes"] = usage.ru_maxrss * 1024
    result["process_cpu_seconds"] = usage.ru_utime + usage.ru_stime
    return result


class Entry:
    """One competitor: a name, which corpus it takes, and its command for a number of threads."""

    def __init__(self, name, corpus, command, section):
        self.name, self.corpus, self.command, self.section = name, corpus, command, section
        self.runs = {1: [], 2: []}
        self.error = None

    def measure(self, threads, cores):
        if self.error:
            return
        result = run(self.command(threads), cores)
        if "error" in result:
            self.error = result["error"]
            print(f"{self.name}: left out: {self.error}", file=sys.stderr)
        else:
            self.runs[threads].append(result)


def encoder_entries(args, tokenizer, full, sub):
    ours = os.path.join(args.release, "examples", "encode")
    more = ["--cache-bytes", args.cache_bytes] if args.cache_bytes else []

    def patchmill(mode):
        head = [ours, "--tokenizer", tokenizer, "--special-tokens", mode] + more
        return lambda threads: head + ["--threads", str(threads), full]

    def peer(name, corpus):
        return lambda threads: [os.path.join(args.peers, name), tokenizer, corpus, str(threads)]

    entries = [
        Entry("patchmill", "full", patchmill("text"), "encoder"),
        Entry("patchmill, special tokens hf", "full", patchmill("hf"), "encoder"),
    ]
    if args.prototype:
        command = lambda threads: [args.prototype, tokenizer, full, "x", "time", str(threads), "19"]
        entries.append(Entry("prototype", "full", command, "encoder"))
    if os.path.exists(os.path.join(args.peers, "peer_fastokens")):
        entries.append(Entry("fastokens 0.3.5", "full", peer("peer_fastokens", full), "encoder"))
    if args.python:
        head = [args.python, os.path.join(HERE, "gigatoken_peer.py"), "encode", tokenizer]
        command = lambda threads: head + [str(threads), full]
        entries.append(Entry("gigatoken 0.10.0", "full", command, "encoder"))
    for program, name in [
        ("peer_hf_1_rc", "tokenizers 1.0.0-rc.3"),
        ("peer_hf_0_23", "tokenizers 0.23.2"),
    ]:
        if os.path.exists(os.path.join(args.peers, program)):
            entries.append(Entry(name, "subset", peer(program, sub), "encoder"))
    return entries


def stage_command(args, tokenizer, files, threads, extra):
    out = os.path.join(args.work, "stage-out")
    shutil.rmtree(out, ignore_errors=True)
    more = ["--cache-bytes", args.cache_bytes] if args.cache_bytes else []
    head = [
        os.path.join(args.release, "patchmill"),
        "tokenize",
        "--tokenizer",
        tokenizer,
        "--out",
        out,
    ]
    return head + ["--threads", str(threads), "--json"] + extra + more + files


def stage_entries(args, tokenizer, files):
    ours = lambda threads: stage_command(args, tokenizer, files, threads, [])
    entries = [Entry("patchmill tokenize", "full", ours, "stage")]
    if args.python:
        head = [args.python, os.path.join(HERE, "gigatoken_peer.py"), "files", tokenizer]
        command = lambda threads: head + [str(threads)] + files
        entries.append(Entry("gigatoken encode_files", "full", command, "stage"))
    return entries


def seconds(entry, result):
    # Our stage is timed as a process, from its start to its end; everything else by its own clock
    # around the work.
    return (
        result["wall_seconds"]
        if entry.name == "patchmill tokenize"
        else result.get("seconds", result.get("secs"))
    )


def rates(entry, threads, text_bytes):
    return [
        text_bytes[entry.corpus] / 1e6 / seconds(entry, result) for result in entry.runs[threads]
    ]


def cpu_rates(entry, threads, text_bytes):
    """MB of text a second of CPU time: what a busy machine moves less."""
    key = "process_cpu_seconds" if entry.name == "patchmill tokenize" else "cpu_seconds"
    used = [result.get(key, result.get("cpu_secs")) for result in entry.runs[threads]]
    return [text_bytes[entry.corpus] / 1e6 / seconds for seconds in used if seconds]


def spread(values):
    if not values:
        return "–"
    return f"{statistics.median(values):.1f} ({min(values):.1f}–{max(values):.1f})"


def middle(values):
    return f"{statistics.median(values):.2f}" if values else "–"


def same_ids(entry, entries, references):
    """Whether an entry's ids are those of its reference: by checksum, or by count where that is all
    there is."""
    result = (entry.runs[1] or entry.runs[2] or [None])[0]
    reference = references.get((entry.section, entry.corpus))
    if result is None or reference is None:
        return "–"
    if entry.name in ("patchmill", "patchmill tokenize"):
        return "ours, special tokens as text"
    keys = [key for key in ("checksum", "tokens") if key in result and key in reference]
    if any(result[key] != reference[key] for key in keys):
        return f"differ ({result['tokens']} ids, ours {reference['tokens']})"
    return "same" if "checksum" in keys else "same count"


def table(entries, section, text_bytes, references):
    entries = [entry for entry in entries if entry.section == section]
    head = (
        "| | 1 core MB/s | 2 cores MB/s | 2 / 1 | ours / it, 1 core | MB/CPU s, 1 core "
        "| ours / it, CPU |"
    )
    rows = [head + " peak RSS MB, 1 and 2 | ids |", "|---|---|---|---|---|---|---|---|---|"]
    ours, ours_cpu = rates(entries[0], 1, text_bytes), cpu_rates(entries[0], 1, text_bytes)
    for entry in entries:
        if entry.error:
            rows.append(f"| {entry.name} | left out: {entry.error} | | | | | | | |")
            continue
        one, two = rates(entry, 1, text_bytes), rates(entry, 2, text_bytes)
        ratio = [b / a for a, b in zip(one, two)]
        against = [a / b for a, b in zip(ours, one)]
        cpu = cpu_rates(entry, 1, text_bytes)
        against_cpu = [a / b for a, b in zip(ours_cpu, cpu)]
        peaks = [
            max((r["process_peak_rss_bytes"] for r in entry.runs[t]), default=0) / 1e6
            for t in (1, 2)
        ]
        name = (
            entry.name
            if entry.corpus == "full"
            else f"{entry.name} (each {SUBSET_STRIDE}th document)"
        )
        rows.append(
            f"| {name} | {spread(one)} | {spread(two)} | {statistics.median(ratio):.2f} |"
            f" {statistics.median(against):.2f} | {spread(cpu)} | {middle(against_cpu)} | "
            f"{peaks[0]:.0f}, {peaks[1]:.0f} | {same_ids(entry, entries, references)} |"
        )
    return "\n".join(rows)


def main():
    args = arguments()
    tokenizer = args.tokenizer
    if os.path.isdir(tokenizer):
        tokenizer = os.path.join(tokenizer, "tokenizer.json")
    files = inputs(args.corpus)
    os.makedirs(args.work, exist_ok=True)
    full = write_plain(files, os.path.join(args.work, "full.jsonl"), args.stride)
    sub = write_plain([full], os.path.join(args.work, "subset.jsonl"), SUBSET_STRIDE)
    entries, references, text_bytes = [], {}, {}
    ours = [os.path.join(args.release, "examples", "encode"), "--tokenizer", tokenizer]
    for corpus, path in [("full", full), ("subset", sub)]:
        checked = run(ours + ["--special-tokens", "hf", path], args.cores.split(","))
        if "error" in checked:
            sys.exit(checked["error"])
        references["encoder", corpus] = checked
        text_bytes[corpus] = checked["text_bytes"]
    if not args.stage_only:
        entries += encoder_entries(args, tokenizer, full, sub)
    if not args.encoder_only and args.stride == 1:
        entries += stage_entries(args, tokenizer, files)
        check = stage_command(args, tokenizer, files, 2, ["--no-bos", "--special-tokens", "hf"])
        checked = run(check, args.cores.split(","))
        if checked.get("tokens") != references["encoder", "full"]["tokens"]:
            sys.exit(f"the stage's ids are not the encoder's: {checked}")
        references["stage", "full"] = {"tokens": checked["tokens"]}
    cores = args.cores.split(",")
    for number in range(args.rounds):
        for threads in (1, 2):
            for entry in entries:
                entry.measure(threads, cores[:threads])
        print(
            f"round {number + 1} of {args.rounds}, load {os.getloadavg()[0]:.1f}", file=sys.stderr
        )
    shutil.rmtree(os.path.join(args.work, "stage-out"), ignore_errors=True)
    report(args, entries, text_bytes, references)


def report(args, entries, text_bytes, references):
    title = (
        f"{text_bytes['full'] / 1e6:.1f} MB of text, {args.rounds} interleaved rounds, "
        "median (range)"
    )
    parts = [title]
    for section in ("encoder", "stage"):
        if any(entry.section == section for entry in entries):
            parts.append(f"**{section}**\n\n{table(entries, section, text_bytes, references)}")
    text = "\n\n".join(parts) + "\n"
    print(text)
    with open(args.report + ".md", "w", encoding="utf-8") as file:
        file.write(text)
    runs = [
        {"name": e.name, "section": e.section, "corpus": e.corpus, "error": e.error, "runs": e.runs}
        for e in entries
    ]
    with open(args.report + ".json", "w", encoding="utf-8") as file:
        json.dump(
            {"rounds": args.rounds, "text_bytes": text_bytes, "entries": runs}, file, indent=1
        )


if __name__ == "__main__":
    main()
