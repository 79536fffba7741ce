"""The fixtures' run on PyTorch, from the same weights and the same windows: prints the loss of each
step, one a line.

    bf16_peer.py --dtype fp32|bf16 --weights CHECKPOINT --windows FILE --run RESOLVED.toml
                 --phase-steps 133,67 --threads N

transformers' LLaMA with the mean of K embeddings as input. bf16 is autocast over fp32 weights with
a bf16 residual stream, as the authors' code trains (reference: Shao, Meng, Zhou; their
modeling_llama.py). FILE is what `patchmill stream --sink file` writes: little-endian u32 ids of the
plan's windows, step after step. bf16_fp32.py --peer starts this.
"""

import argparse
import math
import tomllib

import numpy
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaModel


def model_of(config, checkpoint):
    model = LlamaModel(LlamaConfig(**config, attn_implementation="sdpa"))
    weights = load_file(f"{checkpoint}/model.safetensors")
    head = torch.nn.Linear(config["hidden_size"], config["vocab_size"], bias=False)
    head.weight.data.copy_(weights.pop("lm_head.weight"))
    model.load_state_dict({name.removeprefix("model."): tensor for name, tensor in weights.items()})
    return model, head


def optimizer_of(parameters, config):
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": config["weight_decay"]},
        {"params": [p for p in parameters if p.dim() == 1], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=0.0, betas=config["betas"], eps=config["eps"])


def cosine(schedule, step, steps):
    """The rate of a step, as transformers' schedule with linear warm-up and cosine to 0 has it."""
    warmup = schedule["warmup_steps"]
    if step < warmup:
        return schedule["peak"] * step / warmup
    return schedule["peak"] * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2


def loss_of(model, head, ids, is_bf16):
    """Mean cross-entropy of each position against the K tokens of the next patch. ids: [windows,
    units, K]."""
    with torch.autocast("cpu", torch.bfloat16, enabled=is_bf16):
        inputs = model.embed_tokens(ids).to(torch.bfloat16 if is_bf16 else torch.float32).mean(2)
        hidden = model(inputs_embeds=inputs).last_hidden_state[:, :-1]
        log_p = torch.log_softmax(head(hidden).float(), -1)
    return -log_p.gather(2, ids[:, 1:]).mean()


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dtype", choices=["fp32", "bf16"], required=True)
    parser.add_argument("--weights", required=True)
    parser.add_argument("--windows", required=True)
    parser.add_argument("--run", required=True)
    parser.add_argument("--phase-steps", required=True, help="of each phase, such as 133,67")
    parser.add_argument("--threads", type=int, required=True)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    with open(arguments.run, "rb") as file:
        run = tomllib.load(file)
    units, step_tokens = run["plan"]["window_units"], run["plan"]["step_tokens"]
    steps = torch.from_numpy(numpy.fromfile(arguments.windows, "<u4").astype(numpy.int64)).view(
        -1, step_tokens
    )
    model, head = model_of(run["model"], arguments.weights)
    parameters = [*model.parameters(), *head.parameters()]
    first = 0
    for phase, count in zip(run["phases"], map(int, arguments.phase_steps.split(","))):
        optimizer = optimizer_of(parameters, run["optimizer"])  # carry = "weights"
        for step in range(count):
            for group in optimizer.param_groups:
                group["lr"] = cosine(phase["schedule"], step, count)
            optimizer.zero_grad()
            loss = loss_of(
                model,
                head,
                steps[first + step].view(-1, units, phase["patch_size"]),
                arguments.dtype == "bf16",
            )
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, run["optimizer"]["clip_norm"])
            optimizer.step()
            print(loss.item(), flush=True)
        first += count


main()
