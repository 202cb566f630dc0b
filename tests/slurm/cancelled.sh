#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A cancelled job stays cancelled, and the same job submitted again ends with the undisturbed set.
# shellcheck source=tests/slurm/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

cluster_start 2
make_corpus
submit_generate reflections 6
first=$job
half_way reflections "$first"
say "half-way; cancelled"
"${cluster_waits[@]}" scancel "$first"
ends "$first" CANCELLED 60
[ "$(field "$first" Restarts)" -eq 0 ] || fail "a cancelled job was requeued"
run "$memo" export reflections --out before.jsonl
[ "$(wc -l <before.jsonl)" -gt 0 ] || fail "nothing was committed before"
[ "$(wc -l <before.jsonl)" -lt "$(wc -l <undisturbed.jsonl)" ] || fail "everything was done before"

submit_generate reflections 1
say "submitted again as job $job"
ends "$job" COMPLETED 60
grep -q 'done by earlier attempts' "memo-generate-$job.log" || fail "the second job did not continue"
identical reflections
[ "$repeated" -eq 0 ] || fail "$repeated tasks were stored twice"
