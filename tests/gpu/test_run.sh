#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# run.sh itself, on the cpu backend with tiny shapes: every stage passes, goes on where it ended, tells failures.
# usage: test_run.sh BUILD
set -euo pipefail
build=$1
run=$(dirname "$0")/run.sh
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { printf 'FAILED: %s\n' "$*"; cat "$work/stderr" 2>/dev/null || true; exit 1; }

# STATUS, arguments...
expect() {
    local wanted=$1 status=0
    shift
    timeout 200 "$run" "$@" >"$work/stdout" 2>"$work/stderr" || status=$?
    [ $status -eq "$wanted" ] || fail "'run.sh $*' ended with $status instead of $wanted"
}
says() { grep -qF -- "$1" "$work/$2" || fail "$2 does not say '$1': $(cat "$work/$2")"; }

for target in memo test_gpu_training test_model_golden test_model_step test_engine; do
    find "$build" -type f -name "$target" -perm -u+x | grep -q . || { echo "skipped: no $target in $build"; exit 77; }
done
here=(--build "$build" --out "$work/results" --backend cpu)

expect 2 everything
expect 2 check --out
expect 0 check "${here[@]}"
says "passed   logits of golden models" stderr
says "passed   30 steps of training" stderr
says "skipped  compute-sanitizer" stderr
expect 0 check "${here[@]}"
says "before   30 steps of training" stderr

expect 75 train "${here[@]}" --seconds 0 # out of time before the first step
says "run the same command again" stderr
for stage in train generate; do
    expect 0 "$stage" "${here[@]}"
done
for what in "training, 1 rank" "kernel attention_forward" "decode, 2 x 1 at 40" "of peak" "the floor" "limit: read"; do
    says "$what" stdout
done
expect 0 table "${here[@]}"
says "kernel rmsnorm_backward" stdout
python3 - "$work/results/results.jsonl" <<'PYTHON' || fail "results.jsonl is not JSON Lines"
import json, sys
lines = [json.loads(line) for line in open(sys.argv[1])]
assert all(line["backend"] == "cpu" for line in lines)
steps = [line["step"] for line in lines if line.get("status") == "passed"]
assert len(steps) == len(set(steps)) and "documents tiny" in steps, steps
PYTHON

# A step that fails is told, and repeated the next time.
mkdir "$work/broken"
printf '#!/bin/sh\necho "nothing works"\nexit 3\n' >"$work/broken/memo"
chmod +x "$work/broken/memo"
sed 's|^prepare$|:|; s|^    prepare$|    :|' "$run" >"$work/run.sh"
chmod +x "$work/run.sh"
run=$work/run.sh
expect 1 train --build "$work/broken" --out "$work/other" --backend cpu
says "FAILED   training tiny (exit 3)" stderr
says "failed: exit 3: nothing works" stdout
run=$(dirname "$0")/run.sh

# Without a GPU nothing is built.
if ! command -v nvidia-smi >/dev/null; then
    expect 77 check --build "$work/none" --out "$work/none"
    says "no GPU here" stderr
fi
