#!/bin/sh
# Does transformers read our checkpoints, unconverted, and compute our logits (within 2e-5)?
#
#   benches/hf_logits.sh [CHECKPOINT_DIR...]
#
# Without arguments: two small random models, one plain, one with grouped-query attention and a tied head. Makes a
# throw-away virtual environment (about 4 GB: the torch wheel does not import without its CUDA libraries); set HF_VENV to
# a folder to keep it and use it again.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

venv=${HF_VENV:-$work/venv}
if [ ! -x "$venv/bin/python" ]; then
    python3 -m venv "$venv"
fi
if ! "$venv/bin/python" -c 'import torch, transformers' 2>/dev/null; then
    pip="$venv/bin/pip --quiet --disable-pip-version-check"
    $pip install --no-deps torch==2.13.0 \
        nvidia-cuda-runtime==13.0.96 nvidia-cuda-cupti==13.0.85 nvidia-cusparse==12.6.3.3 nvidia-cufft==12.0.0.61 \
        nvidia-cufile==1.15.1.6 nvidia-cusparselt-cu13==0.8.1 nvidia-nccl-cu13==2.29.7 nvidia-curand==10.4.0.35 \
        nvidia-cublas==13.1.1.3 nvidia-cudnn-cu13==9.20.0.48 nvidia-cuda-nvrtc==13.0.88 nvidia-nvshmem-cu13==3.4.5 \
        nvidia-nvjitlink==13.0.88 transformers==5.23.0
    $pip install setuptools filelock typing-extensions sympy networkx jinja2 fsspec numpy safetensors \
        "huggingface-hub>=1.31,<3" packaging pyyaml regex "tokenizers>=0.23.1,<0.24" typer tqdm
fi

logits() {
    cargo run --quiet --manifest-path "$root/Cargo.toml" -p benches --features trainer --example hf_logits -- "$@"
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
    "$venv/bin/python" "$root/benches/hf_logits.py" "$dir" "$work/ours-$number.safetensors" || status=1
done
exit $status
