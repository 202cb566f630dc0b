#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The five steps by our own engine with random weights, whose answers parse all the same: however
# many workers there are, and however often they are killed, the final set is that of one
# undisturbed process.
# usage: steps_engine.sh BINARY ROOT [TIMES [SEED]]: TIMES kills at random moments instead of 3
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. "$root/tests/jobs/steps_lib.sh"

command -v python3 >/dev/null || {
    echo "skipped: python3 is not installed"
    exit 77
}
times=${3:-3}
RANDOM=${4:-$$}

mkdir texts
cp "$examples"/{candle-street-fire,gideon-stannick-biography,judge-thackwell-obituary}.txt \
    "$examples"/{lake-ummerel-survey,salt-bride-legend,thole-obituary}.txt texts/
odd_documents texts 3000
run 0 "$memo" ingest texts --out corpus.h5 --chunk-tokens 150 --overlap 0
small_model corpus.h5 model

# Short answers, and a judge who is of two minds.
limits='"max_tokens": 160, "max_items": 3, "continuations": 1'
cat >steps.json <<EOF
{"rounds": 1, "anchors": 4, "batches": 1, "tries": 1,
 "direct": {$limits, "question_chars": 60, "answer_chars": 40},
 "indirect": {$limits, "question_chars": 60, "answer_chars": 40},
 "consolidate": {$limits, "question_chars": 60, "answer_chars": 40},
 "judge": {"temperature": 2},
 "rewrite": {"max_tokens": 160, "question_chars": 60, "answer_chars": 40},
 "entities": {$limits, "answer_chars": 20},
 "lookup": {$limits, "question_chars": 60},
 "cross": {$limits, "question_chars": 60, "answer_chars": 40}}
EOF
generate=("$memo" generate --corpus corpus.h5 --generator engine:model --config steps.json --slots 16)
run 0 "${generate[@]}" --out undisturbed
adds_up undisturbed
mv export.jsonl undisturbed.jsonl
[ "$(wc -l <undisturbed.jsonl)" -ge 10 ] || fail "hardly any pair: $(cat inspect.json)"
[ "$(json_number audit.json group_tasks)" -ge 1 ] || fail "no group"
planned=$(json_number audit.json planned)

run 0 "${mpi[@]}" -np 3 "${generate[@]}" --out ranks
same_as_undisturbed ranks
# A cache that holds one context, and few slots: the same answers, computed again more often.
run 0 "${generate[@]}" --slots 2 --cache-tokens 4096 --threads 1 --out tight
same_as_undisturbed tight

slow=("${generate[@]}" --commit-seconds 0.1 --max-tasks-per-second "$((planned / 8))")
kill_often "$times" generate slow

# Another model has other tasks.
run 0 "$memo" init --tokenizer model --out other --layers 1 --hidden 64 --heads 1 --kv-heads 1 --ffn 96 --seed 2
run 0 "$memo" generate --corpus corpus.h5 --generator engine:other --config steps.json --steps 1a --out ranks
says "also holds $planned tasks of another corpus"
refuses 1 "texts" -- "$memo" generate --corpus corpus.h5 --generator engine:texts --out nothing
