import json, pathlib
import numpy as np


def shards(corpus):
    """Ids of each shard, and where its documents end, mapped from the disk in the corpus' order."""
    corpus = pathlib.Path(corpus)
    manifest = json.loads((corpus / "manifest.json").read_text())
    for shard in [shard for series in manifest["series"] for shard in series["shards"]]:
        path, width = corpus / shard["path"], manifest["token_bytes"]
        ids = np.memmap(path, f"<u{width}", "r", offset=4096, shape=shard["token_count"])
        footer = 4096 + -(-ids.nbytes // 8) * 8
        yield ids, np.memmap(path, "<u8", "r", offset=footer, shape=shard["document_count"])


def window(shard_ids, first, count):
    """Tokens first..first+count of the corpus; torch.from_numpy(…) makes a tensor of them."""
    starts, last = np.cumsum([0] + [len(ids) for ids in shard_ids]), first + count
    parts = [ids[max(0, first - a) : max(0, last - a)] for ids, a in zip(shard_ids, starts)]
    return np.concatenate(parts).astype(np.int64)
