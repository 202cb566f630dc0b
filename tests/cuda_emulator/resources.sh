#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# resources.sh DIR SOURCES: prints registers, shared memory and spills of every CUDA kernel, as ptxas
# reported them when they were compiled. A kernel that spills must say why: a line "spills: NAME" in
# its source.
set -euo pipefail
directory=$1 sources=$2
awk '
    /Compiling entry function/ { split($0, quoted, "\047"); name = quoted[2] }
    /bytes stack frame/ { spills = $5 + $9 }
    /Used [0-9]+ registers/ {
        match($0, /Used [0-9]+/); registers = substr($0, RSTART + 5, RLENGTH - 5)
        shared = match($0, /[0-9]+ bytes smem/) ? substr($0, RSTART, RLENGTH - 11) : 0
        print name, registers, shared, spills
    }' "$directory"/*.txt | c++filt -p | sed 's/, /,/g' | sort >"$directory/table"
[ -s "$directory/table" ] || { echo "no kernel was reported in '$directory'"; exit 1; }
printf '%-62s %9s %12s %12s\n' kernel registers shared_bytes spill_bytes
awk '{ printf "%-62s %9d %12d %12d\n", $1, $2, $3, $4 }' "$directory/table"
status=0
while read -r name _ _ spills; do
    base=${name%%<*}
    if [ "$spills" -gt 0 ] && ! grep -q "spills: $base" "$sources"/*.cu; then
        echo "$name spills $spills bytes and does not say why"
        status=1
    fi
done <"$directory/table"
exit $status
