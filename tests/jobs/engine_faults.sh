#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What a supervised engine does to a job. A document that ends its engine in any way (a crash, an
# exit, a hang, memory without end, a broken device) is set aside with the reason, and every other
# task has the pairs that it has without it; whatever ends, no process is left.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. "$root/tests/jobs/steps_lib.sh"

mkdir texts
cp "$examples"/{candle-street-fire,judge-thackwell-obituary,salt-bride-legend,thole-obituary}.txt texts/
run 0 "$memo" ingest texts --out corpus.h5 --chunk-tokens 150 --overlap 0
small_model corpus.h5 model
limits='"max_tokens": 100, "max_items": 2, "continuations": 0, "question_chars": 40, "answer_chars": 40'
cat >steps.json <<EOF
{"rounds": 1, "batches": 1, "tries": 1, "direct": {$limits}, "indirect": {$limits}, "consolidate": {$limits},
 "judge": {"temperature": 2}}
EOF
# Without step 5, whose tasks would see what is missing.
generate=("$memo" generate --corpus corpus.h5 --generator engine:model --config steps.json --slots 4
    --threads 1 --steps 1a,1b,2,3,4)
run 0 "${generate[@]}" --supervise off --out undisturbed
run 0 "$memo" export undisturbed --out undisturbed.jsonl
run 0 "${mpi[@]}" -np 3 "${generate[@]}" --out ranks
run 0 "$memo" export ranks --out ranks.jsonl
cmp undisturbed.jsonl ranks.jsonl || fail "a supervised engine makes other pairs"
refuses 2 "generator 'cloze' has no engine" -- "$memo" generate --corpus corpus.h5 --supervise on --out nothing
refuses 1 "texts" -- "${generate[@]}" --generator engine:texts --out nothing
refuses 2 "engines are started by" -- "$memo" engine
leaves_nothing

poison="Thackwell was" # in one chunk

# without TASK FILE: pairs of all other tasks.
without() {
    grep -v "\"task\":\"$1\"" "$2"
}

# endures KIND REASON OPTION...: a fault of the engine costs the poisoned document and nothing else.
endures() {
    local kind=$1 reason=$2 task
    shift 2
    rm -rf faulty
    run 0 env MEMO_ENGINE_FAULT="$kind:$poison" "${mpi[@]}" -np 3 "${generate[@]}" "$@" --max-set-aside 0.5 --max-attempts 1 --out faulty
    leaves_nothing
    run 0 "$memo" audit faulty
    [ "$(grep -c '^set aside' stdout)" -eq 1 ] || fail "not one task was set aside: $(cat stdout)"
    grep '^set aside' stdout | grep -qF "and nothing else, the last time it $reason" ||
        fail "the reason does not say '$reason': $(cat stdout)"
    task=$(sed -n 's/^set aside \([0-9a-f]*\):.*/\1/p' stdout)
    run 0 "$memo" export faulty --out faulty.jsonl
    cmp <(without "$task" undisturbed.jsonl) faulty.jsonl || fail "$kind: other tasks have other pairs"
}
endures segv "was killed by signal 11"
endures exit "ended with exit code 3"
endures broken "failed: the device failed"
endures memory "was killed: it used" --engine-memory 0.4
endures stop "was killed: it gave no sign of life" --engine-seconds 3

# One task set aside is more than is allowed unless told otherwise.
rm -rf faulty
refuses 1 "set aside, more than --max-set-aside" -- env MEMO_ENGINE_FAULT="exit:$poison" "${generate[@]}" --out faulty
leaves_nothing

# A full disk, of the ranks and of the engine's process.
MEMO_FS_FAULT=enospc:3000 "${mpi[@]}" -np 3 "${generate[@]}" --commit-seconds 0 --out full >stdout 2>stderr &&
    fail "ranks with full disks ended well"
[ "$(grep -c 'error: ' stderr)" -eq 1 ] || fail "not one error line of three ranks"
says "no space left on device" "'full/attempt-0001/rank-"
leaves_nothing
run 0 "${generate[@]}" --out full
run 0 "$memo" export full --out full.jsonl
cmp undisturbed.jsonl full.jsonl || fail "other pairs after the disks were full"

# The binary is replaced under a running job, and the engine killed: its successor is of the old one.
cp "$memo" memo-old
start ./memo-old "${generate[@]:1}" --commit-seconds 0.1 --max-tasks-per-second 6 --out replaced
until_true has_segment replaced
rm memo-old
printf 'not a program\n' >memo-old
kill -KILL "$(engine_of "")"
ends 0
says "was killed by signal 9"
run 0 "$memo" export replaced --out replaced.jsonl
cmp undisturbed.jsonl replaced.jsonl || fail "other pairs after the binary was replaced"

# A rank that is killed takes its engine along, also one that is stopped.
for signal in CONT STOP; do
    start "${generate[@]}" --max-tasks-per-second 2 --out "alone-$signal"
    until_true has_engine ""
    kill -"$signal" "$(engine_of "")"
    kill -KILL "$pid"
    ends 137
    leaves_nothing
done

# Slurm and terminals signal every process of a job: the engine works on until its rank lets it go.
start "${generate[@]}" --commit-seconds 0.1 --max-tasks-per-second 2 --out signalled
until_true has_segment signalled
kill -USR2 "$(engine_of "")"
kill -TERM "$(engine_of "")"
kill -USR2 "$pid"
ends 75
if grep -q "was killed by\|ended with" stderr; then fail "the engine did not ignore a signal"; fi
leaves_nothing
run 0 "${generate[@]}" --out signalled
run 0 "$memo" export signalled --out signalled.jsonl
cmp undisturbed.jsonl signalled.jsonl || fail "other pairs after a stop"
