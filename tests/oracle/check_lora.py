# SPDX-License-Identifier: Apache-2.0
"""Checks that PEFT computes with a directory of adapters what memo trained.

PEFT loads OUT/adapter on the base model and must find every tensor; its logits must be those of the
model that memo merged, OUT, within TOLERANCE of the largest, and not those of the base.

usage: python3 tests/oracle/check_lora.py BASE OUT TOLERANCE     (torch, transformers, peft, safetensors)
Without these packages it says so and exits with 77.
"""
import sys
import warnings

try:
    import torch
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)


def load(directory):
    return AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager").eval()


def main(base, out, tolerance):
    warnings.simplefilter("error", UserWarning)  # PEFT warns of keys that are missing or left over
    ids = torch.arange(3, 35)[None]
    with torch.no_grad():
        before = load(base)(input_ids=ids).logits
        merged = load(out)(input_ids=ids).logits
        model = PeftModel.from_pretrained(load(base), out + "/adapter").eval()
        adapted = model(input_ids=ids).logits
    saved = load_file(out + "/adapter/adapter_model.safetensors")
    there = get_peft_model_state_dict(model)
    assert saved.keys() == there.keys(), saved.keys() ^ there.keys()
    assert all(torch.equal(saved[name], there[name].float()) for name in saved)
    largest = float(merged.abs().max())
    difference = float((merged - adapted).abs().max())
    moved = float((merged - before).abs().max())
    print(f"{len(saved)} tensors, logits differ by {difference:.2g} of {largest:.3g}, training moved them by {moved:.2g}")
    assert moved > 1e-2 * largest, "the adapters do nothing"
    assert difference <= tolerance * largest, "PEFT computes something else"


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]))
