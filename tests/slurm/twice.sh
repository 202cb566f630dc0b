#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Two jobs on one output at once, as when Slurm runs a job twice, do no harm: generation shares, or at
# worst repeats, and training waits for the other to end.
# shellcheck source=tests/slurm/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

cluster_start 4
make_corpus
submit_generate reflections 4
first=$job
submit_generate reflections 4
second=$job
half_way reflections "$first"
ends "$first" COMPLETED 120
ends "$second" COMPLETED 120
identical reflections
say "two generations at once: $repeated tasks stored twice"

run "$memo" init --text corpus.h5 --out base --layers 1 --hidden 64 --heads 1 --kv-heads 1 --ffn 96 --vocabulary 500
export TRAIN_ARGS='--sample 64 --epochs 3 --batch 8 --lr 1e-3 --checkpoint-steps 4 --reduce exact'
train=(--nodes=1 --ntasks-per-node=2 --time=10 "--export=ALL,BASE=base,DATA=reflections,OUT=memory" "$root/slurm/train.sbatch")
submit "${train[@]}"
first=$job
submit "${train[@]}"
second=$job
ends "$first" COMPLETED 120
ends "$second" COMPLETED 120
[ "$(cat "memo-train-$first.log" "memo-train-$second.log" | grep -c 'already trained')" -eq 1 ] ||
    fail "not exactly one of two trainings found the other's model"
# shellcheck disable=SC2086 # words
run "$memo" train --base base --data reflections --out alone $TRAIN_ARGS
cmp memory/model.safetensors alone/model.safetensors || fail "another model than one training makes"
say "two trainings at once: one model"
