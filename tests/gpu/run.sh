#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Proves and measures the cuda backend on a machine with a GPU. Needs CUDA 13, a C and C++ compiler, CMake.
#
#   tests/gpu/run.sh check      operations, models, training, NCCL and compute-sanitizer, against the CPU
#   tests/gpu/run.sh train      training at 1.5B, 7B and 14B shapes
#   tests/gpu/run.sh generate   kernels alone; prefill and decoding at the 32B shape
#   tests/gpu/run.sh peers      torch and transformers beside it, where they are installed
#   tests/gpu/run.sh table      prints what the results so far say
#
# Options: --out DIR       results (default build-gpu/results): results.jsonl, table.txt, a log per step
#          --build DIR     build directory (default build-gpu); it is made when it is not there
#          --backend NAME  cuda; cpu with tiny shapes tests this script where there is no GPU
#          --seconds S     begins no step later than S seconds after the start (default 480)
#
# A step that is in results.jsonl as passed or skipped is not repeated: the same command goes on where the last
# one ended. Weights are made on the device, nothing large is written. Exit: 0 all steps done, 1 one failed,
# 75 out of time (run it again), 77 there is no GPU.
# shellcheck disable=SC2317 # stages are called by name
set -uo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
build=$root/build-gpu out='' backend=cuda budget=480
step_limit=530 # seconds after the start, when a step that still runs is ended: it fails

say() { printf '%s\n' "$*" >&2; }
usage() { sed -n '5,18s/^# \{0,1\}//p' "$0" >&2; exit 2; }

stage=${1:-}
case "$stage" in check | train | generate | peers | table) shift ;; *) usage ;; esac
while [ $# -gt 0 ]; do
    [ $# -gt 1 ] || usage
    case "$1" in
    --out) out=$2 ;;
    --build) build=$2 ;;
    --backend) backend=$2 ;;
    --seconds) budget=$2 ;;
    *) usage ;;
    esac
    shift 2
done
out=${out:-$build/results}
results=$out/results.jsonl
mkdir -p "$out"
touch "$results"
failed=0

# --- what is there ---

require() {
    command -v "$1" >/dev/null || { say "run.sh: no '$1' here: $2"; exit 1; }
}

check_machine() {
    require cmake "install CMake 3.22 or newer"
    [ "$backend" = cuda ] || return 0
    if ! command -v nvidia-smi >/dev/null || ! nvidia-smi -L 2>/dev/null | grep -q GPU; then
        say "run.sh: no GPU here (nvidia-smi lists none): run it where there is one, or try it with --backend cpu"
        exit 77
    fi
    [ -x "$build/memo" ] || command -v nvcc >/dev/null || [ -n "${CUDACXX:-}" ] || [ -x /usr/local/cuda/bin/nvcc ] ||
        { say "run.sh: no nvcc here: install CUDA 13, or name its compiler in CUDACXX"; exit 1; }
}

targets=(memo test_gpu_training test_model_golden test_model_step test_engine test_quantize)
operations=(adamw adamw_compact attention attention_cached cross_entropy dropout embedding fp8 gated linear linear_batch
            linear_bf16 reduce rmsnorm rope rope_kv_write rows sample short_conv attention_tiles)

prepare() {
    local log=$out/build.log names=("${targets[@]}")
    [ "$backend" = cuda ] && names+=("${operations[@]/#/test_gpu_}")
    if [ ! -f "$build/CMakeCache.txt" ]; then
        say "building into $build"
        cmake -S "$root" -B "$build" -DMEMO_MINIMAL=ON -DMEMO_CUDA=ON >"$log" 2>&1 ||
            { tail -n 20 "$log" >&2; say "run.sh: CMake could not configure; see $log"; exit 1; }
    fi
    if [ "$backend" = cuda ] && cmake --build "$build" --target help | grep -q test_gpu_nccl; then
        names+=(test_gpu_nccl)
    fi
    cmake --build "$build" --parallel "$(nproc)" --target "${names[@]}" >>"$log" 2>&1 ||
        { tail -n 30 "$log" >&2; say "run.sh: the build failed; see $log"; exit 1; }
}

# --- steps and their results ---

quoted() { printf '"%s"' "$(printf '%s' "$1" | tr -d '\000-\037' | sed 's/\\/\\\\/g; s/"/\\"/g')"; }

record() { # step, status, seconds, text
    printf '{"stage":"%s","step":"%s","status":"%s","seconds":%d,"date":"%s","backend":"%s","text":%s}\n' \
        "$stage" "$1" "$2" "$3" "$(date -u +%Y-%m-%dT%H:%MZ)" "$backend" "$(quoted "$4")" >>"$results"
}

done_before() { grep -q "\"step\":\"$1\",\"status\":\"\(passed\|skipped\)\".*\"backend\":\"$backend\"" "$results"; }

skip_step() { # step, why
    done_before "$1" || { record "$1" skipped 0 "$2"; say "skipped  $1: $2"; }
}

# step, command...: its lines of JSON become measurements; what else it prints is in its log.
run_step() {
    local name=$1 status=0 log start=$SECONDS
    shift
    done_before "$name" && { say "before   $name"; return 0; }
    if [ "$SECONDS" -ge "$budget" ]; then
        say "out of time before '$name': run the same command again"
        table
        exit 75
    fi
    log=$out/$(printf '%s' "$name" | tr -c 'a-zA-Z0-9.\n' _).log
    timeout $((step_limit - SECONDS)) "$@" >"$log" 2>&1 || status=$?
    case $status in
    0)
        grep '^{' "$log" | sed "s|^{|{\"stage\":\"$stage\",\"step\":\"$name\",\"backend\":\"$backend\",|" >>"$results"
        record "$name" passed $((SECONDS - start)) ""
        say "passed   $name ($((SECONDS - start)) s)"
        ;;
    77)
        record "$name" skipped $((SECONDS - start)) "$(grep -m1 -i skipped "$log")"
        say "skipped  $name: $(grep -m1 -i skipped "$log")"
        ;;
    *)
        failed=1
        record "$name" failed $((SECONDS - start)) "exit $status: $(tail -n 1 "$log")"
        say "FAILED   $name (exit $status), see $log"
        tail -n 5 "$log" >&2
        ;;
    esac
}

# Measurements: what, rate, unit, share of the limit measured in the same run; then every step that is not passed.
table() {
    awk '
        function field(name,  at) {
            if (!match($0, "\"" name "\": *(\"[^\"]*\"|[-0-9.e+]+)")) return ""
            at = substr($0, RSTART, RLENGTH); sub("^\"" name "\": *", "", at); gsub("\"", "", at); return at }
        BEGIN { printf "%-34s %-44s %12s %-9s %7s  %s\n", "step", "what", "rate", "unit", "share", "of" }
        /"what"/ {
            rate = field("rate"); unit = field("unit"); share = field("share"); of = field("of"); what = field("what")
            if (field("tokens_per_second") != "") {
                rate = field("tokens_per_second"); unit = "tokens/s"
                what = what ", " field("sequences") " x " field("new_tokens") " at " field("position")
                share = field("read_share"); of = "bandwidth, " sprintf("%.1f%%", 100 * field("peak_share")) " of peak" }
            if (field("floor_share") != "") {
                rate = field("answer_tokens_per_second"); unit = "tokens/s"; share = field("floor_share"); of = "the floor" }
            printf "%-34s %-44s %12.1f %-9s %7s  %s\n", field("step"), what, rate, unit,
                share == "" ? "" : sprintf("%.1f%%", 100 * share), of }
        /"status":"(skipped|failed)"/ { last[field("step")] = field("status") ": " field("text") }
        /"status":"passed"/ { delete last[field("step")]; passed++ }
        END {
            printf "%d steps passed\n", passed
            for (step in last) printf "%-34s %s\n", step, last[step] }' "$results" | tee "$out/table.txt"
}

run_bench() { # step, words of memo bench...
    local name=$1
    shift
    run_step "$name" "$build/memo" bench "$@" --backend "$backend" --json
}

# --- the stages ---

check() {
    if [ "$backend" = cuda ]; then
        for name in "${operations[@]}"; do
            run_step "operation $name" "$build/tests/gpu/test_gpu_$name"
        done
    fi
    export MEMO_TEST_BACKEND=$backend
    run_step "logits of golden models" "$build/tests/worker/test_model_golden"
    check_bits
    run_step "logits in fp8" "$build/tests/worker/test_quantize"
    run_step "30 steps of training" "$build/tests/gpu/test_gpu_training"
    check_nccl
    check_sanitizer
}

# Equal bits whatever else is in the batch, which a GPU promises with --batch-invariant.
check_bits() {
    local promised=(env MEMO_TEST_PRODUCTS=invariant MEMO_TEST_DTYPE=bf16)
    run_step "decoding step by step" "${promised[@]}" "$build/tests/worker/test_model_step"
    run_step "engine" "${promised[@]}" "$build/tests/worker/test_engine"
}

# One rank, and over shared memory as many as the machine has GPUs.
check_nccl() {
    local test=$build/tests/gpu/test_gpu_nccl
    if [ "$backend" = cuda ] && [ -x "$test" ]; then
        run_step "NCCL" "$test"
    else
        skip_step "NCCL" "this build has no NCCL, or the backend is not cuda"
    fi
}

check_sanitizer() {
    if [ "$backend" != cuda ] || ! command -v compute-sanitizer >/dev/null; then
        skip_step "compute-sanitizer" "no compute-sanitizer for backend $backend"
        return
    fi
    for name in rmsnorm rope gated reduce attention_tiles; do
        for tool in memcheck racecheck; do
            run_step "$tool $name" compute-sanitizer --tool "$tool" --error-exitcode 1 "$build/tests/gpu/test_gpu_$name"
        done
    done
}

# Packed questions and answers; the last line of a shape is what a step reaches of the matrix rate.
train() {
    if [ "$backend" != cuda ]; then
        run_bench "training tiny" train --shape tiny --layers 1 --step-tokens 256 --micro-batch-tokens 256 \
            --seconds 0.1 --moments 8bit
        return
    fi
    run_bench "training qwen2.5-1.5b" train --shape qwen2.5-1.5b --dtype bf16 --moments 8bit \
        --step-tokens 65536 --micro-batch-tokens 16384 --seconds 20
    run_bench "training qwen2.5-7b" train --shape qwen2.5-7b --dtype bf16 --moments 8bit \
        --step-tokens 65536 --micro-batch-tokens 8192 --checkpoint-activations --seconds 30
    run_bench "training qwen2.5-14b" train --shape qwen2.5-14b --dtype bf16 --moments 8bit \
        --step-tokens 65536 --micro-batch-tokens 8192 --checkpoint-activations --seconds 30
}

generate() {
    if [ "$backend" != cuda ]; then
        run_bench "kernels tiny" kernels --shape tiny --prompt 64 --batch 2
        run_bench "decoding tiny" model --shape tiny --prompt 40 --batch 1,2 --seconds 0.1
        run_bench "decoding tiny in fp8" model --shape tiny --dtype fp8 --prompt 16 --batch 1 --seconds 0.1
        run_bench "documents tiny" engine --shape tiny --documents 2 --requests 3 --document-tokens 50 \
            --answer-tokens 5
        return
    fi
    run_bench "kernels qwen2.5-7b" kernels --shape qwen2.5-7b --prompt 4096 --batch 16,1,2,4,8,32,64
    run_bench "decoding qwen2.5-32b" model --shape qwen2.5-32b --dtype bf16 --prompt 1500 --batch 1,16,64 --seconds 5
    run_bench "decoding qwen2.5-32b in fp8" model --shape qwen2.5-32b --dtype fp8 --prompt 1500 --batch 1,16,64 --seconds 5
    run_bench "documents qwen2.5-32b" engine --shape qwen2.5-32b --dtype bf16 --documents 4 --requests 32 \
        --document-tokens 1500 --answer-tokens 64
}

peers() {
    local small=() name
    [ "$backend" = cuda ] || small=(--tiny)
    for name in train generate; do
        run_step "torch $name" python3 "$root/tests/gpu/peers.py" "$name" --device "$backend" "${small[@]}"
    done
}

if [ "$stage" != table ]; then
    check_machine
    prepare
    say "$stage on $backend, results in $out"
    "$stage"
fi
table
exit $failed
