#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Kills: engines inside a run, which goes on and ends with 0; ranks, coordinator and whole jobs, after
# which the same command is called again, with the engine and with cloze. In the end the set is that
# of an undisturbed run, audit is content, nobody was set aside, and no process is left.
# usage: engine_kills.sh BINARY ROOT [KILLS [SEED]]
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. "$root/tests/jobs/steps_lib.sh"

kills=${3:-3}
RANDOM=${4:-$$}
of_cloze=$((kills / 3))
of_ranks=$((kills / 3))
of_engines=$((kills - of_cloze - of_ranks))
signals=(KILL SEGV STOP)

# prepare SHAPE...: texts/ become corpus.h5, and a model for it.
prepare() {
    run 0 "$memo" ingest texts --out corpus.h5 --chunk-tokens 150 --overlap 0
    run 0 "$memo" init --text corpus.h5 --out model "$@" --vocabulary 500
}
small=(--layers 1 --hidden 64 --heads 1 --kv-heads 1 --ffn 96)
some_texts() {
    mkdir texts
    cp "$examples"/{candle-street-fire,lake-ummerel-survey,salt-bride-legend,thole-obituary}.txt texts/
}
some_texts
if [ "$kills" -gt 3 ]; then # work for half a minute
    cp "$examples"/[a-z]*.txt texts/
    prepare --layers 2 --hidden 128 --heads 2 --kv-heads 2 --ffn 256
else
    prepare "${small[@]}"
fi
limits='"max_tokens": 160, "max_items": 3, "continuations": 1, "question_chars": 60, "answer_chars": 40'
cat >steps.json <<END
{"rounds": 1, "anchors": 4, "batches": 1, "tries": 1, "direct": {$limits}, "indirect": {$limits},
 "consolidate": {$limits}, "judge": {"temperature": 2}, "cross": {$limits}, "rewrite": {"max_tokens": 160}}
END
cloze=("$memo" generate --corpus corpus.h5)
engine=("${cloze[@]}" --generator engine:model --config steps.json --slots 16 --threads 1 --commit-seconds 0.1)
supervised=("${engine[@]}" --engine-seconds 4 --max-set-aside 0)
seconds() {
    date +%s.%N
}

# Engines. A job that ends before it has lost as many as it should is followed by another one.
begin=$(seconds)
run 0 "${mpi[@]}" -np 3 "${engine[@]}" --supervise off --out undisturbed
quiet=$(awk "BEGIN { print $(seconds) - $begin }")
adds_up undisturbed
mv export.jsonl undisturbed.jsonl
planned=$(json_number audit.json planned)
[ "$kills" -gt 3 ] || supervised+=(--max-tasks-per-second "$((1 + planned / 4))")

kill_an_engine() {
    local rank=$((1 + RANDOM % 2)) signal=${signals[RANDOM % 3]} victim
    victim=$(engine_of "$rank")
    [ -n "$victim" ] && kill -"$signal" "$victim" 2>/dev/null || return 1
    printf 'engine of rank %d: SIG%s\n' "$rank" "$signal"
}

done=0
jobs=0
begin=$(seconds)
while [ "$done" -lt "$of_engines" ]; do
    jobs=$((jobs + 1))
    rm -rf killed
    start "${mpi[@]}" -np 3 "${supervised[@]}" --out killed
    until_true has_segment killed
    while kill -0 "$pid" 2>/dev/null && [ "$done" -lt "$of_engines" ]; do
        kill_an_engine && done=$((done + 1))
        sleep "0.$((5 + RANDOM % 5))"
    done
    ends 0
    cat stderr >>all-stderr
    same_as_undisturbed killed
    [ "$(json_number audit.json set_aside)" -eq 0 ] || fail "a task was blamed for a kill"
    leaves_nothing
done
[ "$kills" -le 3 ] || awk -v all="$(awk "BEGIN { print $(seconds) - $begin }")" -v quiet="$quiet" -v jobs="$jobs" -v kills="$done" 'BEGIN {
    printf "%d engines killed in %d jobs of %.1f s undisturbed: %.1f s, %.2f s lost per kill\n", kills, jobs, quiet, all,
        (all - jobs * quiet) / kills }'
sed -n 's/.*\(engines of .* died .*\)/    \1/p' all-stderr
grep -q 'no sign of life' all-stderr || [ "$kills" -le 3 ] || fail "no stopped engine was found out"

# Ranks, coordinator, whole jobs.
if [ "$kills" -gt 3 ]; then
    rm -rf corpus.h5 model texts
    some_texts
    prepare "${small[@]}"
    run 0 "${engine[@]}" --supervise off --out undisturbed-small
    adds_up undisturbed-small
    mv export.jsonl undisturbed.jsonl
    planned=$(json_number audit.json planned)
fi
slow=("${engine[@]}" --max-tasks-per-second "$((1 + planned / 8))")
rm -rf killed
kill_often "$of_ranks" engine slow

run 0 "${cloze[@]}" --out undisturbed-cloze
adds_up undisturbed-cloze
mv export.jsonl undisturbed.jsonl
planned=$(json_number audit.json planned)
slow=("${cloze[@]}" --commit-seconds 0.1 --max-tasks-per-second "$((1 + planned / 5))")
rm -rf killed
kill_often "$of_cloze" cloze slow
