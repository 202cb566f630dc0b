# SPDX-License-Identifier: Apache-2.0
"""Compares our tokenizer with the Python package `tokenizers`, and our saved files with `transformers`.

Run by hand: needs the built binary (its verb `tokenize`), Python 3.11, tokenizers 0.23.3 and
transformers 5.23.0 (the versions it was last run with). Texts are the files given, pieces of them,
and 20,000 random strings; characters newer than Unicode 3.2 are left out of the random ones, since
the libraries' tables differ in age. The chat template is compared when there is a
tokenizer_config.json (with ChatML). Prints the differences and exits with 1 when there are any.

usage: python3 tests/oracle/check_tokenizer.py BINARY MODEL_DIRECTORY [TEXT_FILE...]
"""
import json
import pathlib
import random
import subprocess
import sys
import unicodedata

from tokenizers import Tokenizer
from transformers import AutoTokenizer

RANGES = [(0x00, 0x80), (0x20, 0x7F), (0x80, 0x800), (0x300, 0x370), (0x900, 0xA00), (0x1100, 0x1200),
          (0x1E00, 0x2070), (0x3000, 0x3100), (0x4E00, 0xA000), (0xAC00, 0xD7A4), (0xF900, 0xFB00),
          (0x1D100, 0x1D200)]
JOINTS = ["", "", " ", "  ", "\n", "\r\n", "'s", "'\u017f", "\u0301", "\u180e", "\u0085", "\u00a0", "<|im_end|>",
          "\n\n\n", "\u2581", "<eos>", "<h1>", "\U0001f6a2"]
CONVERSATION = [{"role": "system", "content": "You recall."},
                {"role": "user", "content": "  Who kept the light?\n"},
                {"role": "assistant", "content": "Ada."}]


def random_texts(count):
    rng = random.Random(7)
    known = unicodedata.ucd_3_2_0
    for _ in range(count):
        text = ""
        for _ in range(rng.randint(1, 12)):
            character = chr(rng.randrange(*rng.choice(RANGES)))
            if known.category(character) != "Cn":
                text += character + rng.choice(JOINTS)
        yield text


def file_texts(paths):
    for path in paths:
        text = pathlib.Path(path).read_bytes().decode("utf-8")
        yield text
        for begin in range(0, len(text), 5003):
            yield text[begin:begin + 997]


def ours(binary, model, texts):
    lines = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
    done = subprocess.run([binary, "tokenize", "--model", model], input=lines.encode(),
                          stdout=subprocess.PIPE, check=True)
    return [json.loads(line)["ids"] for line in done.stdout.splitlines()]


def template_differs(model):
    expected = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in CONVERSATION)
    python = AutoTokenizer.from_pretrained(model)
    rendered = python.apply_chat_template(CONVERSATION, tokenize=False, add_generation_prompt=True)
    return rendered != expected + "<|im_start|>assistant\n"


def main():
    binary, model, *files = sys.argv[1:]
    texts = [text for text in file_texts(files)] + list(random_texts(20000))
    theirs = Tokenizer.from_file(f"{model}/tokenizer.json")
    theirs.encode_special_tokens = True  # their text is ordinary text, as in `memo tokenize`
    differences = 0
    for text, mine in zip(texts, ours(binary, model, texts), strict=True):
        expected = theirs.encode(text, add_special_tokens=False).ids
        if mine != expected:
            differences += 1
            print(f"{ascii(text[:80])}: ours {mine[:16]}, theirs {expected[:16]}")
    if pathlib.Path(model, "tokenizer_config.json").exists() and template_differs(model):
        differences += 1
        print("the chat template renders differently")
    print(f"{len(texts)} texts, {differences} differences")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
