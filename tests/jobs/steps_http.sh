#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The five steps against a scripted OpenAI-compatible server: with faults, with several workers and
# killed half-way they end with the pairs of an undisturbed run, and every count adds up.
# usage: steps_http.sh BINARY ROOT [TIMES [SEED]]: TIMES kills at random moments instead of 3
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. "$root/tests/jobs/steps_lib.sh"

command -v python3 >/dev/null || {
    echo "skipped: python3 is not installed"
    exit 77
}
times=${3:-3}
RANDOM=${4:-$$}

mkdir texts
cp "$examples"/[a-d]*.txt texts/
odd_documents texts 40000
run 0 "$memo" ingest texts --out corpus.h5 --chunk-tokens 300 --overlap 0

serve
generate=("$memo" generate --corpus corpus.h5 --generator "http:http://127.0.0.1:$port/v1" --model scripted)
run 0 "${generate[@]}" --out undisturbed
adds_up undisturbed "$(statistic pairs)"
mv export.jsonl undisturbed.jsonl
[ "$(json_number audit.json group_tasks)" -ge 3 ] || fail "hardly any group"
python3 - <<'EOF' || fail "a step or a document gave no pair"
import collections, glob, json
records = [json.loads(line) for line in open("undisturbed.jsonl")]
steps = collections.Counter(record["step"] for record in records)
documents = {source["document"] for record in records for source in record["sources"]}
print(steps, len(documents))
assert all(steps[step] > 0 for step in ("1a", "1b", "2", "3", "4", "5")), steps
assert len(documents) == len(glob.glob("texts/*.txt")) - 1, len(documents)
EOF

generate+=(--answer-seconds 1 --stall-seconds 0.3 --retry-seconds 0.02) # no part of what a task is

serve --faults 0.2 --retry-after 0
run 0 "${generate[@]}" --out faults
same_as_undisturbed faults
python3 -c 'import sys; sys.exit(int(sys.argv[1]) < 1.1 * int(sys.argv[2]))' "$(statistic requests)" "$(statistic answers)" ||
    fail "the server answered everything at once"
run 0 "${mpi[@]}" -np 3 "${generate[@]}" --out faults-3
same_as_undisturbed faults-3

serve
# Groups by surfaced names come after all chunks, and are the same whoever finds them.
run 0 "${generate[@]}" --groups entities --out entities
says "share names that step 4 surfaced"
adds_up entities
[ "$(json_number audit.json group_tasks)" -ge 1 ] || fail "no group by surfaced names"
mv export.jsonl entities.jsonl
run 0 "${mpi[@]}" -np 3 "${generate[@]}" --groups entities --out entities-3
adds_up entities-3
cmp entities.jsonl export.jsonl || fail "groups by surfaced names differ with the workers"

# Steps can be left out; without step 5 there are no groups.
run 0 "${generate[@]}" --steps 1a,3 --out few
adds_up few
[ "$(json_number audit.json group_tasks)" -eq 0 ] || fail "groups without step 5"
python3 -c 'import json; assert {json.loads(line)["step"] for line in open("export.jsonl")} <= {"1a", "3"}' ||
    fail "pairs of steps that were left out"

serve --faults 0.1 --retry-after 0 --delay-ms 10 --jitter-ms 20
slow=("${generate[@]}" --slots 8 --commit-seconds 0.1)
kill_often "$times" generate slow

# A server that is not there is no fault of the tasks: the job ends, and the same command continues.
stop_serving
refuses 1 "127.0.0.1:$port" -- "${generate[@]}" --outage-seconds 0.5 --out outage
run 1 "$memo" audit outage
serve
run 0 "${generate[@]}" --out outage
same_as_undisturbed outage

# What a server refuses is set aside with its reason, and the groups of the rest are still made.
serve --context 700
run 1 "${generate[@]}" --out aside
says "set aside, more than --max-set-aside"
run 0 "${generate[@]}" --max-set-aside 1 --out aside
adds_up aside
[ "$(json_number audit.json set_aside)" -ge 1 ] || fail "nothing was set aside"
run 0 "$memo" audit aside
grep -q "^set aside [0-9a-f]*: .*maximum context length" stdout || fail "audit does not say why"
stop_serving
