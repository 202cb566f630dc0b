# SPDX-License-Identifier: Apache-2.0
"""Checks that transformers computes the same with what memo saves.

Every golden model goes through resave_model, which loads it and saves it again in shards of a few
kilobytes; transformers loads the result, must find every tensor and nothing else, and must give the
golden logits and the same greedy tokens.

usage: python3 tests/oracle/check_saved_models.py build/tests/worker/resave_model
       (torch, transformers, safetensors)
"""
import pathlib
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from model_golden import GOLDEN, SHAPES


def check(golden, resave, directory):
    subprocess.run([resave, golden, directory, "4000"], check=True)
    shards = len(list(pathlib.Path(directory).glob("model-*-of-*.safetensors")))
    model, info = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager", output_loading_info=True)
    wrong = [key for key, names in info.items() if names]
    assert not wrong, f"{golden.name}: {info}"
    model = model.double().eval()
    expected = load_file(golden / "expected.safetensors")
    offsets, largest, difference = expected["offsets"].tolist(), 0.0, 0.0
    with torch.no_grad():
        for begin, end in zip(offsets[:-1], offsets[1:]):
            logits = model(input_ids=expected["ids"][None, begin:end].long()).logits[0]
            difference = max(difference, float((logits - expected["logits"][begin:end]).abs().max()))
            largest = max(largest, float(expected["logits"][begin:end].abs().max()))
        ids = expected["prompt"].long().tolist()
        for token in expected["greedy"].tolist():
            assert int(model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()) == token, golden.name
            ids.append(token)
    assert difference <= 1e-5 * largest, f"{golden.name}: logits differ by {difference} of {largest}"
    print(f"{golden.name}: {shards} shards, {model.config.dtype}, logits differ by {difference:.2g} of {largest:.3g}")


if __name__ == "__main__":
    for name in SHAPES:
        with tempfile.TemporaryDirectory() as directory:
            check(GOLDEN / name, sys.argv[1], directory)
