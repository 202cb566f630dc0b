#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Four jobs of an array share one output: hardly a task is computed twice, and none is stored twice.
# shellcheck source=tests/slurm/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

array_ended() {
    local task
    for task in 0 1 2 3; do has_ended "${array}_$task" || return 1; done
}

cluster_start 4
make_corpus
export GENERATE_ARGS
GENERATE_ARGS="--commit-seconds 0.3 --max-tasks-per-second $((planned / 20 + 1))"
submit --array=0-3 --nodes=1 --ntasks-per-node=2 --time=10 --export=ALL,CORPUS=corpus.h5,OUT=reflections \
    "$root/slurm/generate.sbatch"
array=$job
cluster_until 180 array_ended || fail "the array did not end"
for task in 0 1 2 3; do ends "${array}_$task" COMPLETED 1; done
identical reflections
working=$(find reflections/attempt-* -name '*.h5' -printf '%h\n' | sort -u | wc -l)
computed=$(cat memo-generate-*.log | sed -n 's/.* \([0-9]*\) tasks computed.*/\1/p' | awk '{ sum += $1 } END { print sum + 0 }')
say "$planned tasks, $computed computed by $working jobs, $repeated stored twice"
[ "$working" -eq 4 ] || fail "only $working of 4 jobs did anything"
[ "$repeated" -eq 0 ] || fail "$repeated tasks were stored twice"
[ "$((100 * (computed - planned)))" -lt "$planned" ] || fail "$((computed - planned)) of $planned tasks were computed twice"
