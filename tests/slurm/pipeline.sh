#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The whole chain through sbatch with dependencies, under mpirun and under srun; a chain that breaks
# ends, and the same command takes it up again.
# shellcheck source=tests/slurm/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

cluster_start 2
make_corpus
run "$memo" init --text corpus.h5 --out base --layers 1 --hidden 64 --heads 1 --kv-heads 1 --ffn 96 --vocabulary 500
cat >chain.conf <<END
# of the test
INPUTS=texts
BASE=base
INGEST_ARGS=--chunk-tokens 100 --overlap 0
GENERATE_ARGS=--commit-seconds 1
TRAIN_ARGS=--sample 24 --epochs 2 --batch 8 --lr 1e-3
MERGE_ARGS=--method task_arithmetic --lambda 1
SBATCH_GENERATE_ARGS=--nodes=2 --ntasks-per-node=2 --time=5
SBATCH_TRAIN_ARGS=--nodes=2 --ntasks-per-node=1 --time=5
SBATCH_MERGE_ARGS=--time=5
END

# chain WORK LAUNCH: submits it; the ids are in ${chain[@]}.
chain() {
    MEMO_CONFIG=chain.conf WORK=$1 MEMO_LAUNCH=$2 run "$root/slurm/pipeline.sh"
    mapfile -t chain < <(sed -n 's/.* job \([0-9]*\)$/\1/p' stdout)
    [ ${#chain[@]} -eq 5 ] || fail "pipeline.sh submitted ${#chain[@]} jobs, not 5"
}

for launch in mpirun srun; do
    chain "work-$launch" $launch
    for job in "${chain[@]}"; do ends "$job" COMPLETED 120; done
    identical "work-$launch/reflections"
    run "$memo" status "work-$launch"/{corpus.h5,reflections,memory,memory.safetensors,merged}
    [ "$(grep -c ' done ' stdout)" -eq 5 ] || fail "not every stage is done: $(cat stdout)"
    say "the chain under $launch"
done

# The second stage fails: the third never begins, and nothing waits for it forever.
GENERATE_ARGS=--no-such-option chain work-broken mpirun
ends "${chain[0]}" COMPLETED 60
ends "${chain[1]}" FAILED 60
for job in "${chain[@]:2}"; do ends "$job" CANCELLED 60; done
say "a broken chain ends"
chain work-broken mpirun
for job in "${chain[@]}"; do ends "$job" COMPLETED 120; done
say "and is taken up again"
