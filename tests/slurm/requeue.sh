#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A job that reaches its stop signal commits, requeues itself and ends with the undisturbed set.
# shellcheck source=tests/slurm/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

cluster_start 2
say "cluster of 2 nodes"
make_corpus
submit_generate reflections 4
half_way reflections "$job"
say "half-way; the stop signal"
"${cluster_waits[@]}" scancel --signal=USR2 --batch "$job"
ends "$job" COMPLETED 60
say "ended after $(field "$job" Restarts) requeue"
[ "$(field "$job" Restarts)" -eq 1 ] || fail "requeued $(field "$job" Restarts) times, not once"
log=memo-generate-$job.log
[ "$(attempts "$log")" -eq 2 ] || fail "the log has not both attempts"
grep -q 'stopped with exit code 75; requeueing' "$log" || fail "the job did not stop with 75"
identical reflections
[ "$repeated" -eq 0 ] || fail "$repeated tasks were stored twice"
