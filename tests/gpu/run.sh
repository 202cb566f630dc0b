#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Proves and measures the cuda backend on a machine with a GPU. Needs CUDA 13, a C and C++ compiler, CMake and make.
#
#   tests/gpu/run.sh all        everything below, what is worth most first
#   tests/gpu/run.sh check      operations, models, training, NCCL and compute-sanitizer, against the CPU
#   tests/gpu/run.sh train      training at 1.5B, 7B and 14B shapes
#   tests/gpu/run.sh generate   limits and kernels alone; prefill and decoding at the 32B shape, also in fp8; documents
#   tests/gpu/run.sh peers      torch and transformers beside it, where they are installed
#   tests/gpu/run.sh table      prints what the results so far say, with limits, aims, and which are met
#   tests/gpu/run.sh markdown   the same as rows for kernels/BENCHMARKS.md
#
# Options: --out DIR       results (default BUILD/results): results.jsonl, table.txt, a log per step
#          --before FILE   results.jsonl of earlier calls, where --out is empty: what passed in it is done
#          --build DIR     build directory (default build-gpu); it is made when it is not there
#          --backend NAME  cuda (default), or cpu or ref
#          --size NAME     h200 (default), or tiny: shapes that need no GPU
#          --only REGEX    steps whose names match
#          --limit-scale X how much of its time limit a step gets (default 1)
#          --seconds S     no step begins that would not end S seconds after the start (default 480)
#
# A step that is in results.jsonl as passed or skipped is not repeated: the same command goes on where the last one
# ended. What failed in an earlier call is tried again behind everything else. A step has a time limit of its own; 50
# seconds after --seconds whatever still runs is ended. Weights are made on the device, nothing large is written.
# Exit: 0 all steps done, 1 one failed, 75 out of time (run it again), 77 there is no GPU.
# shellcheck disable=SC2317,SC2054 # stages are called by name; commas are part of words
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
build=$root/build-gpu out='' before='' backend=cuda size=h200 only=. budget=480 scale=1

say() { printf '%s\n' "$*" >&2; }
usage() { sed -n '5,25s/^# \{0,1\}//p' "$0" >&2; exit 2; }

stage=${1:-}
case "$stage" in all | check | train | generate | peers | table | markdown) shift ;; *) usage ;; esac
while [ $# -gt 0 ]; do
    [ $# -gt 1 ] || usage
    case "$1" in
    --out) out=$2 ;;
    --before) before=$2 ;;
    --build) build=$2 ;;
    --backend) backend=$2 ;;
    --size) size=$2 ;;
    --only) only=$2 ;;
    --seconds) budget=$2 ;;
    --limit-scale) scale=$2 ;;
    *) usage ;;
    esac
    shift 2
done
case "$budget" in '' | *[!0-9]*) usage ;; esac
end=$((budget + 50)) # seconds after the start
out=${out:-$build/results}
results=$out/results.jsonl
mkdir -p "$out" || exit 1
if [ -n "$before" ] && [ ! -s "$results" ]; then
    cp "$before" "$results" || exit 1
fi
touch "$results" || exit 1
failed=0 left=0 child='' watcher=''

# --- shapes, and how long each step takes: seconds on an H200, by arithmetic ---
#
# Rates assumed, a factor of two below what is hoped for: products 300 TFLOP/s, memory 2 TB/s, pageable copies between
# host and GPU 4 GB/s. Every process adds 5 s: the context, and cuBLASLt (0.5 GB) read from disk for the first time.
# A step may take three times its figure before it is ended.

sizes_h200() {
    kernel_words=(--shape qwen2.5-7b --prompt 4096 --rows 32768 --batch 64,1,2,4,8,16,32)
    # 13 kernels of 0.7 s, what they take filled (6 GB at most, 0.1 s), limits 2.5 s; and 7 numbers of rows x 5 weights x
    # 2 ways of 0.2 s
    kernel_seconds=40 kernel_name=qwen2.5-7b
    decode_words=(--shape qwen2.5-32b --prompt 1500 --batch 1,16,64 --seconds 3)
    # 66 GB of weights copied on the device 0.1 s, 4 lines of limits (2.5 s) and 3 s; prefill 0.3 s a step. 66 GB, keys
    # and values of 64 x 1756 positions 29.5 GB, the limits' operands 1 GB: 97 GB of 150
    decode_seconds=40 decode_name=qwen2.5-32b
    # in fp8 31 GB of codes beside the weights: 128 GB. Documents: 66 GB and 5 GB of keys and values
    document_words=(--shape qwen2.5-32b --documents 4 --requests 32 --document-tokens 1500 --answer-tokens 64)
    # twice: 8,600 tokens at 65 GFLOP 1.9 s, 76 steps of 33 ms 2.5 s
    document_seconds=25
    # Weights begin as float32, of which the host makes a digest (2 GB/s) and which it cuts in two, in pieces of 256 KB
    # that go there and back (1.3 GB/s): 1.2 s per GB. Then a step of 32,768 tokens to warm up and as many as --seconds
    # take, two at least, each 6 x parameters x tokens / 300 TFLOP/s.
    train_steps=(
        # 6 GB: 8 s; 1 s a step. 15 GB of states and gradients, 31 GB of activations that are kept
        "qwen2.5-1.5b|35|--shape qwen2.5-1.5b --dtype bf16 --moments 8bit --step-tokens 32768 --micro-batch-tokens 16384 --seconds 8"
        # 31 GB: 37 s; 5 s a step. 83 GB of states and gradients, 4 GB of activations
        "qwen2.5-7b|70|--shape qwen2.5-7b --dtype bf16 --moments 8bit --step-tokens 32768 --micro-batch-tokens 8192 --checkpoint-activations --seconds 10"
        # 59 GB: 71 s; 10 s a step. 137 GB by the plan that memo prints, of 150
        "qwen2.5-14b|120|--shape qwen2.5-14b --dtype bf16 --moments 8bit --grad-dtype bf16 --step-tokens 32768 --micro-batch-tokens 8192 --checkpoint-activations --seconds 10"
    )
    peer_words=() peer_seconds=120
}

# Seconds, not minutes, on the emulator.
sizes_tiny() {
    kernel_words=(--shape micro --prompt 32 --batch 2) kernel_seconds=20 kernel_name=micro
    decode_words=(--shape micro --prompt 20 --batch 1,2 --seconds 0.1) decode_seconds=20 decode_name=micro
    document_words=(--shape micro --documents 2 --requests 2 --document-tokens 20 --answer-tokens 4) document_seconds=20
    train_steps=("micro|20|--shape micro --dtype bf16 --moments 8bit --step-tokens 128 --micro-batch-tokens 128 --seconds 0.1")
    peer_words=(--tiny) peer_seconds=60
}

case "$size" in h200 | tiny) "sizes_$size" ;; *) usage ;; esac

# --- what is there ---

require() {
    command -v "$1" >/dev/null || { say "run.sh: no '$1' here: $2"; exit 1; }
}

# A container may have the device without the tool.
has_gpu() {
    if command -v nvidia-smi >/dev/null; then
        nvidia-smi -L 2>/dev/null | grep -q GPU
    else
        compgen -G '/dev/nvidia[0-9]*' >/dev/null
    fi
}

is_build() { [ -f "$build/Makefile" ] || [ -f "$build/build.ninja" ]; }

# A directory with the programs and no build of them is taken as it is.
is_ready() { [ -x "$build/memo" ] && ! is_build; }

check_machine() {
    if [ "$backend" = cuda ] && ! has_gpu; then
        say "run.sh: no GPU here (nvidia-smi lists none): run it where there is one, or try it with --backend cpu --size tiny"
        exit 77
    fi
    is_ready && return 0
    require cmake "install CMake 3.22 or newer"
    is_build || require make "install make"
    [ "$backend" = cuda ] && ! is_build || return 0
    command -v nvcc >/dev/null || [ -n "${CUDACXX:-}" ] || [ -x /usr/local/cuda/bin/nvcc ] ||
        { say "run.sh: no nvcc here: install CUDA 13, or name its compiler in CUDACXX"; exit 1; }
}

# cuBLASLt is loaded when it is needed, and a toolkit that was unpacked by hand is in no list of the loader's. torch
# brings its own.
loader_path=${LD_LIBRARY_PATH:-}
find_libraries() {
    local compiler each
    [ "$backend" = cuda ] || return 0
    compiler=$(command -v "${CUDACXX:-nvcc}" || echo /usr/local/cuda/bin/nvcc)
    compiler=$(readlink -f "$compiler")
    for each in "${compiler%/bin/*}/lib64" /usr/local/cuda/lib64; do
        [ -d "$each" ] && LD_LIBRARY_PATH="${LD_LIBRARY_PATH:+$LD_LIBRARY_PATH:}$each"
    done
    export LD_LIBRARY_PATH="${LD_LIBRARY_PATH:-}"
}

gpu_query() { # fields, more options...
    local fields=$1
    shift
    nvidia-smi -i "${CUDA_VISIBLE_DEVICES:-0}" --query-gpu="$fields" --format=csv,noheader,nounits "$@"
}

describe_machine() {
    local text
    [ "$backend" = cuda ] && command -v nvidia-smi >/dev/null || return 0
    text=$(timeout 20 nvidia-smi -i "${CUDA_VISIBLE_DEVICES:-0}" --format=csv,noheader \
        --query-gpu=name,driver_version,memory.total,clocks.max.sm,clocks.max.memory,power.limit 2>&1 | head -n 1)
    printf '{"stage":"%s","step":"machine","what":"machine","date":"%s","backend":"%s","text":%s}\n' \
        "$stage" "$(date -u +%Y-%m-%d)" "$backend" "$(quoted "$text")" >>"$results"
}

# --- the build, as far as a step needs it ---

operations=(accumulate adamw adamw_compact attention attention_cached cross_entropy dropout embedding fixed_sum fp8 gated
            linear linear_batch linear_bf16 reduce rmsnorm rope rope_kv_write rows sample short_conv attention_tiles)
built='' broken=''

configure() {
    is_build && return 0
    say "building into $build"
    cmake -S "$root" -B "$build" -DMEMO_MINIMAL=ON -DMEMO_CUDA=ON -DMEMO_WERROR=OFF >"$out/build.log" 2>&1 && return 0
    tail -n 20 "$out/build.log" >&2
    say "run.sh: CMake could not configure; see $out/build.log"
    return 1
}

# Goes on after an error: what cannot be built fails as a step, and the others do not.
compile() { # targets...
    local on=-k
    [ -f "$build/Makefile" ] || on=-k0
    cmake --build "$build" --parallel "$(nproc)" --target "$@" -- "$on" >>"$out/build.log" 2>&1 && return 0
    grep -iE 'error' "$out/build.log" | tail -n 10 >&2
    say "run.sh: not everything could be built; see $out/build.log"
    return 0
}

# memo: what measures; tests: what checks. All of it takes 132 s of processor time (gcc 12, nvcc 13.0), 90 of them for memo, so that
# sixteen cores need little more than the longest file, about half a minute.
need() {
    local names=(memo)
    is_ready && return 0
    case " $built " in *" $1 "*) return 0 ;; esac
    if [ -n "$broken" ] || ! configure; then
        broken=1
        return 1
    fi
    if [ "$1" = tests ]; then
        names=(test_gpu_training test_model_golden test_model_step test_engine test_quantize)
        [ "$backend" = cuda ] && names+=("${operations[@]/#/test_gpu_}")
        cmake --build "$build" --target help | grep test_gpu_nccl >/dev/null && names+=(test_gpu_nccl)
    fi
    compile "${names[@]}"
    built="$built $1"
    say "built    $1 ($SECONDS s after the start)"
}

# --- steps and their results ---

quoted() { printf '"%s"' "$(printf '%s' "$1" | tr '\n\t' '  ' | tr -d '\000-\037' | sed 's/\\/\\\\/g; s/"/\\"/g')"; }

record() { # step, status, seconds, text
    printf '{"stage":"%s","step":"%s","status":"%s","seconds":%d,"date":"%s","backend":"%s","size":"%s","text":%s}\n' \
        "$stage" "$1" "$2" "$3" "$(date -u +%Y-%m-%dT%H:%MZ)" "$backend" "$size" "$(quoted "$4")" >>"$results"
}

has_status() { # step, pattern of statuses, file
    grep -q "\"step\":\"$1\",\"status\":\"\($2\)\".*\"backend\":\"$backend\",\"size\":\"$size\"" "$3"
}
done_before() { has_status "$1" 'passed\|skipped' "$results"; }

matches() { printf '%s' "$1" | grep -qE -- "$only"; }

skip_step() { # step, why
    matches "$1" && [ "$pass" = first ] || return 0
    done_before "$1" || { record "$1" skipped 0 "$2"; say "skipped  $1: $2"; }
}

# Clocks and power twice a second while a step runs.
watch_gpu() {
    watcher=''
    [ "$backend" = cuda ] && command -v nvidia-smi >/dev/null || return 0
    gpu_query clocks.sm,power.draw -lms 500 >"$out/clocks.csv" 2>/dev/null &
    watcher=$!
}

report_clocks() { # step
    [ -n "$watcher" ] || return 0
    kill "$watcher" 2>/dev/null
    wait "$watcher" 2>/dev/null
    watcher=''
    awk -F, -v head="{\"stage\":\"$stage\",\"step\":\"$1\",\"backend\":\"$backend\",\"size\":\"$size\",\"what\":\"clocks\"" '
        $1 + 0 > 0 { if (!n++ || $1 + 0 < least) least = $1 + 0
                     if ($1 + 0 > most) most = $1 + 0
                     if ($2 + 0 > power) power = $2 + 0 }
        END { if (n) printf "%s,\"sm_mhz_least\":%d,\"sm_mhz_most\":%d,\"power_watts_most\":%d}\n", head, least, most, power
        }' "$out/clocks.csv" >>"$results"
}

# seconds, log, command...: what does not end by itself is ended, and what cannot be ended is left behind.
run_limited() {
    local limit=$1 log=$2 status=0 start=$SECONDS
    shift 2
    timeout -k 5 "$limit" "$@" >"$log" 2>&1 &
    child=$!
    while kill -0 "$child" 2>/dev/null; do
        [ $((SECONDS - start)) -le $((limit + 10)) ] || { child=''; return 125; }
        sleep 0.1
    done
    wait "$child" || status=$?
    child=''
    return "$status"
}

end_step() { # step, status, seconds, log
    local name=$1 status=$2 seconds=$3 log=$4 text
    grep '^{.*}$' "$log" |
        sed "s|^{|{\"stage\":\"$stage\",\"step\":\"$name\",\"backend\":\"$backend\",\"size\":\"$size\",|" >>"$results"
    case $status in
    0)
        record "$name" passed "$seconds" ""
        say "passed   $name ($seconds s)"
        return
        ;;
    77)
        text=$(grep -m1 -i skipped "$log")
        record "$name" skipped "$seconds" "$text"
        say "skipped  $name: $text"
        return
        ;;
    124 | 125 | 137) text="ended after $seconds s: $(grep -v '^{' "$log" | tail -n 1)" ;;
    *) text="exit $status: $(grep -v '^{' "$log" | tail -n 1)" ;;
    esac
    failed=1
    record "$name" failed "$seconds" "$text"
    say "FAILED   $name ($text), see $log"
    tail -n 5 "$log" >&2
}

# step, seconds that it takes, what it needs built, command...: its lines of JSON become measurements; what else it
# prints is in its log.
run_step() {
    local name=$1 seconds=$2 needed=$3 status=0 log start limit
    shift 3
    matches "$name" || return 0
    case $pass in
    first) has_status "$name" failed "$earlier" && ! done_before "$name" && { again=1; return 0; } ;;
    again) has_status "$name" failed "$earlier" || return 0 ;;
    esac
    done_before "$name" && { [ "$pass" = again ] || say "before   $name"; return 0; }
    if [ $((SECONDS + seconds)) -gt "$budget" ]; then
        left=1
        say "left     $name: it takes about $seconds s, and $((budget > SECONDS ? budget - SECONDS : 0)) s are left"
        return 0
    fi
    log=$out/$(printf '%s' "$name" | tr -c 'a-zA-Z0-9.\n' _).log
    if ! need "$needed" || ! command -v "$1" >/dev/null; then
        printf '%s could not be built: see build.log\n' "$1" >"$log"
        end_step "$name" 127 0 "$log"
        return 0
    fi
    limit=$(awk -v most=$((end - SECONDS)) -v own=$((3 * seconds)) -v scale="$scale" \
        'BEGIN { own = int(own * scale); print own < most ? own : most }')
    [ "$limit" -gt 0 ] || { left=1; return 0; }
    start=$SECONDS
    watch_gpu
    run_limited "$limit" "$log" "$@" || status=$?
    report_clocks "$name"
    # There is a GPU: a test that cannot use it has not passed.
    [ "$status" != 77 ] || [ "$needed" != tests ] || [ "$backend" != cuda ] || status=1
    end_step "$name" "$status" $((SECONDS - start)) "$log"
}

run_bench() { # step, seconds, words of memo bench...
    local name=$1 seconds=$2
    shift 2
    run_step "$name" "$seconds" memo "$build/memo" bench "$@" --backend "$backend" --json
}

table() { awk -f "$here/table.awk" "$results" | tee "$out/table.txt"; }
markdown() { awk -v markdown=1 -f "$here/table.awk" "$results" | tee "$out/table.md"; }

# --- the stages ---

alone() {
    run_bench "limits" 10 limits
    run_bench "kernels $kernel_name" "$kernel_seconds" kernels "${kernel_words[@]}"
}

decoding() { run_bench "decoding $decode_name" "$decode_seconds" model --dtype bf16 "${decode_words[@]}"; }
decoding_fp8() { run_bench "decoding $decode_name in fp8" "$decode_seconds" model --dtype fp8 "${decode_words[@]}"; }
documents() { run_bench "documents $decode_name" "$document_seconds" engine --dtype bf16 "${document_words[@]}"; }

generate() {
    alone
    decoding
    documents
    decoding_fp8
}

# Packed questions and answers.
train() {
    local each name seconds words
    for each in "${train_steps[@]}"; do
        IFS='|' read -r name seconds words <<<"$each"
        # shellcheck disable=SC2086 # words of a command
        run_bench "training $name" "$seconds" train $words
    done
}

# Small models only; the CPU, beside which they are held, takes most of the time.
check() {
    export MEMO_TEST_BACKEND=$backend
    run_step "logits of golden models" 20 tests "$build/tests/worker/test_model_golden"
    run_step "30 steps of training" 20 tests "$build/tests/gpu/test_gpu_training"
    run_step "logits in fp8" 20 tests "$build/tests/worker/test_quantize"
    check_operations
    check_bits
    check_nccl
    check_sanitizer
}

check_operations() {
    local name
    [ "$backend" = cuda ] || return 0
    for name in "${operations[@]}"; do
        run_step "operation $name" 20 tests "$build/tests/gpu/test_gpu_$name"
    done
}

# Equal bits whatever else is in the batch, which a GPU promises with --batch-invariant.
check_bits() {
    local promised=(env MEMO_TEST_PRODUCTS=invariant MEMO_TEST_DTYPE=bf16)
    run_step "decoding step by step" 20 tests "${promised[@]}" "$build/tests/worker/test_model_step"
    if [ "$size" = tiny ] && [ "$backend" = cuda ]; then
        skip_step "engine" "minutes on the emulator, where cuda_emulator_engine runs it"
    else
        run_step "engine" 60 tests "${promised[@]}" "$build/tests/worker/test_engine"
    fi
}

# One rank, and over shared memory as many as the machine has GPUs.
check_nccl() {
    if [ "$backend" != cuda ]; then
        skip_step "NCCL" "the backend is not cuda"
        return
    fi
    matches NCCL && ! done_before NCCL && need tests
    if [ -x "$build/tests/gpu/test_gpu_nccl" ]; then
        run_step "NCCL" 30 tests "$build/tests/gpu/test_gpu_nccl"
    else
        skip_step "NCCL" "this build has no NCCL"
    fi
}

# The cheapest of its tools sees every kernel once; the other looks at those that share memory between threads.
check_sanitizer() {
    local name tool=compute-sanitizer
    command -v "$tool" >/dev/null || tool=/usr/local/cuda/bin/$tool
    command -v "$tool" >/dev/null || tool=/usr/local/cuda/compute-sanitizer/compute-sanitizer
    if [ "$backend" != cuda ] || ! command -v "$tool" >/dev/null; then
        skip_step "compute-sanitizer" "no compute-sanitizer for backend $backend"
        return
    fi
    for name in rmsnorm rope gated reduce attention_tiles; do
        run_step "memcheck $name" 40 tests "$tool" --tool memcheck --error-exitcode 1 "$build/tests/gpu/test_gpu_$name"
        run_step "racecheck $name" 40 tests "$tool" --tool racecheck --error-exitcode 1 "$build/tests/gpu/test_gpu_$name"
    done
}

peers() {
    local name
    for name in train generate; do
        run_step "torch $name" "$peer_seconds" memo env LD_LIBRARY_PATH="$loader_path" python3 "$here/peers.py" "$name" --device "$backend" "${peer_words[@]}"
    done
}

# What is worth most comes first; no step needs another one's results.
all() {
    alone
    decoding
    train
    documents
    decoding_fp8
    check
    peers
}

stop() {
    [ -z "$child" ] || kill "$child" 2>/dev/null
    [ -z "$watcher" ] || kill "$watcher" 2>/dev/null
    say "stopped: run the same command again"
    table
    exit 75
}

if [ "$stage" = table ] || [ "$stage" = markdown ]; then
    "$stage"
    exit 0
fi
check_machine
earlier=$out/earlier.jsonl again=0
cp "$results" "$earlier" || exit 1
trap stop TERM INT
find_libraries
describe_machine
say "$stage on $backend, results in $out"
for pass in first again; do
    [ "$pass" = first ] || [ "$again" = 1 ] || continue
    "$stage"
done
table
if [ "$left" = 1 ]; then
    say "out of time: run the same command again"
    exit 75
fi
exit "$failed"
