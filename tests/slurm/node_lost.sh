#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A node loses power under a job: Slurm requeues it on those that are left, and it ends with the
# undisturbed set.
# shellcheck source=tests/slurm/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

cluster_start 3
cluster_has_namespaces || cluster_skip "namespaces are not permitted here: a node cannot be killed as a whole"
make_corpus
submit_generate reflections 6
half_way reflections "$job"
[ "$(field "$job" NodeList)" = 'node[1-2]' ] || fail "the job runs on $(field "$job" NodeList)"
say "half-way; node 2 is killed"
cluster_kill_node 2
"${cluster_waits[@]}" scontrol update nodename=node2 state=down reason=killed
ends "$job" COMPLETED 120
[ "$(field "$job" Restarts)" -eq 1 ] || fail "requeued $(field "$job" Restarts) times, not once"
[ "$(field "$job" NodeList)" = 'node[1,3]' ] || fail "the job ran again on $(field "$job" NodeList)"
say "ended on $(field "$job" NodeList)"
grep -q 'done by earlier attempts' "memo-generate-$job.log" || fail "the second life did not continue"
identical reflections
[ "$repeated" -eq 0 ] || fail "$repeated tasks were stored twice"
cluster_boot_node 2
cluster_until 30 cluster_idle || fail "the node did not come back"
