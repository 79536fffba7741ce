#!/usr/bin/env python3
"""Removes each part of the ring's protocol, one at a time, and expects the model checker to notice.

    tools/ring_mutants.py WORK      # `just ring-mutants`

Each change is made to a copy of pipeline/ring in WORK, whose tests run there under loom. A change
that passes all of them is named, and the exit code is 1. Needs cargo alone.
"""

import os, pathlib, re, shutil, subprocess, sys, time

SOURCE = "src/lib.rs"
# Each change, from and to; each text occurs in the source exactly once.
MUTANTS = [
    (
        "the end is published with Relaxed",
        "closed.store(true, Ordering::Release)",
        "closed.store(true, Ordering::Relaxed)",
    ),
    (
        "the end is looked for with Relaxed",
        "closed.load(Ordering::Acquire)",
        "closed.load(Ordering::Relaxed)",
    ),
    (
        "the end is looked for after the ring",
        """            let closed = self.shared.closed.load(Ordering::Acquire);
            if let Some(item) = self.take() {
                return Some(item);
            }
""",
        """            if let Some(item) = self.take() {
                return Some(item);
            }
            let closed = self.shared.closed.load(Ordering::Acquire);
""",
    ),
    ("the end is never published", "self.shared.closed.store(true, Ordering::Release);", ""),
    (
        "the end does not wake the reader",
        "Ordering::Release);\n        self.reader.unpark();",
        "Ordering::Release);",
    ),
    (
        "a push does not wake the reader",
        "Ok(()) => {\n                    self.reader.unpark();",
        "Ok(()) => {",
    ),
    (
        "room does not wake the producer",
        "            self.worker.unpark();\n        }\n        Some(item)",
        "        }\n        Some(item)",
    ),
    ("room wakes the producer too late", "full.len() <= self", "full.len() < self"),
    ("a stop is not looked for", "if self.shared.stopped.load(Ordering::Relaxed) {", "if false {"),
    ("a stop is not published", "self.shared.stopped.store(true, Ordering::Relaxed);", ""),
    (
        "a stop does not wake the producer",
        "stopped.store(true, Ordering::Relaxed);\n        self.worker.unpark();",
        "stopped.store(true, Ordering::Relaxed);",
    ),
    (
        "the reader does not look again before it sleeps",
        "if closed {\n                return None;\n            }\n            parker.park();",
        "parker.park();\n            if closed {\n                return None;\n            }",
    ),
    ("a full ring drops what comes", "Err(back) => item = back,", "Err(_) => return Ok(()),"),
]


def copy_crate(root, work):
    """The ring's crate as the one member of a workspace with the same versions and lints."""
    manifest = []
    for line in (root / "Cargo.toml").read_text().splitlines():
        if line.startswith("members"):
            line = 'members = ["pipeline/ring"]'
        elif line.startswith("default-members"):
            line = ""
        manifest.append(line)
    shutil.rmtree(work / "pipeline", ignore_errors=True)
    # With the time of now: cargo goes by it.
    shutil.copytree(root / "pipeline/ring", work / "pipeline/ring", copy_function=shutil.copy)
    (work / "Cargo.toml").write_text("\n".join(manifest) + "\n")
    shutil.copy(root / "Cargo.lock", work / "Cargo.lock")


def run(work):
    environment = dict(
        os.environ,
        RUSTFLAGS="--cfg loom",
        RUST_BACKTRACE="0",
        CARGO_TARGET_DIR=str(work / "target"),
    )
    command = ["cargo", "test", "--quiet", "--release", "--package", "ring", "--test", "model"]
    try:
        return subprocess.run(
            command, cwd=work, env=environment, capture_output=True, text=True, timeout=600
        )
    except subprocess.TimeoutExpired:
        sys.exit("a run took more than 600 s")


def failed_tests(output):
    """Tests that panicked. A deadlock found by loom may end the whole program, so the first one can
    be the only one."""
    return sorted(set(re.findall(r"thread '(\w+)' \(\d+\) panicked at", output)))


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    root, work = pathlib.Path(__file__).resolve().parent.parent, pathlib.Path(sys.argv[1]).resolve()
    work.mkdir(parents=True, exist_ok=True)
    copy_crate(root, work)
    source = work / "pipeline/ring" / SOURCE
    text = source.read_text()
    clean = run(work)
    if clean.returncode != 0:
        sys.exit(f"the tests fail without a change:\n{clean.stdout}{clean.stderr}")
    survivors = []
    for name, old, new in MUTANTS:
        if text.count(old) != 1:
            sys.exit(f"{name}: {old!r} stands {text.count(old)} times in {SOURCE}; expected once")
        source.write_text(text.replace(old, new))
        start = time.monotonic()
        result = run(work)
        tests = failed_tests(result.stdout + result.stderr)
        if result.returncode != 0 and not tests:
            sys.exit(f"{name}: does not build:\n{result.stderr[-2000:]}")
        if result.returncode == 0:
            survivors.append(name)
        found = ", ".join(tests) if tests else "NOT NOTICED"
        print(f"{name}: {found} ({time.monotonic() - start:.1f} s)", flush=True)
    print(f"{len(MUTANTS) - len(survivors)} of {len(MUTANTS)} changes noticed")
    sys.exit(1 if survivors else 0)


main()
