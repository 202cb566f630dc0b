#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Training that is killed at random moments, several times a run, and each time started again, ends
# with the bytes of an undisturbed run, and every step of every attempt has its loss and its samples.
# usage: train_killed.sh BINARY ROOT [TIMES [SEED]]
#
# Even runs sum as float on two ranks, gradients in bfloat16; odd ones sum exactly, on another number of ranks and with
# another stage of ZeRO after each kill. What is killed: all processes, or one rank, when a step drawn
# at random is over; or whichever process has written so many bytes, in the middle of a write: tokens,
# checkpoints, the model.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

times=${3:-4}
RANDOM=${4:-$(($(date +%s) % 32768))}
seed=${4:-$RANDOM}
RANDOM=$seed
echo "seed $seed" # train_killed.sh BINARY ROOT TIMES SEED does the same kills again

run 0 "$memo" ingest "$examples"/[a-h]*.txt --out corpus.h5
run 0 "$memo" generate --corpus corpus.h5 --out reflections
small_model corpus.h5 base
steps=120
train=("$memo" train --base base --data reflections --sample 240 --batch 16 --epochs 8 --lr 1e-3
    --schedule linear --threads 1 --held-out 0) # 15 steps an epoch
exact=(--reduce exact --dtype bf16 --moments 8bit)
float=(--grad-dtype bf16 --dtype bf16 --moments 8bit)
run 0 "${mpi[@]}" -np 2 "${train[@]}" "${float[@]}" --out undisturbed-float
run 0 "${train[@]}" "${exact[@]}" --out undisturbed-exact

# What each step was: its number, its loss to the last bit, and the digest of all samples so far.
history() { # DIRECTORY
    sed -n 's/^{"step":\([0-9]*\),"loss":\([^,]*\),.*"consumed":"\([0-9a-f]*\)".*/\1 \2 \3/p' \
        "$1/run/metrics.jsonl"
}
for kind in float exact; do
    history undisturbed-$kind | sort >"$kind.steps"
    [ "$(wc -l <"$kind.steps")" -eq "$steps" ] || fail "the undisturbed run did not take $steps steps"
    [ "$(cut -d ' ' -f 3 "$kind.steps" | sort -u | wc -l)" -eq "$steps" ] || fail "steps with equal samples"
done
cmp <(cut -d ' ' -f 1,3 float.steps) <(cut -d ' ' -f 1,3 exact.steps) ||
    fail "how gradients are summed changed the samples"

# command KIND: sets $command for the next attempt.
command_for() {
    local ranks=2
    command=("${train[@]}" --checkpoint-steps $((1 + RANDOM % 9)))
    if [ "$1" = exact ]; then
        ranks=$((1 + RANDOM % 3))
        command+=("${exact[@]}" --zero $((RANDOM % 3)))
    else
        command+=("${float[@]}")
    fi
    command=("${mpi[@]}" -np "$ranks" "${command[@]}")
}

last_step() { # DIRECTORY: of any attempt
    [ -e "$1/run/metrics.jsonl" ] || { echo 0; return; }
    history "$1" | tail -1 | cut -d ' ' -f 1
}

# One that no attempt has done, by $draw: a subshell draws nothing new.
draw_step() { # DIRECTORY
    local done_before
    done_before=$(last_step "$1")
    echo $((${done_before:-0} + draw % (steps - ${done_before:-0} + 1)))
}

# Waits until an attempt has done STEP, or has ended by itself.
reaches() { # DIRECTORY STEP
    local i now
    for ((i = 0; i < 6000; i++)); do
        kill -0 "$pid" 2>/dev/null || return
        now=$(last_step "$1")
        [ "${now:-0}" -lt "$2" ] || return
        sleep 0.005
    done
    fail "step $2 was never done"
}

kills=0 inside_write=0
# attempt DIRECTORY KIND: one that is killed, or ends before.
attempt() {
    local out=$1 victim code
    draw=$RANDOM
    command_for "$2"
    case $((RANDOM % 3)) in
    0) # in the middle of a write
        start env MEMO_FS_FAULT=kill:$(((RANDOM * 32768 + RANDOM) % (10 * 1000 * 1000))) "${command[@]}" --out "$out"
        wait "$pid"
        code=$?
        [ "$code" -eq 0 ] || inside_write=$((inside_write + 1))
        ;;
    1) # everything
        start "${command[@]}" --out "$out"
        reaches "$out" "$(draw_step "$out")"
        sleep "0.0$((RANDOM % 10))"
        # shellcheck disable=SC2046 # one word per process
        kill -KILL "$pid" $(children_of "$pid") 2>/dev/null
        wait "$pid" 2>/dev/null
        code=$?
        ;;
    2) # one rank
        start "${command[@]}" --out "$out"
        reaches "$out" "$(draw_step "$out")"
        victim=$(process_of_rank 0)
        [ $((RANDOM % 2)) -eq 0 ] || victim=$(process_of_rank 1)
        [ -z "$victim" ] || kill -KILL "$victim" 2>/dev/null
        wait "$pid" 2>/dev/null
        code=$?
        ;;
    esac
    [ "$code" -eq 0 ] || kills=$((kills + 1))
    [ "$code" -eq 0 ] || [ "$code" -ge 128 ] || fail "an attempt failed by itself with $code"
}

for ((i = 0; i < times; i++)); do
    kind=$([ $((i % 2)) -eq 0 ] && echo float || echo exact)
    out=run-$i before=$kills
    while [ "$kills" -eq "$before" ] || [ $((RANDOM % 3)) -ne 0 ]; do
        attempt "$out" "$kind"
        if [ -e "$out/model.safetensors" ] && [ "$kills" -eq "$before" ]; then
            rm -rf "$out" # it was too quick
        elif [ -e "$out/model.safetensors" ]; then
            break
        fi
    done
    command_for "$kind"
    run 0 "${command[@]}" --out "$out"
    cmp "$out/model.safetensors" "undisturbed-$kind/model.safetensors" ||
        fail "run $i of seed $seed: not the model of an undisturbed run"
    # Steps that were done twice were the same twice, none is missing, none is of other samples.
    history "$out" | sort -u | cmp - "$kind.steps" ||
        fail "run $i of seed $seed: other losses or samples than the undisturbed run"
    rm -rf "$out"
    echo "run $i, $kind: $((kills - before)) kills"
done
echo "$kills kills, $inside_write of them inside a write"
