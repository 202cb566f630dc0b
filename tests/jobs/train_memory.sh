#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# On the Qwen2.5-0.5B shape the peak of the resident memory is within a tenth of what was said before
# the first step: all weights, adapters, held-out answers, ZeRO-1 and ZeRO-2. Needs 12 GB.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

available=$(awk '/^MemAvailable:/ { print int($2 / 1000 / 1000) }' /proc/meminfo)
if [ "$available" -lt 12 ]; then
    echo "12 GB are needed, $available are free"
    exit 77
fi
run 0 "$memo" ingest "$examples"/[a-h]*.txt --out corpus.h5
run 0 "$memo" generate --corpus corpus.h5 --out reflections
run 0 "$memo" init --shape qwen2.5-0.5b --text corpus.h5 --vocabulary 1000 --dtype bf16 --out base
train=("$memo" train --base base --data reflections --batch 2 --epochs 1 --dtype bf16
    --checkpoint-steps 0)

within() { # NAME COMMAND...
    local out=$1
    shift
    run 0 "$@" --out "$out"
    awk -v name="$out" -v planned="$(json_number "$out/run/summary.json" planned_bytes)" \
        -v peak="$(json_number "$out/run/summary.json" peak_resident_bytes)" 'BEGIN {
            printf "%s: %.3f GB planned, %.3f GB at the peak (%+.1f%%)\n", name, planned / 1e9, peak / 1e9,
                100 * (peak / planned - 1)
            exit !(peak <= 1.1 * planned && peak >= 0.9 * planned) }' || fail "$out took other memory than planned"
    rm -rf "$out"
}
within all-weights "${train[@]}" --sample 4 --moments 8bit --micro-batch-tokens 512
within answers "${train[@]}" --sample 6 --held-out 4 --eval-answer-tokens 8 --moments 8bit --micro-batch-tokens 512
within adapters "${train[@]}" --sample 4 --lora-r 16 --micro-batch-tokens 512
for zero in 1 2; do
    within "zero-$zero" "${mpi[@]}" -np 2 "${train[@]}" --sample 4 --moments 8bit --micro-batch-tokens 256 \
        --threads 1 --zero "$zero"
done
