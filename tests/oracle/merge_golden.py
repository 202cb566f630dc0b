# SPDX-License-Identifier: Apache-2.0
"""Golden results of merging, made by mergekit on small random models of three architectures.

usage: python tests/oracle/merge_golden.py   (with mergekit, torch, numpy and safetensors installed)

Writes tests/oracle/golden/merge/ARCHITECTURE/{base,a,b,c}/, float models whose tuned ones differ from
the base by little, and merged/CASE.safetensors, mergekit's results, computed in float32 and stored in
bfloat16. tests/worker/test_merge_golden.c has the same table of cases. The random masks of dare and
della are injected: torch.bernoulli is replaced by memo's counter-based generator (Philox 4x32-10,
base/random.c), seed 7, stream 11 + k for model k, counter = element / 4, word = element % 4.
"""
import json
import pathlib
import shutil
import tempfile

import numpy
import torch
import yaml
from mergekit.config import MergeConfiguration
from mergekit.merge import run_merge
from mergekit.options import MergeOptions
from safetensors.torch import load_file, save_file

HERE = pathlib.Path(__file__).parent / "golden" / "merge"
HIDDEN, FFN, VOCABULARY, LAYERS, HEADS = 16, 24, 40, 2, 2
ARCHITECTURES = {
    "qwen2": ("Qwen2ForCausalLM", torch.bfloat16, 1),
    "llama": ("LlamaForCausalLM", torch.float16, 2),
    "mistral": ("MistralForCausalLM", torch.float32, 1),
}
WEIGHTS = [1.0, 0.5, 2.25]
DENSITIES = [0.3, 0.55, 0.1]
SEED, STREAM = 7, 11


def shapes(architecture):
    kv = HIDDEN // 2 if architecture != "qwen2" else HIDDEN
    table = {"model.embed_tokens.weight": (VOCABULARY, HIDDEN), "lm_head.weight": (VOCABULARY, HIDDEN),
             "model.norm.weight": (HIDDEN,)}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        for name, shape in {"q_proj": (HIDDEN, HIDDEN), "k_proj": (kv, HIDDEN), "v_proj": (kv, HIDDEN),
                            "o_proj": (HIDDEN, HIDDEN)}.items():
            table[prefix + f"self_attn.{name}.weight"] = shape
            if architecture == "qwen2" and name != "o_proj":
                table[prefix + f"self_attn.{name}.bias"] = shape[:1]
        for name, shape in {"gate_proj": (FFN, HIDDEN), "up_proj": (FFN, HIDDEN),
                            "down_proj": (HIDDEN, FFN)}.items():
            table[prefix + f"mlp.{name}.weight"] = shape
        for name in ("input_layernorm", "post_attention_layernorm"):
            table[prefix + f"{name}.weight"] = (HIDDEN,)
    return table


def write_model(directory, architecture, tensors):
    class_name, dtype, shards = ARCHITECTURES[architecture]
    directory.mkdir(parents=True)
    kv_heads = HEADS if architecture == "qwen2" else HEADS // 2
    config = {"architectures": [class_name], "model_type": architecture, "hidden_size": HIDDEN,
              "intermediate_size": FFN, "vocab_size": VOCABULARY, "num_hidden_layers": LAYERS,
              "num_attention_heads": HEADS, "num_key_value_heads": kv_heads, "rms_norm_eps": 1e-6,
              "tie_word_embeddings": False, "torch_dtype": str(dtype).split(".")[1]}
    (directory / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    tensors = {name: value.to(dtype) for name, value in tensors.items()}
    names = sorted(tensors)
    if shards == 1:
        save_file(tensors, directory / "model.safetensors", {"format": "pt"})
        return
    index = {"metadata": {}, "weight_map": {}}
    for shard in range(shards):
        file = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        part = names[shard::shards]
        save_file({name: tensors[name] for name in part}, directory / file, {"format": "pt"})
        index["weight_map"].update({name: file for name in part})
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")


def write_models(directory, architecture, seed):
    generator = torch.Generator().manual_seed(seed)
    base = {name: 0.5 * torch.randn(shape, generator=generator) for name, shape in shapes(architecture).items()}
    shared = {name: torch.randn(value.shape, generator=generator) for name, value in base.items()}
    write_model(directory / "base", architecture, base)
    for model in "abc":
        tuned = {name: value + 0.02 * (torch.randn(value.shape, generator=generator) + 0.5 * shared[name])
                 for name, value in base.items()}
        write_model(directory / model, architecture, tuned)


def philox_words(seed, stream, counters):
    """[n, 4] uint32, as base/random.c."""
    mask = numpy.uint64(0xFFFFFFFF)
    low = counters.astype(numpy.uint64)
    c = [low & mask, low >> numpy.uint64(32), numpy.full_like(low, stream & 0xFFFFFFFF),
         numpy.full_like(low, stream >> 32)]
    k0, k1 = seed & 0xFFFFFFFF, seed >> 32
    for _ in range(10):
        a = numpy.uint64(0xD2511F53) * c[0]
        b = numpy.uint64(0xCD9E8D57) * c[2]
        c = [(b >> numpy.uint64(32)) ^ c[1] ^ numpy.uint64(k0), b & mask,
             (a >> numpy.uint64(32)) ^ c[3] ^ numpy.uint64(k1), a & mask]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return numpy.stack(c, axis=1)


class InjectedMasks:
    """Stands in for torch.bernoulli: the calls of one tensor come in the order of the models."""

    def __init__(self):
        self.calls = 0

    def __call__(self, probabilities):
        stream = STREAM + self.calls % len(WEIGHTS)
        self.calls += 1
        count = probabilities.numel()
        words = philox_words(SEED, stream, numpy.arange((count + 3) // 4)).reshape(-1)[:count]
        uniform = torch.from_numpy(words.astype(numpy.float64) * 2.0**-32).reshape(probabilities.shape)
        return (uniform < probabilities.double()).to(probabilities.dtype)


def cases():
    """name, method, with base, models, general parameters, per model parameters."""
    weight = {"weight": WEIGHTS}
    thin = {"weight": WEIGHTS, "density": DENSITIES}
    yield "linear", "linear", False, "abc", {}, weight
    yield "task_arithmetic", "task_arithmetic", True, "abc", {"lambda": 0.7}, weight
    yield "ties", "ties", True, "abc", {"lambda": 0.7}, thin
    yield "ties_l1", "ties", True, "abc", {"rescale": True}, thin
    yield "dare_linear", "dare_linear", True, "abc", {}, thin
    yield "dare_ties", "dare_ties", True, "abc", {}, thin
    yield "della", "della", True, "abc", {"epsilon": 0.09}, thin
    yield "della_linear", "della_linear", True, "abc", {"epsilon": 0.09}, thin
    yield "breadcrumbs", "breadcrumbs", True, "abc", {"gamma": 0.05}, thin
    yield "breadcrumbs_ties", "breadcrumbs_ties", True, "abc", {"gamma": 0.05}, thin
    yield "sce", "sce", True, "abc", {"select_topk": 0.4}, {}
    yield "sce_all", "sce", True, "abc", {}, {}
    yield "model_stock", "model_stock", True, "abc", {}, {}
    yield "model_stock_rows", "model_stock", True, "abc", {"filter_wise": True}, {}
    yield "slerp", "slerp", True, "a", {"t": 0.3}, {}
    yield "nuslerp", "nuslerp", True, "ab", {}, {"weight": WEIGHTS[:2]}
    yield "nuslerp_rows", "nuslerp", True, "ab", {"nuslerp_flatten": False}, {"weight": WEIGHTS[:2]}
    yield ("nuslerp_columns", "nuslerp", False, "ab", {"nuslerp_flatten": False, "nuslerp_row_wise": True},
           {"weight": WEIGHTS[:2]})
    yield "multislerp", "multislerp", True, "abc", {}, weight
    yield "karcher", "karcher", False, "abc", {}, {}


def merge(directory, method, with_base, models, general, each):
    entries = [{"model": str(directory / model),
                "parameters": {name: values[k] for name, values in each.items()}} for k, model in enumerate(models)]
    config = {"merge_method": method, "models": entries, "parameters": general, "dtype": "float32",
              "out_dtype": "bfloat16"}
    if with_base:
        config["base_model"] = str(directory / "base")
    if method == "slerp":
        config["models"].insert(0, {"model": config["base_model"]})
    with tempfile.TemporaryDirectory() as out:
        run_merge(MergeConfiguration.model_validate(yaml.safe_load(yaml.safe_dump(config))), out_path=out,
                  options=MergeOptions(copy_tokenizer=False, quiet=True))
        return load_file(pathlib.Path(out) / "model-00001-of-00001.safetensors") \
            if (pathlib.Path(out) / "model-00001-of-00001.safetensors").exists() \
            else load_file(pathlib.Path(out) / "model.safetensors")


def main():
    torch.bernoulli = InjectedMasks()
    torch.set_num_threads(1)
    shutil.rmtree(HERE, ignore_errors=True)
    for seed, architecture in enumerate(ARCHITECTURES):
        directory = HERE / architecture
        write_models(directory, architecture, seed)
        (directory / "merged").mkdir()
        for name, *case in cases():
            torch.bernoulli.calls = 0
            tensors = merge(directory, *case)
            save_file({key: value.contiguous() for key, value in tensors.items()},
                      directory / "merged" / f"{name}.safetensors")
            print(architecture, name, len(tensors), "tensors")


if __name__ == "__main__":
    main()
