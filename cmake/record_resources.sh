#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Compiler launcher: record_resources.sh DIR COMMAND... runs the command and keeps what ptxas says of
# registers, shared memory and spills (nvcc -Xptxas -v) in DIR, one file per source; other messages
# pass. tests/cuda_emulator/resources.sh prints the table.
set -uo pipefail
directory=$1
shift
mkdir -p "$directory"
source=$(printf '%s\n' "$@" | grep -m1 '\.cu$')
"$@" 2>&1 | awk -v record="$directory/$(basename "${source:-none}").txt" '
    BEGIN { printf "" > record }
    /ptxas info|bytes stack frame/ { print > record; next }
    { print }' >&2
exit "${PIPESTATUS[0]}"
