# SPDX-License-Identifier: Apache-2.0
# Sourced by the sbatch files: launches one memo job under mpirun and turns Slurm's signals into an
# orderly stop.
#
# Slurm sends USR2 to the batch script some minutes before the time limit (#SBATCH --signal), and TERM
# on scancel. mpirun answers TERM by killing its ranks after a second, but forwards USR2; so both
# become USR2 here. memo then commits what it has and exits with 75, and the job is requeued: the same
# command continues where it stopped.
# shellcheck shell=bash

memo_launch() {
    local pid code signalled
    mpirun --map-by "${MEMO_MAP_BY:-slot}" --bind-to "${MEMO_BIND_TO:-none}" \
        "${MEMO:-memo}" "$@" &
    pid=$!
    trap 'signalled=yes; kill -USR2 "$pid" 2>/dev/null || true' USR2 TERM
    while :; do # a trap interrupts wait: then the status is the signal's, and we wait again
        signalled=no code=0
        wait "$pid" || code=$?
        [ $signalled = yes ] || break
    done
    trap - USR2 TERM
    if [ "$code" -eq 75 ]; then
        echo "memo stopped on request after committing; requeueing job $SLURM_JOB_ID"
        scontrol requeue "$SLURM_JOB_ID"
    fi
    return "$code"
}
