#!/usr/bin/env python3
"""Does transformers' AutoTokenizer give the ids of the corpus, from a checkpoint's folder?

    benches/exchange/hf_tokenizers.py CHECKPOINT TEXTS.jsonl...

Compares AutoTokenizer on every text with the `tokenizers` crate's Python package on the folder's
tokenizer.json, which defines the ids of a corpus, without and with the tokens around a document.
Around a document the corpus has what tokenizer_config.json says in add_bos_token and add_eos_token.
Prints a line for each comparison; exits with 1 if the ids of a text differ without the tokens
around it. Needs transformers, in any version: run it once with each.
"""

import json
import pathlib
import sys

import tokenizers
import transformers

# Beginnings and spaces that classes of tokenizers have read in different ways.
AWKWARD = ["", " ", "  two", " one", "a  b", "\n", "\n x", "x \n", "▁", "<s>", "é", "漢字", "\t", "a"]


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    folder = pathlib.Path(sys.argv[1])
    texts = list(AWKWARD)
    for path in sys.argv[2:]:
        with open(path, encoding="utf-8") as file:
            for line in file:
                value = json.loads(line)
                texts.append(value["text"] if isinstance(value, dict) else value)
    reference = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    print(
        f"transformers {transformers.__version__}, {type(tokenizer).__name__}, "
        f"{config.get('tokenizer_class')}, {len(texts)} texts"
    )

    def around(ids):
        def token(name):
            return [reference.token_to_id(config[name])]

        bos = token("bos_token") if config.get("add_bos_token") else []
        eos = token("eos_token") if config.get("add_eos_token") else []
        return bos + ids + eos

    inner = [reference.encode(text, add_special_tokens=False).ids for text in texts]
    plain = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    whole = [tokenizer(text)["input_ids"] for text in texts]
    differing = [text for text, a, b in zip(texts, inner, plain) if a != b]
    print(f"without tokens around them: {len(differing)} texts differ {differing[:3]!r:.120}")
    bad = [text for text, a, b in zip(texts, inner, whole) if around(a) != b]
    print(f"with them: {len(bad)} texts differ")
    sys.exit(bool(differing))


if __name__ == "__main__":
    main()
