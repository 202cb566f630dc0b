#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The whole program with --backend cuda, whose kernels run on the CPU: what it trains, generates and answers is what
# --backend cpu gives, a run that was stopped or killed continues to the same bits, and what a GPU can lack or do wrong
# ends with one message.
# usage: whole_program.sh EMULATED_MEMO ROOT answer|train|generate|fail
# shellcheck source=tests/jobs/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../jobs/lib.sh"

command -v python3 >/dev/null || { echo "skipped: python3 is not installed"; exit 77; }

run 0 "$memo" ingest "$examples"/gideon-stannick-biography.txt --out corpus.h5 --chunk-tokens 150 --overlap 0
run 0 "$memo" generate --corpus corpus.h5 --out reflections
run 0 "$memo" init --text corpus.h5 --out base --layers 1 --hidden 32 --heads 2 --kv-heads 1 --ffn 48 --vocabulary 400
printf '%s\n' '{"ids": [5, 9, 31, 77, 302, 1, 45]}' '{"ids": [17]}' >ids.jsonl

part_answer() {
    for backend in cpu cuda; do
        run 0 "$memo" logits --model base --ids ids.jsonl --out "$backend.safetensors" --backend "$backend"
        run 0 "$memo" ask --model base --max-new-tokens 12 --json --backend "$backend" "Who was it?"
        cp stdout "answer-$backend"
    done
    cmp answer-cpu answer-cuda || fail "the backends answer differently: $(cat answer-cpu answer-cuda)"
    python3 - <<'PYTHON' || fail "logits differ"
import json, struct
def read(name):
    data = open(name, "rb").read()
    size = struct.unpack("<Q", data[:8])[0]
    tensors = {}
    for key, each in json.loads(data[8:8 + size]).items():
        if key != "__metadata__":
            begin, end = each["data_offsets"]
            tensors[key] = struct.unpack(f"<{(end - begin) // 4}f", data[8 + size + begin:8 + size + end])
    return tensors
cpu, cuda = read("cpu.safetensors"), read("cuda.safetensors")
assert sorted(cpu) == sorted(cuda) == ["logits.0", "logits.1"], sorted(cpu)
for key in cpu:
    largest = max(abs(x) for x in cpu[key])
    worst = max(abs(a - b) for a, b in zip(cpu[key], cuda[key], strict=True))
    assert largest > 0 and worst <= 2e-4 * largest, (key, worst, largest)
PYTHON
}

part_train() {
    steps=4
    train=("$memo" train --base base --data reflections --sample 8 --batch 4 --epochs 2 --lr 1e-3 --checkpoint-steps 1
        --micro-batch-tokens 256)
    losses() { sed -n 's/^{"step":[0-9]*,"loss":\([^,]*\),.*/\1/p' "$1/run/metrics.jsonl"; }
    alike() { # DIRECTORY, DIRECTORY, tolerance
        [ "$(losses "$1" | wc -l)" -eq $steps ] || fail "$1 did not take $steps steps"
        paste <(losses "$1") <(losses "$2") | awk -v most="$3" '
            { off = $1 / $2 - 1; if (off < 0) off = -off; if (!(off <= most)) { print "losses " $1 " and " $2; exit 1 } }' ||
            fail "$1 and $2 learn differently"
    }
    for how in "f32 f32 1e-4" "bf16 8bit 2e-2"; do
        read -r dtype moments tolerance <<<"$how"
        for backend in cpu cuda; do
            run 0 "${train[@]}" --dtype "$dtype" --moments "$moments" --backend "$backend" --out "$dtype-$backend"
        done
        says "memory per rank"
        alike "$dtype-cpu" "$dtype-cuda" "$tolerance"
    done

    # Stopped on request, then killed, then left alone: the bytes of an undisturbed run.
    rest=("${train[@]}" --dtype bf16 --moments 8bit --backend cuda --out disturbed)
    for signal in TERM KILL; do
        before=$(losses disturbed 2>/dev/null | wc -l)
        start "${rest[@]}"
        until_true has_lines disturbed/run/metrics.jsonl $((before + 1))
        kill -"$signal" "$pid"
        if [ "$signal" = TERM ]; then ends 75; else ends any; fi
    done
    run 0 "${rest[@]}"
    cmp disturbed/model.safetensors bf16-cuda/model.safetensors || fail "a disturbed run ends with other weights"
}

part_generate() {
    limits='"max_tokens": 160, "max_items": 3, "continuations": 1'
    cat >steps.json <<EOF
{"tries": 1, "direct": {$limits, "question_chars": 30, "answer_chars": 20}}
EOF
    generate=("$memo" generate --corpus corpus.h5 --generator engine:base --config steps.json --steps 1a --slots 4)
    for backend in cpu cuda; do
        run 0 "${generate[@]}" --dtype f32 --backend "$backend" --out "made-$backend"
        run 0 "$memo" export "made-$backend" --out "made-$backend.jsonl"
    done
    [ -s made-cpu.jsonl ] || fail "no pairs: $("$memo" inspect made-cpu)"
    cmp made-cpu.jsonl made-cuda.jsonl || fail "the backends make different pairs"
    run 0 "${generate[@]}" --dtype fp8 --backend cuda --out made-fp8
    run 0 "$memo" audit made-fp8 --corpus corpus.h5
}

part_fail() {
    gigabytes=8589934592
    verbs=("train --base base --data reflections --out never" "ask --model base Who?"
        "logits --model base --ids ids.jsonl --out never.safetensors" "bench limits"
        "generate --corpus corpus.h5 --generator engine:base --out never-made")
    # VARIABLES TEXT...: every verb says so, once.
    every_verb_says() {
        local variables=$1 verb
        shift
        for verb in "${verbs[@]}"; do
            # shellcheck disable=SC2086 # words of a command, and variables
            refuses 1 "$@" -- env $variables "$memo" $verb --backend cuda
        done
    }
    every_verb_says "MEMO_EMULATOR_DRIVER=0 MEMO_EMULATOR_FAIL=cudaGetDeviceCount,35,0" "no NVIDIA driver" "--backend cpu"
    every_verb_says "MEMO_EMULATOR_FAIL=cudaGetDeviceCount,100,0" "no GPU is visible"
    every_verb_says "MEMO_EMULATOR_DEVICE=7,5,$gigabytes" "compute capability 7.5" "CMAKE_CUDA_ARCHITECTURES"
    every_verb_says "MEMO_EMULATOR_DEVICE=9,0,1000000" "cannot allocate" "are free"
    every_verb_says "MEMO_EMULATOR_FAIL=cudaStreamSynchronize,700,1" "the GPU failed" "dmesg"
    [ ! -e never/model.safetensors ] || fail "a model was written"
}

"part_$3"
