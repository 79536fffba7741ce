"""Interleaved rounds of training steps: ours, then the same recipe on PyTorch, case by case, A B A
B …

Ours is `patchmill-train bench`: the real loop with its loader, over a corpus of random ids. The
peer is peer.py, with its ids in memory. Each measurement is a process, and in each the median of
its steps counts. Reports medians and ranges over the rounds, and ratios within a round. run.sh
builds and installs what this starts.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(HERE)))
WINDOWS, UNITS = 8, 256
# Vocabulary, dtype, K, whether the peer compiles, and how many times its tokens per second are
# asked for.
CASES = [
    (32000, "bf16", 4, False, 2.2),
    (32000, "bf16", 1, False, 1.6),
    (4096, "bf16", 4, False, 1.3),
    (4096, "bf16", 1, False, 1.3),
    (32000, "bf16", 4, True, 1.5),
    (32000, "fp32", 4, False, 1.3),
]
# The phases of the run that compares K with 1, the tokens of each step, and epochs that are enough
# steps of each.
LADDER, LADDER_STEP_TOKENS, LADDER_EPOCHS = (8, 4, 2, 1), 65536, 8
# Laid over the fixtures' run file, whose phases are replaced.
VALUES = [
    f"plan.window_units={UNITS}",
    f"train.micro_batch_windows={WINDOWS}",
    "train.device=cpu",
    "model.hidden_size=256",
    "model.intermediate_size=688",
    "model.num_hidden_layers=6",
    "loader.workers=1",
    "loader.ring_bytes=1_048_576",
]
PHASE = """
[[phases]]
patch_size = {patch_size}
share = "1/{count}"
schedule = {{ kind = "constant", peak = 3e-4, warmup_steps = 2 }}
carry = "weights"
"""


def arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", required=True)
    parser.add_argument(
        "--release", required=True, help="folder with patchmill-train and examples/make_corpus"
    )
    parser.add_argument("--python", required=True, help="one that has torch and transformers")
    parser.add_argument("--report", required=True, help="receives .md and .json")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10, help="of each measurement")
    parser.add_argument("--warm-up-steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--ladder",
        default="bf16",
        help="dtypes of the run that compares K with 1: bf16, fp32 or bf16,fp32",
    )
    parser.add_argument("--ladder-rounds", type=int, default=5)
    parser.add_argument(
        "--ladder-steps",
        type=int,
        default=2,
        help="of K = 1; K times as many of another, which take as long",
    )
    parser.add_argument("--without-peer", action="store_true")
    return parser.parse_args()


def run(command, threads):
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit {done.returncode}: {done.stderr.strip()[-800:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def write_run(args, name, vocab_size, dtype, patch_sizes, step_tokens, epochs=1):
    """The words that name a run over a corpus of random ids that is long enough for each phase."""
    folder = os.path.join(args.work, f"ids-{vocab_size}")
    tokens = 2_000_000
    if not os.path.exists(os.path.join(folder, "corpus", "manifest.json")):
        make_corpus = os.path.join(args.release, "examples", "make_corpus")
        run(
            [
                make_corpus,
                "random",
                folder,
                "--tokens",
                str(tokens),
                "--vocab-size",
                str(vocab_size),
            ],
            args.threads,
        )
    phases = "".join(PHASE.format(patch_size=k, count=len(patch_sizes)) for k in patch_sizes)
    with open(os.path.join(ROOT, "fixtures", "pretrain.toml"), encoding="utf-8") as file:
        text = file.read()
    before, model = text[: text.index("[[phases]]")], text[text.index("[model]") :]
    path = os.path.join(args.work, f"{name}.toml")
    with open(path, "w", encoding="utf-8") as file:
        file.write(f"{before}{phases}\n{model}")
    corpus = json.dumps(os.path.abspath(os.path.join(folder, "corpus")))
    values = [
        *VALUES,
        f"data.corpus={corpus}",
        f"plan.epochs={epochs}",
        f"plan.step_tokens={step_tokens}",
        f"model.vocab_size={vocab_size}",
        f"train.dtype={dtype}",
    ]
    return [path, *(word for value in values for word in ("--set", value))]


def ours(args, run_file, phase_index, steps, warm_up_steps):
    command = [
        os.path.join(args.release, "patchmill-train"),
        "bench",
        *run_file,
        "--json",
        "--phase",
        str(phase_index),
    ]
    report = run(
        [*command, "--steps", str(steps), "--warm-up-steps", str(warm_up_steps)], args.threads
    )
    return flat(report["phases"][0])


def planned_bytes(args, run_file):
    """The peak of the process that `plan-memory` predicts."""
    report = run(
        [os.path.join(args.release, "patchmill-train"), "plan-memory", *run_file, "--json"],
        args.threads,
    )
    phase = report["phases"][0]
    return (
        phase["total_bytes"]
        + phase["attention_scratch_bytes"]
        + report["program_bytes"]
        + report["ring_bytes"]
    )


def ladder_pair(args, run_file, patch_size, is_reversed):
    """K and 1, one right after the other."""
    pair = {}
    for k in sorted((1, patch_size), reverse=is_reversed):
        pair[k] = ours(args, run_file, LADDER.index(k), args.ladder_steps * k, k)["tokens_per_sec"]
    return pair


def flat(phase):
    median = lambda tag: phase["figures"][tag]["median"]
    return {
        "tokens_per_sec": median("throughput/tokens_per_sec"),
        "step_ms": median("time/step_ms"),
        "data_wait_pct": median("throughput/data_wait_pct"),
        "products_ms": phase["products_ms"]["median"],
        "products_pct": phase["products_pct"],
        "attention_products_ms": phase["attention_products_ms"]["median"],
        "start_bytes": phase["start_bytes"],
        "peak_bytes": phase["peak_bytes"],
    }


def theirs(args, vocab_size, dtype, patch_size, compiles):
    command = [
        args.python,
        os.path.join(HERE, "peer.py"),
        "--vocab-size",
        str(vocab_size),
        "--dtype",
        dtype,
    ]
    command += [
        "--patch-size",
        str(patch_size),
        "--steps",
        str(args.steps),
        "--warm-up-steps",
        str(args.warm_up_steps),
    ]
    return run(
        [*command, "--threads", str(args.threads), *(["--compile"] if compiles else [])],
        args.threads,
    )


def spread(values, digits=0):
    if not values:
        return "–"
    low, mid, high = (
        f"{value:,.{digits}f}" for value in (min(values), statistics.median(values), max(values))
    )
    return f"{mid} ({low}–{high})"


def table(head, rows):
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, ["---"] * len(head), *rows])


def net(measured):
    return (measured["peak_bytes"] - measured["start_bytes"]) / 1e6


def ratios(above, below):
    return [a / b for a, b in zip(above, below)]


def case_row(runs, case):
    vocab_size, dtype, patch_size, compiles, wanted = case
    mine, peer = runs["ours"], runs["peer"]
    rate = lambda measured: [one["tokens_per_sec"] for one in measured]
    memory = lambda measured: [net(one) for one in measured]
    return [
        f"V = {vocab_size:,} {dtype}, K = {patch_size}" + (", torch.compile" if compiles else ""),
        spread(rate(mine)),
        spread(rate(peer)),
        spread(ratios(rate(mine), rate(peer)), 2),
        f"{wanted}",
        spread(memory(mine)),
        spread(memory(peer)),
        spread(ratios(memory(mine), memory(peer)), 2),
        spread([one["planned_bytes"] / one["peak_bytes"] for one in mine], 3),
        spread([one["products_pct"] for one in mine], 1),
        spread([100 * one["attention_products_ms"] / one["step_ms"] for one in mine], 1),
        spread([one["data_wait_pct"] for one in mine], 2),
    ]


def ladder_row(pairs, dtype, patch_size):
    token, patch = ([pair[k] for pair in pairs] for k in (1, patch_size))
    of_k = [ratio / patch_size for ratio in ratios(patch, token)]
    return [f"V = 32,000 {dtype}, K = {patch_size}", spread(patch), spread(token), spread(of_k, 3)]


def main():
    args = arguments()
    os.makedirs(args.work, exist_ok=True)
    results = {case: {"ours": [], "peer": []} for case in CASES}
    ladder = {(dtype, k): [] for dtype in args.ladder.split(",") for k in LADDER if k > 1}
    for number in range(args.rounds):
        for case in CASES:
            vocab_size, dtype, patch_size, compiles, _ = case
            run_file = write_run(
                args,
                f"{vocab_size}-{dtype}-{patch_size}",
                vocab_size,
                dtype,
                (patch_size,),
                WINDOWS * UNITS * patch_size,
            )
            found = ours(args, run_file, 0, args.steps, args.warm_up_steps)
            results[case]["ours"].append({**found, "planned_bytes": planned_bytes(args, run_file)})
            if not args.without_peer:
                results[case]["peer"].append(theirs(args, vocab_size, dtype, patch_size, compiles))
        print(
            f"round {number + 1} of {args.rounds}, load {os.getloadavg()[0]:.1f}", file=sys.stderr
        )
    for number in range(args.ladder_rounds):
        for (dtype, k), pairs in ladder.items():
            run_file = write_run(
                args, f"ladder-{dtype}", 32000, dtype, LADDER, LADDER_STEP_TOKENS, LADDER_EPOCHS
            )
            pairs.append(ladder_pair(args, run_file, k, number % 2 == 1))
        print(
            f"round {number + 1} of {args.ladder_rounds}, K against 1, load "
            f"{os.getloadavg()[0]:.1f}",
            file=sys.stderr,
        )
    head = [
        "case",
        "ours, tokens/s",
        "PyTorch",
        "ours / it",
        "wanted",
        "ours, MB",
        "PyTorch, MB",
        "ours / it",
        "planned / our whole peak",
        "products alone, % of our step",
        "attention's, unmasked",
        "data wait, %",
    ]
    text = [
        f"{args.rounds} interleaved rounds of {args.steps} steps after {args.warm_up_steps} of "
        f"warm-up, {args.threads} threads: median (range) over the rounds of the medians of each; "
        "ratios within a round. Memory is the peak less what was resident before a model was made "
        "(program and libraries); planned is what plan-memory predicts for the whole process.",
        table(head, [case_row(results[case], case) for case in CASES]),
        f"{args.ladder_rounds} rounds of pairs, K and 1 in turn: steps of {LADDER_STEP_TOKENS:,} "
        f"tokens in micro-batches of {WINDOWS} windows, phases of one run file, "
        f"{args.ladder_steps} steps of K = 1 and K times as many of K:",
        table(
            ["case", "tokens/s", "of K = 1", "ratio / K"],
            [ladder_row(pairs, *key) for key, pairs in ladder.items()],
        ),
    ]
    text = "\n\n".join(text) + "\n"
    print(text)
    with open(args.report + ".md", "w") as file:
        file.write(text)
    with open(args.report + ".json", "w") as file:
        json.dump(
            {
                "rounds": args.rounds,
                "steps": args.steps,
                "ladder": [
                    {"dtype": dtype, "patch_size": k, "pairs": pairs}
                    for (dtype, k), pairs in ladder.items()
                ],
                "cases": [{"case": list(case), **found} for case, found in results.items()],
            },
            file,
            indent=1,
        )


if __name__ == "__main__":
    main()
