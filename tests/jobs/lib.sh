# SPDX-License-Identifier: Apache-2.0
# What the tests of the whole binary share. Sourced as: . lib.sh, by a script that ctest calls with
# the binary and the repository's root. Everything lies in one temporary directory, which is also the
# working directory; processes are ended by their ids.
set -uo pipefail

memo=$1
root=$2
examples=$root/datasets/examples
directory=$(mktemp -d)
export TMPDIR=$directory # what mpirun leaves behind when it is killed goes away with the rest
started=()               # ids of processes in the background

mpi=("${MPIEXEC:-mpirun}" --oversubscribe --bind-to none)
[ "$(id -u)" -ne 0 ] || mpi+=(--allow-run-as-root)

cleanup() {
    local pid
    for pid in ${started[@]+"${started[@]}"}; do
        # shellcheck disable=SC2046 # one word per process
        kill -KILL $(children_of "$pid") "$pid" 2>/dev/null
    done
    cd /
    rm -rf "$directory"
}
trap cleanup EXIT
cd "$directory" || exit 1

fail() {
    printf 'FAILED: %s\n' "$*" >&2
    [ ! -s "$directory/stderr" ] || sed 's/^/    /' "$directory/stderr" >&2
    exit 1
}

# run CODE COMMAND...: stdout and stderr go to the files of that name.
run() {
    local expected=$1 code
    shift
    "$@" >"$directory/stdout" 2>"$directory/stderr"
    code=$?
    [ "$code" -eq "$expected" ] || fail "exit code $code, not $expected: $*"
}

# says TEXT...: the last command's stderr holds each of them.
says() {
    local text
    for text in "$@"; do
        grep -qF -- "$text" "$directory/stderr" || fail "the message does not say: $text"
    done
}

# refuses CODE TEXT... -- COMMAND...: it fails with this code and one line, which holds the texts.
refuses() {
    local code=$1 texts=()
    shift
    while [ "$1" != -- ]; do
        texts+=("$1")
        shift
    done
    shift
    run "$code" "$@"
    [ "$(grep -c 'error: ' "$directory/stderr")" -eq 1 ] || fail "not one error line: $*"
    says "${texts[@]}"
}

# start COMMAND...: in the background; its id is in $pid.
start() {
    "$@" >"$directory/stdout" 2>"$directory/stderr" &
    pid=$!
    started+=("$pid")
}

# ends CODE: waits for $pid. CODE "any": but not 0.
ends() {
    local code
    wait "$pid" 2>/dev/null
    code=$?
    if [ "$1" = any ]; then
        [ "$code" -ne 0 ] || fail "exit code 0 of a job that was killed"
    else
        [ "$code" -eq "$1" ] || fail "exit code $code, not $1"
    fi
}

# until_true COMMAND...: polls while $pid lives, at most 30 s.
until_true() {
    local i
    for ((i = 0; i < 3000; i++)); do
        "$@" && return
        kill -0 "$pid" 2>/dev/null || fail "ended before: $*"
        sleep 0.01
    done
    fail "still not: $*"
}

has_lines() { # FILE COUNT
    [ -e "$1" ] && [ "$(wc -l <"$1")" -ge "$2" ]
}

children_of() { # PID
    local status
    for status in /proc/[0-9]*/status; do
        awk -v parent="$1" '/^Pid:/ { pid = $2 } /^PPid:/ && $2 == parent { print pid }' "$status" 2>/dev/null
    done
}

rank_of() { # PID of a process that mpirun started
    cat "/proc/$1/environ" 2>/dev/null | tr '\0' '\n' | sed -n 's/^OMPI_COMM_WORLD_RANK=//p'
}

# The id of rank R of the mpirun $pid.
process_of_rank() {
    local child
    for child in $(children_of "$pid"); do
        if [ "$(rank_of "$child")" = "$1" ]; then
            echo "$child"
            return
        fi
    done
}

# A number of the first JSON object in a file: json_number FILE KEY.
json_number() {
    sed -n "1s/.*\"$2\":\(-\{0,1\}[0-9.e+-]*\).*/\1/p" "$1"
}

# flip FILE OFFSET: inverts one byte; a negative offset counts from the end.
flip() {
    local at=$2 byte
    [ "$at" -ge 0 ] || at=$(($(stat -c %s "$1") + at))
    byte=$(od -An -tu1 -j "$at" -N 1 "$1")
    printf "\\x$(printf %02x $((byte ^ 255)))" | dd of="$1" bs=1 seek="$at" conv=notrunc status=none
}

# A model small enough to train in a second: small_model CORPUS DIR
small_model() {
    run 0 "$memo" init --text "$1" --out "$2" --layers 1 --hidden 64 --heads 1 --kv-heads 1 --ffn 96 \
        --vocabulary 500
}
