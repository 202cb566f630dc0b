#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What torch and transformers reach at the shapes of run.sh, one JSON object per line.

    peers.py train|generate --device cuda|cpu [--tiny]

Random bfloat16 weights. train: AdamW on rows of one length, which torch pads nothing in (so that memo's packing
gains it nothing here); generate: prefill of 1,500 tokens and greedy decoding behind them. Exit 77: not installed.
"""
import argparse
import json
import sys
import time

try:
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM
except ImportError as problem:
    print(f"skipped: {problem}")
    sys.exit(77)

SHAPES = {
    "tiny": dict(num_hidden_layers=2, hidden_size=64, num_attention_heads=2, num_key_value_heads=1,
                 intermediate_size=128, vocab_size=512),
    "qwen2.5-1.5b": dict(num_hidden_layers=28, hidden_size=1536, num_attention_heads=12, num_key_value_heads=2,
                         intermediate_size=8960, vocab_size=151936, tie_word_embeddings=True),
    "qwen2.5-7b": dict(num_hidden_layers=28, hidden_size=3584, num_attention_heads=28, num_key_value_heads=4,
                       intermediate_size=18944, vocab_size=152064),
    "qwen2.5-32b": dict(num_hidden_layers=64, hidden_size=5120, num_attention_heads=40, num_key_value_heads=8,
                        intermediate_size=27648, vocab_size=152064),
}


def report(what, rate):
    print(json.dumps({"what": what, "rate": rate, "unit": "tokens/s"}), flush=True)


def make(shape, device):
    config = Qwen2Config(**SHAPES[shape], max_position_embeddings=32768, attn_implementation="sdpa")
    with torch.device(device):
        torch.set_default_dtype(torch.bfloat16)
        model = Qwen2ForCausalLM(config)
        torch.set_default_dtype(torch.float32)
    return model


def wait(device):
    if device == "cuda":
        torch.cuda.synchronize()


def train(shape, device, rows, length, steps):
    model = make(shape, device)
    model.gradient_checkpointing_enable()
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=device == "cuda")
    ids = torch.randint(0, model.config.vocab_size, (rows, length), device=device)
    for step in range(steps + 1):  # the first warms up
        if step == 1:
            wait(device)
            start = time.perf_counter()
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    wait(device)
    report(f"torch training {shape}, {rows} x {length}", steps * rows * length / (time.perf_counter() - start))


@torch.no_grad()
def generate(shape, device, prompt, batches, steps):
    model = make(shape, device).eval()
    for batch in batches:
        ids = torch.randint(0, model.config.vocab_size, (batch, prompt), device=device)
        for repeat in range(2):
            wait(device)
            start = time.perf_counter()
            out = model(input_ids=ids, use_cache=True, logits_to_keep=1)
            wait(device)
            prefill = time.perf_counter() - start
        cache, token = out.past_key_values, out.logits[:, -1].argmax(-1, keepdim=True)
        for step in range(steps + 2):
            if step == 2:
                wait(device)
                start = time.perf_counter()
            out = model(input_ids=token, past_key_values=cache, use_cache=True)
            token = out.logits[:, -1].argmax(-1, keepdim=True)
        wait(device)
        if batch == batches[0]:
            report(f"transformers prefill {shape}, {prompt} tokens", batch * prompt / prefill)
        report(f"transformers decode {shape}, batch {batch}", batch * steps / (time.perf_counter() - start))
        del cache, out


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["train", "generate"])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        print("skipped: this torch sees no GPU")
        sys.exit(77)
    if given.tiny and given.what == "train":
        train("tiny", given.device, 2, 32, 2)
    elif given.tiny:
        generate("tiny", given.device, 20, [1, 2], 3)
    elif given.what == "train":
        train("qwen2.5-1.5b", given.device, 16, 1024, 5)
        train("qwen2.5-7b", given.device, 8, 1024, 5)
    else:
        generate("qwen2.5-32b", given.device, 1500, [1, 16, 64], 32)


main()
