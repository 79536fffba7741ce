"""gigatoken at work.

    gigatoken_peer.py encode TOKENIZER.json THREADS CORPUS.jsonl    documents in memory to ids
    gigatoken_peer.py files TOKENIZER.json THREADS FILE...          .jsonl, .jsonl.zst to ids

Prints one JSON object. One pass from a cold start; the clock stops when all ids are there. The
checksum is the sum of id × (position + 1) modulo 2^64 over all ids in the order of the documents.
Give it cores with taskset.
"""

import json
import os
import resource
import sys
import time

mode, tokenizer_path, threads, *paths = sys.argv[1:]
os.environ["RAYON_NUM_THREADS"] = threads

import awkward
import gigatoken
import numpy

CHUNK_IDS = 1 << 22


def checksum(ids):
    total = 0
    for first in range(0, len(ids), CHUNK_IDS):
        part = ids[first : first + CHUNK_IDS].astype(numpy.uint64)
        places = numpy.arange(first + 1, first + 1 + len(part), dtype=numpy.uint64)
        total += int((part * places).sum(dtype=numpy.uint64))
    return total % 2**64


loading = time.perf_counter()
tokenizer = gigatoken.Tokenizer(tokenizer_path)
load_seconds = time.perf_counter() - loading
parallel = int(threads) > 1
text_bytes = None
if mode == "encode":
    with open(paths[0], encoding="utf-8") as lines:
        documents = [json.loads(line)["text"].encode() for line in lines]
    text_bytes = sum(map(len, documents))
    started, cpu_before = time.perf_counter(), time.process_time()
    arrays = tokenizer.encode_batch(documents, parallel=parallel)
else:
    source = gigatoken.JsonlFileSource(paths)
    started, cpu_before = time.perf_counter(), time.process_time()
    arrays = tokenizer.encode_files(source, parallel=parallel)
seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_before
ids = numpy.asarray(awkward.flatten(arrays))
result = {
    "name": "gigatoken 0.10.0",
    "threads": int(threads),
    "documents": len(arrays),
    "tokens": len(ids),
    "checksum": str(checksum(ids)),
    "load_seconds": load_seconds,
    "seconds": seconds,
    "cpu_seconds": cpu_seconds,
    "peak_rss_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
}
if text_bytes:
    result["text_bytes"] = text_bytes
    result["mb_per_sec"] = text_bytes / 1e6 / seconds
print(json.dumps(result))
