"""Does bf16 track fp32? Trains the fixtures' model for 200 steps in both dtypes and compares
the losses step by step.

    bf16_fp32.py --train target/release/patchmill-train --work WORK
                 [--run fixtures/pretrain.toml] [--limit 1e-2] [--set KEY=VALUE]...
                 [--peer PYTHON --patchmill target/release/patchmill]

At the paper's peak rate, 3e-4, and at the run file's own. All runs read the same windows from the
same initial weights: two thirds of the steps with K = 4, one third with K = 1. fp32 is compared
with itself and with bf16, each also in smaller micro-batches: what changes there is the order of
rounding alone, so these are what two runs that are equally right differ by. Prints, for each phase,
the largest and the mean difference of the training loss, that of the mean losses, and the
validation losses. Exits with 1 if bf16's training loss of any step differs by more than --limit at
either rate. --peer, a Python with torch and transformers, trains the same model from the same
weights on the same windows in both dtypes as well (bf16_peer.py): the cost of bf16 for PyTorch.
"""

import argparse
import json
import math
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import tomllib

PAPER_RATE = "3e-4"
# 200 steps of 8192 tokens, in two passes; validation at the ends of phases alone.
SETTINGS = [
    "data.subset_tokens=819200",
    "plan.epochs=2",
    "train.log_every_steps=1",
    "train.eval_every_steps=0",
    "train.checkpoint_every_steps=1000",
    "train.dtype=fp32",
]


def pretrain(arguments, output, settings):
    """Runs to the end; its report is not printed, its progress is."""
    command = [arguments.train, "pretrain", arguments.run]
    command += [
        part for setting in (*settings, f"train.output={output}") for part in ("--set", setting)
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def losses(arguments, name, setting):
    """Training and validation losses of one run: lists of (K, loss) and of losses."""
    output = pathlib.Path(tempfile.mkdtemp(prefix=f"{name}-", dir=arguments.work)).resolve()
    pretrain(arguments, output, [*SETTINGS, *setting])
    points = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    shutil.rmtree(output)
    train = [
        (point["patch/size"], point["train/loss"]) for point in points if "train/loss" in point
    ]
    return train, [point["eval/loss"] for point in points if "eval/loss" in point]


def peer_losses(arguments, run_settings, patch_sizes):
    """The same of PyTorch in fp32 and in bf16; `patch_sizes` is K of each step."""
    work = pathlib.Path(tempfile.mkdtemp(prefix="peer-", dir=arguments.work)).resolve()
    # Two steps at a rate that changes no weight leave those that every run begins with.
    still = [
        "plan.epochs=1",
        "phases.0.share=0/1",
        "phases.1.share=1/1",
        "phases.1.schedule.peak=1e-14",
    ]
    still += ["phases.1.schedule.warmup_steps=0", "data.subset_tokens=16384"]
    pretrain(arguments, work / "initial", [*SETTINGS, *run_settings, *still])
    windows = work / "windows.bin"
    settings = [part for setting in (*SETTINGS, *run_settings) for part in ("--set", setting)]
    stream = [arguments.patchmill, "stream", arguments.run, *settings, "--sink", "file", windows]
    subprocess.run(stream, check=True, stdout=subprocess.DEVNULL)
    resolved = work / "resolved.toml"
    with open(resolved, "wb") as file:
        subprocess.run(
            [arguments.patchmill, "config", "show", arguments.run, *settings],
            check=True,
            stdout=file,
        )
    phase_steps = [patch_sizes.count(k) for k in dict.fromkeys(patch_sizes)]
    command = [
        arguments.peer,
        pathlib.Path(__file__).with_name("bf16_peer.py"),
        "--weights",
        work / "initial" / "checkpoint-2",
    ]
    command += ["--windows", windows, "--run", resolved, "--threads", str(os.cpu_count())]
    command += ["--phase-steps", ",".join(map(str, phase_steps))]
    found = []
    for dtype in ("fp32", "bf16"):
        done = subprocess.run(
            [*command, "--dtype", dtype], check=True, stdout=subprocess.PIPE, text=True
        )
        found.append(list(zip(patch_sizes, map(float, done.stdout.split()))))
    shutil.rmtree(work)
    return found


def compare(arguments, one, other):
    """Prints how far two runs are apart, phase by phase; the largest difference."""
    differences = [(k, a - b) for (k, a), (_, b) in zip(one, other)]
    for patch_size in dict.fromkeys(k for k, _ in differences):
        signed = [difference for k, difference in differences if k == patch_size]
        sizes = [abs(difference) for difference in signed]
        above = sum(not size <= arguments.limit for size in sizes)
        print(
            f"K = {patch_size:.0f}: {len(sizes)} steps, largest difference {max(sizes):.2e}, mean "
            f"{sum(sizes) / len(sizes):.2e},"
            f" {above} above the limit; mean losses differ by {abs(sum(signed)) / len(signed):.2e}"
        )
    sizes = [abs(difference) for _, difference in differences]
    return math.nan if any(map(math.isnan, sizes)) else max(sizes)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--train", required=True, help="the program patchmill-train")
    parser.add_argument("--work", required=True, help="existing folder for the runs")
    parser.add_argument("--run", default="fixtures/pretrain.toml")
    parser.add_argument("--limit", type=float, default=1e-2)
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="for all runs, such as train.init_seed=2",
    )
    parser.add_argument("--windows", type=int, default=8, help="of a smaller micro-batch")
    parser.add_argument(
        "--peer", metavar="PYTHON", help="trains in both dtypes on PyTorch as well"
    )
    parser.add_argument(
        "--patchmill", help="the program patchmill, which --peer takes the windows from"
    )
    arguments = parser.parse_args()
    if arguments.peer and not arguments.patchmill:
        parser.error("--peer takes --patchmill")

    with open(arguments.run, "rb") as file:
        phases = tomllib.load(file)["phases"]
    paper = [f"phases.{index}.schedule.peak={PAPER_RATE}" for index in range(len(phases))]
    own = ", ".join(dict.fromkeys(str(phase["schedule"]["peak"]) for phase in phases))
    is_within = [
        compare_kinds(arguments, f"peak rate {PAPER_RATE}, the paper's", [*paper, *arguments.set]),
        compare_kinds(arguments, f"peak rate {own}, the run file's", arguments.set),
    ]
    sys.exit(not all(is_within))


def compare_kinds(arguments, title, settings):
    """Prints how far the dtypes are apart in runs with `settings`; whether bf16 stays within the
    limit."""
    print(f"== {title}")
    smaller = f"train.micro_batch_windows={arguments.windows}"
    fp32, fp32_eval = losses(arguments, "fp32", settings)
    print(
        f"{len(fp32)} steps; fp32 loss {fp32[0][1]:.4f} at first, {fp32[-1][1]:.4f} at last",
        flush=True,
    )
    largest = {}
    for name, setting in [
        ("fp32, other order", [smaller]),
        ("bf16", ["train.dtype=bf16"]),
        ("bf16, other order", ["train.dtype=bf16", smaller]),
    ]:
        other, other_eval = losses(arguments, "other", [*settings, *setting])
        if len(fp32) != len(other) or not fp32:
            sys.exit(
                f"{len(fp32)} steps in fp32, {len(other)} in {name}; expected as many, and some"
            )
        print(f"fp32 against {name}:")
        largest[name] = compare(arguments, fp32, other)
        pairs = [f"{a:.4f} against {b:.4f}" for a, b in zip(fp32_eval, other_eval)]
        print(f"validation losses {', '.join(pairs)}", flush=True)
    if arguments.peer:
        print("PyTorch, fp32 against bf16 autocast, same weights and windows:")
        compare(arguments, *peer_losses(arguments, settings, [k for k, _ in fp32]))
    listed = ", ".join(f"{difference:.2e} ({name})" for name, difference in largest.items())
    print(f"largest differences {listed}; limit {arguments.limit:.0e}")
    return largest["bf16"] <= arguments.limit


main()
