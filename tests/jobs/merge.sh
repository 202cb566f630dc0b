#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# memo vector and memo merge as they are used: ranks, kills, configurations, sweeps.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

cp "$examples"/{candle-street-fire,salt-bride-legend}.txt .
run 0 "$memo" ingest ./*.txt --out corpus.h5 --chunk-tokens 150 --overlap 0
run 0 "$memo" init --text corpus.h5 --out base --layers 2 --hidden 128 --heads 2 --kv-heads 1 --ffn 256 \
    --vocabulary 400 --dtype bf16
for seed in 2 3 4; do
    run 0 "$memo" init --tokenizer base --out m$seed --layers 2 --hidden 128 --heads 2 --kv-heads 1 --ffn 256 \
        --dtype bf16 --seed $seed
    run 0 "$memo" vector --base base --tuned m$seed --out v$seed.safetensors
done
vectors=(v2.safetensors v3.safetensors v4.safetensors)

# --- any number of ranks, in any order, with little memory: the same bytes, and the same command again does nothing
for method in ties dare_ties; do
    merge=("$memo" merge --base base --method $method --seed 3)
    run 0 "${merge[@]}" --vectors "${vectors[@]}" --out one-$method
    says "peak memory"
    run 0 "${mpi[@]}" -np 3 "${merge[@]}" --vectors v4.safetensors v2.safetensors v3.safetensors --memory 0.1 \
        --out three-$method
    cmp one-$method/model.safetensors three-$method/model.safetensors || fail "3 ranks merge other bytes by $method"
    run 0 "${merge[@]}" --models m2 m3 m4 --threads 1 --out models-$method
    cmp one-$method/model.safetensors models-$method/model.safetensors || fail "models merge to other bytes by $method"
    run 0 "${merge[@]}" --vectors "${vectors[@]}" --out one-$method
    says "is this merge already"
    refuses 1 "'one-$method'" "holds something else" -- "${merge[@]}" --vectors "${vectors[@]}" --lambda 0.5 \
        --out one-$method
done
[ -s one-ties/README.md ] && grep -q "one-ties\|ties" one-ties/README.md || fail "no model card"
[ "$(find . -name '*.partial' -o -name 'done-*' | wc -l)" -eq 0 ] || fail "remains of finished merges are left"

# --- killed at any moment: nothing under the final name, and the next attempt ends with the same bytes
whole=one-dare_ties/model.safetensors
for delay in 0 1 2 3 4 6 8 10 15 20; do
    rm -rf killed killed.partial
    start "$memo" merge --base base --method dare_ties --seed 3 --vectors "${vectors[@]}" --out killed
    sleep "0.0$delay"
    kill -KILL "$pid" 2>/dev/null
    wait "$pid" 2>/dev/null
    if [ -e killed ]; then
        cmp killed/model.safetensors "$whole" || fail "a killed merge left something else under the final name"
    fi
    run 0 "$memo" merge --base base --method dare_ties --seed 3 --vectors "${vectors[@]}" --out killed
    cmp killed/model.safetensors "$whole" || fail "a merge killed after 0.0$delay s continues to other bytes"
done

# --- a mergekit configuration says the same as options
cat >ties.yaml <<'YAML'
merge_method: ties
base_model: base
models:
  - model: m2
  - model: m3
  - model: m4
parameters:
  density: 0.3
YAML
run 0 "$memo" merge --config ties.yaml --out configured
cmp configured/model.safetensors one-ties/model.safetensors || fail "a configuration merges to other bytes"
echo 'colour: blue' >>ties.yaml
refuses 2 "'ties.yaml'" "unknown key 'colour'" -- "$memo" merge --config ties.yaml --out x
refuses 2 "--config excludes" -- "$memo" merge --config ties.yaml --base base --out x

# --- trimmed vectors are small and merge as ties does: what is trimmed already stays
run 0 "$memo" vector --base base --tuned m2 --dtype bf16 --density 0.3 --out small.safetensors
[ "$(stat -c %s small.safetensors)" -lt "$(($(stat -c %s v2.safetensors) / 5))" ] || fail "a trimmed vector is large"
run 0 "$memo" vector negate v2.safetensors --out minus.safetensors
run 0 "$memo" vector add v2.safetensors minus.safetensors --out zero.safetensors
[ "$(json_number zero.safetensors.run/summary.json norm)" = 0 ] || fail "a vector and its negative do not cancel"
run 0 "$memo" vector diff v2.safetensors v3.safetensors --svg diff.svg
[ "$(wc -l <stdout)" -eq 5 ] && grep -q '</svg>' diff.svg || fail "diff shows something else: $(cat stdout)"
refuses 2 "diff takes two vectors" -- "$memo" vector diff v2.safetensors

# --- a sweep shares the reading and sorts by score
printf '{"question": "Who?", "answer": "Nobody"}\n' >pairs.jsonl
run 0 "$memo" merge --base base --vectors "${vectors[@]}" --method ties,linear,dare_ties \
    --sweep density=0.1,0.5 --data pairs.jsonl --out sweep
[ "$(grep -c '%' stdout)" -eq 5 ] || fail "not five results: $(cat stdout)"
run 0 "$memo" merge --base base --vectors "${vectors[@]}" --method dare_ties --density 0.5 --out alone
cmp alone/model.safetensors sweep/dare_ties-density0.5/model.safetensors || fail "a sweep merges to other bytes"
refuses 2 "--sweep" "'dnsity=1'" -- "$memo" merge --base base --vectors "${vectors[@]}" --sweep dnsity=1 --out x
[ ! -e x ] && [ ! -e x.partial ] || fail "a wrong command line left files"

# --- what does not fit is listed whole
run 0 "$memo" init --tokenizer base --out narrow --layers 2 --hidden 64 --heads 1 --kv-heads 1 --ffn 256 --dtype bf16
refuses 1 "differences between the inputs" "config.json/hidden_size" -- "$memo" merge --base base --models narrow m2 \
    --out x
[ "$(grep -c ' is \[' stderr)" -ge 10 ] || fail "not every difference is listed"
[ ! -e x ] && [ ! -e x.partial ] || fail "inputs that do not fit left files"
