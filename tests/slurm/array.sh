#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Four jobs of an array share one output: hardly a task is computed twice, and none is stored twice. One
# of them that reaches its stop signal is requeued alone.
# shellcheck source=tests/slurm/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

array_ended() {
    local task
    for task in 0 1 2 3; do has_ended "${array}_$task" || return 1; done
}

array_runs() {
    local task
    for task in 0 1 2 3; do grep -qs "attempt 1 of job ${array}_$task" memo-generate-*.log || return 1; done
}

submit_array() { # OUT
    rm -f memo-generate-*.log
    submit --array=0-3 --nodes=1 --ntasks-per-node=2 --time=10 --export="ALL,CORPUS=corpus.h5,OUT=$1" \
        "$root/slurm/generate.sbatch"
    array=$job
}

all_completed() {
    local task
    cluster_until 180 array_ended || fail "the array did not end"
    for task in 0 1 2 3; do ends "${array}_$task" COMPLETED 1; done
}

cluster_start 4
make_corpus
export GENERATE_ARGS
GENERATE_ARGS="--commit-seconds 0.3 --max-tasks-per-second $((planned / 20 + 1))"
submit_array reflections
all_completed
identical reflections
working=$(find reflections/attempt-* -name '*.h5' -printf '%h\n' | sort -u | wc -l)
computed=$(cat memo-generate-*.log | sed -n 's/.* \([0-9]*\) tasks were done here.*/\1/p' | awk '{ sum += $1 } END { print sum + 0 }')
say "$planned tasks, $computed computed by $working jobs, $repeated stored twice"
[ "$working" -eq 4 ] || fail "only $working of 4 jobs did anything"
[ "$computed" -ge "$planned" ] || fail "the logs count $computed tasks of $planned"
[ "$repeated" -eq 0 ] || fail "$repeated tasks were stored twice"
[ "$((100 * (computed - planned)))" -lt "$planned" ] || fail "$((computed - planned)) of $planned tasks were computed twice"

submit_array stopped
cluster_until 60 array_runs || fail "the array does not run"
cluster_until 60 has_segment stopped || fail "the array committed nothing"
"${cluster_waits[@]}" scancel --signal=USR2 --batch "${array}_3"
all_completed
for task in 0 1 2 3; do
    restarts=$(field "${array}_$task" Restarts)
    [ "$restarts" -eq $((task / 3)) ] || fail "job $task of the array was requeued $restarts times"
done
identical stopped
say "one job of the array stopped and was requeued; $repeated stored twice"
[ "$repeated" -eq 0 ] || fail "$repeated tasks were stored twice"
