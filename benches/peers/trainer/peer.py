"""Patch-level training as one would write it on PyTorch: transformers' LLaMA, SDPA, autocast, fused
AdamW. One case, one JSON line.

    peer.py --vocab-size 32000 --dtype bf16 --patch-size 4 [--compile] --steps 10 --warm-up-steps 3

A step: mean of the K embeddings, backbone, head in fp32, log-softmax, the K losses of the next
patch, backward pass, clip to 1.0, update; random ids that lie in memory. The model is that of
rounds.py. Needs torch and transformers.
"""

import argparse
import json
import os
import resource
import statistics
import time

WINDOWS, UNITS = 8, 256
MODEL = {
    "hidden_size": 256,
    "intermediate_size": 688,
    "num_hidden_layers": 6,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": UNITS,
    "rms_norm_eps": 1e-6,
    "tie_word_embeddings": False,
}


def peak_bytes():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--vocab-size", type=int, required=True)
    parser.add_argument("--dtype", choices=["fp32", "bf16"], required=True)
    parser.add_argument("--patch-size", type=int, required=True)
    parser.add_argument("--compile", action="store_true", help="the loss by torch.compile")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--warm-up-steps", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()

    os.environ["TRANSFORMERS_VERBOSITY"] = "error"
    import torch
    import transformers

    torch.set_num_threads(args.threads)
    torch.manual_seed(1)
    start_bytes = peak_bytes()
    config = transformers.LlamaConfig(vocab_size=args.vocab_size, use_cache=False, **MODEL)
    config._attn_implementation = "sdpa"
    model = transformers.LlamaForCausalLM(config).train()
    named = list(model.named_parameters())
    groups = [
        {"params": [p for _, p in named if p.dim() > 1], "weight_decay": 0.1},
        {"params": [p for _, p in named if p.dim() == 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=3e-4, betas=(0.9, 0.95), eps=1e-8, fused=True)
    k = args.patch_size
    batches = [torch.randint(0, args.vocab_size, (WINDOWS, UNITS * k)) for _ in range(4)]
    half = args.dtype == "bf16"

    def loss_of(tokens):
        embeddings = model.model.embed_tokens(tokens)
        if half:
            embeddings = embeddings.bfloat16()
        patches = embeddings.unflatten(1, (UNITS, k)).mean(2)
        logits = model.lm_head(model.model(inputs_embeds=patches).last_hidden_state).float()
        log_probabilities = torch.log_softmax(logits[:, :-1].flatten(0, 1), 1)
        targets = tokens[:, k:].reshape(-1, k)
        losses = [
            torch.nn.functional.nll_loss(log_probabilities, targets[:, slot]) for slot in range(k)
        ]
        return sum(losses) / k

    forward = torch.compile(loss_of) if args.compile else loss_of
    seconds, losses = [], []
    for step in range(args.warm_up_steps + args.steps):
        started = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            loss = forward(batches[step % len(batches)])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        seconds.append(time.perf_counter() - started)
    assert losses[-1] < losses[0] + 0.1, losses
    step_seconds = statistics.median(seconds[args.warm_up_steps :])
    print(
        json.dumps(
            {
                "tokens_per_sec": WINDOWS * UNITS * k / step_seconds,
                "step_ms": 1e3 * step_seconds,
                "start_bytes": start_bytes,
                "peak_bytes": peak_bytes(),
                "torch": torch.__version__,
                "transformers": transformers.__version__,
            }
        )
    )


main()
