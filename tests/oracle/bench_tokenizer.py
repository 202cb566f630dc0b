# SPDX-License-Identifier: Apache-2.0
"""Speed of our tokenizer beside the Python package `tokenizers` (Rust), in one run.

Run by hand: needs the built binary and tokenizers (0.23.3 when it was last run). The two take turns,
round by round, and the best pass of each turn counts. `tokenizers` encodes with one thread (encode,
text after text) and with two (encode_batch); ours encodes with one and with two, without reading
and printing. Texts are the files as they are, and cut into pieces of 1,000 characters, which
`tokenizers` finds easier. Stops with 1 when the ids differ.

usage: python3 tests/oracle/bench_tokenizer.py BINARY MODEL_DIRECTORY TEXT_FILE...
"""
import json
import os
import pathlib
import subprocess
import sys
import time

os.environ["RAYON_NUM_THREADS"] = "2"
os.environ["TOKENIZERS_PARALLELISM"] = "true"

from tokenizers import Tokenizer  # noqa: E402  (reads the environment)

ROUNDS = 2
SECONDS = 1.0
PIECE = 1000  # characters


def best_pass(encode):
    best, start = float("inf"), time.perf_counter()
    while time.perf_counter() - start < SECONDS:
        begin = time.perf_counter()
        encode()
        best = min(best, time.perf_counter() - begin)
    return best


def ours(binary, model, lines, *options):
    done = subprocess.run([binary, "tokenize", "--model", model, *options], input=lines,
                          stdout=subprocess.PIPE, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def rates(binary, model, theirs, texts, lines):
    size = sum(len(text.encode()) for text in texts) / 1e6
    alone = size / best_pass(lambda: [theirs.encode(text, add_special_tokens=False) for text in texts])
    mine = ours(binary, model, lines, "--seconds", str(SECONDS))[0]["megabytes_per_second"]
    both = size / best_pass(lambda: theirs.encode_batch(texts, add_special_tokens=False))
    mine_both = ours(binary, model, lines, "--seconds", str(SECONDS), "--threads", "2")[0]["megabytes_per_second"]
    return alone, mine, both, mine_both


def compare(binary, model, theirs, what, texts):
    lines = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts).encode()
    ids = [theirs.encode(text, add_special_tokens=False).ids for text in texts]
    if [line["ids"] for line in ours(binary, model, lines)] != ids:
        sys.exit(f"{what}: the ids differ")
    print(f"{what}: {len(texts)} texts, {sum(len(text.encode()) for text in texts)} bytes, "
          f"{sum(map(len, ids))} tokens, the same ids")
    print("MB/s    1 thread: tokenizers   memo  ratio    2 threads: tokenizers   memo  ratio")
    for _ in range(ROUNDS):
        alone, mine, both, mine_both = rates(binary, model, theirs, texts, lines)
        print(f"{alone:28.2f} {mine:6.2f} {mine / alone:6.2f} {both:24.2f} {mine_both:6.2f} {mine_both / both:6.2f}",
              flush=True)


def main():
    binary, model = sys.argv[1:3]
    texts = [pathlib.Path(path).read_bytes().decode("utf-8") for path in sys.argv[3:]]
    pieces = [text[begin:begin + PIECE] for text in texts for begin in range(0, len(text), PIECE)]
    theirs = Tokenizer.from_file(str(pathlib.Path(model) / "tokenizer.json"))
    compare(binary, model, theirs, "pieces", pieces)
    compare(binary, model, theirs, "whole files", texts)


if __name__ == "__main__":
    main()
