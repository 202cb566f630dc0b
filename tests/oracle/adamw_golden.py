# SPDX-License-Identifier: Apache-2.0
"""Writes the golden files of tests/worker/test_train_golden.c: a training run made by others' code.

Thirty-two steps of torch.optim.AdamW on a small Qwen2 of `transformers`, every sequence by itself, loss on
the answer's tokens, mean over the target tokens of the step, gradient norm clipped at 1, warm-up then
a constant rate, decay on matrices only. Which sequences a step has is computed here from the definition
(Philox4x32-10 and Fisher-Yates). Weights are bfloat16 on disk, so that they are exact in float32; the
computation runs in float64 where transformers lets it.

usage: python3 tests/oracle/adamw_golden.py     (torch, transformers, safetensors)
"""
import copy
import math

import torch
import transformers
from model_golden import GOLDEN, randomise
from safetensors.torch import save_file
from transformers import Qwen2Config, Qwen2ForCausalLM

SEED, SEQUENCES, PER_STEP, EPOCHS = 5, 31, 8, 8
RATE, DECAY, CLIP, WARMUP_FRACTION = 1e-3, 0.01, 1.0, 0.2
SHAPE = dict(
    hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
    intermediate_size=48, vocab_size=61, tie_word_embeddings=True, rope_theta=10000.0)


def philox_u64(seed, stream, counter):
    words = [counter & 0xFFFFFFFF, counter >> 32, stream & 0xFFFFFFFF, stream >> 32]
    low, high = seed & 0xFFFFFFFF, seed >> 32
    for _ in range(10):
        a, b = 0xD2511F53 * words[0], 0xCD9E8D57 * words[2]
        words = [(b >> 32) ^ words[1] ^ low, b & 0xFFFFFFFF, (a >> 32) ^ words[3] ^ high, a & 0xFFFFFFFF]
        low, high = (low + 0x9E3779B9) & 0xFFFFFFFF, (high + 0xBB67AE85) & 0xFFFFFFFF
    return words[1] << 32 | words[0]


def permutation(seed, stream, count):
    order = list(range(count))
    for i in range(count, 1, -1):
        j = philox_u64(seed, stream, i - 1) * i >> 64
        order[i - 1], order[j] = order[j], order[i - 1]
    return order


def steps():
    for epoch in range(EPOCHS):
        order = permutation(SEED, epoch, SEQUENCES)
        yield from (order[i:i + PER_STEP] for i in range(0, SEQUENCES, PER_STEP))


def make_sequences(vocabulary, generator):
    sequences = []
    for _ in range(SEQUENCES):
        length = int(torch.randint(3, 25, (), generator=generator))
        begin = int(torch.randint(1, length, (), generator=generator))
        end = int(torch.randint(begin + 1, length + 1, (), generator=generator))
        sequences.append((torch.randint(vocabulary, (length,), generator=generator), begin, end))
    return sequences


def loss_sum(model, ids, begin, end):
    logits = model(input_ids=ids[None]).logits[0, begin - 1:end - 1]
    return torch.nn.functional.cross_entropy(logits.double(), ids[begin:end], reduction="sum")


def train(model, sequences):
    matrices = [p for p in model.parameters() if p.dim() == 2]
    others = [p for p in model.parameters() if p.dim() == 1]
    optimizer = torch.optim.AdamW(
        [dict(params=matrices, weight_decay=DECAY), dict(params=others, weight_decay=0.0)],
        lr=RATE, betas=(0.9, 0.999), eps=1e-8)
    plan = list(steps())
    warmup = math.ceil(WARMUP_FRACTION * len(plan))
    losses, norms = [], []
    for number, members in enumerate(plan):
        targets = sum(sequences[s][2] - sequences[s][1] for s in members)
        optimizer.zero_grad()
        loss = sum(loss_sum(model, *sequences[s]) for s in members) / targets
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)))
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (number + 1) / warmup)
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses, norms


def main():
    generator = torch.Generator().manual_seed(SEED)
    config = Qwen2Config(max_position_embeddings=64, attn_implementation="eager", **SHAPE)
    model = Qwen2ForCausalLM(config).double()
    randomise(model, generator)
    directory = GOLDEN / "adamw"
    # A copy: the conversion rounds the rotary frequencies too, which are no parameters.
    copy.deepcopy(model).to(torch.bfloat16).save_pretrained(directory)
    (directory / "generation_config.json").unlink(missing_ok=True)
    sequences = make_sequences(config.vocab_size, generator)
    losses, norms = train(model, sequences)
    assert any(n > CLIP for n in norms) and losses[-1] < losses[0]
    offsets = torch.tensor([0] + [len(ids) for ids, _, _ in sequences]).cumsum(0)
    expected = {
        "ids": torch.cat([ids for ids, _, _ in sequences]).to(torch.int32),
        "offsets": offsets.to(torch.int32),
        "target_begin": torch.tensor([begin for _, begin, _ in sequences], dtype=torch.int32),
        "target_end": torch.tensor([end for _, _, end in sequences], dtype=torch.int32),
        "order": torch.tensor(sum(steps(), []), dtype=torch.int32),
        "losses": torch.tensor(losses, dtype=torch.float64),
        "norms": torch.tensor(norms, dtype=torch.float64)}
    for name, p in model.named_parameters():
        expected["final." + name] = p.detach().float()
    save_file(expected, directory / "expected.safetensors", metadata={
        "seed": str(SEED), "torch": torch.__version__, "transformers": transformers.__version__})
    size = sum(f.stat().st_size for f in directory.iterdir())
    print(f"losses {losses[0]:.5f} to {losses[-1]:.5f}, norms {min(norms):.3f} to {max(norms):.3f}, "
          f"{len(losses)} steps, {size} bytes")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
