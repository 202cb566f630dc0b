# SPDX-License-Identifier: Apache-2.0
"""Writes the golden files of tests/datasets/test_tokenizer_fallback.c.

The package `tokenizers` trains BPE tokenizers with byte fallback on a few sentences, in the shapes of
Gemma's and Llama 2's tokenizer.json, and a byte-level one whose added tokens strip spaces or must be
single words. vectors.jsonl has {"text", "ids", "plain", "decoded"}: ids with special tokens parsed,
"plain" with them as ordinary text (encode_special_tokens), and the text decoded from "ids". Run by
hand; the committed files were written with Python 3.11, tokenizers 0.23.3. With arguments it trains
on the files given instead and writes to DIRECTORY, for comparisons on larger texts.

usage: python3 tests/oracle/tokenizer_fallback_golden.py [DIRECTORY VOCABULARY_SIZE TEXT_FILE...]
"""
import json
import pathlib
import random
import sys

from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

MARK = "\u2581"
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
          r"|\s*[\r\n]+|\s+(?!\S)|\s+")
SENTENCES = ["The keeper of the lighthouse wrote every crossing down, and the date of each.",
             "In 1874 the ship Lantern came into the harbour with a cargo of pepper and tin.",
             "  \u00c9lodie\u2019s caf\u00e9 didn't open until  half past ten; we'd waited since 9:45.\n\n",
             "\u6771\u4eac\u306e\u6e2f\u306b\u8239\u304c\u3042\u308b\u3002 \u041a\u043e\u0440\u0430\u0431\u043b\u044c \u0443 \u043f\u0440\u0438\u0447\u0430\u043b\u0430."]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def train(lines, size, replace_only):
    """Gemma's shape, or with replace_only False that of Llama 2."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    replace = normalizers.Replace(" ", MARK)
    steps = [decoders.Replace(MARK, " "), decoders.ByteFallback(), decoders.Fuse()]
    if replace_only:
        tokenizer.normalizer = replace
    else:
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(MARK), replace])
        steps.append(decoders.Strip(" ", 1, 0))
    # Words are cut before U+2581 for the training alone, or merges would learn whole sentences.
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(MARK + "*[^" + MARK + "\n]*|\n"), "isolated")
    tokenizer.decoder = decoders.Sequence(steps)
    names = ["<pad>", "<eos>", "<bos>", "<unk>"]
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=names + BYTES, show_progress=False)
    tokenizer.train_from_iterator(lines, trainer)
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous") if replace_only else None
    data = json.loads(tokenizer.to_str())
    data["added_tokens"] = [t for t in data["added_tokens"] if t["content"] not in BYTES]
    if data["pre_tokenizer"] is None:
        data["model"]["merges"] = [" ".join(pair) for pair in data["model"]["merges"]]
    tokenizer = Tokenizer.from_str(json.dumps(data))
    tokenizer.add_special_tokens(["<start_of_turn>", "<end_of_turn>"])
    runs = ["\n" * n for n in range(2, 8)] + [MARK * n for n in range(2, 5)] + ["<h1>", "the"]
    tokenizer.add_tokens([AddedToken(text, normalized=False) for text in runs])
    tokenizer.add_tokens([AddedToken(text, normalized=True) for text in ("at sea", "\u00e9t\u00e9")])
    tokenizer.add_tokens([AddedToken("<mask>", lstrip=True, normalized=True)])
    return tokenizer, data["pre_tokenizer"] is None


def train_strips():
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
         pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=330, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
                                  special_tokens=["<bos>"], show_progress=False)
    tokenizer.train_from_iterator(SENTENCES * 3, trainer)
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True), AddedToken("<end>", rstrip=True),
                                  AddedToken("<both>", lstrip=True, rstrip=True)])
    tokenizer.add_tokens([AddedToken("ship", single_word=True, normalized=False), AddedToken("\n\n", normalized=False),
                          AddedToken("the", single_word=True, lstrip=True, normalized=True),
                          AddedToken("<mask><h1>", normalized=False)])
    return tokenizer, False


def texts():
    rng = random.Random(2)
    pieces = (SENTENCES + " ".join(SENTENCES).split() +
              [" ", "  ", "\n", "\n\n", "\n" * 9, "\t", "\r\n", "\u2003", "\u00a0", MARK, MARK * 3, "<0x0A>", "<unk>",
               "<bos>", "<start_of_turn>", "<end_of_turn>", "<end>", "<both>", "<mask>", "<mask><h1>", "<h1>",
               "at sea", "at  sea", "\u00e9t\u00e9", "ship", "ships", "_ship", "ship\u0301", "\u24b6ship", "the",
               "\U0001f6a2", "\u00df", "\u0000", "\ufffd", "e\u0301"])
    yield ""
    yield from SENTENCES
    for _ in range(150):
        yield "".join(rng.choice(pieces) + rng.choice(["", " "]) for _ in range(rng.randint(1, 9)))


def write(directory, tokenizer, string_merges):
    directory.mkdir(parents=True, exist_ok=True)
    data = json.loads(tokenizer.to_str())
    if string_merges:
        data["model"]["merges"] = [" ".join(pair) for pair in data["model"]["merges"]]
    (directory / "tokenizer.json").write_text(json.dumps(data, ensure_ascii=False) + "\n", encoding="utf-8")
    with open(directory / "vectors.jsonl", "w", encoding="utf-8") as out:
        for text in texts():
            tokenizer.encode_special_tokens = False
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            tokenizer.encode_special_tokens = True
            plain = tokenizer.encode(text, add_special_tokens=False).ids
            decoded = tokenizer.decode(ids, skip_special_tokens=False)
            out.write(json.dumps({"text": text, "ids": ids, "plain": plain, "decoded": decoded}) + "\n")


def main():
    if len(sys.argv) > 1:
        lines = [line + "\n" for name in sys.argv[3:]
                 for line in pathlib.Path(name).read_text(encoding="utf-8").split("\n")]
        for name, replace_only in (("gemma", True), ("llama2", False)):
            write(pathlib.Path(sys.argv[1]) / name, *train(lines, int(sys.argv[2]), replace_only))
        return
    golden = pathlib.Path(__file__).parent / "golden"
    write(golden / "tokenizer_gemma", *train(SENTENCES * 3, 420, True))
    write(golden / "tokenizer_llama2", *train(SENTENCES * 3, 420, False))
    write(golden / "tokenizer_strip", *train_strips())


main()
