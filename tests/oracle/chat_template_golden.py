# SPDX-License-Identifier: Apache-2.0
"""Writes tests/oracle/golden/chat_templates/vectors.jsonl for tests/datasets/test_chat_template_golden.c.

Renders conversations with apply_chat_template of the package `transformers`, one line for each:
{"template", "messages", "add_generation_prompt", "text"}; "text" is null where the template raises. The
Jinja texts are not part of this repository: DIRECTORY holds those of the published models under the
names below. Also prints each text's digest (xxh3-128 without trailing white space, as in
datasets/chat_template_detect.c; needs the package `xxhash`). Run by hand; the committed file was written
with Python 3.11, transformers 5.23.0 (those of Mistral with 5.24.0), jinja2 3.1.

With NAMEs only those families are rendered anew, at the end of the file; all others keep their lines.

usage: python3 tests/oracle/chat_template_golden.py DIRECTORY [NAME ...]
"""
import json
import pathlib
import random
import sys

from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

DATE = {"date_string": "26 Jul 2024"}
# our name, file of the Jinja text, begin token, arguments
FAMILIES = [("qwen2.5", "qwen2_5", None, {}),
            ("chatml", "qwen3_instruct_2507", None, {}),
            ("qwen3", "qwen3", None, {}),
            ("qwen3-no-think", "qwen3", None, {"enable_thinking": False}),
            ("llama3", "llama3", "<|begin_of_text|>", {}),
            ("llama3.1", "llama3_1", "<|begin_of_text|>", {}),
            ("llama3.1", "llama3_2", "<|begin_of_text|>", DATE),
            ("gemma2", "gemma", "<bos>", {}),
            ("gemma3", "gemma3", "<bos>", {}),
            ("lfm2", "lfm2", "<|startoftext|>", {}),
            ("lfm2.5", "lfm2_2_5", "<|startoftext|>", {}),
            # Mistral-7B-Instruct-v0.2, Mistral-Large-Instruct-2407, Mistral-Nemo-Instruct-2407,
            # Mistral-Large-Instruct-2411 and Mistral-Small-3.2-24B-Instruct-2506
            ("mistral-v1", "mistral_v1", "<s>", {}),
            ("mistral-v3", "mistral_v3", "<s>", {}),
            ("mistral-v3-tekken", "mistral_v3_tekken", "<s>", {}),
            ("mistral-v7", "mistral_v7", "<s>", {}),
            ("mistral-v7-tekken", "mistral_v7_tekken", "<s>", {})]
# Without a system message these write one that holds today's date, which ours leave out.
ONLY_WITH_SYSTEM = {"mistral-v7-tekken"}
CONTENTS = ["", "Who kept the light?", "  two spaces \n", "\n\nAda.\n", "<think>\nshe wrote\n</think>\n\nAda.",
            "<think>\n\n</think>\n\nAda.", "</think>Ada</think>\n Lovelace ", "a<think>b\n<think>\n\nc\n</think>\n\n\nd",
            "\u00a0\u2003na\u00efve \u6771\u4eac\u3000\x1c", "\u200b\u180ex\u0085", "<tool_response>7</tool_response>",
            "<|im_end|> {{ x }}", "don't"]


def conversations():
    rng = random.Random(3)
    orders = [["user"], ["user", "assistant"], ["system", "user"], ["system", "user", "assistant"],
              ["user", "assistant", "user"], ["system", "user", "assistant", "user", "assistant"],
              ["user", "user"], ["assistant"], ["system"], ["user", "assistant", "assistant"],
              ["user", "assistant", "user", "assistant", "assistant"]]
    for order in orders:
        for _ in range(2):
            yield [{"role": role, "content": rng.choice(CONTENTS)} for role in order]


def main():
    target = pathlib.Path(__file__).parent / "golden" / "chat_templates" / "vectors.jsonl"
    target.parent.mkdir(parents=True, exist_ok=True)
    names = set(sys.argv[2:]) or {family[0] for family in FAMILIES}
    old = target.read_text(encoding="utf-8").splitlines(keepends=True) if target.exists() else []
    families = [family for family in FAMILIES if family[0] in names]
    with open(target, "w", encoding="utf-8") as out:
        out.writelines(line for line in old if json.loads(line)["template"] not in names)
        for name, file, bos, arguments in families:
            text = pathlib.Path(sys.argv[1], file + ".jinja").read_text(encoding="utf-8")
            tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.BPE()), bos_token=bos,
                                                eos_token="</s>" if bos == "<s>" else None)
            for number, messages in enumerate(conversations()):
                if name in ONLY_WITH_SYSTEM and messages[0]["role"] != "system":
                    continue
                prompt = messages[-1]["role"] == "user" or number % 5 == 0
                try:
                    rendered = tokenizer.apply_chat_template(messages, chat_template=text, tokenize=False,
                                                             add_generation_prompt=prompt, **arguments)
                except Exception:  # jinja2's own and whatever raise_exception raises
                    rendered = None
                out.write(json.dumps({"template": name, "messages": messages, "add_generation_prompt": prompt,
                                      "text": rendered}) + "\n")
    try:
        import xxhash
    except ImportError:
        return
    for file in sorted({family[1] for family in families}):
        text = pathlib.Path(sys.argv[1], file + ".jinja").read_bytes().rstrip()
        print(file, xxhash.xxh3_128_hexdigest(text))


main()
