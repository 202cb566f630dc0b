#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Training gives the same losses on any number of ranks, and a run that was stopped or killed ends
# with the bytes of an undisturbed one.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

run 0 "$memo" ingest "$examples"/[a-h]*.txt --out corpus.h5
run 0 "$memo" generate --corpus corpus.h5 --out reflections
small_model corpus.h5 base
train=("$memo" train --base base --data reflections --sample 80 --batch 16 --epochs 4 --lr 1e-3
    --schedule cosine --threads 1) # 20 steps

losses() { # DIRECTORY
    sed 's/.*"step":\([0-9]*\),"loss":\([^,]*\),.*/\1 \2/' "$1/run/metrics.jsonl"
}

for ranks in 1 2 4; do
    run 0 "${mpi[@]}" -np "$ranks" "${train[@]}" --out "ranks-$ranks"
    [ "$(losses "ranks-$ranks" | wc -l)" -eq 20 ] || fail "$ranks ranks did not take 20 steps"
done
for ranks in 2 4; do
    paste -d ' ' <(losses ranks-1) <(losses "ranks-$ranks") |
        awk '{ d = ($4 - $2) / $2 } $1 != $3 || d > 1e-5 || d < -1e-5 { print; bad = 1 } END { exit bad }' ||
        fail "$ranks ranks have other losses than one"
done
awk 'NR == 1 { first = $2 } { last = $2 } END { exit !(last < 0.9 * first) }' <(losses ranks-1) ||
    fail "the loss did not fall"

run 0 "${mpi[@]}" -np 2 "${train[@]}" --out ranks-2
says "already trained"
[ "$(losses ranks-2 | wc -l)" -eq 20 ] || fail "a finished run was trained again"
refuses 1 "other data or with other options" -- "$memo" train --base base --data reflections \
    --sample 40 --out ranks-2

# Long enough to be stopped in its middle.
train=("$memo" train --base base --data reflections --sample 400 --batch 16 --epochs 8 --lr 1e-3
    --schedule linear --threads 1) # 200 steps
run 0 "${mpi[@]}" -np 2 "${train[@]}" --out undisturbed-2
run 0 "${train[@]}" --out undisturbed-1

same_model() { # DIRECTORY RANKS
    cmp "$1/model.safetensors" "undisturbed-$2/model.safetensors" ||
        fail "'$1' is not the model of an undisturbed run"
}

# stopped NAME SIGNAL RANKS COMMAND...
stopped() {
    local out=$1 signal=$2 ranks=$3
    shift 3
    start env --default-signal=INT "$@" --out "$out"
    until_true has_lines "$out/run/metrics.jsonl" 20
    kill -"$signal" "$pid"
    ends 75
    [ ! -e "$out/model.safetensors" ] || fail "a stopped run left a model"
    run 0 "$@" --out "$out"
    says "continuing after step"
    if grep -q "exact to rounding" stderr; then fail "nothing changed, but: $(cat stderr)"; fi
    same_model "$out" "$ranks"
}
stopped stop-usr2 USR2 2 "${mpi[@]}" -np 2 "${train[@]}"
stopped stop-term TERM 1 "${train[@]}"
stopped stop-int INT 1 "${train[@]}"

for victim in 0 1 all; do
    start "${mpi[@]}" -np 2 "${train[@]}" --checkpoint-steps 5 --out "killed-$victim"
    until_true has_lines "killed-$victim/run/metrics.jsonl" 33
    if [ "$victim" = all ]; then
        # shellcheck disable=SC2046 # one word per process
        kill -KILL "$pid" $(children_of "$pid")
    else
        kill -KILL "$(process_of_rank "$victim")"
    fi
    ends any
    [ ! -e "killed-$victim/model.safetensors" ] || fail "a killed run left a model"
    run 0 "${mpi[@]}" -np 2 "${train[@]}" --checkpoint-steps 5 --out "killed-$victim"
    says "continuing after step"
    same_model "killed-$victim" 2
done

# With exact sums ranks and stage change no byte, and neither do stops between them.
exact=("${train[@]}" --reduce exact --dtype bf16 --moments 8bit)
run 0 "${exact[@]}" --out undisturbed-exact
start "${mpi[@]}" -np 3 "${exact[@]}" --zero 2 --out exact
until_true has_lines exact/run/metrics.jsonl 20
kill -USR2 "$pid"
ends 75
start "${exact[@]}" --zero 1 --out exact
until_true has_lines exact/run/metrics.jsonl 60
kill -TERM "$pid"
ends 75
run 0 "${mpi[@]}" -np 2 "${exact[@]}" --zero 1 --out exact
says "continuing after step"
if grep -q "exact to rounding" stderr; then fail "ranks do not matter, but: $(cat stderr)"; fi
grep -q '| repeatable | bit for bit |' exact/README.md || fail "the card does not say that the run is exact"
cmp exact/model.safetensors undisturbed-exact/model.safetensors ||
    fail "exact sums gave other bytes on other ranks"

# Other ranks than before may continue, exact to rounding.
start "${mpi[@]}" -np 2 "${train[@]}" --out fewer
until_true has_lines fewer/run/metrics.jsonl 20
kill -USR2 "$pid"
ends 75
run 0 "${train[@]}" --threads 2 --out fewer
says "continuing after step" "exact to rounding, because ranks (2, now 1) and devices (" "1 thread, now " "changed"
grep -q '| repeatable | to rounding: between runs changed ranks (2, now 1)' fewer/README.md ||
    fail "the card does not say what changed"
