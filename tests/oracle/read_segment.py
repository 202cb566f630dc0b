# SPDX-License-Identifier: Apache-2.0
"""Prints the pairs of a reflection segment, one JSON array [question, answer] a line.

usage: python3 read_segment.py FILE.h5     (needs h5py; independent of memo's own reader)
"""
import json
import sys

import h5py

with h5py.File(sys.argv[1]) as f:
    def texts(name):
        blob, at = f[name][:].tobytes(), f[name + "_offsets"][:]
        return [blob[at[i]:at[i + 1]].decode() for i in range(len(at) - 1)]

    for pair in zip(texts("question"), texts("answer")):
        print(json.dumps(pair, ensure_ascii=False, separators=(",", ":")))
