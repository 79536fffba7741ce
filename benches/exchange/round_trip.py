#!/usr/bin/env python3
"""Do other projects read the files of `patchmill export`, and does `patchmill import` restore them?

    benches/exchange/round_trip.py --patchmill target/release/patchmill --work WORK [--keep]

Makes corpora of the fixtures: documents with BOS alone in several shards, one series a set, and one
of 4 bytes an id. Exports each to all four targets and compares every id, and the borders of
documents where the files have them, with the shards as plain numpy reads them: through
Megatron-core's IndexedDataset, OLMo-core's NumpyFSLDataset and iter_document_indices, nanoGPT's
memmap, and datatrove's DatatroveFolderDataset. Imports the files back and compares `patchmill
stream --json` digests of the same plan. Also imports files written by Megatron-core and OLMo-core.
Exits with 1 if anything differs.

Needs numpy. Peers that are not installed are named and left out:
    pip install numpy torch megatron-core==0.16.1 ai2-olmo-core==3.0.0 datatrove==0.10.1
"""

import argparse
import importlib.metadata
import json
import pathlib
import shutil
import subprocess
import sys

import numpy

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
WINDOW = 256

# Each with what reads it, by the names of its packages.
PEERS = {
    "megatron": ("megatron-core", "megatron.core.datasets.indexed_dataset"),
    "olmo": ("ai2-olmo-core", "olmo_core.data.numpy_dataset"),
    "datatrove": ("datatrove", "datatrove.utils.dataset"),
    "nanogpt": ("numpy", "numpy"),
}


class Checks:
    """The comparisons made; a difference is printed at once and makes the run fail in the end."""

    def __init__(self):
        self.count = 0
        self.failed = 0

    def equal(self, what, found, expected):
        self.count += 1
        same = numpy.array_equal(numpy.asarray(found), numpy.asarray(expected))
        size = numpy.asarray(expected).size
        print(f"{'same' if same else 'DIFFERENT'}: {what} ({size} compared)", flush=True)
        if not same:
            self.failed += 1
            print(
                f"  found    {numpy.asarray(found)[:8]}\n  expected {numpy.asarray(expected)[:8]}"
            )


def load_peers():
    """Modules of the peers that can be imported."""
    found = {}
    for name, (package, module) in PEERS.items():
        try:
            found[name] = __import__(module, fromlist=["_"])
            print(f"peer {name}: {package} {importlib.metadata.version(package)}")
        except Exception as err:  # whatever a package does when a part of it is missing
            print(
                f"peer {name}: left out, {package} cannot be imported ({type(err).__name__}: {err})"
            )
    return found


def read_corpus(corpus):
    """Ids and document ends of the stream, by the manifest and the shards' own bytes."""
    manifest = json.loads((corpus / "manifest.json").read_text())
    width = manifest["token_bytes"]
    ids, ends, first = [], [], 0
    for series in manifest["series"]:
        for shard in series["shards"]:
            path, tokens, documents = (
                corpus / shard["path"],
                shard["token_count"],
                shard["document_count"],
            )
            ids.append(numpy.fromfile(path, f"<u{width}", tokens, offset=4096).astype(numpy.int64))
            footer = 4096 + -(-tokens * width // 8) * 8
            ends.append(
                first + numpy.fromfile(path, "<u8", documents, offset=footer).astype(numpy.int64)
            )
            first += tokens
    return manifest, numpy.concatenate(ids), numpy.concatenate(ends)


class Bench:
    def __init__(self, patchmill, work, peers):
        self.patchmill, self.work, self.peers, self.checks = patchmill, work, peers, Checks()

    def run(self, *arguments):
        command = [str(self.patchmill), *map(str, arguments)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
        if done.returncode != 0:
            sys.exit(f"{' '.join(command)} ended with {done.returncode}")
        return done.stdout.strip().splitlines()

    def json(self, *arguments):
        return json.loads(self.run(*arguments, "--json")[-1])

    def digest(self, corpus):
        """Of a shuffled plan over the whole corpus; windows start anywhere in documents."""
        corpus = f"data.corpus={json.dumps(str(corpus))}"
        values = [*PLAN, corpus, f"model.vocab_size={self.vocab_size}"]
        words = [word for value in values for word in ("--set", value)]
        report = self.json("stream", ROOT / "fixtures/pretrain.toml", *words)
        return [report["tokens"], report["steps"], report["digest"]]

    def corpus(self, name, *options):
        """A corpus of the fixtures with all of its exports."""
        corpus = self.work / name
        self.run("tokenize", "--out", corpus, *options)
        manifest, ids, ends = read_corpus(corpus)
        self.vocab_size = manifest["tokenizer"]["vocab_size"]
        shards = sum(len(series["shards"]) for series in manifest["series"])
        print(
            f"\n{name}: {len(ids)} ids of {manifest['token_bytes']} bytes, {len(ends)} documents, "
            f"{shards} shards"
        )
        expected = self.digest(corpus)
        tokenizer = corpus / "tokenizer"
        around = [
            ("--bos" if manifest["tokenizer"]["bos"] else "--no-bos"),
            ("--eos" if manifest["tokenizer"]["eos"] else "--no-eos"),
        ]
        for target, check in [
            ("megatron", self.megatron),
            ("olmo", self.olmo),
            ("datatrove", self.datatrove),
            ("nanogpt", self.nanogpt),
        ]:
            if target == "nanogpt" and manifest["token_bytes"] == 4 and ids.max() >= 1 << 16:
                self.refused(corpus, int(ids.max()))
                continue
            for files in [[], ["--file-per-shard"]] if target in ("olmo", "datatrove") else [[]]:
                out = self.work / f"{name}-{target}{''.join(files)}" / "x"
                out.parent.mkdir()
                report = self.json("export", corpus, "--to", target, "--out", out, *files)
                label = f"{name} to {target}{' ' if files else ''}{''.join(files)}"
                if target in self.peers:
                    check(label, out, report, manifest, ids, ends)
                if target == "datatrove":
                    continue  # written only
                source = out / "train.bin" if target == "nanogpt" else out
                back = self.work / f"{name}-{target}{''.join(files)}-back"
                width = ["--token-bytes", manifest["token_bytes"]] if target == "olmo" else []
                self.run(
                    "import",
                    source,
                    "--from",
                    target,
                    "--tokenizer",
                    tokenizer,
                    "--out",
                    back,
                    *around,
                    *width,
                )
                self.run("verify", back)
                _, back_ids, back_ends = read_corpus(back)
                self.checks.equal(f"{label} and back, ids", back_ids, ids)
                self.checks.equal(f"{label} and back, documents", back_ends, ends)
                self.checks.equal(
                    f"{label} and back, digest of stream", self.digest(back), expected
                )
        return manifest, ids, ends, tokenizer, around

    def refused(self, corpus, id_max):
        out = self.work / "refused"
        command = [self.patchmill, "export", corpus, "--to", "nanogpt", "--out", out]
        done = subprocess.run(command, stderr=subprocess.PIPE, text=True)
        self.checks.equal(
            f"ids up to {id_max} are refused for nanogpt, and nothing written",
            [done.returncode, out.exists()],
            [2, False],
        )

    def megatron(self, label, out, report, manifest, ids, ends):
        dataset = self.peers["megatron"].IndexedDataset(str(out))
        self.checks.equal(
            f"{label}, ids by IndexedDataset", numpy.concatenate(dataset[0 : len(dataset)]), ids
        )
        self.checks.equal(
            f"{label}, sequence lengths", dataset.sequence_lengths, numpy.diff(ends, prepend=0)
        )
        self.checks.equal(
            f"{label}, document indices", dataset.document_indices, numpy.arange(len(ends) + 1)
        )

    def olmo(self, label, out, report, manifest, ids, ends):
        dtype = numpy.uint16 if report["dtype"] == "uint16" else numpy.uint32
        paths = sorted(out.glob("*.npy"))
        # The dataset drops what fills no window at the end of a file.
        windows = self.peers["olmo"].NumpyFSLDataset(
            *paths,
            sequence_length=WINDOW,
            pad_token_id=0,
            eos_token_id=2,
            vocab_size=manifest["tokenizer"]["vocab_size"],
            dtype=dtype,
        )
        windows.prepare()
        found, expected, borders, first = [], [], [], 0
        for path in paths:
            tokens = path.stat().st_size // dtype().itemsize
            expected.append(ids[first : first + tokens // WINDOW * WINDOW])
            from olmo_core.data.utils import iter_document_indices

            documents = iter_document_indices(str(path), use_array_if_local=False, dtype=dtype)
            borders.extend(first + end for _, end in documents)
            first += tokens
        found = [windows[at]["input_ids"].numpy() for at in range(len(windows))]
        self.checks.equal(
            f"{label}, ids by NumpyFSLDataset",
            numpy.concatenate(found),
            numpy.concatenate(expected),
        )
        whole = numpy.concatenate([numpy.fromfile(path, dtype) for path in paths])
        self.checks.equal(f"{label}, all ids", whole, ids)
        self.checks.equal(f"{label}, documents by iter_document_indices", borders, ends)

    def datatrove(self, label, out, report, manifest, ids, ends):
        module, width = self.peers["datatrove"], report["token_bytes"]
        dataset = module.DatatroveFolderDataset(str(out), seq_len=WINDOW, token_size=width)
        paths = sorted(out.glob("*.ds"))
        expected, borders, first = [], [], 0
        for path in paths:
            tokens = path.stat().st_size // width
            expected.append(ids[first : first + tokens // (WINDOW + 1) * (WINDOW + 1)])
            borders.append(first + numpy.fromfile(f"{path}.index", "<u8").astype(numpy.int64))
            first += tokens
        found = [dataset[at]["input_ids"].numpy() for at in range(len(dataset))]
        self.checks.equal(
            f"{label}, ids by DatatroveFolderDataset",
            numpy.concatenate(found),
            numpy.concatenate(expected),
        )
        whole = numpy.concatenate([numpy.fromfile(path, f"<u{width}") for path in paths])
        self.checks.equal(f"{label}, all ids", whole, ids)
        self.checks.equal(f"{label}, documents by .ds.index", numpy.concatenate(borders), ends)

    def nanogpt(self, label, out, report, manifest, ids, ends):
        data = numpy.memmap(out / "train.bin", dtype=numpy.uint16, mode="r")
        self.checks.equal(f"{label}, ids by memmap", data, ids)

    def foreign(self, name, manifest, ids, ends, tokenizer, around):
        """Files the peers write themselves."""
        documents = numpy.split(ids, ends[:-1])
        dtype = numpy.uint16 if manifest["token_bytes"] == 2 else numpy.uint32
        expected = self.digest(self.work / name)
        made = []
        if "megatron" in self.peers:
            import torch

            prefix = self.work / f"{name}-by-megatron"
            kind = numpy.uint16 if dtype is numpy.uint16 else numpy.int32
            builder = self.peers["megatron"].IndexedDatasetBuilder(f"{prefix}.bin", dtype=kind)
            for document in documents:
                builder.add_item(torch.from_numpy(document))
                builder.end_document()
            builder.finalize(f"{prefix}.idx")
            made.append(("megatron", prefix))
        if "olmo" in self.peers and manifest["tokenizer"]["eos"]:
            from olmo_core.data.utils import write_document_indices

            path = self.work / f"{name}-by-olmo" / "part-0.npy"
            path.parent.mkdir()
            ids.astype(dtype).tofile(path)
            write_document_indices(
                path, dtype=dtype, eos_token_id=manifest["tokenizer"]["eos"]["id"]
            )
            made.append(("olmo", path))
        for target, source in made:
            back = self.work / f"{name}-from-{target}"
            self.run(
                "import", source, "--from", target, "--tokenizer", tokenizer, "--out", back, *around
            )
            self.run("verify", back)
            _, back_ids, back_ends = read_corpus(back)
            self.checks.equal(f"{name} as {target} itself writes it, ids", back_ids, ids)
            self.checks.equal(f"{name} as {target} itself writes it, documents", back_ends, ends)
            self.checks.equal(
                f"{name} as {target} itself writes it, digest", self.digest(back), expected
            )


# The plan that both sides are read by, laid over the fixtures' run.
PLAN = [
    "plan.window_units=64",
    "plan.step_tokens=4096",
    "plan.epochs=1",
    "plan.seed=7",
    "phases.0.schedule.warmup_steps=1",
    "phases.1.schedule.warmup_steps=1",
]


def large_tokenizer(source, work):
    """The fixtures' tokenizer with so many added tokens that an id takes 4 bytes."""
    out = work / "tokenizer-of-4-bytes"
    shutil.copytree(source, out)
    path = out / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    first = (
        max(
            [
                *tokenizer["model"]["vocab"].values(),
                *(token["id"] for token in tokenizer["added_tokens"]),
            ]
        )
        + 1
    )
    # Parts of the texts that the vocabulary does not have, so that their ids, from 65,536 on, are
    # used.
    used = dict(enumerate([" of the ", " in the ", ", and ", " to the "], 1 << 16))
    for id in range(first, (1 << 16) + 5000):
        content = used.get(id, f"<extra {id}>")
        tokenizer["added_tokens"].append(
            {
                "id": id,
                "content": content,
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": False,
            }
        )
    path.write_text(json.dumps(tokenizer))
    return out


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--patchmill", type=pathlib.Path, required=True)
    parser.add_argument(
        "--work", type=pathlib.Path, required=True, help="a folder to write into, new or empty"
    )
    parser.add_argument("--keep", action="store_true", help="leave what was written")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    if any(args.work.iterdir()):
        sys.exit(f"{args.work} is not empty")
    work = args.work.resolve()
    bench = Bench(args.patchmill.resolve(), work, load_peers())
    tokenizer, texts = ROOT / "fixtures/tokenizer", ROOT / "fixtures/text/train"
    small = ["--shard-bytes", 100_000]
    bench.corpus("plain", "--tokenizer", tokenizer, *small, texts)
    bench.foreign(
        "by-set-with-eos",
        *bench.corpus(
            "by-set-with-eos", "--tokenizer", tokenizer, *small, "--by-set", "--eos", texts
        ),
    )
    large = large_tokenizer(tokenizer, work)
    bench.foreign(
        "of-4-bytes",
        *bench.corpus("of-4-bytes", "--tokenizer", large, *small, "--no-bos", "--eos", texts),
    )
    print(
        f"\n{bench.checks.count - bench.checks.failed} of {bench.checks.count} comparisons are the "
        "same"
    )
    if not args.keep:
        for entry in work.iterdir():
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    sys.exit(1 if bench.checks.failed else 0)


if __name__ == "__main__":
    main()
