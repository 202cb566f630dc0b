# SPDX-License-Identifier: Apache-2.0
# What the tests on a real Slurm share. Sourced as: . lib.sh, by a script that ctest calls with the
# binary and the repository's root; the script's lines then run in one temporary directory, from which
# jobs are submitted. cluster.sh brings the cluster up and down.
# shellcheck shell=bash
set -uo pipefail

# shellcheck source=tests/slurm/cluster.sh
. "$(dirname "${BASH_SOURCE[0]}")/cluster.sh"

memo=$(realpath "$1")
root=$(realpath "$2")
examples=$root/datasets/examples
directory=$(mktemp -d)
export MEMO=$memo

# The stop signal comes from the tests, and a job's limit is far away.
small=(--nodes=2 --ntasks-per-node=2 --time=10)

finish() {
    local code=$?
    [ $code -eq 0 ] || [ $code -eq 77 ] || show_logs >&2
    cluster_stop
    cd /
    rm -rf "$directory"
    exit $code
}
trap finish EXIT
trap 'exit 143' TERM INT HUP
cd "$directory" || exit 1

show_logs() {
    local log
    for log in "$directory"/*.log; do
        [ ! -s "$log" ] || { printf -- '--- %s\n' "${log##*/}" && tail -n 40 "$log"; }
    done
}

fail() {
    printf 'FAILED: %s\n' "$*" >&2
    exit 1
}

say() { printf '%4d s  %s\n' "$SECONDS" "$*"; }

run() { timeout -k 5 120 "$@" >stdout 2>stderr || fail "exit code $? of: $* ($(tail -n 2 stderr))"; }

# A number of the JSON object in a file.
json_number() { sed -n "1s/.*\"$2\":\(-\{0,1\}[0-9.e+-]*\).*/\1/p" "$1"; }

# The corpus, and the set that an undisturbed run makes of it.
make_corpus() {
    mkdir texts
    cp "$examples"/[a-h]*.txt texts/
    run "$memo" ingest texts --out corpus.h5 --chunk-tokens 100 --overlap 0
    run "$memo" generate --corpus corpus.h5 --out undisturbed
    run "$memo" export undisturbed --out undisturbed.jsonl
    sort undisturbed.jsonl >undisturbed.sorted
    run "$memo" audit --json undisturbed
    planned=$(json_number stdout planned)
    [ "$planned" -ge 100 ] || fail "only $planned tasks: too few to disturb"
}

# Options that make a generation of three workers last about so long, in many segments.
lasting() { # SECONDS
    echo "--commit-seconds 0.3 --max-tasks-per-second $((planned / (3 * $1) + 1))"
}

# identical OUT: audited, and the same pairs as undisturbed.
identical() {
    run "$memo" audit --json "$1"
    [ "$(json_number stdout planned)" -eq "$planned" ] || fail "$1: another plan"
    [ "$(json_number stdout missing)" -eq 0 ] || fail "$1: tasks are missing"
    [ "$(json_number stdout not_planned)" -eq 0 ] || fail "$1: tasks that nobody planned"
    # shellcheck disable=SC2034 # for the caller
    repeated=$(json_number stdout repeated)
    run "$memo" export "$1" --out again.jsonl
    sort again.jsonl | cmp - undisturbed.sorted || fail "$1: other pairs than the undisturbed run"
}

# submit SBATCH WORD...: the job's id is in $job.
submit() {
    job=$("${cluster_waits[@]}" sbatch --parsable "$@") || fail "sbatch $*"
    job=${job%%;*}
}

submit_generate() { # OUT SECONDS [SBATCH WORD...]
    local out=$1
    export GENERATE_ARGS
    GENERATE_ARGS=$(lasting "$2")
    shift 2
    submit "${small[@]}" --export=ALL,CORPUS=corpus.h5,OUT="$out" "$@" "$root/slurm/generate.sbatch"
}

field() { # JOB NAME
    "${cluster_waits[@]}" scontrol -o show job "$1" 2>/dev/null | sed -n "s/.* $2=\([^ ]*\).*/\1/p" | head -n 1
}

in_state() { # JOB STATE
    [ "$(field "$1" JobState)" = "$2" ]
}

has_ended() { # JOB
    case $(field "$1" JobState) in PENDING | RUNNING | COMPLETING | CONFIGURING | REQUEUED | '') return 1 ;; esac
}

# ends JOB STATE SECONDS
ends() {
    cluster_until "$3" has_ended "$1" || fail "job $1 is still $(field "$1" JobState) after $3 s"
    in_state "$1" "$2" || fail "job $1 ended as $(field "$1" JobState), not $2"
}

has_segment() { # OUT
    local segments=("$1"/attempt-*/*.h5)
    [ -e "${segments[0]}" ]
}

# half_way OUT JOB: the first segments stand, and the job still runs.
half_way() {
    cluster_until 60 has_segment "$1" || fail "job $2, $(field "$2" JobState), committed nothing"
    in_state "$2" RUNNING || fail "job $2 is $(field "$2" JobState), not half-way"
}

attempts() { grep -c 'attempt [0-9]* of job' "$1"; } # LOG
