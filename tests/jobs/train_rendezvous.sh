#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Ranks without MPI: processes with the environment that srun --mpi=none gives them. They train to the
# bytes of one process alone, a rank that dies ends the job with a message that names it, and the next
# attempt continues on another number of ranks beside the file that the one before left.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

run 0 "$memo" ingest "$examples"/[a-d]*.txt --out corpus.h5
run 0 "$memo" generate --corpus corpus.h5 --out reflections
small_model corpus.h5 base
mkdir shared
train=("$memo" train --base base --data reflections --sample 400 --batch 16 --epochs 4 --lr 1e-3
    --threads 1 --reduce exact --collective-seconds 20) # 100 steps

# rank NUMBER RANKS ATTEMPT COMMAND...: in the background, its id in $pid
rank() {
    local number=$1 ranks=$2 attempt=$3
    shift 3
    env SLURM_PROCID="$number" SLURM_LOCALID="$number" SLURM_STEP_NUM_TASKS="$ranks" \
        SLURM_STEP_NUM_NODES=1 SLURM_JOB_ID=7 SLURM_STEP_ID=0 SLURM_RESTART_COUNT="$attempt" \
        "$@" >"out-$number" 2>"err-$number" &
    pid=$!
    started+=("$pid")
}

# step RANKS ATTEMPT COMMAND...: all of them; their ids are in $ids
step() {
    local ranks=$1 attempt=$2 number
    shift 2
    ids=()
    for ((number = 0; number < ranks; number++)); do
        rank "$number" "$ranks" "$attempt" "$@"
        ids+=("$pid")
    done
}

all_end() { # CODE
    for pid in "${ids[@]}"; do ends "$1"; done
}

run 0 "${train[@]}" --out alone
step 3 0 "${train[@]}" --zero 2 --rendezvous shared --out three
all_end 0
cmp three/model.safetensors alone/model.safetensors || fail "three ranks over TCP have other bits than one process"
[ -z "$(ls -A shared)" ] || fail "something was left behind: $(ls -A shared)"

# A rank is killed, the next attempt has two, and a file lies there that nobody answers for.
step 3 0 "${train[@]}" --checkpoint-steps 5 --rendezvous shared --out killed
pid=${ids[0]}
until_true has_lines killed/run/metrics.jsonl 33
kill -KILL "${ids[1]}"
wait "${ids[1]}" 2>/dev/null
unset 'ids[1]'
all_end 1
grep -q 'rank 1 ' err-0 err-2 || fail "the dead rank is not named: $(cat err-0 err-2)"
run 0 "$memo" status killed
grep -q 'rank 1' stdout || fail "memo status does not name the dead rank: $(cat stdout)"
echo "memo id 1" >shared/id-7.0-0
echo "half of an i" >shared/id-7.0-1
step 2 1 "${train[@]}" --checkpoint-steps 5 --rendezvous shared --out killed
all_end 0
grep -q 'continuing after step' err-0 || fail "the second attempt began anew: $(cat err-0)"
cmp killed/model.safetensors alone/model.safetensors || fail "the continued run has other bits"

# Who never comes is named by the others.
ids=()
for number in 0 2; do
    rank "$number" 3 2 "${train[@]}" --collective-seconds 1 --rendezvous shared --out absent
    ids+=("$pid")
done
all_end 1
grep -q 'rank 1 of 3 did not come within 1 s' err-0 || fail "rank 0 does not say who is missing: $(cat err-0)"
grep -q 'rank 1 of 3 did not come within 1 s' err-2 || fail "rank 2 does not say who is missing: $(cat err-2)"

# Without the option every process would be a job of its own.
refuses 1 "3 processes were started together" "--rendezvous DIR" -- env SLURM_PROCID=0 \
    SLURM_STEP_NUM_TASKS=3 "${train[@]}" --out split

step 3 3 "$memo" doctor --json --dir shared --rendezvous shared
wait "${ids[@]}" # with 1 where Slurm's tools are, but not this job
grep -q '3 ranks, 3 on this host, over TCP without MPI' out-0 || fail "doctor does not describe it: $(cat out-0 err-0)"
