#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Adapters: what is trained, what is written, and that PEFT, where there is one, agrees.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

run 0 "$memo" ingest "$examples"/[a-h]*.txt --out corpus.h5
run 0 "$memo" generate --corpus corpus.h5 --out reflections
small_model corpus.h5 base
train=("$memo" train --base base --data reflections --sample 80 --batch 16 --epochs 4 --lr 2e-2
    --threads 1 --lora-r 4 --lora-alpha 8) # 20 steps

losses() { # DIRECTORY
    sed 's/.*"step":\([0-9]*\),"loss":\([^,]*\),.*/\1 \2/' "$1/run/metrics.jsonl"
}

run 0 "${train[@]}" --lora-dropout 0.1 --reduce exact --out all
awk 'NR == 1 { first = $2 } { last = $2 } END { exit !(last < 0.98 * first) }' <(losses all) ||
    fail "the loss did not fall"
grep -q '"r": 4' all/adapter/adapter_config.json || fail "the rank is not in the configuration"
[ -s all/adapter/adapter_model.safetensors ] || fail "no adapters were written"
if head -c 20000 all/model.safetensors | grep -qa lora_; then fail "the merged model has adapters"; fi

# Two ranks that divide everything: the same bits, what dropout drops included.
run 0 "${mpi[@]}" -np 2 "${train[@]}" --lora-dropout 0.1 --reduce exact --out ranks --zero 2
for file in adapter/adapter_model.safetensors model.safetensors; do
    cmp "all/$file" "ranks/$file" || fail "two ranks wrote another $file than one"
done

# A task vector of the merged model carries everything that was learned: added to the base it is that
# model again, and it merges with another one like any other.
run 0 "$memo" vector --base base --tuned all --out all.vector.safetensors
run 0 "$memo" merge --base base --vectors all.vector.safetensors --method task_arithmetic --density 1 --out again
run 0 "$memo" vector --base base --tuned again --out again.vector.safetensors
run 0 "$memo" vector diff all.vector.safetensors again.vector.safetensors
grep -Eq '^all +[0-9]+ +([0-9.]+) +\1 +1\.0000 +0\.00%$' stdout ||
    fail "base + vector is not the model that was merged: $(cat stdout)"
grep -Eq '^outside +[0-9]+ +0 +0 ' stdout || fail "adapters changed what they do not belong to"
run 0 "${train[@]}" --seed 2 --out other
run 0 "$memo" vector --base base --tuned other --out other.vector.safetensors
run 0 "$memo" merge --base base --vectors all.vector.safetensors other.vector.safetensors --method ties --out both
run 0 "$memo" eval --json --models both again --data reflections --sample 10 --threads 1
[ "$(grep -c '"pairs":10' stdout)" -eq 2 ] || fail "a merge of adapters cannot be asked"

# The base in bfloat16, two projections only.
run 0 "${train[@]}" --dtype bf16 --lora-targets q_proj,v_proj --out two
names() { # of the tensors of the adapters in DIRECTORY
    head -c 4000 "$1/adapter/adapter_model.safetensors" | grep -ao 'base_model[A-Za-z0-9_.]*'
}
[ "$(names two | grep -c 'self_attn.[qv]_proj.lora_[AB].weight')" -eq 4 ] || fail "q_proj and v_proj lack adapters"
if names two | grep -qv 'self_attn.[qv]_proj'; then fail "there are adapters that nobody asked for"; fi

refuses 1 "LoRA target 'qproj'" "give some of q_proj" -- "${train[@]}" --lora-targets qproj --out never
[ ! -e never ] || fail "a run with a wrong target left something"

# What the base model lost to bfloat16, the merged model of the second run lost too.
for tolerance in 1e-4:all 2e-2:two; do
    out=${tolerance#*:}
    python3 "$root/tests/oracle/check_lora.py" base "$out" "${tolerance%:*}" >check 2>&1
    code=$?
    if [ "$code" -eq 77 ] || [ "$code" -eq 127 ]; then
        echo "PEFT is not asked: $(cat check)"
        exit 77
    fi
    [ "$code" -eq 0 ] || fail "$out: $(tail -3 check)"
    cat check
done
