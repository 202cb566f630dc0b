#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The cluster's scripts: what shellcheck says (nothing), and how settings and times are read.
# usage: scripts.sh BINARY ROOT
set -uo pipefail
cd "$2" || exit 1

fail() {
    printf 'FAILED: %s\n' "$*" >&2
    exit 1
}

# shellcheck source=slurm/common.sh
. slurm/common.sh

seconds() { # TIME EXPECTED
    [ "$(memo_seconds "$1")" = "$2" ] || fail "$1 is $(memo_seconds "$1") s, not $2"
}
seconds 59 59
seconds 4:05 245
seconds 01:00:00 3600
seconds 08:09:09 29349
seconds 2-00:00:01 172801
for word in UNLIMITED NOT_SET INVALID '' 1:2:3:4 -5; do seconds "$word" ''; done

directory=$(mktemp -d)
trap 'rm -rf "$directory"' EXIT
# shellcheck disable=SC2016 # as it stands
printf '# a comment\n\nONE=1 $HOME "as it stands"\nTWO=from the file\nTHREE=' >"$directory/good"
printf 'ONE=1\nrm -rf x\n' >"$directory/bad"
# shellcheck disable=SC2030,SC2031,SC2034,SC2016 # subshells; read by name; taken as it stands
(
    TWO='from the environment'
    memo_read_config "$directory/good"
    [ "$ONE" = '1 $HOME "as it stands"' ] || fail "ONE is $ONE"
    [ "$TWO" = 'from the environment' ] || fail "TWO is $TWO"
    [ "${THREE-unset}" = '' ] || fail "THREE is ${THREE-unset}"
) || exit 1
(memo_read_config "$directory/bad") 2>"$directory/stderr"
[ $? -eq 2 ] || fail "a line without NAME=VALUE is taken"
grep -q "bad, line 2: not NAME=VALUE: rm -rf x" "$directory/stderr" || fail "the line is not named: $(cat "$directory/stderr")"

launcher() { # EXPECTED: on one line
    local words
    words=$(memo_launcher | tr '\n' ' ')
    [ "$words" = "$1 " ] || fail "the launcher is $words"
}
MEMO_LAUNCH=mpirun launcher 'mpirun --map-by slot --bind-to none'
MEMO_LAUNCH=mpirun MEMO_LAUNCH_ARGS='--map-by node' launcher 'mpirun --map-by node'
MEMO_LAUNCH=srun launcher 'srun --mpi=pmix --kill-on-bad-exit=1'
(MEMO_LAUNCH='qsub' memo_launcher) 2>/dev/null && fail "an unknown launcher is taken"

command -v shellcheck >/dev/null || {
    echo "skipped: shellcheck is not installed; the rest passed"
    exit 77
}
shellcheck -x slurm/*.sh slurm/*.sbatch tests/slurm/*.sh
