# SPDX-License-Identifier: Apache-2.0
"""Training speed of memo beside current torch: one shape, the same pairs, the same machine, in turns.

Run by hand: needs the built binary, torch and transformers (2.15.0 and 5.24 when it was last run).
The model is Qwen2 as transformers computes it, written out so that attention may take what is
fastest: torch's fused kernels for dense layers, scaled_dot_product_attention, fused AdamW,
gradients clipped by their norm. Only rows with a target go through the head, as in memo. Layouts:

    packed   pairs one after another in rows of at most --micro-batch-tokens, position ids from 0 in
             each pair; attention once per pair ("loop"), or once with a block-diagonal mask ("mask")
    padded   batches of 16 pairs filled up to their longest, causal attention

Types: fp32; bf16, weights in float32 with autocast; pure, weights, gradients and moments in
bfloat16, which trains worse but is the least work. A step is all pairs of the sample once. The losses
of torch and memo have no relation: weights are random.

usage: python3 tests/oracle/bench_train_torch.py BINARY TOKENIZER_DIRECTORY QA.jsonl
           [--tokens 4096] [--layers 6] [--threads 2] [--rounds 1] [--variants packed-loop-bf16,...]
"""
import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

HIDDEN, HEADS, KV_HEADS, HEAD, FFN, VOCABULARY = 896, 14, 2, 64, 4864, 151936  # Qwen2.5-0.5B
PADDED_PAIRS = 16


def arguments():
    parser = argparse.ArgumentParser()
    parser.add_argument("binary")
    parser.add_argument("tokenizer")
    parser.add_argument("data")
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--micro-batch-tokens", type=int, default=4096)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--variants", default="packed-loop-pure,packed-loop-bf16,padded-sdpa-pure,padded-sdpa-bf16",
                        help="LAYOUT-ATTENTION-TYPE,...: packed|padded, loop|mask|sdpa, fp32|bf16|pure")
    parser.add_argument("--compile", action="store_true", help="torch.compile")
    parser.add_argument("--no-memo", action="store_true")
    return parser.parse_args()


ARGS = arguments()
os.environ["OMP_NUM_THREADS"] = str(ARGS.threads)

import torch  # noqa: E402  (reads the environment)
import torch.nn.functional as F  # noqa: E402
from transformers import AutoTokenizer  # noqa: E402


def read_pairs(path):
    """Question and every different answer; .jsonl of pairs, or of NarrativeQA."""
    for line in pathlib.Path(path).read_text().splitlines():
        row = json.loads(line)
        for answer in dict.fromkeys(row.get("answers") or [row["answer"]]):
            yield row["question"], answer


def encode(tokenizer, question, answer):
    """Ids up to the end of the answer's turn, and where the answer begins."""
    prompt = tokenizer.apply_chat_template([{"role": "user", "content": question}], tokenize=False,
                                           add_generation_prompt=True)
    first = tokenizer(prompt, add_special_tokens=False)["input_ids"]
    rest = tokenizer(answer + "<|im_end|>", add_special_tokens=False)["input_ids"]
    return first + rest, len(first)


def sample(tokenizer, path, tokens):
    """Pairs spread evenly over the file, about so many tokens of them."""
    every = [(q, a, *encode(tokenizer, q, a)) for q, a in dict.fromkeys(read_pairs(path))]
    step = max(1.0, sum(len(pair[2]) for pair in every) / tokens)
    return [every[int(i * step)] for i in range(int(len(every) / step))]


class Layer(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = torch.nn.RMSNorm(HIDDEN, 1e-6), torch.nn.RMSNorm(HIDDEN, 1e-6)
        self.qkv = torch.nn.Linear(HIDDEN, (HEADS + 2 * KV_HEADS) * HEAD)
        self.o = torch.nn.Linear(HEADS * HEAD, HIDDEN, bias=False)
        self.gate_up = torch.nn.Linear(HIDDEN, 2 * FFN, bias=False)
        self.down = torch.nn.Linear(FFN, HIDDEN, bias=False)

    def forward(self, x, cos, sin, attend):
        q, k, v = self.qkv(self.norm1(x)).split([HEADS * HEAD, KV_HEADS * HEAD, KV_HEADS * HEAD], -1)
        q, k = (rotate(t.unflatten(-1, (-1, HEAD)), cos, sin) for t in (q, k))
        x = x + self.o(attend(q, k, v.unflatten(-1, (-1, HEAD))))
        gate, up = self.gate_up(self.norm2(x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


def rotate(x, cos, sin):
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat((-b, a), -1) * sin


class Model(torch.nn.Module):
    def __init__(self, layers):
        super().__init__()
        self.embedding = torch.nn.Embedding(VOCABULARY, HIDDEN)
        self.layers = torch.nn.ModuleList(Layer() for _ in range(layers))
        self.norm = torch.nn.RMSNorm(HIDDEN, 1e-6)
        for parameter in self.parameters():
            if parameter.dim() == 2:
                torch.nn.init.normal_(parameter, std=0.02)

    def forward(self, ids, positions, rows, targets, attend):
        x = self.embedding(ids)
        angles = positions[..., None] * 1e6 ** (-torch.arange(0, HEAD, 2) / HEAD)
        angles = torch.cat((angles, angles), -1).unsqueeze(-2)
        cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
        for layer in self.layers:
            x = layer(x, cos, sin, attend)
        x = self.norm(x.flatten(0, -2)[rows])
        return F.cross_entropy(F.linear(x, self.embedding.weight).float(), targets, reduction="sum")


def sdpa(q, k, v, mask=None):
    """[batch, tokens, heads, width] -> [batch, tokens, heads * width]"""
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None, enable_gqa=True)
    return out.transpose(1, 2).flatten(2)


def loop_attention(lengths):
    def attend(q, k, v):
        parts = zip(*(t.split(lengths) for t in (q, k, v)))
        return torch.cat([sdpa(*(t[None] for t in part))[0] for part in parts])
    return attend


def mask_attention(lengths):
    owner = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    mask = (owner[:, None] == owner[None]).tril()
    return lambda q, k, v: sdpa(q[None], k[None], v[None], mask)[0]


def packed_batches(pairs, attention, limit):
    """First fit, longest first."""
    bins = []
    for pair in sorted(pairs, key=lambda pair: -len(pair[2])):
        for packed in bins:
            if sum(len(p[2]) for p in packed) + len(pair[2]) <= limit:
                packed.append(pair)
                break
        else:
            bins.append([pair])
    for packed in bins:
        lengths = [len(p[2]) for p in packed]
        ids = torch.tensor([i for p in packed for i in p[2]])
        positions = torch.cat([torch.arange(n) for n in lengths])
        starts = [sum(lengths[:i]) for i in range(len(lengths))]
        rows = torch.tensor([s + t for s, p in zip(starts, packed) for t in range(p[3] - 1, len(p[2]) - 1)])
        attend = loop_attention(lengths) if attention == "loop" else mask_attention(lengths)
        yield ids, positions, rows, ids[rows + 1], attend


def padded_batches(pairs):
    for at in range(0, len(pairs), PADDED_PAIRS):
        batch = pairs[at:at + PADDED_PAIRS]
        longest = max(len(p[2]) for p in batch)
        ids = torch.tensor([p[2] + [151643] * (longest - len(p[2])) for p in batch])
        positions = torch.arange(longest).expand(len(batch), -1)
        rows = torch.tensor([i * longest + t for i, p in enumerate(batch) for t in range(p[3] - 1, len(p[2]) - 1)])
        yield ids, positions, rows, ids.flatten()[rows + 1], sdpa


def torch_seconds(variant, pairs):
    layout, attention, dtype = variant.split("-")
    torch.manual_seed(1)
    model = Model(ARGS.layers)
    if dtype == "pure":
        model = model.bfloat16()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, weight_decay=0.01, fused=True)
    forward = torch.compile(model, dynamic=True) if ARGS.compile else model

    def step(some):
        begin = time.perf_counter()
        targets = sum(len(p[2]) - p[3] for p in some)
        batches = (packed_batches(some, attention, ARGS.micro_batch_tokens) if layout == "packed"
                   else padded_batches(some))
        for batch in batches:
            with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bf16"):
                loss = forward(*batch) / targets
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0, foreach=True)
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        return time.perf_counter() - begin
    step(pairs[:2 * PADDED_PAIRS])  # warms up
    return step(pairs)


def memo_seconds(pairs):
    with tempfile.NamedTemporaryFile("w", suffix=".jsonl") as file:
        for question, answer, *_ in pairs:
            file.write(json.dumps({"question": question, "answer": answer}) + "\n")
        file.flush()
        tokens = sum(len(p[2]) for p in pairs)
        done = subprocess.run(
            [ARGS.binary, "bench", "train", "--json", "--data", file.name, "--tokenizer", ARGS.tokenizer,
             "--layers", str(ARGS.layers), "--threads", str(ARGS.threads), "--seconds", "0.1",
             "--step-tokens", str(tokens), "--micro-batch-tokens", str(ARGS.micro_batch_tokens),
             "--shape", "qwen2.5-0.5b"],
            stdout=subprocess.PIPE, check=True, text=True)
    figures = {row["what"]: row for row in map(json.loads, done.stdout.splitlines())}
    theirs = (len(pairs), tokens, sum(len(p[2]) - p[3] for p in pairs))
    mine = tuple(figures[f"training data: {name}"]["rate"] for name in ("pairs", "tokens", "targets"))
    if mine != theirs:
        sys.exit(f"pairs, tokens and targets differ: memo {mine}, here {theirs}")
    rate = next(row for what, row in figures.items() if what.startswith("training, 1 rank"))
    print(f"memo: {rate['rate']:.0f} tokens/s, {100 * rate['share']:.0f}% of {rate['of']}, "
          f"{figures['  operations']['rate']:.0f} GFLOP/s", flush=True)
    return tokens / rate["rate"]


def main():
    torch.set_num_threads(ARGS.threads)
    tokenizer = AutoTokenizer.from_pretrained(ARGS.tokenizer)
    pairs = sample(tokenizer, ARGS.data, ARGS.tokens)
    tokens = sum(len(p[2]) for p in pairs)
    padded = sum(len(pairs[i:i + PADDED_PAIRS]) * max(len(p[2]) for p in pairs[i:i + PADDED_PAIRS])
                 for i in range(0, len(pairs), PADDED_PAIRS))
    print(f"torch {torch.__version__}, {ARGS.threads} threads; {len(pairs)} pairs, {tokens} tokens, "
          f"{padded} when padded: factor {padded / tokens:.2f}", flush=True)
    for _ in range(ARGS.rounds):
        for variant in filter(None, ARGS.variants.split(",")):
            mine = None if ARGS.no_memo else memo_seconds(pairs)
            theirs = torch_seconds(variant, pairs)
            print(f"torch {variant}: {tokens / theirs:.0f} tokens/s"
                  + (f"; memo is {theirs / mine:.2f} times as fast" if mine else ""), flush=True)


main()
