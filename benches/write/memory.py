"""Peak memory of `patchmill tokenize` on inputs and on ten times of them: it must not grow with the
input.

    memory.py --patchmill target/release/patchmill --tokenizer TOKENIZER --work WORK INPUT...

The ten times are links with other names. Exits with 1 above --limit-mib or if the second run takes
10 % more (and 32 MiB more) than the first. Nothing but Python's own library.
"""

import glob
import os
import shutil
import subprocess
import sys

import tokenize_run


def peak_mib(command, out):
    """Peak resident memory of one run in MiB, and its report."""
    shutil.rmtree(out, ignore_errors=True)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    output = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        sys.exit(f"patchmill tokenize ended with {process.returncode}")
    shutil.rmtree(out)
    return usage.ru_maxrss / 1024, tokenize_run.report(output.decode())


def files(paths):
    found = []
    for path in paths:
        below = (
            glob.glob(os.path.join(glob.escape(path), "**"), recursive=True)
            if os.path.isdir(path)
            else [path]
        )
        found += [name for name in below if name.endswith((".jsonl", ".zst", ".gz", ".parquet"))]
    return sorted(found)


def main():
    parser = tokenize_run.parser(__doc__, threads=2)
    parser.add_argument("--times", type=int, default=10)
    parser.add_argument("--limit-mib", type=float, default=1024)
    parser.add_argument("--on", default="", help="more options for tokenize, separated by spaces")
    args = parser.parse_args()
    os.makedirs(args.work, exist_ok=True)
    peaks = []
    for times in (1, args.times):
        folder = os.path.join(args.work, "memory-inputs")
        shutil.rmtree(folder, ignore_errors=True)
        for copy in range(times):
            os.makedirs(os.path.join(folder, f"{copy:03}"))
            for path in files(args.inputs):
                os.symlink(
                    os.path.abspath(path),
                    os.path.join(folder, f"{copy:03}", os.path.basename(path)),
                )
        out = os.path.join(args.work, "memory-out")
        peak, report = peak_mib(tokenize_run.command(args, out, args.on.split() + [folder]), out)
        peaks.append(peak)
        print(
            f"{times} x: {report['text_bytes'] / 1e6:.1f} MB of text, {args.threads} threads: peak "
            f"{peak:.0f} MiB",
            flush=True,
        )
    shutil.rmtree(folder)
    is_flat = peaks[1] <= max(peaks[0] * 1.1, peaks[0] + 32)
    print(
        f"{args.times} times the input takes {peaks[1] / peaks[0]:.2f} times the memory; limit "
        f"{args.limit_mib:.0f} MiB"
    )
    sys.exit(not (is_flat and max(peaks) <= args.limit_mib))


if __name__ == "__main__":
    main()
