# SPDX-License-Identifier: Apache-2.0
# Sourced by the sbatch files: settings, one launch, and Slurm's signals turned into an orderly stop.
#
# Settings come from the environment, and from the file that MEMO_CONFIG names (default: memo.conf in
# the directory that sbatch was called in, when it is there). Its lines are NAME=VALUE, taken as they
# stand, without expansion; what the environment sets goes before it.
#
#     MEMO            the binary (memo)
#     MEMO_LAUNCH     mpirun (default) or srun
#     MEMO_MPI        srun's --mpi (pmix); none: the ranks of `memo train` meet by --rendezvous DIR
#     MEMO_LAUNCH_ARGS  further words for it (default: --map-by slot --bind-to none)
#     MEMO_MAX_RESTARTS a job that was requeued so often is not requeued again (1000)
#     MEMO_MAX_CRASHES  nor one that crashed so often (3)
#
# Stopping. Slurm sends USR2 to the batch script some minutes before the time limit (#SBATCH
# --signal=B:USR2@300), and TERM when somebody cancels the job. mpirun answers TERM by killing its
# ranks after a second, but forwards USR2; so both become USR2 here. memo then commits what it has and
# exits with 75. So it does by itself in time before the job's end, which memo_time_left tells it.
# After 75 the job is requeued, and the same command continues where it stopped; after TERM it is not:
# who cancelled it wants it to end. Never USR1: NCCL uses it.
#
# Crashes. When a node fails, Slurm requeues the job itself (--requeue), but it notices only after
# minutes (SlurmdTimeout), and mpirun ends after seconds. So an exit code that is not memo's own is
# looked into: does every node of the job still answer? If not, the script waits for Slurm; if so,
# something crashed, and the job is requeued a few times.
# shellcheck shell=bash

memo_say() { printf '%s  %s\n' "$(date -u +%Y-%m-%dT%H:%M:%SZ)" "$*"; }

memo_fail() {
    printf 'error: %s\n' "$*" >&2
    exit 2
}

# Sets what a file of NAME=VALUE lines says and the environment does not.
memo_read_config() { # FILE
    local line name value number=0
    while IFS= read -r line || [ -n "$line" ]; do
        number=$((number + 1))
        case $line in '' | '#'*) continue ;; esac
        name=${line%%=*} value=${line#*=}
        if [[ $line != *=* || ! $name =~ ^[A-Z][A-Z0-9_]*$ ]]; then
            memo_fail "$1, line $number: not NAME=VALUE: $line"
        fi
        [ -n "${!name+set}" ] || export "$name=$value"
    done <"$1"
}

memo_settings() {
    local file=${MEMO_CONFIG:-}
    if [ -z "$file" ] && [ -e "${SLURM_SUBMIT_DIR:-.}/memo.conf" ]; then
        file=${SLURM_SUBMIT_DIR:-.}/memo.conf
    fi
    [ -z "$file" ] || [ -r "$file" ] || memo_fail "MEMO_CONFIG names '$file', which cannot be read"
    [ -z "$file" ] || memo_read_config "$file"
    : "${MEMO:=memo}" "${MEMO_LAUNCH:=mpirun}" "${MEMO_MAX_RESTARTS:=1000}" "${MEMO_MAX_CRASHES:=3}"
    command -v "$MEMO" >/dev/null || memo_fail "'$MEMO' is not a program: set MEMO to the memo binary"
}

memo_need() { # NAME MEANING
    [ -n "${!1:-}" ] || memo_fail "set $1 to $2 (in the environment or in MEMO_CONFIG)"
}

# Slurm's [DAYS-][[HOURS:]MINUTES:]SECONDS in seconds; nothing for UNLIMITED and the like.
memo_seconds() { # TIME
    local days=0 time=$1 parts seconds=0 part
    [[ $time =~ ^([0-9]+-)?[0-9]+(:[0-9]+){0,2}$ ]] || return 0
    if [[ $time == *-* ]]; then
        days=${time%%-*} time=${time#*-}
    fi
    IFS=: read -r -a parts <<<"$time"
    for part in "${parts[@]}"; do seconds=$((seconds * 60 + 10#$part)); done
    echo $((10#$days * 86400 + seconds))
}

# This job alone: the last job of an array has the number of the whole array.
memo_job() {
    if [ -n "${SLURM_ARRAY_TASK_ID:-}" ]; then
        echo "${SLURM_ARRAY_JOB_ID}_$SLURM_ARRAY_TASK_ID"
    else
        echo "$SLURM_JOB_ID"
    fi
}

# Seconds until Slurm ends this job; nothing when there is no limit or nobody answers.
memo_time_left() {
    if [ -n "${SLURM_JOB_END_TIME:-}" ]; then
        echo $((SLURM_JOB_END_TIME - $(date +%s)))
    else
        memo_seconds "$(timeout 30 squeue -h -j "$(memo_job)" -o %L 2>/dev/null)"
    fi
}

# Words that start a command on every task of the job, one a line.
memo_launcher() {
    local arguments=()
    case $MEMO_LAUNCH in
    mpirun)
        read -r -a arguments <<<"${MEMO_LAUNCH_ARGS---map-by slot --bind-to none}"
        printf '%s\n' mpirun ${arguments[@]+"${arguments[@]}"}
        ;;
    srun)
        read -r -a arguments <<<"${MEMO_LAUNCH_ARGS:-}"
        printf '%s\n' srun "--mpi=${MEMO_MPI:-pmix}" --kill-on-bad-exit=1 ${arguments[@]+"${arguments[@]}"}
        ;;
    *) memo_fail "MEMO_LAUNCH is '$MEMO_LAUNCH', neither mpirun nor srun" ;;
    esac
}

# Runs a command in the background so that signals are seen at once; the exit code is the command's,
# memo_stop the signal that came.
# A launcher that has not started its ranks yet passes a signal to nobody: it is sent a few times.
memo_stop=''
memo_send_stop() {
    kill -USR2 "$memo_pid" 2>/dev/null || true
    [ -z "$memo_sender" ] || return 0
    (
        trap - USR2 TERM
        for _ in 1 2 3; do sleep 5 && kill -USR2 "$memo_pid" 2>/dev/null; done
    ) &
    memo_sender=$!
}

memo_wait_for() {
    local code signalled
    memo_sender=''
    "$@" &
    memo_pid=$!
    trap 'signalled=yes memo_stop=USR2; memo_send_stop' USR2
    trap 'signalled=yes memo_stop=TERM; memo_send_stop' TERM
    while :; do # a trap interrupts wait: then the status is the signal's, and we wait again
        signalled=no code=0
        wait "$memo_pid" || code=$?
        [ $signalled = yes ] || break
    done
    trap - USR2 TERM
    [ -z "$memo_sender" ] || kill "$memo_sender" 2>/dev/null || true
    return "$code"
}

memo_requeue() { # CODE REASON
    [ "${SLURM_RESTART_COUNT:-0}" -lt "$MEMO_MAX_RESTARTS" ] ||
        memo_fail "$2, and not requeued: $SLURM_RESTART_COUNT restarts are as many as MEMO_MAX_RESTARTS allows"
    memo_say "$2; requeueing job $(memo_job)"
    scontrol requeue "$(memo_job)"
    exit "$1"
}

memo_nodes_answer() {
    timeout -k 5 60 srun --overlap --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" \
        --ntasks-per-node=1 --mpi=none true >/dev/null 2>&1
}

# The log has all attempts of the job, and so all of its crashes.
memo_crashes() {
    local log
    log=$(scontrol show job "$(memo_job)" | sed -n 's/^ *StdOut=//p')
    [ ! -r "$log" ] || grep -c '^[0-9TZ:-]*  crashed with exit code' "$log" || true
}

memo_crashed() { # CODE
    local noticed
    memo_say "crashed with exit code $1"
    if ! memo_nodes_answer; then
        noticed=$(scontrol show config | sed -n 's/^SlurmdTimeout *= *\([0-9]*\).*/\1/p')
        memo_say "a node does not answer: waiting for Slurm to notice, and to requeue the job"
        memo_wait_for sleep $((${noticed:-300} + 60)) || true
        [ "$memo_stop" != TERM ] || exit "$1"
    fi
    [ "$(memo_crashes)" -lt "$MEMO_MAX_CRASHES" ] ||
        memo_fail "crashed, and not requeued: MEMO_MAX_CRASHES allows no more than $MEMO_MAX_CRASHES"
    memo_requeue "$1" "crashed"
}

# A command that the signal met before it could answer (while it loaded a model, say) has not ended
# with 75, and continues as well.
memo_requeue_or_end() { # CODE
    if [ "$memo_stop" = TERM ]; then
        memo_say "cancelled; exit code $1. Submit the job again to continue"
    elif [ "$1" -eq 75 ] || { [ "$memo_stop" = USR2 ] && [ "$1" -ne 0 ]; }; then
        memo_requeue "$1" "stopped with exit code $1"
    elif [ "$1" -gt 2 ]; then # memo's own are 0, 1, 2 and 75
        memo_crashed "$1"
    else
        memo_say "exit code $1"
    fi
    exit "$1"
}

memo_announce() {
    local left
    left=$(memo_time_left)
    memo_say "attempt $((${SLURM_RESTART_COUNT:-0} + 1)) of job $(memo_job) on ${SLURM_JOB_NODELIST:-?}, ${left:-unlimited} s left"
}

# memo_run WORD...: a memo command of one process.
memo_run() {
    local code=0
    memo_announce
    memo_wait_for "$MEMO" "$@" || code=$?
    memo_requeue_or_end "$code"
}

# memo_launch WORD...: a memo command of all tasks of the job.
memo_launch() {
    local code=0 launcher
    memo_announce
    mapfile -t launcher < <(memo_launcher)
    memo_wait_for "${launcher[@]}" "$MEMO" "$@" || code=$?
    memo_requeue_or_end "$code"
}

# The option that makes memo stop by itself in time, as words.
memo_time_option() {
    local left
    left=$(memo_time_left)
    [ -z "$left" ] || printf '%s\n' --time-left "$left"
}

# Only one job at a time goes on: of two on one output (Slurm may run a job twice, people submit twice)
# the second waits, and then finds everything done. The lock ends with the job that holds it.
memo_alone() { # OUTPUT
    mkdir -p "$(dirname "$1")"
    exec {memo_lock}>>"$1.lock"
    flock --nonblock "$memo_lock" && return
    memo_say "another job works on $1; waiting for it"
    local code=0
    memo_wait_for flock "$memo_lock" || code=$?
    [ "$code" -eq 0 ] || memo_requeue_or_end 75
}
