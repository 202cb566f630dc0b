#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# memo doctor on a machine that is well, and on one that is made ill.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

level_of() { # CHECK, of the JSON lines in stdout
    python3 -c 'import json, sys
checks = {c["check"]: c for c in map(json.loads, open("stdout"))}
c = checks[sys.argv[1]]
assert c["found"] and (c["level"] == "ok" or c["fix"]), c
print(c["level"])' "$1"
}

expect() { # LEVEL CHECK...
    local wanted=$1 check
    shift
    for check in "$@"; do
        [ "$(level_of "$check")" = "$wanted" ] || fail "$check is not $wanted: $(grep -F "\"$check\"" stdout)"
    done
}

mkdir here
run 0 "$memo" doctor --dir here
grep -q '^ok    MPI ' stdout || fail "mpirun did not start two ranks: $(cat stdout)"
grep -q ' 0 failures$' stdout || fail "failures on this machine: $(cat stdout)"
[ -z "$(ls -A here)" ] || fail "something was left behind: $(ls -A here)"
run 0 "$memo" doctor --json --dir here
expect ok MPI O_EXCL rename fsync HDF5 clock inodes "memory limits"

run 0 "${mpi[@]}" -np 3 "$memo" doctor --json --dir here
expect ok MPI "O_EXCL among ranks" "shared view" "ranks per node"
grep -q '3 ranks, 3 on this host, with PMIx' stdout || fail "the launch is not described: $(cat stdout)"
[ "$(grep -c '"check":"MPI"' stdout)" -eq 1 ] || fail "more than one rank speaks"
[ -z "$(ls -A here)" ] || fail "ranks left something behind: $(ls -A here)"

# Without mpirun and srun; without anything to start at all.
run 1 env PATH=/nowhere "$memo" doctor --json --dir here
expect fail MPI
grep -q 'no mpirun on the PATH' stdout || fail "the missing mpirun is not named"
mkdir bin
printf '#!/bin/sh\necho there is no orted >&2\nexit 3\n' >bin/mpirun
chmod +x bin/mpirun
run 1 env PATH="$directory/bin:$PATH" "$memo" doctor --json --dir here
expect fail MPI
grep -q 'there is no orted' stdout || fail "what mpirun said is not shown"
printf '#!/bin/sh\necho 1 ranks; echo 1 ranks\n' >bin/mpirun
run 1 env PATH="$directory/bin:$PATH" "$memo" doctor --json --dir here
grep -q 'do not see each other' stdout || fail "two lone ranks are not noticed"

# A Slurm that never requeues, and one that does not answer.
printf '#!/bin/sh\nprintf "JobRequeue              = 0\\nKillWait                = 30 sec\\n"\n' >bin/scontrol
chmod +x bin/scontrol
rm bin/mpirun
run 0 env PATH="$directory/bin:$PATH" "$memo" doctor --json --dir here
expect warn Slurm
grep -q 'JobRequeue = 0' stdout || fail "JobRequeue is not named"
printf '#!/bin/sh\necho "   JobId=7 Requeue=0 Restarts=0"; echo "JobRequeue = 1"\n' >bin/scontrol
run 1 env PATH="$directory/bin:$PATH" SLURM_JOB_ID=7 "$memo" doctor --json --dir here
expect ok Slurm
expect fail "Slurm job"

# Few descriptors, little address space.
run 1 bash -c "ulimit -n 64; exec '$memo' doctor --json --dir here"
expect fail "open files"
run 0 bash -c "ulimit -n 512; exec '$memo' doctor --json --dir here"
expect warn "open files"
if [ -z "$("$memo" --version | grep sanitize)" ] && ! ldd "$memo" | grep -q asan; then
    run 0 bash -c "ulimit -v 60000000; exec '$memo' doctor --json --dir here"
    expect warn "memory limits"
fi

# Directories that are not there, may not be written, are full.
for nowhere in here/nowhere /dev/null/x; do
    run 1 "$memo" doctor --json --dir $nowhere
    expect fail "O_EXCL" fsync "disk space"
done
if [ "$(id -u)" -eq 0 ] && mount -t tmpfs -o size=1m,nr_inodes=64 memo-doctor here 2>/dev/null; then
    trap 'umount -l "$directory/here" 2>/dev/null; cleanup' EXIT
    run 1 "$memo" doctor --json --dir here
    expect fail "disk space" inodes
    expect warn "file system"
    dd if=/dev/zero of=here/full bs=1k count=4096 2>/dev/null
    run 1 "$memo" doctor --json --dir here
    expect fail fsync HDF5
    grep -qi 'no space left' stdout || fail "the full disk is not named: $(cat stdout)"
    rm here/full
    { for ((i = 0; i < 100; i++)); do : >"here/$i"; done; } 2>/dev/null
    run 1 "$memo" doctor --json --dir here
    expect fail O_EXCL
    umount here
else
    echo "not root, or no mounts here: the full tmpfs was left out"
fi
