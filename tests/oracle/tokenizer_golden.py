# SPDX-License-Identifier: Apache-2.0
"""Writes the golden files of tests/datasets/test_tokenizer_golden.c.

The package `tokenizers` trains small tokenizers of several kinds on a few sentences, saves them, and
encodes texts with them, special tokens parsed. One directory per kind with tokenizer.json and
vectors.jsonl ({"text", "ids"}). Run by hand; the committed files were written with
Python 3.11, tokenizers 0.23.3.

usage: python3 tests/oracle/tokenizer_golden.py
"""
import json
import pathlib
import random

from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

GOLDEN = pathlib.Path(__file__).parent / "golden"
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
MARKS = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+"
         r"[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
# name, pattern (None: plain ByteLevel, GPT-2's), NFC, merges ignored for whole words, added tokens
# that are searched in normalized text
KINDS = [("tokenizer_gpt2", None, False, False, True),
         ("tokenizer_llama3", LLAMA3, False, True, False),
         ("tokenizer_marks", MARKS, True, False, True)]
SENTENCES = ["The keeper of the lighthouse wrote every crossing down, and the date of each.",
             "In 1874 the ship Lantern came into the harbour with a cargo of pepper and tin.",
             "\u00c9lodie\u2019s caf\u00e9 didn't open until half past ten; we'd waited since 9:45.",
             "\u6771\u4eac\u306e\u6e2f\u306b\u8239\u304c\u3042\u308b\u3002 \u041a\u043e\u0440\u0430\u0431\u043b\u044c \u0443 \u043f\u0440\u0438\u0447\u0430\u043b\u0430."]


def make(name, pattern, nfc, ignore_merges, normalized):
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    if nfc:
        tokenizer.normalizer = normalizers.NFC()
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern is None)
    if pattern is not None:
        split = pre_tokenizers.Split(Regex(pattern), "isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    else:
        tokenizer.pre_tokenizer = byte_level
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=330, special_tokens=["<|begin|>", "<|im_end|>"],
                                  initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
                                  show_progress=False)
    tokenizer.train_from_iterator(SENTENCES * 3, trainer)
    tokenizer.add_special_tokens(["<|end|>"])
    tokenizer.add_tokens([AddedToken(text, normalized=normalized)
                          for text in ("<call>", "cafe\u0301", "the ship", "the ship came")])
    path = GOLDEN / name
    path.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path / "tokenizer.json"))
    if ignore_merges:  # make the flag matter: whole words whose last merges are gone
        data = json.loads((path / "tokenizer.json").read_text())
        data["model"]["merges"] = data["model"]["merges"][:-15]
        (path / "tokenizer.json").write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n")
        tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    return path, tokenizer


def texts():
    rng = random.Random(1)
    pieces = (SENTENCES + " ".join(SENTENCES).split() +
              [" ", "  ", "\n", "\r\n", " \n ", "\t", "'s", "'LL", "'\u017f", "\u0301", "\u0323", "\u00a0",
               "\u0085", "\u180e", "\u2003", "1234567", "\u0661\u0662", "...", "\U0001f6a2", "\uac01",
               "\u1100\u1161\u11a8", "<|im_end|>", "<|end|>", "<|end", "<call>", "cafe\u0301",
               "caf\u00e9", "the ship", "the ship came", "the ships", "\u212b", "\u1e9b\u0323", "\u0958"])
    yield ""
    yield from SENTENCES
    for _ in range(100):
        yield "".join(rng.choice(pieces) + rng.choice(["", " "]) for _ in range(rng.randint(1, 9)))


for kind in KINDS:
    directory, encoder = make(*kind)
    with open(directory / "vectors.jsonl", "w", encoding="utf-8") as out:
        for text in texts():
            ids = encoder.encode(text, add_special_tokens=False).ids
            out.write(json.dumps({"text": text, "ids": ids}) + "\n")
