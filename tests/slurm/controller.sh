#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The controller of Slurm is killed while a job runs, and comes back: whatever it then knows of the job,
# the output is complete, and a job that it has lost or runs twice does no harm.
# shellcheck source=tests/slurm/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

cluster_start 2
make_corpus
submit_generate reflections 8
half_way reflections "$job"
cluster_kill_controller
! cluster_controller_answers || fail "the controller still answers"
log=memo-generate-$job.log
complete() { grep -qs "$planned of $planned tasks," "$log"; }
cluster_until 60 complete || fail "the job did not go on without the controller"
say "the job ended its work without the controller"
cluster_start_controller
cluster_until 60 cluster_no_jobs || fail "jobs are still in the queue: $("${cluster_waits[@]}" squeue)"
identical reflections
say "the controller is back: $(field "$job" JobState), $repeated tasks stored twice"

# Whoever does not trust the controller's memory submits the job again, which finds everything done.
submit_generate reflections 8
ends "$job" COMPLETED 60
grep -q "to do: 0 of $planned tasks" "memo-generate-$job.log" || fail "the second job did not find everything done"
identical reflections
[ ! -e reflections/claims ] || fail "claims of a finished run stay"
say "submitted again: nothing to do"
