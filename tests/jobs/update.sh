#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Night after night: only what is new is worked on, whatever stopped the night before.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

mkdir texts
cp "$examples"/{candle-street-fire,gideon-stannick-biography,judge-thackwell-obituary}.txt texts/
run 0 "$memo" ingest texts --out words.h5 --chunk-tokens 150 --overlap 0
small_model words.h5 base

words=('--ingest=--chunk-tokens 150 --overlap 0' '--generate=--max-tasks-per-second 40 --commit-seconds 0.1'
    '--train=--sample 24 --epochs 6 --batch 8 --lr 3e-3 --checkpoint-steps 4' '--merge=--method task_arithmetic')
update=("$memo" update --base base "${words[@]}")

rounds() { # STATE COUNT
    [ "$(wc -l <"$1/history.jsonl")" -eq "$2" ] || fail "$1 has $(wc -l <"$1/history.jsonl") rounds, not $2"
}

refuses 1 "is a new state" --base -- "$memo" update --state state texts
refuses 2 "no input" -- "${update[@]}" --state state

# The first night.
run 0 "${update[@]}" --state state texts
rounds state 1
cp stdout first-night
[ "$(grep -c ' done ' stdout)" -eq 5 ] || fail "not five stages are done: $(cat stdout)"
[ "$(readlink state/memory)" = rounds/0001/merged ] || fail "the memory is not the first round's model"
run 0 "$memo" audit state/rounds/0001/reflections

# A night without anything new.
model=$(stat -Lc '%i %y' state/memory/model.safetensors)
run 0 "${update[@]}" --state state texts
says "nothing new"
rounds state 1
[ "$(stat -Lc '%i %y' state/memory/model.safetensors)" = "$model" ] || fail "the memory was written again"

# One changes, one goes, two come.
printf '\nIn the year 1903 the brigade of Candle Street had nine members.\n' >>texts/candle-street-fire.txt
rm texts/judge-thackwell-obituary.txt
cp "$examples"/{lake-ummerel-survey,thole-obituary}.txt texts/
cp -r state same # to be stopped in every way below
run 0 "${update[@]}" --state state texts
says "changed since the known corpus: texts/candle-street-fire.txt" \
    "vanished since the known corpus: texts/judge-thackwell-obituary.txt"
rounds state 2
grep -q '"documents":3,.*"changed":\["texts/candle-street-fire.txt"\],"vanished":\["texts/judge-thackwell-obituary.txt"\]' \
    <(tail -n 1 state/history.jsonl) || fail "the history does not say what changed: $(tail -n 1 state/history.jsonl)"
grep -Eq '^ *2  20[0-9TZ:-]* +3 +1 +1 ' stdout || fail "the table does not say what changed: $(cat stdout)"
[ "$(readlink state/memory)" = rounds/0002/merged ] || fail "the memory is not the second round's model"
grep -q 'rounds/0001/vector.safetensors' state/memory/run/options.json || fail "the first round was not merged"
cp state/rounds/0002/merged/model.safetensors expected

refuses 1 "its task vectors fit no other" -- "$memo" update --state state --base words.h5 texts

# What happened is told by one command, and the night can be taken back: once for each round.
run 0 "$memo" status state
grep -Eq '^20[0-9TZ:-]*  done  *2 ' stdout || fail "the last night is not told: $(cat stdout)"
grep -Eq '^20[0-9TZ:-]*  nothing new  *1 ' stdout || fail "a night without anything new is not told: $(cat stdout)"
grep -q '^the memory is rounds/0002/merged$' stdout || fail "where the memory points is not told: $(cat stdout)"
run 0 "$memo" status --json state
grep -q '"memory":"rounds/0002/merged","rounds":2,"open_round":0,"running":false,"last":{.*"result":"done"' stdout ||
    fail "status as JSON: $(cat stdout)"
cp -r state back
run 0 "$memo" update --state back --rollback
says "round 2 is taken back"
[ "$(readlink back/memory)" = rounds/0001/merged ] || fail "the memory is not the first round's model again"
run 0 "${update[@]}" --state back texts
says "nothing new"
cp "$examples"/salt-bride-legend.txt texts/
run 0 "${update[@]}" --state back texts
rm texts/salt-bride-legend.txt
vectors=$(tr -d '\n ' <back/memory/run/options.json | sed 's/.*"vectors":\[\([^]]*\)\].*/\1/')
[ "$vectors" = '"back/rounds/0001/vector.safetensors","back/rounds/0003/vector.safetensors"' ] ||
    fail "merged after the second round was taken back: $vectors"
run 0 "$memo" status back
grep -q 'rolled back$' stdout || fail "the table does not say what was taken back: $(cat stdout)"
run 0 "$memo" update --state back --rollback
run 0 "$memo" update --state back --rollback
[ "$(readlink back/memory)" = "$PWD/base" ] || fail "without a round the memory is not the base: $(readlink back/memory)"
refuses 1 "no round that could be taken back" -- "$memo" update --state back --rollback

# A night that fails says why in the morning.
printf '\377\376a\0' >texts/wide.txt
run 1 "${update[@]}" --state back texts
rm texts/wide.txt
run 0 "$memo" status back
grep -Eq '^20[0-9TZ:-]*  failed .* memo ingest failed' stdout || fail "the failure is not told: $(cat stdout)"

# Killed or stopped in any stage, the same command ends with the same memory.
same_memory() { # STATE
    run 0 "${update[@]}" --state "$1" texts
    rounds "$1" 2
    cmp expected "$1/memory/model.safetensors" || fail "another memory after $1"
}

# Stops round 2 once something stands: stopped NAME SIGNAL CODE FILE
stopped() {
    cp -r same "$1"
    start "${update[@]}" --state "$1" texts
    until_true test -e "$1/rounds/0002/$4"
    kill -"$2" "$pid"
    ends "$3"
}
for file in corpus.h5 reflections/run model/run vector.safetensors merged.partial; do
    stopped "killed-${file%%[./]*}" KILL 137 "$file"
    same_memory "killed-${file%%[./]*}"
done
stopped stopped-generate USR2 75 reflections/attempt-0001
same_memory stopped-generate
says "round 2 was begun earlier and is continued"
stopped stopped-train TERM 75 model/run/metrics.jsonl
run 0 "$memo" status stopped-train
grep -q '^round 2 is begun and not finished; ' stdout || fail "an open round is not told: $(cat stdout)"
same_memory stopped-train
says "generate was done before"

# An open round keeps its options; what comes meanwhile is the next one's.
stopped other-options TERM 75 model/run/metrics.jsonl
cp "$examples"/salt-bride-legend.txt texts/
run 0 "${update[@]}" --state other-options '--train=--sample 24 --epochs 2 --batch 8' texts
says "round 2 began with --train '--sample 24 --epochs 6"
rounds other-options 3
cmp expected other-options/rounds/0002/merged/model.safetensors || fail "another memory with other options"
rm texts/salt-bride-legend.txt

# What a mark speaks for must still be there as it was.
flip state/rounds/0002/vector.safetensors -9
head -n 1 state/history.jsonl >first && mv first state/history.jsonl
rm state/rounds/0002/merge.done
rm -r state/rounds/0002/merged
run 0 "${update[@]}" --state state texts
says "train was done before" "round 2: vector"
rounds state 2
cmp expected state/memory/model.safetensors || fail "a damaged vector was merged"

# Two at once: the second waits for the first, and then there is nothing new.
cp -r same twice
start "${update[@]}" --state twice texts
until_true test -e twice/rounds/0002/round.json
first=$pid
"${update[@]}" --state twice texts >/dev/null 2>second || fail "the second update failed: $(cat second)"
ends 0
grep -q "another update works on 'twice'" second || fail "the second update did not wait"
grep -q 'nothing new' second || fail "the second update found something new"
[ "$first" = "$pid" ] || fail "lost track of the first update"
rounds twice 2

# Ranks, and documents that give no pair.
printf 'nothing here that a question could be made of; it just goes on and on\n' >texts/plain.txt
run 0 "${update[@]}" --state twice --launch "${mpi[*]} -np 2" texts
rounds twice 3
[ "$(readlink twice/memory)" = rounds/0002/merged ] || fail "a round without pairs changed the memory"
run 0 "${update[@]}" --state ranks --launch "${mpi[*]} -np 2" texts
rounds ranks 1
grep -q '2 ranks' ranks/rounds/0001/model/run/log.txt || fail "training did not run on two ranks"
