"""Measures one peer on request: imports its library once, then forks a child for each measurement,
which starts from nothing but the imports.

Reads JSON lines from standard input, writes one JSON line for each: {"import_seconds", "version"}
first, then what was asked for with `action`:

- convert: writes the peer's own files into the folder, unless they are there;
- check: one whole pass; the sum of its ids and their number;
- state: reads to 50 %, saves the peer's state, and the sum of the batch that follows;
- resume: milliseconds to the first batch at 50 %, in a process that has read nothing;
- read: milliseconds to the first batch, then tokens a second on the wall and of CPU time, children
  included.
"""

import importlib
import importlib.metadata
import itertools
import json
import os
import pickle
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings

warnings.filterwarnings("ignore")
TIMEOUT_SECONDS = 300
BATCHES_MIN = 32  # so that one batch that had to wait for a core is not the whole measurement


def cpu_seconds():
    """Of this process and its living children."""
    import psutil

    total = time.process_time()
    for child in psutil.Process().children(recursive=True):
        try:
            times = child.cpu_times()
            total += times.user + times.system
        except psutil.Error:
            pass  # it has ended
    return total


def made(path, make):
    """Calls `make` unless it has been done before."""
    if not os.path.exists(path):
        make()
        with open(path, "w"):
            pass


def convert(kind, job, name):
    mark = os.path.join(
        job.folder, f"{name.split()[0]}-{job.window_tokens if 'Mosaic' in name else 'all'}.done"
    )
    started = time.perf_counter()
    made(mark, lambda: kind.convert(job))
    return {"seconds": time.perf_counter() - started}


def check(kind, job):
    peer = kind(job)
    count, total = 0, 0
    # nanoGPT's batches never end
    for batch in itertools.islice(peer.batches(), job.windows // 16 + 1):
        assert batch.shape[1] == job.window_tokens and str(batch.dtype) == "torch.int64", (
            batch.shape,
            batch.dtype,
        )
        count, total = count + batch.numel(), total + int(batch.sum())
    expected = (
        peer.expected_sum() if hasattr(peer, "expected_sum") else int(job.ids().sum(dtype="int64"))
    )
    return {"tokens": count, "sum": total, "expected_sum": expected, "corpus_tokens": job.tokens}


def state(kind, job, path):
    peer = kind(job)
    batches = peer.batches()
    for _ in range(job.half):
        next(batches)
    if kind.has_state:
        with open(path, "wb") as file:
            pickle.dump(peer.state(), file)
    return {"next_sum": int(next(batches).sum())}


def resume(kind, job, path):
    saved = True
    if kind.has_state:
        with open(path, "rb") as file:
            saved = pickle.load(file)
    started = time.perf_counter()
    batch = next(kind(job).batches(saved))
    return {"resume_ms": (time.perf_counter() - started) * 1e3, "next_sum": int(batch.sum())}


def read(kind, job, seconds):
    started = time.perf_counter()
    batches = kind(job).batches()
    next(batches)
    first_ms = (time.perf_counter() - started) * 1e3
    count, ends = 0, 0
    started, cpu_before = time.perf_counter(), cpu_seconds()
    for number, batch in enumerate(batches, 1):
        count, ends = count + batch.numel(), ends + int(batch[0, 0]) + int(batch[-1, -1])
        if time.perf_counter() - started > seconds and number >= BATCHES_MIN:
            break
    elapsed, cpu = time.perf_counter() - started, cpu_seconds() - cpu_before
    return {
        "first_batch_ms": first_ms,
        "tokens_per_sec": count / elapsed,
        "tokens_per_cpu_sec": count / max(cpu, 1e-9),
    }


def answer(kind, name, request):
    from peers import Job

    cache = tempfile.mkdtemp(
        prefix="peer-", dir=request["folder"]
    )  # no index of an earlier measurement is found
    try:
        job = Job(request["folder"], request["window_tokens"], request["workers"], cache)
        path = os.path.join(
            request["folder"],
            f"{name.split()[0]}-{request['window_tokens']}-{request['workers']}.state",
        )
        action = request["action"]
        if action == "convert":
            return convert(kind, job, name)
        if action == "check":
            return check(kind, job)
        if action == "state":
            return state(kind, job, path)
        if action == "resume":
            return resume(kind, job, path)
        return read(kind, job, request["seconds"])
    finally:
        shutil.rmtree(cache, ignore_errors=True)


def forked(kind, name, request):
    """The answer of a child process."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        os.close(reader)
        os.dup2(2, 1)  # what libraries print
        try:
            said = answer(kind, name, request)
        except BaseException as err:
            traceback.print_exc()
            said = {"error": f"{type(err).__name__}: {str(err)[:300]}"}
        with os.fdopen(writer, "w") as out:
            out.write(json.dumps(said) + "\n")
        os._exit(0)  # leaves helpers of the library to the signal below
    os.close(writer)
    signal.signal(signal.SIGALRM, lambda *_: os.killpg(child, signal.SIGKILL))
    signal.alarm(TIMEOUT_SECONDS)
    with os.fdopen(reader) as pipe:
        said = pipe.readline()  # worker processes of the library may hold the pipe open
    signal.alarm(0)
    os.waitpid(child, 0)
    try:
        os.killpg(child, signal.SIGKILL)  # worker processes of the child that outlived it
    except ProcessLookupError:
        pass
    return (
        json.loads(said)
        if said
        else {"error": f"no answer within {TIMEOUT_SECONDS} s, or the process died"}
    )


def main():
    name = sys.argv[1]
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    started = time.perf_counter()
    try:
        import torch

        torch.set_num_threads(1)
        from peers import PEERS

        kind, package, modules = PEERS[name]
        for module in modules:
            importlib.import_module(module)
        said = {
            "import_seconds": time.perf_counter() - started,
            "version": importlib.metadata.version(package),
            "reads": kind.reads,
            "can_resume": name != "nanoGPT get_batch",
        }
    except ImportError as err:
        said = {"error": f"cannot be imported: {err}"}
    print(json.dumps(said), file=out, flush=True)
    if "error" in said:
        return
    for line in sys.stdin:
        print(json.dumps(forked(kind, name, json.loads(line))), file=out, flush=True)


if __name__ == "__main__":
    main()
