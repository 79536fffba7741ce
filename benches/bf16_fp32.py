"""Does bf16 track fp32? Trains the fixtures' model for 200 steps in both kinds and compares the losses step by step.

    bf16_fp32.py --train target/release/patchmill-train --work WORK [--run fixtures/pretrain.toml] [--limit 1e-2]
                 [--set KEY=VALUE]... [--against KEY=VALUE]

Both runs read the same windows from the same initial weights: two thirds of the steps with K = 4, one third with K = 1. Prints, for
each phase, the largest and the mean difference of the training loss, that of the mean losses, and the validation losses. Exits
with 1 if the training loss of any step differs by more than --limit. --against train.micro_batch_windows=8 compares fp32 with fp32
that rounds in another order: what two runs that are equally right differ by. Nothing but Python's own library.
"""

import argparse
import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

# 200 steps of 8192 tokens, in two passes; validation at the ends of phases alone.
SETTINGS = [
    "data.subset_tokens=819200",
    "plan.epochs=2",
    "train.log_every_steps=1",
    "train.eval_every_steps=0",
    "train.checkpoint_every_steps=1000",
    "train.dtype=fp32",
]


def losses(arguments, name, setting):
    """Training and validation losses of one run: lists of (K, loss) and of losses."""
    output = pathlib.Path(tempfile.mkdtemp(prefix=f"{name}-", dir=arguments.work)).resolve()
    settings = [*SETTINGS, *arguments.set, *setting, f"train.output={output}"]
    command = [arguments.train, "pretrain", arguments.run]
    command += [part for setting in settings for part in ("--set", setting)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    points = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    shutil.rmtree(output)
    train = [(point["patch/size"], point["train/loss"]) for point in points if "train/loss" in point]
    return train, [point["eval/loss"] for point in points if "eval/loss" in point]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", required=True, help="the program patchmill-train")
    parser.add_argument("--work", required=True, help="existing folder for the two runs")
    parser.add_argument("--run", default="fixtures/pretrain.toml")
    parser.add_argument("--limit", type=float, default=1e-2)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for both runs")
    parser.add_argument("--against", default="train.dtype=bf16", metavar="KEY=VALUE", help="for the second run")
    arguments = parser.parse_args()

    fp32, fp32_eval = losses(arguments, "first", [])
    other, other_eval = losses(arguments, "second", [arguments.against])
    if len(fp32) != len(other) or not fp32:
        sys.exit(f"{len(fp32)} steps in fp32, {len(other)} with {arguments.against}; expected as many, and some")
    print(f"{len(fp32)} steps of fp32 against {arguments.against}; loss {fp32[0][1]:.4f} at first, {fp32[-1][1]:.4f} at last")
    differences = [(k, a - b) for (k, a), (_, b) in zip(fp32, other)]
    for patch_size in dict.fromkeys(k for k, _ in differences):
        signed = [difference for k, difference in differences if k == patch_size]
        sizes = [abs(difference) for difference in signed]
        above = sum(size > arguments.limit for size in sizes)
        print(
            f"K = {patch_size:.0f}: {len(sizes)} steps, largest difference {max(sizes):.2e}, mean {sum(sizes) / len(sizes):.2e},"
            f" {above} above the limit; mean losses differ by {abs(sum(signed)) / len(signed):.2e}"
        )
    for a, b in zip(fp32_eval, other_eval):
        print(f"validation loss {a:.4f} against {b:.4f}, difference {abs(a - b):.2e}")
    largest = max(abs(difference) for _, difference in differences)
    print(f"largest difference {largest:.2e}, limit {arguments.limit:.0e}")
    sys.exit(not largest <= arguments.limit)


main()
