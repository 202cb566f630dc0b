#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Nights on Slurm: a first one, one that is stopped in training and requeues, one that loses its node,
# one without anything new.
# shellcheck source=tests/slurm/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

submit_night() {
    submit --nodes=1 --ntasks-per-node=2 --time=10 --export=ALL "$root/slurm/nightly.sbatch"
}

rounds() { # COUNT
    [ "$(wc -l <"$STATE/history.jsonl")" -eq "$1" ] || fail "$(wc -l <"$STATE/history.jsonl") rounds, not $1"
}

trains() { [ -s "$STATE/rounds/$1/model/run/metrics.jsonl" ]; }

cluster_start 2
mkdir texts
cp "$examples"/[a-c]*.txt texts/
run "$memo" ingest texts --out words.h5
run "$memo" init --text words.h5 --out base --layers 1 --hidden 64 --heads 1 --kv-heads 1 --ffn 96 --vocabulary 500
export STATE=memory BASE=base INPUTS=texts INGEST_ARGS='--chunk-tokens 200 --overlap 0'
export TRAIN_ARGS='--sample 256 --epochs 10 --batch 8 --lr 1e-3 --checkpoint-steps 20' MERGE_ARGS='--method task_arithmetic'

submit_night
ends "$job" COMPLETED 120
rounds 1
say "the first night"

cp "$examples"/[d-g]*.txt texts/
run cp -r memory undisturbed
submit_night
cluster_until 60 trains 0002 || fail "training did not begin"
in_state "$job" RUNNING || fail "the night was over before its stop signal: $(field "$job" JobState)"
"${cluster_waits[@]}" scancel --signal=USR2 --batch "$job"
ends "$job" COMPLETED 120
[ "$(field "$job" Restarts)" -eq 1 ] || fail "requeued $(field "$job" Restarts) times, not once"
[ "$(attempts "memo-nightly-$job.log")" -eq 2 ] || fail "the log has not both attempts"
grep -q 'generate was done before' "memo-nightly-$job.log" || fail "generation was done again"
rounds 2
STATE=undisturbed submit_night
ends "$job" COMPLETED 120
cmp memory/memory/model.safetensors undisturbed/memory/model.safetensors || fail "another memory than the undisturbed one"
say "a night that was stopped and requeued"

submit_night
ends "$job" COMPLETED 60
grep -q 'nothing new' "memo-nightly-$job.log" || fail "something was new"
rounds 2
say "a night without anything new"

cluster_has_namespaces || exit 0
cp "$examples"/[h-l]*.txt texts/
submit_night
cluster_until 60 trains 0003 || fail "training did not begin"
node=$(field "$job" NodeList)
cluster_kill_node "${node#node}"
"${cluster_waits[@]}" scontrol update nodename="$node" state=down reason=killed
ends "$job" COMPLETED 180
[ "$(field "$job" Restarts)" -eq 1 ] || fail "requeued $(field "$job" Restarts) times, not once"
rounds 3
say "a night that lost its node"
