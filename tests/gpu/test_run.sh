#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# run.sh itself, with the cuda backend on the emulator and tiny shapes: every stage passes, goes on where it ended, and
# tells failures, faults and steps that hang. Rates mean nothing here and are not looked at.
# usage: test_run.sh EMULATED_BUILD all|failures|table
set -uo pipefail
build=$1
part=$2
run=$(cd "$(dirname "$0")" && pwd)/run.sh
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
fail() { printf 'FAILED: %s\n' "$*"; cat "$work/stderr" 2>/dev/null || true; exit 1; }

# STATUS, arguments...
expect() {
    local wanted=$1 status=0
    shift
    timeout 400 "$run" "$@" >"$work/stdout" 2>"$work/stderr" || status=$?
    [ $status -eq "$wanted" ] || fail "'run.sh $*' ended with $status instead of $wanted"
}
says() { grep -qE -- "$1" "$work/$2" || fail "$2 does not say '$1': $(cat "$work/$2")"; }
is_silent() { ! grep -qE -- "$1" "$work/$2" || fail "$2 says '$1'"; }

# The tool that lists GPUs, and what it says about them.
mkdir "$work/bin"
cat >"$work/bin/nvidia-smi" <<'EOF'
#!/bin/sh
case "$*" in
*-L*) echo "GPU 0: emulator" ;;
*-lms*) while :; do echo "1980, 350.5"; sleep 0.5; done ;;
*) echo "emulator, 580.00, 8192 MiB, 1980 MHz, 2619 MHz, 700.00 W" ;;
esac
EOF
chmod +x "$work/bin/nvidia-smi"

part_all() {
    local here=(--build "$build" --out "$work/results" --size tiny)
    expect 77 check "${here[@]}" # no GPU, nothing begins
    says "no GPU here" stderr
    PATH=$work/bin:$PATH
    export MEMO_TEST_STEPS=2
    local some='limits|kernels|decoding|training|documents|operation rmsnorm|sanitizer|NCCL|torch'
    expect 75 all "${here[@]}" --only "$some" --seconds 0
    says "left     limits: it takes about" stderr
    says "run the same command again" stderr
    local name
    for name in compute-sanitizer NCCL; do
        says "skipped  $name" stderr
    done # which takes no time
    expect 0 all "${here[@]}" --only "$some"
    for name in limits "kernels micro" "decoding micro" "training micro" "documents micro" "decoding micro in fp8" \
        "30 steps of training" "operation rmsnorm" "decoding step by step"; do
        says "passed   $name" stderr
    done
    for name in "training, 1 rank" "kernel attention_forward" "prefill, 20 tokens" "decode, batch 2 at 20" \
        "engine, decoding" "limit: copy, both sides" "memory: taken" "emulator, 580.00" "1980 to 1980 MHz, at most 350 W"; do
        says "$name" stdout
    done
    # The results alone are carried over: the build may be another one.
    mv "$work/results/results.jsonl" "$work/before.jsonl"
    expect 0 all "${here[@]}" --only "$some" --out "$work/second" --before "$work/before.jsonl"
    says "before   training micro" stderr
    is_silent "passed" stderr
    says "training, 1 rank" stdout
    python3 - "$work/second/results.jsonl" <<'PYTHON' || fail "results.jsonl is not what it should be"
import json, sys
lines = [json.loads(line) for line in open(sys.argv[1])]
assert all(line["backend"] == "cuda" for line in lines)
passed = [line["step"] for line in lines if line.get("status") == "passed"]
assert len(passed) == len(set(passed)) == 9, passed
figures = [line for line in lines if line.get("what") == "decode"]
assert len(figures) == 4 and all(line["floor_share"] > 0 for line in figures), figures
taken = [line for line in lines if line.get("what") == "memory: taken"]
assert len(taken) == 1 and 0 < taken[0]["share"] <= 1, taken
PYTHON
}

# A directory of programs in which `bench PART` does something else.
broken() { # PART, line of shell
    mkdir -p "$work/broken/tests"
    cat >"$work/broken/memo" <<EOF
#!/bin/sh
case "\$2" in $1) $2 ;; esac
exec "$build/memo" "\$@"
EOF
    chmod +x "$work/broken/memo"
}

part_failures() {
    local here=(--build "$work/broken" --out "$work/results" --size tiny)
    PATH=$work/bin:$PATH
    broken limits 'echo "nothing works"; exit 3'
    expect 1 generate "${here[@]}" --only 'limits|documents'
    says "FAILED   limits \(exit 3: nothing works\)" stderr
    says "passed   documents micro" stderr # goes on
    says "failed: exit 3: nothing works" stdout

    # What failed comes last, and counts when it passes.
    broken none ':'
    expect 0 generate "${here[@]}" --only 'limits|documents|fp8'
    says "before   documents micro" stderr
    grep -E "^(passed|before)" "$work/stderr" | tail -n 1 | grep -q "passed   limits" || fail "limits do not come last"
    is_silent "failed:" stdout

    # A directory that is built, once for what measures and once for what checks.
    cat >"$work/bin/cmake" <<'EOF'
#!/bin/sh
case "$*" in *help*) seq 100000; echo test_gpu_nccl; seq 100000 ;; *) echo "$*" >>"$(dirname "$0")/calls" ;; esac
EOF
    chmod +x "$work/bin/cmake"
    touch "$work/broken/Makefile"
    expect 1 all "${here[@]}" --out "$work/built" --only 'limits|documents|operation r|NCCL'
    says "passed   limits" stderr
    says "passed   documents micro" stderr
    says "operation rmsnorm .*could not be built" stderr
    [ "$(wc -l <"$work/bin/calls")" -eq 2 ] || fail "not two builds: $(cat "$work/bin/calls")"
    grep -q "test_gpu_rmsnorm.* test_gpu_nccl -- -k" "$work/bin/calls" || fail "NCCL is not built: $(cat "$work/bin/calls")"
    rm "$work/broken/Makefile" "$work/bin/cmake"

    # A fault of the GPU stays for the life of a process, and no longer.
    broken engine 'export MEMO_EMULATOR_FAIL=cudaStreamSynchronize,700,20'
    expect 1 generate "${here[@]}" --out "$work/fault" --only 'limits|documents'
    says "passed   limits" stderr
    says "FAILED   documents micro \(exit 1: .*the GPU failed in .*illegal memory access" stderr
    broken engine 'export MEMO_EMULATOR_DEVICE=9,0,120000000'
    expect 1 generate "${here[@]}" --out "$work/small" --only documents
    says "FAILED   documents micro \(exit 1: .*cannot allocate [0-9]+ bytes on the GPU" stderr

    # A step that does not end is ended, what it measured counts, and the others are done.
    broken limits 'echo "{\"what\":\"half\",\"rate\":1,\"unit\":\"GB/s\"}"; trap "" TERM; while :; do sleep 1; done'
    expect 1 generate "${here[@]}" --out "$work/hang" --only 'limits|documents' --limit-scale 0.2
    says "FAILED   limits \(ended after" stderr
    says "passed   documents micro" stderr
    says "^limits +half" stdout

    # Stopped from outside: nothing goes on in the background.
    broken limits 'echo $$ >"'"$work"'/pid"; exec sleep 100'
    timeout 60 "$run" generate "${here[@]}" --out "$work/stopped" --only 'limits|documents' \
        >"$work/stdout" 2>"$work/stderr" &
    local pid=$! status=0
    until [ -s "$work/pid" ]; do sleep 0.1; done
    kill "$pid"
    wait "$pid" || status=$?
    [ $status -eq 75 ] || fail "stopped with $status"
    says "stopped: run the same command again" stderr
    sleep 0.5
    ! kill -0 "$(cat "$work/pid")" 2>/dev/null || fail "a step goes on after the end"

    expect 2 everything
    expect 2 check --out
    expect 2 check --seconds soon
    expect 2 check --size huge
}

# Figures as an H200 would write them.
part_table() {
    local head='"backend":"cuda","size":"h200"'
    mkdir "$work/results"
    {
        printf '{"stage":"all","step":"machine","what":"machine","date":"2027-01-01",%s,"text":"NVIDIA H200"}\n' "$head"
        while IFS='|' read -r step line; do
            printf '{"stage":"all","step":"%s",%s,%s}\n' "$step" "$head" "$line"
        done <<'EOF'
training qwen2.5-1.5b|"what":"training, 1 rank, 32768 tokens a step","rate":30000,"unit":"tokens/s","share":0.5,"of":"dot product"
training qwen2.5-7b|"what":"training, 1 rank, 32768 tokens a step","rate":9000,"unit":"tokens/s","share":0.499,"of":"dot product"
training qwen2.5-14b|"what":"training, 1 rank, 32768 tokens a step","rate":3999,"unit":"tokens/s","share":0.5,"of":"dot product"
training qwen2.5-14b|"what":"memory: taken","rate":140,"unit":"GB","share":1.06,"of":"the plan"
decoding qwen2.5-32b|"what":"prefill","sequences":1,"new_tokens":1500,"position":0,"tokens_per_second":5000,"peak_share":0.61,"floor_share":0.61
decoding qwen2.5-32b|"what":"decode","sequences":1,"new_tokens":1,"position":1500,"tokens_per_second":55,"peak_share":0.01,"floor_share":0.79
decoding qwen2.5-32b|"what":"decode","sequences":1,"new_tokens":1,"position":1500,"tokens_per_second":56,"peak_share":0.01,"floor_share":0.82
decoding qwen2.5-32b|"what":"decode","sequences":16,"new_tokens":1,"position":1500,"tokens_per_second":800,"peak_share":0.1,"floor_share":0.8
decoding qwen2.5-32b in fp8|"what":"decode","sequences":16,"new_tokens":1,"position":1500,"tokens_per_second":1300,"peak_share":0.1,"floor_share":0.7
documents qwen2.5-32b|"what":"engine, decoding","answer_tokens_per_second":6000,"floor_share":0.69
kernels qwen2.5-7b|"what":"kernel rmsnorm_forward","rate":3900,"unit":"GB/s","share":0.9,"of":"the bandwidth"
kernels qwen2.5-7b|"what":"kernel attention_forward","rate":250000,"unit":"GFLOP/s","share":0.36,"of":"the peak"
kernels qwen2.5-7b|"what":"kernel attention_backward","rate":200000,"unit":"GFLOP/s","share":0.25,"of":"the peak"
torch train|"what":"torch training qwen2.5-7b","rate":8000,"unit":"tokens/s"
EOF
    } >"$work/results/results.jsonl"
    expect 0 table --out "$work/results"
    local line
    for line in "qwen2.5-1.5b .* 50% +met" "qwen2.5-7b .* 50% +missed" "qwen2.5-14b .* 45%, 4000 tokens/s +missed" \
        "memory: taken .* missed" "prefill, 1500 tokens .* 60% +met" "decode, batch 1 at 1500 +56.0 .* 68.3 .* met" \
        "decode, batch 16 at 1500 +800.0 .* 80% +met" "engine, decoding .* 70% +missed" "rmsnorm_forward .* 85% +met" \
        "attention_forward .* 35% +met" "fp8 beside bf16, batch 16 +1.62 times .* met" "training 7B beside torch +1.12 times .* met" \
        "aims: 8 met, 4 missed, 1 not measured"; do
        says "$line" stdout
    done
    is_silent "55.0" stdout # measured again since
    says "attention_backward .*the peak *$" stdout
    expect 0 markdown --out "$work/results"
    says "^2027-01-01, NVIDIA H200:" stdout
    says '^\| decoding qwen2.5-32b \| decode, batch 1 at 1500 \| 56.0 tokens/s \| 68.3 \(the floor\) \| 82.0% \| 80% \| met \|' stdout
}

command -v python3 >/dev/null || { echo "skipped: python3 is not installed"; exit 77; }
[ "$part" = table ] || [ -x "$build/memo" ] || { echo "skipped: no memo in $build"; exit 77; }
"part_$part"
