"""Compare logits of a model directory with those of transformers' LlamaForCausalLM.

Usage: hf_logits.py DIR OURS, where OURS is what `hf_logits DIR OURS` wrote. Exit code 1 if a logit
differs by more than 2e-5, the tolerance of fixtures/golden/README.md. Called by hf_logits.sh, which
makes the environment.
"""

import sys

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

TOLERANCE = 2e-5


def main(model_dir: str, ours_path: str) -> int:
    ours = load_file(ours_path)
    model, info = AutoModelForCausalLM.from_pretrained(
        model_dir, dtype=torch.float32, output_loading_info=True, local_files_only=True
    )
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if info.get(what):
            print(f"{model_dir}: {what}: {sorted(info[what])}")
            return 1
    with torch.no_grad():
        theirs = model.eval()(input_ids=ours["input_ids"], use_cache=False).logits.float()
    difference = (theirs - ours["logits"]).abs().max().item()
    print(
        f"{model_dir}: {type(model).__name__}, "
        f"{sum(p.numel() for p in model.parameters())} parameters, "
        f"logits {list(theirs.shape)} in [{theirs.min():.3f}, {theirs.max():.3f}], "
        f"largest difference {difference:.2e}"
    )
    return 0 if difference <= TOLERANCE else 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
