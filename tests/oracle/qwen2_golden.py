# SPDX-License-Identifier: Apache-2.0
"""Writes the golden files of tests/worker/test_model_golden.c.

Two small Qwen2 models with random weights (biases and norms too) go through the implementation in
`transformers`: a model directory as save_pretrained writes it, and expected.safetensors beside it with
a packed batch, its logits, loss and gradients, and 64 greedily chosen tokens. Weights are bfloat16 on
disk, so that they are exact in float32; the computation runs in float64 where transformers lets it.

usage: python3 tests/oracle/qwen2_golden.py     (torch, transformers, safetensors)
"""
import pathlib

import torch
import transformers
from safetensors.torch import save_file
from transformers import Qwen2Config, Qwen2ForCausalLM

GOLDEN = pathlib.Path(__file__).parent / "golden"
GREEDY_TOKENS = 64

SHAPES = {
    "qwen2_tied": dict(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        intermediate_size=48, vocab_size=96, tie_word_embeddings=True, rope_theta=10000.0),
    "qwen2_odd": dict(
        hidden_size=26, num_hidden_layers=1, num_attention_heads=7, num_key_value_heads=1, head_dim=10,
        intermediate_size=37, vocab_size=75, tie_word_embeddings=False, rope_theta=1000000.0),
}


def randomise(model, generator):
    for name, p in model.named_parameters():
        norm = name.endswith("norm.weight")
        deviation = 0.3 if p.dim() == 1 else 1.0 if "embed" in name else 1.5 / p.shape[1] ** 0.5
        values = torch.randn(p.shape, generator=generator) * deviation + (1.0 if norm else 0.0)
        p.data.copy_(values.to(torch.bfloat16).to(p.dtype))


def packed_batch(vocabulary, generator):
    lengths = [13, 1, 7, 20]
    tokens = sum(lengths)
    ids = torch.randint(vocabulary, (tokens,), generator=generator)
    targets = torch.randint(vocabulary, (tokens,), generator=generator)
    targets[torch.rand(tokens, generator=generator) < 0.5] = -1
    offsets = torch.tensor([0] + lengths).cumsum(0)
    return ids, targets, offsets


def losses_and_logits(model, ids, targets, offsets):
    logits, total = [], torch.zeros((), dtype=torch.float64)
    for begin, end in zip(offsets[:-1].tolist(), offsets[1:].tolist()):
        out = model(input_ids=ids[None, begin:end]).logits[0]
        logits.append(out)
        total = total + torch.nn.functional.cross_entropy(
            out.double(), targets[begin:end], ignore_index=-1, reduction="sum")
    return torch.cat(logits), total


@torch.no_grad()
def greedy(model, prompt):
    ids, margin = prompt.tolist(), float("inf")
    for _ in range(GREEDY_TOKENS):
        top = model(input_ids=torch.tensor([ids])).logits[0, -1].topk(2)
        margin = min(margin, float(top.values[0] - top.values[1]))
        ids.append(int(top.indices[0]))
    return torch.tensor(ids[len(prompt):]), margin


def write(name, shape, seed):
    generator = torch.Generator().manual_seed(seed)
    config = Qwen2Config(max_position_embeddings=128, attn_implementation="eager", **shape)
    model = Qwen2ForCausalLM(config).double().eval()
    randomise(model, generator)
    ids, targets, offsets = packed_batch(config.vocab_size, generator)
    logits, loss = losses_and_logits(model, ids, targets, offsets)
    loss.backward()
    prompt = torch.randint(config.vocab_size, (9,), generator=generator)
    tokens, margin = greedy(model, prompt)
    assert margin > 1e-2, f"{name}: two tokens are {margin} apart, choose another seed"
    expected = {
        "ids": ids, "targets": targets, "offsets": offsets, "prompt": prompt, "greedy": tokens}
    expected = {key: value.to(torch.int32) for key, value in expected.items()}
    expected["logits"] = logits.detach().float()
    expected["loss"] = loss.detach().reshape(1)
    for parameter, p in model.named_parameters():
        expected["grad." + parameter] = p.grad.float()
    directory = GOLDEN / name
    model.to(torch.bfloat16).save_pretrained(directory)
    (directory / "generation_config.json").unlink(missing_ok=True)
    save_file(expected, directory / "expected.safetensors", metadata={
        "seed": str(seed), "torch": torch.__version__, "transformers": transformers.__version__})
    size = sum(f.stat().st_size for f in directory.iterdir())
    print(f"{name}: loss {loss.item():.6f}, smallest margin {margin:.3f}, {size} bytes")


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name, shape in SHAPES.items():
        write(name, shape, seed=13)  # whose greedy tokens vary and are never nearly tied
