#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A rank that is stopped ends the job at the deadline with one message; after a killed one mpirun ends
# the job. Either way `memo status` says which rank was missing in which call, and the same command
# continues.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

run 0 "$memo" ingest "$examples"/[a-h]*.txt --out corpus.h5
run 0 "$memo" generate --corpus corpus.h5 --out reflections
small_model corpus.h5 base
train=("${mpi[@]}" -np 3 "$memo" train --base base --data reflections --sample 400 --batch 16
    --epochs 8 --lr 1e-3 --threads 1 --checkpoint-steps 5 --collective-seconds 1) # 200 steps

start_and_wait() { # OUT: until the job is in its middle
    start "${train[@]}" --out "$1"
    until_true has_lines "$1/run/metrics.jsonl" 12
}

parse_records() { # DIRECTORY
    python3 -c '
import json, sys, glob
for path in glob.glob(sys.argv[1] + "/rank-*.json"):
    record = json.load(open(path))
    last = record["calls"][-1]
    print(record["rank"], last["number"], last["call"], last["leave"])' "$1" >records ||
        fail "a flight record cannot be parsed"
}

# In turn the rank that speaks for the others is another one.
for victim in 0 2; do
    out=stopped-$victim
    start_and_wait "$out"
    stopped=$(process_of_rank "$victim")
    kill -STOP "$stopped"
    ends any
    for ((i = 0; i < 500; i++)); do
        kill -0 "$stopped" 2>/dev/null || break
        sleep 0.01
    done
    [ "$i" -lt 500 ] || fail "the stopped rank is still there"
    [ "$(grep -c "rank $victim has not entered" stderr)" -eq 1 ] || fail "not one message that names rank $victim"
    [ "$(grep -c 'error: ' stderr)" -eq 1 ] || fail "not one error line"
    ! grep -q 'ending all ranks' stderr || fail "a second message"
    grep -Eq "rank [0-2] of 3, [a-z0-9 -]+ number [0-9]+, step [0-9]+: .* within 1 s" stderr ||
        fail "the message does not name rank, call and step"
    parse_records "$out/run/flight"
    [ "$(wc -l <records)" -eq 2 ] || fail "two ranks should have left records"
    [ "$(cut -d ' ' -f 2- records | sort -u | wc -l)" -eq 1 ] || fail "the two do not wait in the same call"
    run 0 "$memo" status "$out"
    grep -Eq "rank $victim has not entered [a-z0-9 -]+ number [0-9]+ at step [0-9]+ " stdout ||
        fail "status does not name the missing rank: $(cat stdout)"
done
run 0 "${train[@]}" --out stopped-0
says "continuing after step"
run 0 "$memo" status stopped-0
! grep -q "has not entered" stdout || fail "status speaks of an old failure"

start_and_wait killed
kill -KILL "$(process_of_rank 1)"
ends any
[ ! -e killed/model.safetensors ] || fail "a killed run left a model"
run 0 "$memo" status killed
grep -q "rank 1 has not entered" stdout || fail "status does not name the killed rank: $(cat stdout)"
run 0 "${train[@]}" --out killed
says "continuing after step"
