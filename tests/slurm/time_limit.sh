#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A job reads from Slurm how long it has, stops in time without any signal, requeues itself and ends
# with the undisturbed set.
# shellcheck source=tests/slurm/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

cluster_start 2
make_corpus
submit_generate reflections 70 --time=1 --signal=B:USR2@0
ends "$job" COMPLETED 200
log=memo-generate-$job.log
say "ended after $(field "$job" Restarts) requeue"
[ "$(field "$job" Restarts)" -eq 1 ] || fail "requeued $(field "$job" Restarts) times, not once"
[ "$(attempts "$log")" -eq 2 ] || fail "the log has not both attempts"
grep -q 's are left, and stopping may take' "$log" || fail "the job did not see its time limit"
grep -q 'received: committing' "$log" && fail "a signal came before"
identical reflections
[ "$repeated" -eq 0 ] || fail "$repeated tasks were stored twice"
