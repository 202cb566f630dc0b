#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What torch, transformers and vLLM reach at the shapes of run.sh, one JSON object per line.

    peers.py train|generate --device cuda|cpu [--tiny]

Random bfloat16 weights. train: the step that `memo bench train` measures, pairs of 30 to 80 tokens of which five are
targets, as torch does it best: everything in bfloat16, fused AdamW, the head on target rows only; once padded, in
batches of like lengths, once as rows of 1,024 tokens without a mask, as if packing cost nothing. Tokens that only fill
up do not count. generate: prefill of 1,500 tokens and greedy decoding behind them, step by step and, on a GPU, with a
static cache in a CUDA graph; vLLM where it is installed. What fails is told on stderr, and the rest goes on. Exit 77:
not installed.
"""
import argparse
import json
import random
import sys
import tempfile
import time

try:
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM, StaticCache
except ImportError as problem:
    print(f"skipped: {problem}")
    sys.exit(77)

SHAPES = {
    "micro": dict(num_hidden_layers=2, hidden_size=64, num_attention_heads=2, num_key_value_heads=1,
                  intermediate_size=128, vocab_size=512, tie_word_embeddings=True),
    "qwen2.5-1.5b": dict(num_hidden_layers=28, hidden_size=1536, num_attention_heads=12, num_key_value_heads=2,
                         intermediate_size=8960, vocab_size=151936, tie_word_embeddings=True),
    "qwen2.5-7b": dict(num_hidden_layers=28, hidden_size=3584, num_attention_heads=28, num_key_value_heads=4,
                       intermediate_size=18944, vocab_size=152064),
    "qwen2.5-32b": dict(num_hidden_layers=64, hidden_size=5120, num_attention_heads=40, num_key_value_heads=8,
                        intermediate_size=27648, vocab_size=152064),
}
TARGETS = 5


def report(what, rate):
    print(json.dumps({"what": what, "rate": rate, "unit": "tokens/s"}), flush=True)


def config_of(shape):
    return Qwen2Config(**SHAPES[shape], max_position_embeddings=32768, attn_implementation="sdpa")


def make(shape, device):
    with torch.device(device):
        torch.set_default_dtype(torch.bfloat16)
        model = Qwen2ForCausalLM(config_of(shape))
        torch.set_default_dtype(torch.float32)
    return model


def wait(device):
    if device == "cuda":
        torch.cuda.synchronize()


def attempt(what, function, *arguments):
    """Whether it worked."""
    try:
        function(*arguments)
        return True
    except Exception as problem:  # one peer's failure is not another's
        print(f"{what}: {type(problem).__name__}: {problem}", file=sys.stderr)
        return False
    finally:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


# --- training ---

def padded_batches(step_tokens, micro_tokens, vocabulary, device):
    """Pairs in the order of their lengths: (ids, attention mask, rows whose next token counts)."""
    draw = random.Random(1)
    lengths = []
    while sum(lengths) < step_tokens:
        lengths.append(draw.randint(30, 80))
    lengths.sort()
    at = 0
    while at < len(lengths):
        count = 1
        while at + count < len(lengths) and lengths[at + count] * (count + 1) <= micro_tokens:
            count += 1
        some = lengths[at:at + count]
        at += count
        ids = torch.randint(0, vocabulary, (count, some[-1]), device=device)
        mask = torch.zeros_like(ids)
        wanted = torch.zeros(ids.shape, dtype=torch.bool, device=device)
        for row, length in enumerate(some):
            mask[row, :length] = 1
            wanted[row, length - 1 - TARGETS:length - 1] = True
        yield ids, mask, wanted, sum(some)


def row_batches(step_tokens, micro_tokens, vocabulary, device, length=1024):
    """Rows that are full; as many targets as the pairs in them would have."""
    length = min(length, micro_tokens)
    rows = micro_tokens // length
    for _ in range(max(1, step_tokens // (rows * length))):
        ids = torch.randint(0, vocabulary, (rows, length), device=device)
        wanted = torch.zeros(ids.shape, dtype=torch.bool, device=device)
        wanted[:, 10:length - 1:11] = True
        yield ids, None, wanted, rows * length


def train_step(model, optimizer, batches):
    targets = sum(int(wanted.sum()) for _, _, wanted, _ in batches)
    for ids, mask, wanted, _ in batches:
        hidden = model.model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        logits = model.lm_head(hidden[wanted]).float()
        labels = ids[:, 1:][wanted[:, :-1]]
        (torch.nn.functional.cross_entropy(logits, labels, reduction="sum") / targets).backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def train(shape, device, step_tokens, micro_tokens, recompute, steps):
    model = make(shape, device)
    if recompute:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=device == "cuda")
    best = 0
    for name, make_batches in (("rows of 1024", row_batches), ("padded", padded_batches)):
        batches = list(make_batches(step_tokens, micro_tokens, model.config.vocab_size, device))
        train_step(model, optimizer, batches)  # warms up
        wait(device)
        start = time.perf_counter()
        for _ in range(steps):
            train_step(model, optimizer, batches)
        wait(device)
        rate = steps * sum(batch[3] for batch in batches) / (time.perf_counter() - start)
        report(f"torch {name}, {shape}", rate)
        best = max(best, rate)
    report(f"torch training {shape}, its best", best)


# --- generation ---

def prefill(model, ids, cache):
    return model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits[:, -1].argmax(-1, keepdim=True)


def time_steps(device, steps, step):
    for _ in range(2):
        step()
    wait(device)
    start = time.perf_counter()
    for _ in range(steps):
        step()
    wait(device)
    return steps / (time.perf_counter() - start)


@torch.no_grad()
def decode(model, shape, device, prompt, batch, steps, first):
    ids = torch.randint(0, model.config.vocab_size, (batch, prompt), device=device)
    for _ in range(2):
        wait(device)
        start = time.perf_counter()
        out = model(input_ids=ids, use_cache=True, logits_to_keep=1)
        wait(device)
        seconds = time.perf_counter() - start
    if first:
        report(f"transformers prefill {shape}, {prompt} tokens", batch * prompt / seconds)
    state = {"cache": out.past_key_values, "token": out.logits[:, -1].argmax(-1, keepdim=True)}

    def step():
        made = model(input_ids=state["token"], past_key_values=state["cache"], use_cache=True)
        state["token"] = made.logits[:, -1].argmax(-1, keepdim=True)

    report(f"transformers decode {shape}, batch {batch}", batch * time_steps(device, steps, step))


@torch.no_grad()
def decode_graph(model, shape, device, prompt, batch, steps):
    """One step captured: keys and values at fixed places, no launch from the host. Positions stand still."""
    room = prompt + 64
    cache = StaticCache(config=model.config, max_cache_len=room)
    token = prefill(model, torch.randint(0, model.config.vocab_size, (batch, prompt), device=device), cache)
    at = torch.tensor([prompt], device=device)
    mask = torch.zeros(batch, 1, 1, room, dtype=torch.bool, device=device)
    mask[..., :prompt + 1] = True

    def step():
        made = model(input_ids=token, attention_mask=mask, position_ids=at.expand(batch, 1), past_key_values=cache,
                     cache_position=at, use_cache=True)
        token.copy_(made.logits[:, -1].argmax(-1, keepdim=True))

    if device != "cuda":
        step()
        return
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    report(f"transformers decode in a graph {shape}, batch {batch}", batch * time_steps(device, steps, graph.replay))


def generate(shape, device, prompt, batches, steps):
    model = make(shape, device).eval()
    for batch in batches:
        attempt(f"decode, batch {batch}", decode, model, shape, device, prompt, batch, steps, batch == batches[0])
        attempt(f"decode in a graph, batch {batch}", decode_graph, model, shape, device, prompt, batch, steps)


def vllm_decode(shape, prompt, batches, steps):
    from vllm import LLM, SamplingParams
    with tempfile.TemporaryDirectory() as directory:
        config = config_of(shape)
        config.architectures = ["Qwen2ForCausalLM"]
        config.save_pretrained(directory)
        engine = LLM(model=directory, load_format="dummy", skip_tokenizer_init=True, dtype="bfloat16",
                     max_model_len=prompt + steps + 8, enable_prefix_caching=False)
        for batch in batches:
            prompts = [{"prompt_token_ids": [(7 * i + 31 * b) % 1000 for i in range(prompt)]} for b in range(batch)]
            seconds = []
            for count in (1, 1, steps + 1):  # the first warms up
                start = time.perf_counter()
                engine.generate(prompts, SamplingParams(max_tokens=count, temperature=0, ignore_eos=True, detokenize=False))
                seconds.append(time.perf_counter() - start)
            report(f"vLLM decode {shape}, batch {batch}", batch * steps / (seconds[2] - seconds[1]))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["train", "generate"])
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    if given.device == "cuda" and not torch.cuda.is_available():
        print("skipped: this torch sees no GPU")
        sys.exit(77)
    if given.what == "train":
        runs = [("micro", 200, 100, True, 2)] if given.tiny else \
            [("qwen2.5-1.5b", 32768, 16384, False, 4), ("qwen2.5-7b", 32768, 8192, True, 2)]
        worked = [attempt(run[0], train, run[0], given.device, *run[1:]) for run in runs]
    elif given.tiny:
        worked = [attempt("micro", generate, "micro", given.device, 20, [1, 2], 3)]
    else:
        worked = [attempt("transformers", generate, "qwen2.5-32b", given.device, 1500, [1, 16, 64], 32)]
        try:
            import vllm  # noqa: F401
            worked.append(attempt("vLLM", vllm_decode, "qwen2.5-32b", 1500, [1, 16, 64], 32))
        except ImportError:
            print("vLLM is not installed", file=sys.stderr)
    sys.exit(0 if any(worked) else 1)


main()
