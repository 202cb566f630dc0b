#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Several generate jobs on one run directory at once, as an array of Slurm runs them: under 1 % of
# the tasks are computed twice and none is stored twice, also when a job of them dies or is paused.
# usage: shared.sh BINARY ROOT
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

mkdir texts
cp "$examples"/*.txt texts/
run 0 "$memo" ingest texts --out corpus.h5 --chunk-tokens 60 --overlap 0
run 0 "$memo" generate --corpus corpus.h5 --out undisturbed
run 0 "$memo" export undisturbed --out undisturbed.jsonl
run 0 "$memo" audit --json undisturbed
planned=$(json_number stdout planned)
export SLURM_ARRAY_TASK_COUNT=4

# job NAME OUT RATE COMMAND...: in the background, its stderr in NAME.err; its id is in $pid.
job() {
    local name=$1 out=$2 rate=$3
    shift 3
    "$@" "$memo" generate --corpus corpus.h5 --out "$out" --commit-seconds 0.2 --claim-seconds 2 \
        --max-tasks-per-second "$rate" >"$name.out" 2>"$name.err" &
    pid=$!
    started+=("$pid")
}

# ended ID CODE NAME
ended() {
    local code
    wait "$1" 2>/dev/null
    code=$?
    [ "$code" -eq "$2" ] || { cat "$3.err" >&2; fail "job $3: exit code $code, not $2"; }
}

computed() { # NAME: tasks that this job did
    sed -n 's/.* \([0-9]*\) tasks were done here, .*/\1/p' "$1.err"
}

# complete OUT: everything is there, once, and as of one job.
complete() {
    run 0 "$memo" audit --json "$1"
    [ "$(json_number stdout planned)" -eq "$planned" ] || fail "another plan"
    [ "$(json_number stdout repeated)" -eq 0 ] || fail "$(json_number stdout repeated) tasks are stored twice"
    run 0 "$memo" export "$1" --out again.jsonl
    cmp undisturbed.jsonl again.jsonl || fail "other pairs than one job makes"
    [ ! -e "$1/claims" ] || fail "claims of a finished run: $(ls -R "$1/claims")"
}

has_segments() { # OUT COUNT
    local segments=("$1"/attempt-*/*.h5)
    [ -e "${segments[0]}" ] && [ "${#segments[@]}" -ge "$2" ]
}

# Four at once, one of them with ranks.
ids=()
for name in one two three; do
    job $name array 80
    ids+=("$pid")
done
job four array 80 "${mpi[@]}" -np 2
ids+=("$pid")
for name in one two three four; do
    ended "${ids[0]}" 0 $name
    ids=("${ids[@]:1}")
done
sum=0
for name in one two three four; do
    part=$(computed $name)
    [ "${part:-0}" -gt 0 ] || fail "job $name did nothing"
    sum=$((sum + part))
done
printf 'array of 4: %d tasks, %d computed\n' "$planned" "$sum"
[ $((100 * (sum - planned))) -lt "$planned" ] || fail "$((sum - planned)) of $planned tasks were computed twice"
complete array

# One of two is so slow that what it has begun would take a minute and a half: the other one does that as well, and both
# end. What both computed is stored once or twice, and counts once.
job slow backed 0.3
slow=$pid
until_true has_segments backed 1
job fast backed 400
ended "$pid" 0 fast
ended "$slow" 0 slow
grep -q 'tasks that slower jobs hold were begun here as well' fast.err || fail "nothing was backed up"
run 0 "$memo" export backed --out again.jsonl
cmp undisturbed.jsonl again.jsonl || fail "backups changed the pairs"
[ ! -e backed/claims ] || fail "claims of a finished run stay"

# One of two is killed: the other one does its part as well.
job dies killed 60
victim=$pid
until_true has_segments killed 2
job lives killed 60
survivor=$pid
sleep 0.5
kill -KILL "$victim"
ended "$survivor" 0 lives
complete killed

# One of two is paused for longer than --claim-seconds: it finds out, stops, and may be run again.
job sleeps paused 60
sleeper=$pid
until_true has_segments paused 2
kill -STOP "$sleeper"
job works paused 400
worker=$pid
ended "$worker" 0 works
kill -CONT "$sleeper"
ended "$sleeper" 75 sleeps
grep -q "took this one for dead" sleeps.err || fail "the paused job does not say why it stopped"
complete paused
run 0 "$memo" generate --corpus corpus.h5 --out paused
complete paused
