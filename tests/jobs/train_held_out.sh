#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What is measured on held-out pairs, which weights become the model, when a checkpoint is made on
# request, and tokens that are made once.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

run 0 "$memo" ingest "$examples"/[a-h]*.txt --out corpus.h5
run 0 "$memo" generate --corpus corpus.h5 --out reflections
small_model corpus.h5 base
train=("$memo" train --base base --data reflections --sample 80 --batch 16 --epochs 6 --lr 2e-3
    --threads 1) # 80 sequences, 5 steps an epoch

metric() { # DIRECTORY KEY: of every step that has it, "STEP VALUE"
    sed -n "s/.*\"step\":\([0-9]*\),.*\"$2\":\"\{0,1\}\([^,}\"]*\).*/\1 \2/p" "$1/run/metrics.jsonl"
}
same_metric() { # KEY DIRECTORY DIRECTORY
    [ "$(metric "$2" "$1" | wc -l)" -gt 0 ] || fail "$2 has no $1"
    diff <(metric "$2" "$1") <(metric "$3" "$1") >/dev/null || fail "$2 and $3 differ in $1"
}

# --- answers ---

# Pairs with two answers, of which one may be guessed. One rank and three measure the same.
for ((i = 1; i <= 80; i++)); do
    printf '{"question":"What does lamp %d show?","answer":"a %s light"}\n' "$i" "$([ $((i % 3)) -eq 0 ] && echo red || echo green)"
done >lamps.jsonl
held=("$memo" train --base base --data lamps.jsonl --batch 16 --epochs 6 --lr 1e-2 --threads 1
    --held-out 16 --eval-steps 4 --eval-answer-tokens 12 --reduce exact)
run 0 "${held[@]}" --out one
says "held-out loss after step 24" "of 16 answers are exact" "token F1"
[ "$(metric one held_out_f1 | cut -d ' ' -f 1 | paste -sd ' ')" = "4 8 12 16 20 24" ] ||
    fail "answers were not measured every four steps"
run 0 "${mpi[@]}" -np 3 "${held[@]}" --zero 1 --out three
for key in held_out_exact held_out_f1 held_out_answers loss consumed; do
    same_metric "$key" one three
done
grep -q '| held-out questions, closed-book: exact match, token F1 | [0-9]* of 16 ' one/README.md ||
    fail "the model card lacks the answers"
run 0 "$memo" status --plot --svg curves.svg one
grep -q 'held-out answers: e exact' stdout || fail "answers are not drawn"
grep -q '<title>held-out token F1</title>' curves.svg || fail "answers are not in the picture"

# What was answered in training is what memo eval finds: the 16 that are held out are those of the 80
# that are not among the first 64.
evaluate() { # SAMPLE: "EXACT F1" of all of them together
    run 0 "$memo" eval --json --models one --data lamps.jsonl --sample "$1" --max-new-tokens 12 --threads 1
    awk -v exact="$(json_number stdout exact)" -v f1="$(json_number stdout f1)" -v n="$1" \
        'BEGIN { printf "%d %.9f\n", exact, f1 * n }'
}
all=$(evaluate 80) trained=$(evaluate 64)
paste -d ' ' <(echo "$all") <(echo "$trained") <(metric one held_out_exact | tail -1) \
    <(metric one held_out_f1 | tail -1) | awk '
    { exact = $1 - $3 - 16 * $6; f1 = $2 - $4 - 16 * $8; print
      exit !(exact < 1e-6 && exact > -1e-6 && f1 < 1e-6 && f1 > -1e-6 && $8 > 0) }' >compared ||
    fail "memo eval and the run disagree: $(cat compared)"

# --- the best ---

# A rate at which the loss on what is held out rises again: what was learned by heart is no help.
best=("${train[@]}" --held-out 30 --eval-steps 2 --eval-answers 0 --lr 8e-3 --epochs 24
    --checkpoint-steps 10 --keep 2)
run 0 "${best[@]}" --out last
lowest=$(metric last held_out_loss | sort -g -k 2,2 | head -1 | cut -d ' ' -f 1)
final=$(metric last held_out_loss | tail -1 | cut -d ' ' -f 1)
[ "$lowest" -lt "$final" ] || fail "the held-out loss never rose: this test says nothing"
[ -e "last/run/checkpoints/step-$(printf %08d "$lowest")/manifest.json" ] ||
    fail "the best checkpoint, of step $lowest, was not kept: $(ls last/run/checkpoints)"
[ "$(ls last/run/checkpoints | wc -l)" -eq 3 ] || fail "not two and the best: $(ls last/run/checkpoints)"
run 0 "${best[@]}" --best --out best
says "the model gets the weights after step $lowest"
grep -q "| weights | those after step $lowest, the best by held-out loss |" best/README.md ||
    fail "the model card does not say whose weights it has"
cmp -s last/model.safetensors best/model.safetensors && fail "--best changed nothing"
json_number best/run/summary.json best_step | grep -qx "$lowest" || fail "the summary names another step"
run 0 "${best[@]}" --out last
says "already trained"
refuses 1 "other data or with other options" -- "${best[@]}" --best --out last

# Interrupted after the best step: it is remembered.
start "${best[@]}" --best --out stopped
until_true has_lines stopped/run/metrics.jsonl "$((lowest + 1))"
kill -TERM "$pid"
wait "$pid"
run 0 "${best[@]}" --best --out stopped
cmp best/model.safetensors stopped/model.safetensors || fail "an interrupted run has another best"

refuses 2 "--best needs something to measure by" -- "${train[@]}" --best --out never
refuses 2 "--best-by f1 needs answers" -- "${train[@]}" --held-out 4 --best-by f1 --eval-answers 0 --out never
run 0 "${train[@]}" --held-out 8 --best-by f1 --best --eval-steps 5 --out by-f1
json_number by-f1/run/summary.json best_step >/dev/null || fail "no best by F1"

# With adapters too.
run 0 "${train[@]}" --held-out 16 --eval-steps 5 --lora-r 4 --out adapters
[ "$(metric adapters held_out_f1 | wc -l)" -gt 0 ] || fail "a model with adapters answers nothing"

# --- a checkpoint on request ---

long=("$memo" train --base base --data reflections --sample 400 --batch 16 --epochs 8 --lr 1e-3
    --threads 1 --checkpoint-steps 0)
start "${long[@]}" --out asked
until_true has_lines asked/run/metrics.jsonl 5
touch asked/run/checkpoint-now
gone() { [ ! -e "$1" ]; }
until_true gone asked/run/checkpoint-now
[ "$(ls -d asked/run/checkpoints/step-*/manifest.json | wc -l)" -eq 1 ] || fail "no checkpoint stands"
kill -KILL "$pid"
ends any
run 0 "${long[@]}" --out asked
says "continuing after step" "tokenized before"

# --- tokens ---

tokens() { # DIRECTORY
    ls "$1"/tokens-*.bin
}
run 0 "${train[@]}" --token-cache cache --out cached
[ "$(tokens cache | wc -l)" -eq 1 ] || fail "no tokens in the cache"
if ls cached/run/tokens-* 2>/dev/null; then fail "there are tokens beside the run too"; fi
before=$(stat -c %Y.%i "$(tokens cache)")
run 0 "${train[@]}" --token-cache cache --seed 2 --out again
says "(tokenized before)"
[ "$(stat -c %Y.%i "$(tokens cache)")" = "$before" ] || fail "the tokens were written again"
# Other cuts and other data are other tokens.
run 0 "${train[@]}" --token-cache cache --max-tokens 200 --out other-cut
run 0 "${train[@]}" --token-cache cache --loss-on-header --out other-header
[ "$(tokens cache | wc -l)" -eq 3 ] || fail "other options found the same tokens"
# Damage is noticed, said, and made good; the model is the same.
first=$(ls -t cache/tokens-*.bin | tail -1)
for damage in flip cut; do
    rm -rf damaged
    if [ $damage = flip ]; then flip "$first" 300; else truncate -s 500 "$first"; fi
    run 0 "${train[@]}" --token-cache cache --out damaged
    says "tokenizing again"
    cmp cached/model.safetensors damaged/model.safetensors || fail "$damage: another model"
    rm -rf damaged
    run 0 "${train[@]}" --token-cache cache --out damaged
    says "(tokenized before)"
done
# Two jobs at once.
rm -f cache/*
"${train[@]}" --token-cache cache --out pair-1 2>pair-1.log &
other=$!
started+=("$other")
run 0 "${train[@]}" --token-cache cache --out pair-2
wait "$other" || fail "of two jobs at once one failed: $(cat pair-1.log)"
cmp pair-1/model.safetensors pair-2/model.safetensors || fail "two jobs at once differ"
[ "$(ls cache | wc -l)" -eq 1 ] || fail "two jobs left $(ls cache)"
# A directory that cannot be written.
: >plain-file
refuses 1 "cannot make the directory" -- "${train[@]}" --token-cache plain-file/cache --out never
[ ! -e never ] || fail "a run that was refused left something"
