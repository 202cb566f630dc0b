# SPDX-License-Identifier: Apache-2.0
"""Writes the golden files of tests/worker/test_lora_golden.c: LoRA as PEFT trains it.

Twenty-four steps of torch.optim.AdamW on the adapters of a small Qwen2 of `transformers`, all seven
projections, A and B random and not zero at the start, no dropout. Sequences, their order, clipping and
the schedule are those of adamw_golden.py. The computation is in float32, but for the cross-entropy.

usage: python3 tests/oracle/lora_golden.py     (torch, transformers, peft, safetensors)
"""
import copy
import math

import peft
import torch
import transformers
from adamw_golden import CLIP, DECAY, SEED, SHAPE, WARMUP_FRACTION, loss_sum, make_sequences, steps
from model_golden import GOLDEN, randomise
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from safetensors.torch import save_file
from transformers import Qwen2Config, Qwen2ForCausalLM

RANK, ALPHA, RATE, STEPS = 4, 6, 5e-3, 24
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


def adapters(model):
    return {name: p.detach().float().clone() for name, p in get_peft_model_state_dict(model).items()}


def train(model, sequences):
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=RATE, betas=(0.9, 0.999), eps=1e-8, weight_decay=DECAY)
    plan = list(steps())
    warmup = math.ceil(WARMUP_FRACTION * len(plan))
    losses, norms = [], []
    for number, members in enumerate(plan[:STEPS]):
        targets = sum(sequences[s][2] - sequences[s][1] for s in members)
        optimizer.zero_grad()
        loss = sum(loss_sum(model, *sequences[s]) for s in members) / targets
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(trained, CLIP)))
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, (number + 1) / warmup)
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses, norms


def main():
    generator = torch.Generator().manual_seed(SEED + 1)
    config = Qwen2Config(max_position_embeddings=64, attn_implementation="eager", **SHAPE)
    base = Qwen2ForCausalLM(config).float()
    randomise(base, generator)
    directory = GOLDEN / "lora"
    copy.deepcopy(base).to(torch.bfloat16).save_pretrained(directory)
    (directory / "generation_config.json").unlink(missing_ok=True)
    model = get_peft_model(base, LoraConfig(
        r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=TARGETS, task_type="CAUSAL_LM"))
    with torch.no_grad():
        for p in model.parameters():
            if p.requires_grad:
                p.copy_(torch.randn(p.shape, generator=generator) * 0.1)
    sequences = make_sequences(config.vocab_size, generator)
    expected = {"initial." + name: p for name, p in adapters(model).items()}
    losses, norms = train(model, sequences)
    assert any(n > CLIP for n in norms) and sum(losses[-8:]) < 0.9 * sum(losses[:8])
    expected.update({"final." + name: p for name, p in adapters(model).items()})
    expected.update({
        "ids": torch.cat([ids for ids, _, _ in sequences]).to(torch.int32),
        "offsets": torch.tensor([0] + [len(ids) for ids, _, _ in sequences]).cumsum(0).to(torch.int32),
        "target_begin": torch.tensor([begin for _, begin, _ in sequences], dtype=torch.int32),
        "target_end": torch.tensor([end for _, _, end in sequences], dtype=torch.int32),
        "losses": torch.tensor(losses, dtype=torch.float64),
        "norms": torch.tensor(norms, dtype=torch.float64)})
    save_file(expected, directory / "expected.safetensors", metadata={
        "seed": str(SEED), "torch": torch.__version__, "transformers": transformers.__version__,
        "peft": peft.__version__})
    size = sum(f.stat().st_size for f in directory.iterdir())
    print(f"losses {losses[0]:.5f} to {losses[-1]:.5f}, norms {min(norms):.3f} to {max(norms):.3f}, "
          f"{len(losses)} steps, {size} bytes")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
