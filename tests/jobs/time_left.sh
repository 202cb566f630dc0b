#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A job that is told how long it has stops by itself in time, and the same command continues.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

mkdir texts
cp "$examples"/[a-c]*.txt texts/
run 0 "$memo" ingest texts --out corpus.h5 --chunk-tokens 100 --overlap 0
small_model corpus.h5 base
run 0 "$memo" generate --corpus corpus.h5 --out undisturbed
run 0 "$memo" export undisturbed --out undisturbed.jsonl

# Committing is quick: it stops when what is needed at the end, 10 s, is left.
generate=("$memo" generate --corpus corpus.h5 --out reflections --commit-seconds 0.2 --max-tasks-per-second 10)
run 75 "${generate[@]}" --time-left 12
says "s are left" "stopping"
run 75 "${generate[@]}" --time-left 9
run 75 "${mpi[@]}" -np 3 "${generate[@]}" --max-tasks-per-second 1 --time-left 12
says "s are left" "stopping"
run 0 "${generate[@]}" --max-tasks-per-second 0 --time-left 1000
says "done by earlier attempts"
run 0 "$memo" audit reflections
run 0 "$memo" export reflections --out pairs.jsonl
cmp undisturbed.jsonl pairs.jsonl || fail "other pairs than the undisturbed run"

train=("$memo" train --base base --data reflections --batch 8 --epochs 40 --lr 1e-3 --threads 1)
run 0 "${train[@]}" --out undisturbed-model
run 75 "${train[@]}" --out model --time-left 11
says "s are left, and stopping may take" "the same command continues"
run 75 "${train[@]}" --out model --time-left 9 # a step and its checkpoint, at least
says "continuing after step" "the same command continues"
run 0 "${train[@]}" --out model --time-left 1000
cmp undisturbed-model/model.safetensors model/model.safetensors || fail "another model than the undisturbed run's"

update=("$memo" update --state state --base base '--ingest=--chunk-tokens 100 --overlap 0' '--train=--sample 8 --epochs 1')
run 75 "${update[@]}" --time-left 5 texts
says "s are left: stopping before generate"
run 0 "${update[@]}" --time-left 1000 texts
says "round 1 was begun earlier and is continued"
