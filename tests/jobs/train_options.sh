#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What a training run says beforehand is what it then takes, and its options do what they say.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

run 0 "$memo" ingest "$examples"/[a-h]*.txt --out corpus.h5
run 0 "$memo" generate --corpus corpus.h5 --out reflections
run 0 "$memo" init --text corpus.h5 --out base --layers 3 --hidden 512 --heads 8 --kv-heads 2 \
    --ffn 1408 --vocabulary 4000
train=("$memo" train --base base --data reflections --sample 16 --batch 8 --epochs 1 --lr 1e-3
    --threads 1 --micro-batch-tokens 1024)

# within NAME OPTION...: the resident memory's peak is within a tenth of what was planned.
within() {
    local out=$1
    shift
    run 0 "$@" --out "$out"
    tr ',' '\n' <"$out/run/summary.json" | awk -F: '
        /"planned_bytes"/ { planned = $2 + 0 }
        /"peak_resident_bytes"/ { peak = $2 + 0 }
        END { print planned, peak; exit !(peak <= 1.1 * planned && peak >= 0.9 * planned) }' >within ||
        fail "$out: planned and peak bytes: $(cat within)"
}
within plain "${train[@]}"
within small "${train[@]}" --dtype bf16 --moments 8bit
within half "${train[@]}" --dtype bf16 --moments 8bit --grad-dtype bf16
within exact "${train[@]}" --reduce exact
within again "${train[@]}" --checkpoint-activations on
within adapters "${train[@]}" --lora-r 16
within adapters-half "${train[@]}" --lora-r 16 --dtype bf16
within answers "${train[@]}" --held-out 8 --eval-steps 1 --eval-answer-tokens 8
for zero in 1 2; do
    within "zero-$zero" "${mpi[@]}" -np 2 "${train[@]}" --zero "$zero"
done
within zero-half "${mpi[@]}" -np 2 "${train[@]}" --zero 2 --grad-dtype bf16

# Where gradients in bfloat16 would gain nothing they are refused.
refuses 2 "would save nothing" -- "${train[@]}" --grad-dtype bf16 --reduce exact --out never
refuses 2 "adapters have few gradients" -- "${train[@]}" --grad-dtype bf16 --lora-r 16 --out never

# What does not fit is refused before anything is trained, with a way out.
refuses 1 "training needs" "more than there are" "would make it fit" -- "${train[@]}" \
    --memory 0.2 --out never
[ ! -e never ] || fail "a run that does not fit left something"
refuses 1 "would not be enough" -- "${train[@]}" --memory 0.01 --out never
answers=(--held-out 8 --eval-answer-tokens 1000 --eval-steps 1000 --checkpoint-activations on)
run 0 "${train[@]}" "${answers[@]}" --out long-answers
refuses 1 "--eval-answers 0 would make it fit" -- "${train[@]}" "${answers[@]}" --out never \
    --memory "$(awk -v some="$(json_number long-answers/run/summary.json planned_bytes)" \
        -v none="$(json_number again/run/summary.json planned_bytes)" 'BEGIN { print (some + none) / 2e9 }')"
run 0 "${train[@]}" --memory 0.255 --out automatic
says "(computed twice)"
cmp plain/model.safetensors automatic/model.safetensors ||
    fail "layers that are computed again gave another model"

# Held-out sequences are not trained on; the model card and status say what was done.
run 0 "${train[@]}" --held-out 4 --eval-steps 1 --out held
says "12 sequences" "held-out loss after step 2"
grep -q '"held_out_loss":' held/run/metrics.jsonl || fail "the held-out loss was not recorded"
grep -q '| held-out loss |' held/README.md || fail "the model card lacks the held-out loss"
planned=$(sed -n 's/| tokens planned | \(.*\) |/\1/p' held/README.md)
grep -q "| tokens consumed | $planned |" held/README.md || fail "not all planned tokens were consumed"
refuses 1 "leaves nothing to train on" -- "${train[@]}" --held-out 16 --out never
run 0 "$memo" status --plot --svg loss.svg held
grep -q '|\*' stdout || fail "no curve was drawn"
grep -q '<polyline' loss.svg || fail "no picture was drawn"

# With the header there is more to learn from.
run 0 "${train[@]}" --loss-on-header --out header
targets() { # DIRECTORY
    sed -n '1s/.*"target_tokens":\([0-9]*\),.*/\1/p' "$1/run/metrics.jsonl"
}
[ "$(targets header)" -gt "$(targets plain)" ] || fail "the header is no target"

# A checkpoint by the clock.
run 0 "${train[@]}" --checkpoint-steps 0 --checkpoint-minutes 0.00001 --out clock
ls clock/run/checkpoints/step-00000001 >/dev/null || fail "no checkpoint was made"
