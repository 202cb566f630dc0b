#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# memo bench model: one line for the prompt and one for every batch, whose figures belong together.
# Rates on a busy machine cannot be asserted. usage: bench.sh MEMO ROOT
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
for wrong in "model --batch 0" "model --batch 1,,2" "model --batch 4,x" "train --batch 1,2,"; do
    # shellcheck disable=SC2086 # the words of a command
    run 2 "$memo" bench $wrong
    grep -qF -- "--batch" stderr || fail "'bench $wrong' does not name the option"
done
run 2 "$memo" bench speed
grep -qF "cannot measure 'speed'" stderr || fail "'bench speed' does not say what can be measured"
