# SPDX-License-Identifier: Apache-2.0
"""memo merge beside mergekit and beside plain copying, on the same files, in one run.

usage: python tests/oracle/bench_merge.py MEMO BASE TUNED... [--work DIR] [--cold] [--skip-mergekit]

TIES at density 0.3 in bfloat16. Prints seconds and peak memory of each. Warm: everything was read
just before. --cold drops the inputs from the page cache before memo and before the copy. The copy
reads every input and writes as many bytes as the result has; it syncs, as memo does; mergekit does not.
Run with a Python that has mergekit.
"""
import argparse
import os
import pathlib
import resource
import shutil
import subprocess
import sys
import time


def weights(directory):
    return sorted(pathlib.Path(directory).glob("*.safetensors"))


def read_all(files, drop):
    for path in files:
        with open(path, "rb") as file:
            if drop:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                continue
            while file.read(1 << 24):
                pass


def run(command, work):
    """Seconds and the peak resident memory of the child in MB."""
    shutil.rmtree(work / "out", ignore_errors=True)
    shutil.rmtree(work / "out.partial", ignore_errors=True)
    start = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    text = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - start
    if status:
        sys.exit(f"{command[0]} failed: {text}")
    return seconds, usage.ru_maxrss / 1e3 * 1.024


def copy(files, result_bytes, work):
    """Reads all inputs and writes the result's bytes, synced."""
    start = time.monotonic()
    left = result_bytes
    with open(work / "copy", "wb") as out:
        for path in files:
            with open(path, "rb") as file:
                while block := file.read(1 << 23):
                    out.write(block[:left])
                    left -= min(left, len(block))
        out.flush()
        os.fsync(out.fileno())
    seconds = time.monotonic() - start
    os.unlink(work / "copy")
    return seconds


def write_config(path, base, tuned):
    lines = ["merge_method: ties", f"base_model: {base}", "dtype: bfloat16", "parameters:", "  density: 0.3",
             "  weight: 1.0", "models:"]
    lines += [f"  - model: {model}" for model in tuned]
    path.write_text("\n".join(lines) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("memo")
    parser.add_argument("base")
    parser.add_argument("tuned", nargs="+")
    parser.add_argument("--work", default=".")
    parser.add_argument("--cold", action="store_true")
    parser.add_argument("--skip-mergekit", action="store_true")
    parser.add_argument("--skip-memo", action="store_true")
    options = parser.parse_args()
    work = pathlib.Path(options.work)
    base, tuned = os.path.abspath(options.base), [os.path.abspath(model) for model in options.tuned]
    files = [path for model in [base, *tuned] for path in weights(model)]
    result_bytes = sum(path.stat().st_size for path in weights(base))
    total = sum(path.stat().st_size for path in files) + result_bytes
    write_config(work / "bench.yaml", base, tuned)
    print(f"{len(tuned)} models and their base, {total / 1e9:.2f} GB read and written, "
          f"{os.cpu_count()} processors", flush=True)
    seconds = {}
    if not options.skip_memo:
        for attempt in range(2):
            read_all(files, options.cold)
            seconds["memo"], peak = run([options.memo, "merge", "--config", str(work / "bench.yaml"), "--memory",
                                         "0.9", "--out", str(work / "out")], work)
            print(f"memo       {seconds['memo']:7.2f} s  {total / 1e9 / seconds['memo']:6.2f} GB/s  "
                  f"peak {peak:6.0f} MB", flush=True)
            read_all(files, options.cold)
            seconds["copy"] = copy(files, result_bytes, work)
            print(f"copy       {seconds['copy']:7.2f} s  {total / 1e9 / seconds['copy']:6.2f} GB/s", flush=True)
    if not options.skip_mergekit:
        read_all(files, False)
        tool = pathlib.Path(sys.executable).parent / "mergekit-yaml"
        seconds["mergekit"], peak = run([str(tool), str(work / "bench.yaml"), str(work / "out"), "--lazy-unpickle",
                                         "--allow-crimes"], work)
        print(f"mergekit   {seconds['mergekit']:7.2f} s  {total / 1e9 / seconds['mergekit']:6.2f} GB/s  "
              f"peak {peak:6.0f} MB", flush=True)
    if "memo" in seconds and "mergekit" in seconds:
        print(f"mergekit / memo: {seconds['mergekit'] / seconds['memo']:.1f}")


if __name__ == "__main__":
    main()
