"""The peers: each reads shuffled batches [16, T] of 64-bit ids with its own code, as its users
would set it up.

A peer is a class with `convert` (the ids into its own files, if it needs any), `batches` (from the
start, or resumed) and, where it has one, `state` (what it saves to be resumed from). Only its own
library is imported.
"""

import os
import shutil

import numpy as np
import torch

BATCH_WINDOWS = 16
SEED = 1


class Job:
    """Input of a peer: a folder with tokens.bin and ends.bin, the window, the processes, a folder
    for caches."""

    def __init__(self, folder, window_tokens, workers, cache):
        self.folder, self.window_tokens, self.workers, self.cache = (
            folder,
            window_tokens,
            workers,
            cache,
        )
        self.tokens_path = os.path.join(folder, "tokens.bin")
        self.tokens = os.path.getsize(self.tokens_path) // 2
        self.windows = self.tokens // window_tokens
        self.half = self.windows // BATCH_WINDOWS // 2  # batches

    def ids(self):
        return np.memmap(self.tokens_path, dtype=np.uint16, mode="r")

    def ends(self):
        return np.fromfile(os.path.join(self.folder, "ends.bin"), dtype=np.uint64).astype(np.int64)

    def workers_options(self):
        return (
            {"num_workers": self.workers, "prefetch_factor": 4}
            if self.workers
            else {"num_workers": 0}
        )


def stack(windows):
    return torch.from_numpy(np.stack(windows).astype(np.int64))


class Windows(torch.utils.data.Dataset):
    """Windows of a mapped file: what most training scripts write themselves."""

    def __init__(self, job):
        self.path, self.window_tokens, self.windows, self.ids = (
            job.tokens_path,
            job.window_tokens,
            job.windows,
            None,
        )

    def __len__(self):
        return self.windows

    def __getitem__(self, index):
        if self.ids is None:
            self.ids = np.memmap(self.path, dtype=np.uint16, mode="r")
        return self.ids[index * self.window_tokens : (index + 1) * self.window_tokens]


class Peer:
    """Defaults: nothing to convert, every token once, resumed by a number of batches."""

    reads = "once"  # every token of the corpus in one pass; else what it does
    has_state = False

    def __init__(self, job):
        self.job = job

    @staticmethod
    def convert(job):
        pass


class TorchMap(Peer):
    def batches(self, resume=None):
        job = self.job
        order = torch.randperm(job.windows, generator=torch.Generator().manual_seed(SEED)).tolist()
        order = order[job.half * BATCH_WINDOWS :] if resume else order
        return iter(
            torch.utils.data.DataLoader(
                Windows(job),
                batch_size=BATCH_WINDOWS,
                sampler=order,
                collate_fn=stack,
                drop_last=True,
                **job.workers_options(),
            )
        )


class Stateful(Peer):
    has_state = True

    def batches(self, resume=None):
        from torchdata.stateful_dataloader import StatefulDataLoader

        self.loader = StatefulDataLoader(
            Windows(self.job),
            batch_size=BATCH_WINDOWS,
            shuffle=True,
            generator=torch.Generator().manual_seed(SEED),
            collate_fn=stack,
            drop_last=True,
            **self.job.workers_options(),
        )
        if resume:
            self.loader.load_state_dict(resume)
        return iter(self.loader)

    def state(self):
        return self.loader.state_dict()


class Grain(Peer):
    has_state = True

    def batches(self, resume=None):
        import grain

        class Source:
            def __init__(self, job):
                self.windows = Windows(job)

            def __len__(self):
                return len(self.windows)

            def __getitem__(self, index):
                return self.windows[index]

            def __repr__(self):
                return "memmap"  # it is part of the state

        workers = self.job.workers
        options = grain.ReadOptions(num_threads=workers, prefetch_buffer_size=64 if workers else 0)
        data = (
            grain.MapDataset.source(Source(self.job)).seed(SEED).shuffle().to_iter_dataset(options)
        )
        self.iterator = iter(data.batch(BATCH_WINDOWS, drop_remainder=True, batch_fn=stack))
        if resume:
            self.iterator.set_state(resume)
        return self.iterator

    def state(self):
        return self.iterator.get_state()


class OlmoCore(Peer):
    has_state = True

    def batches(self, resume=None):
        from olmo_core.data import DataCollator, NumpyFSLDataLoader, NumpyFSLDataset

        job = self.job
        data = NumpyFSLDataset(
            job.tokens_path,
            sequence_length=job.window_tokens,
            pad_token_id=1,
            eos_token_id=0,
            vocab_size=50257,
            dtype=np.uint16,
            max_target_sequence_length=8192,
        )
        self.loader = NumpyFSLDataLoader(
            data,
            global_batch_size=BATCH_WINDOWS * job.window_tokens,
            collator=DataCollator(pad_token_id=1),
            work_dir=job.cache,
            seed=SEED,
            chunk_size=8192 // job.window_tokens,
            **job.workers_options(),
        )
        if resume:
            self.loader.load_state_dict(resume)
        self.loader.reshuffle(epoch=1)
        return (batch["input_ids"] for batch in self.loader)

    def state(self):
        return self.loader.state_dict()


def megatron_dataset(prefix, window_tokens, samples, cache, seed=SEED):
    """Megatron's data set over `prefix`.bin and .idx, with the settings of a plain pretraining."""
    from megatron.core.datasets.blended_megatron_dataset_builder import (
        BlendedMegatronDatasetBuilder,
    )
    from megatron.core.datasets.gpt_dataset import GPTDataset, GPTDatasetConfig

    class Tokenizer:
        vocab_size, eod, pad, unique_identifiers = 50257, 0, 0, {"class": "none"}

    config = GPTDatasetConfig(
        random_seed=seed,
        sequence_length=window_tokens,
        blend=([prefix], None),
        split="1,0,0",
        path_to_cache=cache,
        tokenizer=Tokenizer(),
        reset_position_ids=False,
        reset_attention_mask=False,
        eod_mask_loss=False,
        create_attention_mask=False,
        mid_level_dataset_surplus=0.0,
    )
    return BlendedMegatronDatasetBuilder(GPTDataset, [samples, 0, 0], lambda: True, config).build()[
        0
    ]


class Megatron(Peer):
    reads = "once, but for the rest after the last whole window and one token"

    @staticmethod
    def convert(job):
        from megatron.core.datasets.indexed_dataset import IndexedDatasetBuilder

        folder = os.path.join(job.folder, "megatron")
        os.makedirs(folder)
        builder = IndexedDatasetBuilder(f"{folder}/d.bin", dtype=np.uint16)
        ids, first = job.ids(), 0
        for end in job.ends().tolist():
            builder.add_document(torch.from_numpy(ids[first:end].copy()), [end - first])
            first = end
        builder.finalize(f"{folder}/d.idx")

    def batches(self, resume=None):
        job = self.job
        samples = (
            job.tokens - 1
        ) // job.window_tokens  # the last id of a window is the label of the one before
        self.data = megatron_dataset(
            os.path.join(job.folder, "megatron", "d"), job.window_tokens, samples, job.cache
        )
        first = job.half * BATCH_WINDOWS if resume else 0
        return iter(
            torch.utils.data.DataLoader(
                self.data,
                batch_size=BATCH_WINDOWS,
                sampler=range(first, len(self.data)),
                collate_fn=lambda samples: torch.stack([sample["tokens"] for sample in samples]),
                **job.workers_options(),
            )
        )

    def expected_sum(self):
        """Of what a whole pass reads: the documents in Megatron's order up to the last whole
        window."""
        job, ends = self.job, self.job.ends()
        firsts, ids = np.concatenate([[0], ends[:-1]]), job.ids()
        stream = np.concatenate([ids[firsts[d] : ends[d]] for d in self.data.document_index])
        return int(stream[: len(self.data) * job.window_tokens].sum(dtype=np.int64))


class Mosaic(Peer):
    has_state = True

    @staticmethod
    def convert(job):
        from streaming import MDSWriter

        size, ids = job.window_tokens, job.ids()
        out = os.path.join(job.folder, f"mds-{size}")
        with MDSWriter(
            out=out, columns={"ids": f"ndarray:uint16:{size}"}, size_limit=1 << 26
        ) as writer:
            for index in range(job.windows):
                writer.write({"ids": np.asarray(ids[index * size : (index + 1) * size])})

    def batches(self, resume=None):
        import streaming

        streaming.base.util.clean_stale_shared_memory()
        data = streaming.StreamingDataset(
            local=os.path.join(self.job.folder, f"mds-{self.job.window_tokens}"),
            shuffle=True,
            shuffle_algo="py1e",
            shuffle_seed=SEED,
            batch_size=BATCH_WINDOWS,
            num_canonical_nodes=1,
        )
        self.loader = streaming.StreamingDataLoader(
            data,
            batch_size=BATCH_WINDOWS,
            collate_fn=lambda samples: stack([sample["ids"] for sample in samples]),
            drop_last=True,
            **self.job.workers_options(),
        )
        if resume:
            self.loader.load_state_dict(resume)
        return iter(self.loader)

    def state(self):
        return self.loader.state_dict()


class Litdata(Peer):
    reads = "once, but for the rest after the last whole window of each chunk"
    has_state = True

    @staticmethod
    def convert(job):
        import litdata

        out = os.path.join(job.folder, "litdata")
        shutil.rmtree(out, ignore_errors=True)
        ids, ends = job.ids(), job.ends()
        firsts = np.concatenate([[0], ends[:-1]])

        def documents(part):
            for document in range(*part):
                yield torch.from_numpy(np.asarray(ids[firsts[document] : ends[document]]).copy())

        step = -(-len(ends) // 8)
        parts = [(first, min(first + step, len(ends))) for first in range(0, len(ends), step)]
        litdata.optimize(
            documents,
            inputs=parts,
            output_dir=out,
            chunk_bytes="64MB",
            num_workers=1,
            item_loader=litdata.TokensLoader(),
            start_method="fork",
            verbose=False,
        )

    def batches(self, resume=None):
        import litdata

        data = litdata.StreamingDataset(
            os.path.join(self.job.folder, "litdata"),
            item_loader=litdata.TokensLoader(block_size=self.job.window_tokens),
            shuffle=True,
            drop_last=True,
            seed=SEED,
        )
        collate = lambda windows: stack([np.asarray(window) for window in windows])
        self.loader = litdata.StreamingDataLoader(
            data,
            batch_size=BATCH_WINDOWS,
            collate_fn=collate,
            drop_last=True,
            **self.job.workers_options(),
        )
        if resume:
            self.loader.load_state_dict(resume)
        return iter(self.loader)

    def state(self):
        return self.loader.state_dict()


class Datatrove(Peer):
    reads = "once, in order: it shuffles files, and there is one"

    @staticmethod
    def convert(job):
        folder = os.path.join(job.folder, "datatrove")
        os.makedirs(folder)
        os.link(job.tokens_path, os.path.join(folder, "d.ds"))
        job.ends().astype(np.uint64).tofile(os.path.join(folder, "d.ds.index"))
        with open(os.path.join(folder, "d.ds.metadata"), "w") as file:
            file.write(f"none|2\n{job.tokens}\n")

    def batches(self, resume=None):
        from datatrove.utils.dataset import DatatroveFolderDataset

        job = self.job
        data = DatatroveFolderDataset(
            os.path.join(job.folder, "datatrove"),
            seq_len=job.window_tokens - 1,
            token_size=2,
            shuffle=True,
            seed=SEED,
            return_positions=False,
        )
        first = job.half * BATCH_WINDOWS if resume else 0
        collate = lambda samples: torch.stack([sample["input_ids"] for sample in samples]).to(
            torch.int64
        )
        return iter(
            torch.utils.data.DataLoader(
                data,
                batch_size=BATCH_WINDOWS,
                sampler=range(first, len(data)),
                collate_fn=collate,
                drop_last=True,
                **job.workers_options(),
            )
        )


class NanoGPT(Peer):
    reads = "random windows, some twice and some never; it has no resume"

    def batches(self, resume=None):
        job, size = self.job, self.job.window_tokens
        generator = torch.Generator().manual_seed(SEED)
        while True:
            ids = np.memmap(
                job.tokens_path, dtype=np.uint16, mode="r"
            )  # anew for each batch, as its train.py does
            starts = torch.randint(len(ids) - size, (BATCH_WINDOWS,), generator=generator)
            yield torch.stack(
                [torch.from_numpy(ids[start : start + size].astype(np.int64)) for start in starts]
            )


# Name: class, the package that it needs, modules to import before the clock starts.
PEERS = {
    "torch DataLoader": (TorchMap, "torch", ["torch.utils.data"]),
    "torchdata StatefulDataLoader": (Stateful, "torchdata", ["torchdata.stateful_dataloader"]),
    "datatrove FolderDataset": (Datatrove, "datatrove", ["datatrove.utils.dataset"]),
    "litdata TokensLoader": (Litdata, "litdata", ["litdata"]),
    "grain MapDataset": (Grain, "grain", ["grain"]),
    "nanoGPT get_batch": (NanoGPT, "torch", []),
    "OLMo-core NumpyFSL": (OlmoCore, "ai2-olmo-core", ["olmo_core.data"]),
    "megatron-core GPTDataset": (
        Megatron,
        "megatron-core",
        [
            "megatron.core.datasets.gpt_dataset",
            "megatron.core.datasets.blended_megatron_dataset_builder",
            "megatron.core.datasets.indexed_dataset",
        ],
    ),
    "MosaicML streaming py1e": (Mosaic, "mosaicml-streaming", ["streaming"]),
}
