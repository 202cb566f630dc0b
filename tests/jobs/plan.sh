#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# memo plan quotes, says what it assumed, and a run is held against its quote.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

number_of() { # KEY.KEY... of the JSON in stdout
    python3 -c 'import functools, json, sys
print(functools.reduce(lambda o, k: o[k], sys.argv[1].split("."), json.load(open("stdout"))))' "$1"
}

# The paper's case: both hours are quoted, beside those that its authors state.
run 0 "$memo" plan --case narrativeqa
for text in 'generation: .* GPU-hours.*authors state about 240' 'training: .* GPU-hours.*authors state about 180' \
    '107.1 GB of states' 'hardware  *h200' 'pairs per 1,000 tokens'; do
    grep -q "$text" stdout || fail "the quote does not say: $text"
done
run 0 "$memo" plan --case narrativeqa --json --gpus 16
awk -v g="$(number_of generation.gpu_hours)" -v w="$(number_of generation.wall_hours)" \
    -v t="$(number_of training.gpu_hours)" \
    'BEGIN { exit !(g > 1 && g < 1000 && t > 1 && t < 1000 && w > g / 16.001 && w < g / 15.999) }' ||
    fail "hours of the paper's case: $(cat stdout)"
pairs=$(number_of generation.all.pairs)
awk -v p="$pairs" 'BEGIN { exit !(p > 640000 * 0.8 && p < 640000 * 1.2) }' || fail "$pairs pairs, not about 640 k"

# Assumptions can be replaced, and what is wrong is named.
before=$(number_of generation.gpu_hours)
run 0 "$memo" plan --case narrativeqa --json --assume busy=0.45 pair=60
awk -v a="$before" -v b="$(number_of generation.gpu_hours)" 'BEGIN { exit !(b > 1.99 * a && b < 2.01 * a) }' ||
    fail "half as busy is not twice as long"
run 0 "$memo" plan --words 1e6 --json --rate-in 1000 --rate-out 500 --steps 1a
awk -v out="$(number_of generation.all.output_tokens)" -v in_="$(number_of generation.all.prompt_tokens)" \
    -v hours="$(number_of generation.gpu_hours)" \
    'BEGIN { x = (out / 500 + in_ / 1000) / 0.9 / 3600; exit !(hours > 0.999 * x && hours < 1.001 * x) }' ||
    fail "given rates are not taken"
refuses 2 "busyness" -- "$memo" plan --case narrativeqa --assume busyness=1
refuses 2 "not a number" -- "$memo" plan --case narrativeqa --assume busy=much
refuses 2 "above 0" -- "$memo" plan --case narrativeqa --assume busy=0
refuses 2 "name one of" -- "$memo" plan
refuses 2 "name one of" -- "$memo" plan --case narrativeqa --words 5
refuses 1 "no-such-shape" -- "$memo" plan --words 5 --model no-such-shape
refuses 1 "do not fit" -- "$memo" plan --words 1e6 --model qwen2.5-32b --hardware h100 --assume memory_share=0.5
run 0 "$memo" plan --words 1e6 --gpus 1
grep -q 'DOES NOT FIT' stdout || fail "training that does not fit is not told"

# From a corpus, on this machine; then from a small run: the hours of the rest are in proportion.
run 0 "$memo" ingest "$examples" --out corpus.h5 --chunk-tokens 160 --overlap 0
run 0 "$memo" plan --corpus corpus.h5 --model tiny --memory-model tiny --hardware cpu
grep -q 'measured just now' stdout || fail "this machine was not measured"
rate=$(($(json_number corpus.h5.run/summary.json chunks) / 4))
run 0 "$memo" generate --corpus corpus.h5 --out small --part 1/4 --max-tasks-per-second $rate --commit-seconds 0.3
mkdir -p another/run
cp corpus.h5.run/summary.json another/run/
refuses 1 "text_tokens" -- "$memo" plan --corpus corpus.h5 --measured another
refuses 1 "nowhere/run/summary.json" -- "$memo" plan --corpus corpus.h5 --measured nowhere
run 0 "$memo" plan --corpus corpus.h5 --model tiny --measured small --out quote.json --json
cmp -s stdout quote.json || fail "--json and --out differ"
quote=$(number_of generation.gpu_hours)
run 0 "$memo" generate --corpus corpus.h5 --out all --max-tasks-per-second $rate --commit-seconds 0.3 --quote quote.json
run 0 "$memo" status all
grep -q 'quoted (' stdout || fail "status does not compare with the quote: $(cat stdout)"
printf 'quoted %s GPU-hours from a quarter, took %s\n' "$quote" "$(json_number all/run/summary.json gpu_hours)"
echo '{}' >wrong.json
refuses 1 "no quote" -- "$memo" generate --corpus corpus.h5 --out other --quote wrong.json
refuses 1 "missing.json" -- "$memo" generate --corpus corpus.h5 --out other --quote missing.json

# What a run will cost is said before it begins: by the name that a server gives its model, by a model's directory, or in
# tokens alone; what was done before is not counted.
unreachable=(--generator http:http://127.0.0.1:9/v1 --outage-seconds 0.1)
run 1 "$memo" generate --corpus corpus.h5 --out dear "${unreachable[@]}" --model Qwen/Qwen2.5-32B-Instruct \
    --max-gpu-hours 0.01 --gpus 4
says 'to do: ' ' prompt tokens (' 'GPU-hours, ' ' on 4 h200' 'more than --max-gpu-hours 0.01'
run 1 "$memo" generate --corpus corpus.h5 --out unknown "${unreachable[@]}" --model secret
says ' prompt tokens (' "no estimate of hours: 'secret' is not the name of a published shape"
run 0 "$memo" generate --corpus corpus.h5 --out all
says 'to do: 0 of '
! grep -q 'prompt tokens' stderr || fail "a run that has nothing to do is quoted"
run 0 "$memo" init --shape tiny --text corpus.h5 --out tiny
run 75 "$memo" generate --corpus corpus.h5 --out engine --generator engine:tiny --max-gpu-hours 0.0006
says ' on a machine like this one'
