#!/bin/sh
# Loaders side by side, in interleaved rounds: see README.md.
#
#   run.sh WORK [OPTION...]
#
# WORK keeps what is installed and made (7 GB of packages, and 12 bytes a token of files, all of
# which should fit into the page cache) and receives report.md and report.json. Options are those of
# rounds.py: --tokens 400e6, --rounds 5, --seconds 1, --peers NAME,NAME (or none), --peer-workers
# 0,2. Environment:
#   RELEASE       a folder with the examples below it; else they are built here
#   PEERS_VENV    where the peers are installed; inside WORK when absent
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
. "$here/../work.sh"

if [ -z "${RELEASE:-}" ]; then
    (cd "$root" && cargo build --release --package benches \
        --example make_corpus --example memory_limit --example read_corpus)
    RELEASE=${CARGO_TARGET_DIR:-$root/target}/release
fi
venv=${PEERS_VENV:-$work/venv}
if [ ! -x "$venv/bin/python" ]; then
    python3 -m venv "$venv"
fi
# All at once, else one by one, so that a package that cannot be had leaves out only the peer that
# needs it.
if [ ! -e "$venv/installed" ]; then
    pip() { "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps "$@"; }
    if ! pip -r "$here/requirements.txt"; then
        grep '^[^#]' "$here/requirements.txt" | while read -r pin; do
            pip "$pin" || echo "warning: not installed: $pin" >&2
        done
    fi
    touch "$venv/installed"
fi
exec python3 "$here/rounds.py" --work "$work" --release "$RELEASE" \
    --python "$venv/bin/python" --report "$work/report" "$@"
