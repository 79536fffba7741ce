#!/bin/sh
# Makes a virtual environment with torch and transformers, about 4 GB, unless it is there:
#
#   benches/peers/hf_venv.sh VENV
set -eu

venv=$1
if [ ! -x "$venv/bin/python" ]; then
    python3 -m venv "$venv"
fi
if ! "$venv/bin/python" -c 'import torch, transformers' 2>/dev/null; then
    pip="$venv/bin/pip --quiet --disable-pip-version-check"
    $pip install --no-deps torch==2.13.0 \
        nvidia-cuda-runtime==13.0.96 nvidia-cuda-cupti==13.0.85 nvidia-cusparse==12.6.3.3 \
        nvidia-cufft==12.0.0.61 nvidia-cufile==1.15.1.6 nvidia-cusparselt-cu13==0.8.1 \
        nvidia-nccl-cu13==2.29.7 nvidia-curand==10.4.0.35 nvidia-cublas==13.1.1.3 \
        nvidia-cudnn-cu13==9.20.0.48 nvidia-cuda-nvrtc==13.0.88 nvidia-nvshmem-cu13==3.4.5 \
        nvidia-nvjitlink==13.0.88 transformers==5.23.0
    $pip install setuptools filelock typing-extensions sympy networkx jinja2 fsspec numpy \
        safetensors "huggingface-hub>=1.31,<3" packaging pyyaml regex \
        "tokenizers>=0.23.1,<0.24" typer tqdm
fi
