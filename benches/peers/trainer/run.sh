#!/bin/sh
# Training steps side by side with PyTorch's, in interleaved rounds: see README.md.
#
#   run.sh WORK [OPTION...]
#
# WORK keeps what is installed and made (4 GB of packages, 16 MB of random ids) and receives
# report.md and report.json. Options are those of rounds.py: --rounds 3, --steps 10, --threads 2,
# --without-peer. Environment:
#   RELEASE    a folder with patchmill-train and examples/make_corpus; else they are built here
#   HF_VENV    where torch and transformers are installed; inside WORK when absent
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
. "$here/../work.sh"

if [ -z "${RELEASE:-}" ]; then
    (cd "$root" && cargo build --release --package trainer --bins &&
        cargo build --release --package benches --example make_corpus)
    RELEASE=${CARGO_TARGET_DIR:-$root/target}/release
fi
venv=${HF_VENV:-$work/venv}
"$root/benches/peers/hf_venv.sh" "$venv"
exec python3 "$here/rounds.py" --work "$work" --release "$RELEASE" \
    --python "$venv/bin/python" --report "$work/report" "$@"
