#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# memo bench: model has one line for the prompt and one for every batch, whose figures belong together;
# train says what was trained on, and what one rank and several reach and wait for. Rates on a busy machine cannot be asserted. usage: bench.sh MEMO ROOT
# shellcheck source=tests/jobs/lib.sh
. "$(dirname "$0")/lib.sh"

for dtype in f32 bf16; do
    run 0 "$memo" bench model --shape tiny --dtype "$dtype" --seconds 0.1 --prompt 40 --batch 3,1 --json
    [ "$(grep -vc 'limit: ' stdout)" -eq 3 ] || fail "$(grep -vc 'limit: ' stdout) lines instead of 3"
    for what in '"what":"prefill","sequences":1,"new_tokens":40,"position":0' \
        '"what":"decode","sequences":3,"new_tokens":1,"position":40' \
        '"what":"decode","sequences":1,"new_tokens":1,"position":40'; do
        tr -d ' ' <stdout | grep -qF "$what" || fail "no line with $what"
    done
done
for dtype in f32 bf16; do
    run 0 "$memo" bench engine --shape tiny --dtype "$dtype" --documents 2 --requests 3 \
        --document-tokens 50 --own-tokens 3 --answer-tokens 5 --json
    # A document once, and of each request its own tokens.
    for what in '"prompt_tokens":118' '"cached_tokens":200' '"generated_tokens":30'; do
        tr -d ' ' <stdout | grep -qF "$what" || fail "no $what in $(cat stdout)"
    done
done
run 0 "$memo" bench kernels --shape tiny --prompt 40 --batch 2 --json
[ "$(grep -c '"kernel ' stdout)" -eq 13 ] || fail "not 13 operations: $(cat stdout)"
run 0 "$memo" bench train --shape tiny --layers 1 --step-tokens 256 --micro-batch-tokens 256 --seconds 0.1 --moments 8bit \
    --checkpoint-activations --json
grep -qF '"training, 1 rank' stdout || fail "no training in $(cat stdout)"
printf '%s\n' '{"question":"Who keeps the light?","answer":"Ovey"}' '{"question":"Where?","answer":"On Brindle Fell"}' >pairs.jsonl
run 1 "$memo" bench train --shape tiny --data pairs.jsonl
grep -qF -- "--tokenizer DIR" stderr || fail "'bench train --data' does not name the option that it needs"
run 0 "$memo" bench train --shape tiny --layers 2 --dtype f32 --seconds 0.1 --step-tokens 300 --ranks 2 --threads 2 \
    --micro-batch-tokens 128 --checkpoint checkpoints --json
for what in '"training data: pairs","rate":1024' '"training, 1 rank, ' '"training, 2 ranks, ' '"checkpoint: the run waited"' \
    '"  beside one rank"'; do
    grep -qF "$what" stdout || fail "no $what in $(cat stdout)"
done
[ "$(grep -c '"checkpoint: size"' stdout)" -eq 2 ] || fail "not a checkpoint of each number of ranks"
for wrong in "model --batch 0" "model --batch 1,,2" "model --batch 4,x" "train --batch 1,2,"; do
    # shellcheck disable=SC2086 # the words of a command
    run 2 "$memo" bench $wrong
    grep -qF -- "--batch" stderr || fail "'bench $wrong' does not name the option"
done
run 0 "$memo" bench json --tokenizer "$root/tests/oracle/golden/tokenizer_gpt2" --json
[ "$(grep -c '"json: mask' stdout)" -eq 6 ] || fail "not 6 lines of masks"
run 1 "$memo" bench json
grep -qF -- "--tokenizer DIR" stderr || fail "'bench json' does not name its option"
run 2 "$memo" bench speed
grep -qF "cannot measure 'speed'" stderr || fail "'bench speed' does not say what can be measured"
