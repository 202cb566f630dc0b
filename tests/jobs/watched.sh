#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What can be known of a generation while it runs and afterwards: its cost against a budget, the
# forecast, and what memo status reads from the run directory.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

# Tasks of 6 to 160 tokens.
run 0 "$memo" ingest "$examples" --out corpus.h5 --chunk-tokens 160 --overlap 0
run 0 "$memo" generate --corpus corpus.h5 --out undisturbed
run 0 "$memo" export undisturbed --out undisturbed.jsonl
tasks=$(json_number undisturbed/run/summary.json tasks)

# within VALUE OF SHARE: |VALUE / OF - 1| <= SHARE
within() {
    awk -v a="$1" -v b="$2" -v share="$3" 'BEGIN { exit !(b > 0 && a >= b * (1 - share) && a <= b * (1 + share)) }'
}

# forecast_holds DIR: that of the first metrics line at which a tenth of the tasks was done is within a
# fifth of the end.
forecast_holds() {
    local early end
    early=$(sed -n 's/.*"tasks_done":\([0-9]*\),.*"forecast_gpu_hours":\([0-9.e+-]*\)}.*/\1 \2/p' "$1/run/metrics.jsonl" |
        awk -v tasks="$tasks" '$1 >= tasks / 10 { print $2; exit }')
    end=$(json_number "$1/run/summary.json" gpu_hours)
    printf 'forecast at a tenth of the tasks: %s GPU-hours, at the end: %s\n' "$early" "$end"
    within "$early" "$end" 0.2
}

generate=("$memo" generate --corpus corpus.h5 --commit-seconds 0.2)
start "${mpi[@]}" -np 3 "${generate[@]}" --out run --max-tasks-per-second "$((tasks / 30))"
until_true [ -s run/run/attempts/attempt-0001.json ]
run 0 "$memo" status run
grep -q 'attempt-0001 on .*: running, heard of [0-4][.0-9]* s ago' stdout || fail "status does not tell: $(cat stdout)"
run 0 timeout 60 "$memo" status --watch 0.5 run
[ "$(grep -c '^generate' stdout)" -ge 3 ] || fail "status --watch ended too early"
ends 0
if ! forecast_holds run; then # what else the machine did may have slowed one part of it
    run 0 "${mpi[@]}" -np 3 "${generate[@]}" --out again --max-tasks-per-second "$((tasks / 30))"
    forecast_holds again || fail "the forecast at a tenth of the tasks was off by more than a fifth, twice"
fi
end=$(json_number run/run/summary.json gpu_hours)
within "$end" "$(awk -v s="$(json_number run/run/summary.json seconds)" 'BEGIN { print 2 * s / 3600 }')" 0.2 ||
    fail "GPU-hours are not workers times wall time"
run 0 "$memo" status --plot run
grep -q 'tokens/s' stdout || fail "no curve"
grep -q "$tasks of $tasks tasks (100.0%)" stdout || fail "status does not tell the end: $(cat stdout)"
run 0 "$memo" status --json run undisturbed
python3 -c 'import json, sys
for line in sys.stdin:
    run = json.loads(line)
    assert run["state"] == "done" and run["attempts"][-1]["tasks"]["done"] == run["tasks"], run' <stdout ||
    fail "status --json"

# A budget of about half the run, then the same one again, then enough.
slow=("${generate[@]}" --out budget --max-tasks-per-second "$((tasks / 6))")
run 75 "${slow[@]}" --max-gpu-hours 0.001
says "is nearly spent" "tasks remain" "larger budget"
spent=$(json_number budget/run/summary.json gpu_hours)
awk -v spent="$spent" 'BEGIN { exit !(spent <= 0.001 + 0.5 / 3600) }' || fail "spent $spent of 0.001 GPU-hours"
done=$(json_number budget/run/summary.json tasks_done)
[ "$done" -gt 0 ] && [ "$done" -lt "$tasks" ] || fail "$done of $tasks tasks with half the budget"
refuses 1 "--max-gpu-hours 0.001 is spent" "larger budget" -- "${slow[@]}" --max-gpu-hours 0.001
run 0 "${slow[@]}" --max-gpu-hours 0.01
total=$(json_number budget/run/summary.json gpu_hours)
awk -v total="$total" -v spent="$spent" 'BEGIN { exit !(total > spent) }' || fail "earlier hours are forgotten"
run 0 "$memo" audit budget
run 0 "$memo" export budget --out budget.jsonl
cmp undisturbed.jsonl budget.jsonl || fail "other pairs than without a budget"

# A run that was killed: status says so once it has been silent, from the file alone.
start "${generate[@]}" --out killed --max-tasks-per-second "$((tasks / 30))"
until_true [ -s killed/run/attempts/attempt-0001.json ]
kill -KILL "$pid"
ends 137
sed -i 's/"updated_unix":[0-9.]*/"updated_unix":1700000000/' killed/run/attempts/attempt-0001.json
run 0 "$memo" status killed
grep -q 'killed or is stuck: the same command continues' stdout || fail "a dead run looks alive: $(cat stdout)"
sed -i 's/"updated_unix":[0-9.]*/"updated_unix":4000000000/' killed/run/attempts/attempt-0001.json
run 0 "$memo" status killed
grep -q 'clocks differ by' stdout || fail "a skewed clock is not told: $(cat stdout)"
printf '{"format":"memo status 1"' >killed/run/attempts/attempt-0001.json
refuses 1 "attempt-0001.json" -- "$memo" status killed
printf '[]' >killed/run/attempts/attempt-0001.json
refuses 1 "not a status" -- "$memo" status killed
