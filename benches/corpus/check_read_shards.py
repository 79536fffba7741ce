"""Is the reader of docs/shards.md right? It must be read_shards.py, word for word, and give the ids
that Patchmill gives.

    check_read_shards.py --patchmill target/debug/patchmill

Tokenizes the fixtures, in shards small enough for windows to cross from one into the next, and
compares: the corpus with what `patchmill stream` writes in file order, the windows of a shuffled
plan with what it writes in that order, counts and offset with `patchmill inspect SHARD`, and the
places of documents with `patchmill inspect CORPUS --doc`. Without NumPy only the page is checked,
and a line reports it.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
STEP_TOKENS = 4096


def said(command):
    """The JSON object that a command prints last."""
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}: exit {done.returncode}: {done.stderr.strip()}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def check_page():
    with open(os.path.join(HERE, "read_shards.py"), encoding="utf-8") as file:
        text = file.read()
    with open(os.path.join(ROOT, "docs", "shards.md"), encoding="utf-8") as file:
        found = f"```python\n{text}```\n" in file.read()
        assert found, "docs/shards.md does not hold read_shards.py word for word"


def run_file(folder, corpus, shuffle):
    """The fixtures' run file with one phase of single tokens."""
    with open(os.path.join(ROOT, "fixtures", "pretrain.toml"), encoding="utf-8") as file:
        text = file.read()
    path = os.path.join(folder, f"{shuffle}.toml")
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    values = [
        f"data.corpus={json.dumps(corpus)}",
        f"plan.shuffle={json.dumps(shuffle)}",
        "plan.epochs=1",
        "phases.0.share=0/1",
        "phases.1.share=1/1",
        "phases.0.schedule.warmup_steps=0",
        f"plan.step_tokens={STEP_TOKENS}",
    ]
    return [path] + [word for value in values for word in ("--set", value)]


def check_stream(patchmill, folder, corpus, shuffle, shard_ids):
    import numpy as np
    from read_shards import window

    run, out = run_file(folder, corpus, shuffle), os.path.join(folder, f"{shuffle}.bin")
    steps = said([patchmill, "stream", *run, "--sink", "file", out, "--json"])["steps"]
    written = np.fromfile(out, "<u4")
    if shuffle == "none":
        assert len(written) > 0 and np.array_equal(window(shard_ids, 0, len(written)), written), (
            "ids in file order"
        )
        return len(written)
    plan = said([patchmill, "plan", *run, "--step", f"0..{steps}", "--json"])
    windows = [place for step in plan["steps"] for place in step["windows"]]
    read = np.concatenate(
        [window(shard_ids, place["first_token"], place["token_count"]) for place in windows]
    )
    assert len(read) > 0 and np.array_equal(read, written), "ids in the order of the plan"
    return len(written)


def check_documents(patchmill, corpus, mapped):
    first_token, document, checked = 0, 0, 0
    for ids, ends in mapped:
        assert ends[-1] == len(ids) and (ends[1:] > ends[:-1]).all(), (
            "ends rise to the number of tokens"
        )
        for within in sorted({0, 1, len(ends) // 2, len(ends) - 1} & set(range(len(ends)))):
            found = said([patchmill, "inspect", corpus, "--doc", str(document + within), "--json"])
            first = first_token + (int(ends[within - 1]) if within else 0)
            expected = {
                "first_token": first,
                "token_count": first_token + int(ends[within]) - first,
            }
            assert {key: found[key] for key in expected} == expected, (
                document + within,
                found,
                expected,
            )
            checked += 1
        first_token, document = first_token + len(ids), document + len(ends)
    return checked


def check_torch(shard_ids):
    """The page's line for torch, where there is torch."""
    try:
        import torch
    except ImportError:
        return
    from read_shards import window

    found = torch.from_numpy(window(shard_ids, 2048 * 7, 2048))
    assert (
        found.dtype == torch.int64 and found.tolist() == window(shard_ids, 2048 * 7, 2048).tolist()
    ), "a tensor of the ids"


def check_reader(patchmill, folder):
    from read_shards import shards

    corpus = os.path.join(folder, "corpus")
    fixtures = os.path.join(ROOT, "fixtures")
    said(
        [
            patchmill,
            "tokenize",
            "--tokenizer",
            os.path.join(fixtures, "tokenizer"),
            "--out",
            corpus,
            "--shard-bytes",
            "50000",
            "--json",
            os.path.join(fixtures, "text", "valid"),
        ]
    )
    mapped = list(shards(corpus))
    paths = sorted(name for name in os.listdir(corpus) if name.endswith(".tok"))
    assert len(paths) == len(mapped) > 1, "windows are to cross from one shard into the next"
    for path, (ids, ends) in zip(paths, mapped):
        found = said([patchmill, "inspect", os.path.join(corpus, path), "--json"])
        expected = (4096, len(ids), ids.itemsize, len(ends))
        assert (
            found["payload_offset"],
            found["token_count"],
            found["token_bytes"],
            found["document_count"],
        ) == expected, path
    shard_ids = [ids for ids, _ in mapped]
    tokens = [
        check_stream(patchmill, folder, corpus, shuffle, shard_ids)
        for shuffle in ("none", "global")
    ]
    documents = check_documents(patchmill, corpus, mapped)
    check_torch(shard_ids)
    print(
        f"the reader of docs/shards.md is right: {len(mapped)} shards, {tokens[0]} ids in "
        f"file order and {tokens[1]} in the order of a plan, {documents} documents"
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--patchmill", required=True)
    args = parser.parse_args()
    check_page()
    try:
        import numpy  # noqa: F401
    except ImportError:
        print(
            "skipped: docs/shards.md holds read_shards.py, which was not run: this Python has no "
            "NumPy"
        )
        return
    with tempfile.TemporaryDirectory() as folder:
        check_reader(os.path.abspath(args.patchmill), folder)


if __name__ == "__main__":
    main()
