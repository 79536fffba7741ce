#!/bin/sh
# Does transformers read our checkpoints, unconverted, and compute our logits (within 2e-5)?
#
#   benches/checkpoint/hf_logits.sh [CHECKPOINT_DIR...]
#
# Without arguments: two small random models, one plain, one with grouped-query attention and a tied
# head. Makes a throw-away virtual environment (about 4 GB: the torch wheel does not import without
# its CUDA libraries); set HF_VENV to a folder to keep it and use it again.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/../.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

venv=${HF_VENV:-$work/venv}
"$root/benches/peers/hf_venv.sh" "$venv"

logits() {
    cargo run --quiet --manifest-path "$root/Cargo.toml" -p benches \
        --features trainer --example hf_logits -- "$@"
}

if [ $# -eq 0 ]; then
    for kind in plain grouped-tied; do
        logits --new "$kind" "$work/$kind"
    done
    set -- "$work/plain" "$work/grouped-tied"
fi
status=0
number=0
for dir in "$@"; do
    number=$((number + 1))
    logits "$dir" "$work/ours-$number.safetensors"
    "$venv/bin/python" "$root/benches/checkpoint/hf_logits.py" "$dir" \
        "$work/ours-$number.safetensors" || status=1
done
exit $status
