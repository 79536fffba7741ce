"""The cost of an epoch's plan for the peers: time, memory and disk, from their own code at sizes
that fit, projected to larger ones.

    cost_of_peers.py [--tokens 10e9,20e9] [--project 360e9,15e12]

- Megatron-core: the three indices of GPTDataset (order of the documents, samples by its C++ helper,
  order of the samples), saved as it saves them; documents of 1,700 tokens on the average.
- MosaicML streaming: partitions and py1e over all samples, which every start and every epoch makes
  anew.
- numpy, torch: a permutation of all windows, as OLMo-core and most training scripts make it.

Windows have 2,048 tokens. Each cost is measured in a process of its own: CPU seconds, peak of
memory above that of the imports, bytes on the disk. A projection is a straight line through the two
largest sizes measured; the parts that are n log n or leave the caches cost more. One JSON line
each, then a table. Packages: peers/loaders/requirements.txt.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings

warnings.filterwarnings("ignore")

WINDOW, DOCUMENT = 2048, 1700


def peak_bytes():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def megatron(tokens):
    import numpy as np
    from megatron.core.datasets import helpers
    from megatron.core.datasets.gpt_dataset import _build_document_index, _build_shuffle_index

    count = tokens // DOCUMENT // 2 * 2
    lengths = np.full(count, DOCUMENT, dtype=np.int32)
    lengths[::2] -= 700
    lengths[1::2] += 700
    documents, random = np.arange(count, dtype=np.int32), np.random.RandomState(1)

    def build(folder):
        order = _build_document_index(documents, 1, random, False)
        samples = helpers.build_sample_idx(
            lengths, order, WINDOW, 1, int(lengths.sum(dtype=np.int64)), True, True
        )
        shuffle = _build_shuffle_index(len(samples) - 1, len(samples) - 1, random)
        for name, index in (("documents", order), ("samples", samples), ("shuffle", shuffle)):
            np.save(os.path.join(folder, name), index)
        assert len(shuffle) == (int(lengths.sum(dtype=np.int64)) - 1) // WINDOW, len(shuffle)

    return build


def mosaicml(tokens):
    import numpy as np
    from streaming.base.partition import get_partitions
    from streaming.base.shuffle import get_shuffle

    count, per_shard = tokens // WINDOW, (1 << 26) // (2 * WINDOW)
    shards = np.full(-(-count // per_shard), per_shard)
    shards[-1] = count - per_shard * (len(shards) - 1)

    def build(_folder):
        partition = get_partitions("relaxed", count, 1, 1, 1, 1, 16, 0)
        order = get_shuffle("py1e", shards, 1, 9176, 0, 4_000_000)
        sample_ids = np.where(partition == -1, -1, order[partition])
        assert (sample_ids != -1).sum() == count

    return build


def numpy_permutation(tokens):
    import numpy as np

    def build(folder):
        order = np.arange(tokens // WINDOW, dtype=np.uint32)
        np.random.default_rng(0).shuffle(order)
        order.tofile(os.path.join(folder, "order"))

    return build


def torch_permutation(tokens):
    import torch

    torch.set_num_threads(1)

    def build(_folder):
        assert (
            len(torch.randperm(tokens // WINDOW, generator=torch.Generator().manual_seed(0)))
            == tokens // WINDOW
        )

    return build


PLANS = {
    "megatron-core: three indices": megatron,
    "mosaicml-streaming: py1e": mosaicml,
    "numpy: permutation, saved": numpy_permutation,
    "torch: randperm": torch_permutation,
}


def measure(name, tokens):
    build = PLANS[name](tokens)
    before = peak_bytes()
    with tempfile.TemporaryDirectory() as folder:
        wall, cpu = time.perf_counter(), time.process_time()
        build(folder)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        disk = sum(entry.stat().st_size for entry in os.scandir(folder))
    return {
        "name": name,
        "tokens": tokens,
        "cpu_seconds": cpu,
        "wall_seconds": wall,
        "memory_bytes": peak_bytes() - before,
        "disk_bytes": disk,
    }


def in_a_process(name, tokens):
    done = subprocess.run(
        [sys.executable, os.path.abspath(__file__), "--one", name, "--tokens", str(tokens)],
        capture_output=True,
        text=True,
        env=dict(os.environ, OMP_NUM_THREADS="1"),
    )
    if done.returncode != 0:
        words = done.stderr.strip().splitlines()[-1:] or ["no message"]
        return {"name": name, "tokens": tokens, "error": words[0]}
    return json.loads(done.stdout.strip().splitlines()[-1])


def projected(small, large, tokens):
    def line(key):
        slope = (large[key] - small[key]) / (large["tokens"] - small["tokens"])
        return large[key] + slope * (tokens - large["tokens"])

    keys = ("cpu_seconds", "memory_bytes", "disk_bytes")
    return {
        "name": large["name"],
        "tokens": tokens,
        "projected": True,
        **{key: line(key) for key in keys},
    }


def row(cost):
    size = f"{cost['tokens'] / 1e9:,.0f}B" + (" (projected)" if cost.get("projected") else "")
    numbers = [
        f"{cost['cpu_seconds']:.1f}",
        f"{cost['memory_bytes'] / 1e9:.2f}",
        f"{cost['disk_bytes'] / 1e9:.2f}",
    ]
    return f"| {cost['name']} | {size} | " + " | ".join(numbers) + " |"


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    sizes = lambda text: [int(float(part)) for part in text.split(",")]
    parser.add_argument(
        "--tokens", type=sizes, default=sizes("10e9,20e9"), help="sizes to measure, at least two"
    )
    parser.add_argument("--project", type=sizes, default=sizes("360e9,15e12"))
    parser.add_argument(
        "--one", choices=PLANS, help="measure this in this process; the rest is for people"
    )
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.one, args.tokens[0])))
        return
    if len(args.tokens) < 2:
        parser.error("--tokens needs two sizes, to project from")
    rows, left_out = [], []
    for name in PLANS:
        costs = [in_a_process(name, tokens) for tokens in sorted(args.tokens)]
        wrong = [cost["error"] for cost in costs if "error" in cost]
        if wrong:
            left_out.append(f"{name}: not measured, {wrong[0]}")
            continue
        costs += [projected(*costs[-2:], tokens) for tokens in args.project]
        for cost in costs:
            print(json.dumps(cost), flush=True)
            rows.append(row(cost))
    print("\n| plan of one epoch | tokens | CPU s | memory GB | disk GB |\n|---|---|---|---|---|")
    print("\n".join(rows + [""] * bool(left_out) + left_out))


if __name__ == "__main__":
    main()
