"""A run of `patchmill tokenize` that a script measures: its options, its command line, its report."""

import argparse
import json


def parser(description, threads):
    """What every such script is told; `threads` is how many there are unless it is told otherwise."""
    found = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    found.add_argument("--patchmill", required=True)
    found.add_argument("--tokenizer", required=True)
    found.add_argument("--work", required=True)
    found.add_argument("--threads", type=int, default=threads)
    found.add_argument("inputs", nargs="+")
    return found


def command(args, out, inputs):
    """The command that tokenizes `inputs` into `out`."""
    options = [
        "--tokenizer",
        args.tokenizer,
        "--out",
        out,
        "--threads",
        str(args.threads),
        "--json",
    ]
    return [args.patchmill, "tokenize"] + options + inputs


def report(output):
    """What the command printed for machines."""
    return json.loads(output.strip().splitlines()[-1])
