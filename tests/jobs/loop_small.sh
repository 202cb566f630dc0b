#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The whole chain on six documents, in seconds.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

run 0 "$memo" ingest "$examples"/{candle-street-fire,gideon-stannick-biography,judge-thackwell-obituary}.txt \
    "$examples"/{lake-ummerel-survey,salt-bride-legend,thole-obituary}.txt --out corpus.h5 --chunk-tokens 150 --overlap 0
small_model corpus.h5 models/base
for part in 1 2; do
    run 0 "$memo" generate --corpus corpus.h5 --part $part/2 --out reflections/$part
    run 0 "$memo" audit reflections/$part
    run 0 "$memo" train --base models/base --data reflections/$part --sample 24 --epochs 60 --batch 8 \
        --lr 3e-3 --out models/$part
    run 0 "$memo" vector --base models/base --tuned models/$part --out vectors/$part.safetensors
done
run 0 "$memo" inspect reflections/1 --samples 3
[ "$(grep -c '^Q: ' stdout)" -eq 3 ] || fail "inspect does not show three samples"

vectors=(vectors/1.safetensors vectors/2.safetensors)
for method in linear task_arithmetic ties; do
    run 0 "$memo" merge --base models/base --vectors "${vectors[@]}" --method $method --out models/$method
done
# Base + one vector is the tuned model: to the bit where a float32 difference is exact, as it is for
# bf16 weights; for f32 weights up to the rounding of that difference.
same=(--method task_arithmetic --weights 1 --lambda 1)
run 0 "$memo" merge --base models/base --vectors vectors/1.safetensors "${same[@]}" --out models/same
run 0 "$memo" vector --base models/1 --tuned models/same --out vectors/rounding.safetensors
awk -v rounding="$(json_number vectors/rounding.safetensors.run/summary.json norm)" \
    -v change="$(json_number vectors/1.safetensors.run/summary.json norm)" \
    'BEGIN { exit !(change > 1 && rounding < 1e-7 * change) }' || fail "base + one vector is not the tuned model"

run 0 "$memo" init --tokenizer models/base --out models/bf16 --dtype bf16 --layers 1 --hidden 64 --heads 1 \
    --kv-heads 1 --ffn 96
run 0 "$memo" train --base models/bf16 --data reflections/1 --sample 24 --epochs 4 --batch 8 --lr 3e-3 --out models/bf16-1
run 0 "$memo" vector --base models/bf16 --tuned models/bf16-1 --out vectors/bf16.safetensors
run 0 "$memo" merge --base models/bf16 --vectors vectors/bf16.safetensors "${same[@]}" --out models/bf16-same
run 0 "$memo" vector --base models/bf16-1 --tuned models/bf16-same --out vectors/none.safetensors
[ "$(json_number vectors/none.safetensors.run/summary.json norm)" = 0 ] ||
    fail "base + one vector is not the tuned bf16 model"

run 0 "$memo" eval --json --models models/base models/1 models/same models/ties --data reflections/1 --sample 24
mapfile -t exact < <(sed 's/.*"exact":\([0-9]*\).*/\1/' stdout)
[ "${#exact[@]}" -eq 4 ] || fail "eval printed ${#exact[@]} lines for 4 models"
[ "${exact[0]}" -eq 0 ] || fail "random weights know ${exact[0]} answers"
[ "${exact[1]}" -ge 20 ] || fail "the memory model learned only ${exact[1]} of 24 answers"
[ "${exact[1]}" -eq "${exact[2]}" ] || fail "equal models answer differently"
run 0 "$memo" eval --models models/1 --data reflections/1 reflections/2 --sample 24
grep -q 'exact match' stdout || fail "eval prints no table"

run 0 "$memo" ask --json --model models/1 "Who kept the light?"
grep -q '^{"question":"Who kept the light?","answer":".*"}$' stdout || fail "ask --json prints something else"
run 0 "$memo" status corpus.h5 models/base reflections/1 models/1 vectors/1.safetensors models/ties
[ "$(grep -c ' done ' stdout)" -eq 6 ] || fail "not every stage is done: $(cat stdout)"

echo '{"text":"Who kept the light? <|im_end|> "}' >text.jsonl
run 0 "$memo" tokenize --model models/1 <text.jsonl
cp stdout ids.jsonl
run 0 "$memo" tokenize --model models/1 --decode <ids.jsonl
cmp stdout text.jsonl || fail "decoded text is not what was encoded"
cat text.jsonl text.jsonl text.jsonl >texts.jsonl
run 0 "$memo" tokenize --model models/1 --seconds 0.01 --threads 2 <texts.jsonl
tokens=$(grep -o '[0-9]*' ids.jsonl | wc -l)
tr -d ' ' <stdout | grep -q "^{\"documents\":3,\"bytes\":93,\"tokens\":$((3 * tokens)),\"threads\":2,\"seconds\":.*}$" ||
    fail "tokenize --seconds prints something else: $(cat stdout)"
run 0 "$memo" logits --model models/1 --ids ids.jsonl --out logits.safetensors
run 0 "$memo" logits --model models/1 --ids ids.jsonl --out ref.safetensors --backend ref
[ "$(stat -c %s ref.safetensors)" -eq "$(stat -c %s logits.safetensors)" ] || fail "logits of another shape"
