"""Where a running `patchmill tokenize` spends its time, by parts of the work: `perf record`, then
sums over functions.

    perf_profile.py --patchmill target/release/patchmill --tokenizer TOKENIZER --work WORK
                    [--threads 1] INPUT...

Needs perf. `stage_floor.rs` measures the same parts alone.
"""

import collections
import os
import re
import shutil
import subprocess
import sys

import tokenize_run

# The first pattern that a function's name matches decides.
PARTS = [
    ("zstd", r"ZSTD_|HUF_|FSE_|ZSTDv|zstd|XXH"),
    ("BLAKE3", r"blake3"),
    ("CRC32C", r"crc32c"),
    ("document index (Parquet)", r"parquet|arrow"),
    ("JSON and lines", r"json|simd|memchr|memrchr|docs::|utf8"),
    ("encoding", r"encode|tokenize|bpe|merge|Session|tokenizers|scan|onig"),
    ("series, shards, files", r"shard|series|publish|build::"),
    ("channels and threads", r"crossbeam|futex|park|sched|Thread"),
    (
        "memory: copies, allocation",
        r"mem(cpy|move|set|cmp)|malloc|free|realloc|calloc|RawVec|__rust_|_int_",
    ),
]


def part(symbol, binary):
    for name, pattern in PARTS:
        if re.search(pattern, symbol):
            return name
    return "kernel" if binary.startswith("[kernel") or "vmlinux" in binary else "other"


def main():
    parser = tokenize_run.parser(__doc__, threads=1)
    parser.add_argument("--top", type=int, default=25, help="functions to list")
    args = parser.parse_args()
    if shutil.which("perf") is None:
        sys.exit("perf is not installed (Debian: apt-get install linux-perf)")
    os.makedirs(args.work, exist_ok=True)
    out, data = os.path.join(args.work, "profile-out"), os.path.join(args.work, "perf.data")
    shutil.rmtree(out, ignore_errors=True)
    cores = ",".join(str(core) for core in range(args.threads))
    command = ["perf", "record", "--quiet", "-F", "997", "-o", data, "--", "taskset", "-c", cores]
    command += tokenize_run.command(args, out, args.inputs)
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"perf record ended with {done.returncode}: {done.stderr[-500:]}")
    report = tokenize_run.report(done.stdout)
    script = ["perf", "script", "-i", data, "-F", "ip,sym,dso"]
    lines = subprocess.run(script, capture_output=True, text=True, check=True).stdout.splitlines()
    parts, functions, total = collections.Counter(), collections.Counter(), 0
    for line in lines:
        found = re.match(r"\s*[0-9a-f]+ (.*) \((.*)\)$", line)
        if found:
            symbol, binary = found.groups()
            total += 1
            parts[part(symbol, os.path.basename(binary))] += 1
            functions[symbol] += 1
    if total == 0:
        sys.exit("perf recorded no samples")
    rate = report["text_bytes"] / 1e6 / report["seconds"]
    print(
        f"{report['text_bytes'] / 1e6:.1f} MB of text, {args.threads} threads, {rate:.1f} MB/s, "
        f"{total} samples\n"
    )
    print("| part | share | MB/s if it were all |\n|---|---|---|")
    for name, count in parts.most_common():
        print(f"| {name} | {100 * count / total:.1f} % | {rate * total / count:.0f} |")
    print("\n| function | share |\n|---|---|")
    for symbol, count in functions.most_common(args.top):
        print(f"| `{re.sub(r'::h[0-9a-f]{16}', '', symbol)[:110]}` | {100 * count / total:.1f} % |")
    shutil.rmtree(out, ignore_errors=True)
    os.remove(data)


if __name__ == "__main__":
    main()
