"""A measured run of `patchmill tokenize`: its options, its command line, its report."""

import argparse
import json


def parser(description, threads):
    """The options of every such script; `threads` is the default number of threads."""
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
    """The JSON report the command printed."""
    return json.loads(output.strip().splitlines()[-1])
