#!/bin/sh
# Encoder and whole stage beside other people's tokenizers, in interleaved rounds: see README.md.
#
#   run.sh WORK [CORPUS...]
#
# WORK keeps what is fetched and built (about 2 GB) and receives report.md and report.json. CORPUS:
# files or folders in the Pile's form, the fixtures when absent. Environment:
#   TOKENIZER     tokenizer.json or its folder; LLaMA-2's from $PATCHMILL_SHARED, else the fixtures'
#   TOKENIZERS    a folder of tokenizers (NAME/tokenizer.json or NAME.json): the encoder section for
#                 each of them instead
#   ROUNDS        rounds, 7 when absent
#   RELEASE       a folder with patchmill built and the examples below it; else they are built here
#   PEERS_TARGET, PEERS_VENV    where the peers are built and installed; inside WORK when absent
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
. "$here/../work.sh"
[ $# -gt 0 ] || set -- "$root/fixtures/text"

shared=${PATCHMILL_SHARED:-}
llama2=$shared/tokenizer/llama2
prototype=$shared/bench/tokenizers/proto
if [ -z "${TOKENIZER:-}" ]; then
    TOKENIZER=$root/fixtures/tokenizer
    [ ! -e "$llama2/tokenizer.json" ] || TOKENIZER=$llama2
fi

# Ours, with the project's own target folder; then the peers, each on its own, so that one that
# fails is left out.
if [ -z "${RELEASE:-}" ]; then
    (cd "$root" && cargo build --release --package pipeline --bins \
        && cargo build --release --package benches --examples)
    RELEASE=${CARGO_TARGET_DIR:-$root/target}/release
fi
target=${PEERS_TARGET:-$work/target}
build() {
    CARGO_TARGET_DIR=$target cargo build --release --locked "$@" || echo "warning: left out: $*" >&2
}
for peer in peer_fastokens peer_hf_0_23 peer_hf_1_rc; do
    build --manifest-path "$here/Cargo.toml" --package "$peer"
done
set -- --work "$work" --release "$RELEASE" --peers "$target/release" --rounds "${ROUNDS:-7}" "$@"
if [ -e "$prototype/Cargo.toml" ]; then
    build --manifest-path "$prototype/Cargo.toml"
    set -- --prototype "$target/release/proto" "$@"
else
    echo "notice: no prototype: PATCHMILL_SHARED does not lead to it" >&2
fi
venv=${PEERS_VENV:-$work/venv}
if [ ! -x "$venv/bin/python" ]; then
    python3 -m venv "$venv"
fi
if "$venv/bin/python" -c 'import gigatoken, awkward' 2>/dev/null ||
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$here/requirements.txt"; then
    set -- --python "$venv/bin/python" "$@"
else
    echo "warning: left out: gigatoken" >&2
fi

if [ -z "${TOKENIZERS:-}" ]; then
    exec python3 "$here/rounds.py" --tokenizer "$TOKENIZER" --report "$work/report" "$@"
fi
for tokenizer in "$TOKENIZERS"/*/tokenizer.json "$TOKENIZERS"/*.json; do
    [ -e "$tokenizer" ] || continue
    name=$(printf %s "${tokenizer#"$TOKENIZERS"/}" | sed 's|/tokenizer.json$||; s|\.json$||')
    echo "== $name"
    python3 "$here/rounds.py" --tokenizer "$tokenizer" --report "$work/report-$name" \
        --encoder-only --stride 4 "$@"
done
