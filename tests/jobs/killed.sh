#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A generation run that is killed or stopped half-way and started again ends with the pairs of an
# undisturbed one.
# usage: killed.sh BINARY ROOT [TIMES [SEED]]: with TIMES, that many kills at random moments
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

mkdir texts
cp "$examples"/[a-h]*.txt texts/
printf 'nothing here that a question could be made of; it just goes on and on, without end\n' >texts/plain.txt
run 0 "$memo" ingest texts --out corpus.h5 --chunk-tokens 100 --overlap 0
run 0 "$memo" generate --corpus corpus.h5 --out undisturbed
run 0 "$memo" export undisturbed --out undisturbed.jsonl
run 0 "$memo" audit --json undisturbed
planned=$(json_number stdout planned)
[ "$(json_number stdout empty)" -ge 1 ] || fail "the document without pairs is not counted as empty"

# About 1.5 seconds of work for two workers, in many segments.
generate=("$memo" generate --corpus corpus.h5 --commit-seconds 0.1
    --max-tasks-per-second "$((planned / 3))")

has_segment() { # DIRECTORY
    local segments=("$1"/attempt-*/*.h5)
    [ -e "${segments[0]}" ]
}

half_way() { # DIRECTORY COMMAND...: starts it and returns once the first segment stands
    local out=$1
    shift
    start "$@" --out "$out"
    until_true has_segment "$out"
}

# continues DIRECTORY COMMAND...: the same command again, then everything is there.
continues() {
    local out=$1
    shift
    run 0 "$@" --out "$out"
    says "done by earlier attempts"
    run 0 "$memo" audit --json "$out"
    [ "$(json_number stdout planned)" -eq "$planned" ] || fail "another plan"
    [ "$(json_number stdout repeated)" -eq 0 ] || fail "tasks that were done are done again"
    run 0 "$memo" export "$out" --out again.jsonl
    cmp undisturbed.jsonl again.jsonl || fail "other pairs than the undisturbed run"
}

kill_rank() { # RANK
    local victim
    victim=$(process_of_rank "$1")
    [ -n "$victim" ] || fail "rank $1 was not found"
    kill -KILL "$victim"
    ends any
}

kill_all() {
    local ranks
    ranks=$(children_of "$pid")
    # shellcheck disable=SC2086 # one word per process
    kill -KILL "$pid" $ranks 2>/dev/null
    ends 137
}

if [ $# -gt 2 ]; then
    RANDOM=${4:-$$}
    for ((i = 0; i < $3; i++)); do
        victim=$((RANDOM % 4))
        half_way "random-$i" "${mpi[@]}" -np 3 "${generate[@]}"
        sleep "0.$((RANDOM % 7))"
        printf 'kill %d: %s\n' "$i" "$victim"
        if ! kill -0 "$pid" 2>/dev/null; then
            ends 0
        elif [ "$victim" -eq 3 ]; then
            kill_all
        else
            kill_rank "$victim"
        fi
        continues "random-$i" "${mpi[@]}" -np $((2 + RANDOM % 3)) "$memo" generate --corpus corpus.h5
        rm -rf "random-$i"
    done
    exit 0
fi

half_way worker "${mpi[@]}" -np 3 "${generate[@]}"
kill_rank 2
continues worker "${mpi[@]}" -np 3 "${generate[@]}"

half_way coordinator "${mpi[@]}" -np 3 "${generate[@]}"
kill_rank 0
continues coordinator "${mpi[@]}" -np 2 "$memo" generate --corpus corpus.h5 # with fewer workers

half_way everything "${mpi[@]}" -np 3 "${generate[@]}"
kill_all
continues everything "$memo" generate --corpus corpus.h5 # without mpirun

half_way stopped "${mpi[@]}" -np 3 "${generate[@]}"
kill -USR2 "$pid"
ends 75
run 1 "$memo" audit stopped
says "are missing"
grep -q "^missing [0-9a-f]*: chunk [0-9]*, of document '.*txt'" stdout || fail "audit does not say what is missing"
run 0 "$memo" status stopped
grep -q stopped stdout || fail "memo status does not say that the run was stopped"
continues stopped "${mpi[@]}" -np 3 "$memo" generate --corpus corpus.h5

for signal in TERM INT USR2; do
    # bash starts background jobs with SIGINT ignored; env gives it back
    half_way "single-$signal" env --default-signal=INT "${generate[@]}"
    kill -"$signal" "$pid"
    ends 75
    continues "single-$signal" "$memo" generate --corpus corpus.h5
done
