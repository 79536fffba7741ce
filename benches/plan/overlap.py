#!/usr/bin/env python3
"""Tokens a run sees twice and never if it switches to shorter windows inside an epoch.

    overlap.py --patchmill target/release/patchmill [--tokens 50_331_648] [--seeds 3]

Phase A reads two thirds of a corpus in windows of 8,192 tokens. Phase B continues at the same
number of tokens in windows of 2,048. Each library has the same seed on both sides of the switch, as
its users would choose. Prints a JSON line for each, the worst of the seeds: the part of phase B's
tokens that phase A had read, and the part of the corpus that neither read. A table follows. Indices
come from each library's own code; libraries that cannot be imported are named and left out.
Packages: numpy, and those of peers/loaders/requirements.txt to compare (OLMo-core and Megatron-core
need a corpus on disk, which is written to a temporary folder).
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import warnings

BENCHES = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path.append(os.path.join(BENCHES, "peers", "loaders"))
warnings.filterwarnings("ignore")

import numpy as np

LONG, SHORT = 8192, 2048
PARTS = LONG // SHORT
FIXTURES_RUN = os.path.join(BENCHES, "..", "fixtures", "pretrain.toml")


def patchmill(program, shuffle):
    """The windows of `patchmill plan --step`, by phase, as pieces of 2,048 tokens."""

    def pieces(tokens, seed):
        values = [
            f"plan.window_units={SHORT}",
            f"plan.step_tokens={LONG * 16}",
            "plan.epochs=1",
            f"plan.seed={seed}",
            f"plan.shuffle={shuffle}",
            "phases.0.schedule.warmup_steps=0",
            "phases.1.schedule.warmup_steps=0",
        ]
        run = [FIXTURES_RUN, *(word for value in values for word in ("--set", value))]
        command = [program, "plan", *run, "--assume-tokens", str(tokens), "--json"]
        steps = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)[
            "steps_total"
        ]
        said = subprocess.run(
            [*command, "--step", f"0..{steps}"], check=True, capture_output=True
        ).stdout
        read = {4: [], 1: []}
        for entry in json.loads(said)["steps"]:
            for window in entry["windows"]:
                first = window["first_token"] // SHORT
                read[entry["patch_size"]].extend(
                    range(first, first + window["token_count"] // SHORT)
                )
        return np.array(read[4]), np.array(read[1])

    return pieces


def cut(long_order, short_order):
    """Two thirds of the long windows, then the short ones from the same number of tokens on."""
    switch = len(long_order) * 2 // 3
    first = (
        np.asarray(long_order[:switch])[:, None].astype(np.int64) * PARTS + np.arange(PARTS)
    ).reshape(-1)
    return first, np.asarray(short_order[switch * PARTS :], dtype=np.int64)


def numpy_permutation(tokens, seed):
    order = lambda count: np.random.default_rng(seed).permutation(count)
    return cut(order(tokens // LONG), order(tokens // SHORT))


def torch_sampler(tokens, seed):
    import torch

    order = lambda count: torch.randperm(
        count, generator=torch.Generator().manual_seed(seed)
    ).numpy()
    return cut(order(tokens // LONG), order(tokens // SHORT))


def grain_shuffle(tokens, seed):
    import grain

    order = lambda count: np.fromiter(
        grain.MapDataset.range(count).shuffle(seed=seed), dtype=np.int64, count=count
    )
    return cut(order(tokens // LONG), order(tokens // SHORT))


def mosaicml(tokens, seed):
    from streaming.base.shuffle import get_shuffle

    def order(count, per_shard):
        shards = [per_shard] * (count // per_shard) + (
            [count % per_shard] if count % per_shard else []
        )
        return get_shuffle("py1e", np.array(shards), 1, seed, 0, 4_000_000)

    return cut(order(tokens // LONG, 4096), order(tokens // SHORT, 4096 * PARTS))


def token_file(folder, tokens):
    path = os.path.join(folder, "tokens.bin")
    (np.arange(tokens, dtype=np.uint64) % 50_000).astype(np.uint16).tofile(path)
    return path


def olmo(tokens, seed):
    from olmo_core.data import DataCollator, NumpyFSLDataLoader, NumpyFSLDataset

    with tempfile.TemporaryDirectory() as folder:
        path = token_file(folder, tokens)

        def order(length):
            data = NumpyFSLDataset(
                path,
                sequence_length=length,
                pad_token_id=1,
                eos_token_id=0,
                vocab_size=50257,
                dtype=np.uint16,
                max_target_sequence_length=LONG,
            )
            loader = NumpyFSLDataLoader(
                data,
                global_batch_size=16 * LONG,
                collator=DataCollator(pad_token_id=1),
                work_dir=folder,
                seed=seed,
                chunk_size=LONG // length,
            )
            loader.reshuffle(epoch=1)
            return np.asarray(loader.get_global_indices())

        return cut(order(LONG), order(SHORT))


def megatron(tokens, seed):
    import torch
    from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder
    from peers import megatron_dataset

    with tempfile.TemporaryDirectory() as folder:
        builder = IndexedDatasetBuilder(f"{folder}/d.bin", dtype=np.uint16)
        for first in range(0, tokens, 1 << 20):
            ids = np.arange(first, min(first + (1 << 20), tokens), dtype=np.int64) % 50_000
            builder.add_document(torch.from_numpy(ids), [len(ids)])
        builder.finalize(f"{folder}/d.idx")

        def order(length, count):
            built = megatron_dataset(
                f"{folder}/d", length, count, tempfile.mkdtemp(dir=folder), seed
            )
            return built.document_index, np.asarray(built.shuffle_index)

        blocks = tokens // LONG
        (documents, long_order), (same, short_order) = (
            order(LONG, blocks - 1),
            order(SHORT, blocks * PARTS - PARTS),
        )
        assert np.array_equal(documents, same), "one stream of documents, so that places compare"
        return cut(long_order, short_order)


def measure(pieces, tokens, seeds):
    """The part of phase B that phase A had read, and the part of the corpus that neither read: the
    worst of the seeds."""
    count, again, never = tokens // LONG * PARTS, [], []
    for seed in range(1, seeds + 1):
        first, second = pieces(tokens, seed)
        first, second = first[first < count], second[second < count]
        assert len(first) > 0 and len(second) > 0, "both phases read something"
        seen = np.zeros(count, bool)
        seen[first] = True
        again.append(float(seen[second].mean()))
        seen[second] = True
        never.append(float((~seen).mean()))
    return max(again), max(never)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--patchmill", required=True, help="the program")
    parser.add_argument(
        "--tokens", type=lambda text: int(text.replace("_", "")), default=50_331_648
    )
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    peers = {
        "patchmill, global": patchmill(args.patchmill, '"global"'),
        "patchmill, blocked": patchmill(args.patchmill, '{ kind = "blocked", group_blocks = 256 }'),
        "numpy permutation of windows": numpy_permutation,
        "torch RandomSampler": torch_sampler,
        "grain MapDataset.shuffle": grain_shuffle,
        "mosaicml-streaming py1e": mosaicml,
        "megatron-core GPTDataset": megatron,
        "OLMo-core NumpyFSLDataset": olmo,
    }
    rows, left_out = [], []
    for name, pieces in peers.items():
        try:
            again, never = measure(pieces, args.tokens, args.seeds)
        except Exception as err:  # not there, or without what it needs
            left_out.append(f"{name}: not measured, {type(err).__name__}: {err}")
            continue
        rows.append(f"| {name} | {100 * again:.1f} % | {100 * never:.1f} % |")
        line = {
            "name": name,
            "seen_twice": again,
            "never_read": never,
            "tokens": args.tokens,
            "seeds": args.seeds,
        }
        print(json.dumps(line), flush=True)
    print(
        f"\n| {args.tokens:,} tokens, worst of {args.seeds} seeds | phase B had been read | never "
        "read |\n|---|---|---|"
    )
    print("\n".join(rows + [""] * bool(left_out) + left_out))
    if not all(row.endswith("| 0.0 % | 0.0 % |") for row in rows if row.startswith("| patchmill")):
        sys.exit("Patchmill reads a token twice or never")


if __name__ == "__main__":
    main()
