#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# How much of the gap between the authors' merge and joint training does a correct merge close?
# Two memory models learn corpus A and corpus B from one base; a third learns both together; then every
# way of merging the two is scored closed-book on both. docs/RESULTS.md holds what came out.
# usage: jobs/merge_gap.sh build/memo [--out DIR]; running it again continues where it stopped.
# MEMO_PAIRS, MEMO_RANKS as in whole_loop.sh; MEMO_LAUNCH is put in front of every step.
set -euo pipefail

memo=$1
shift
out=run-gap
if [ "${1:-}" = --out ]; then
    out=$2
fi
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
pairs=${MEMO_PAIRS:-200}
ranks=${MEMO_RANKS:-2}
read -ra launch <<<"${MEMO_LAUNCH:-}"

mpi=(mpirun --oversubscribe --bind-to none)
[ "$(id -u)" -ne 0 ] || mpi+=(--allow-run-as-root)
export OMPI_MCA_pml=ob1 OMPI_MCA_btl=self,vader

step() { # FILE that stands when the step is done, COMMAND...
    local done_file=$1
    shift
    [ ! -e "$done_file" ] || return 0
    printf '   $ %s\n' "$*" >&2
    ${launch[@]+"${launch[@]}"} "$@"
}

train() { # name, base, options...
    local name=$1 base=$2
    shift 2
    step "$out/models/$name/model.safetensors" "${mpi[@]}" -np "$ranks" "$memo" train --base "$out/models/$base" \
        --out "$out/models/$name" --seed 1 "$@"
}

mkdir -p "$out/models" "$out/vectors" "$out/reflections" "$out/pairs"
step "$out/corpus.h5" "$memo" ingest --out "$out/corpus.h5" --chunk-tokens 1000 --overlap 100 -- \
    "$here/datasets/examples"
step "$out/models/start/model.safetensors" "$memo" init --shape tiny --text "$out/corpus.h5" --out "$out/models/start"
part=0
for name in C A B; do
    part=$((part + 1))
    step "$out/pairs/$name.jsonl" "$memo" generate --corpus "$out/corpus.h5" --part $part/3 --generator cloze \
        --out "$out/reflections/$name"
    [ "$name" = C ] || step "$out/pairs/$name.jsonl" "$memo" export "$out/reflections/$name" --sample "$pairs" \
        --out "$out/pairs/$name.jsonl"
done

train text start --data "$out/corpus.h5" --objective text --part 1/3 --sample 150 --max-tokens 256 --epochs 2 \
    --batch 8 --lr 1e-3
train base text --data "$out/reflections/C" --sample 500 --epochs 20 --batch 16 --lr 1e-3 --schedule linear
learn=(--epochs 24 --batch 16 --lr 5e-4 --schedule linear)
train A base --data "$out/pairs/A.jsonl" "${learn[@]}"
train B base --data "$out/pairs/B.jsonl" "${learn[@]}"
train joint base --data "$out/pairs/A.jsonl" "$out/pairs/B.jsonl" "${learn[@]}"

# From here on everything is shown: closed-book exact match in percent, "all" over both sets.
both=("$out/pairs/A.jsonl" "$out/pairs/B.jsonl")
models=()
for name in base A B joint; do models+=("$out/models/$name"); done
printf '\n== what was trained\n' >&2
${launch[@]+"${launch[@]}"} "$memo" eval --models "${models[@]}" --data "${both[@]}" | tee "$out/trained.txt"

sweep() { # name, options...
    local name=$1
    shift
    printf '\n== %s\n' "$name" >&2
    step "$out/$name" "$memo" merge --base "$out/models/base" --data "${both[@]}" --out "$out/$name" "$@" \
        >"$out/$name.new"
    [ ! -s "$out/$name.new" ] || mv "$out/$name.new" "$out/$name.txt"
    rm -f "$out/$name.new"
    cat "$out/$name.txt"
}
sweep merged-correctly --models "$out/models/A" "$out/models/B" \
    --method linear,task_arithmetic,ties,dare_linear,dare_ties,breadcrumbs,sce,nuslerp,multislerp \
    --sweep density=0.1,0.3,0.5 lambda=0.7,1
sweep memo-ref-AB --semantics memo-ref --models "$out/models/A" "$out/models/B" --method task_arithmetic,ties \
    --sweep density=0.1,0.3,0.5
sweep memo-ref-BA --semantics memo-ref --models "$out/models/B" "$out/models/A" --method task_arithmetic,ties \
    --sweep density=0.1,0.3,0.5

score() { # FILE NAME: the percentage over both sets
    awk -v name="$2" '$1 == name { sub("%", "", $2); print $2 }' "$out/$1.txt"
}
joint=$(awk '$1 ~ /\/joint$/ { gsub(/[(%]/, " "); print ($3 + $7) / ($5 + $9) * 100 }' "$out/trained.txt")
awk -v joint="$joint" -v correct="$(score merged-correctly ties-density0.3-lambda1)" \
    -v best="$(awk 'NR > 1 && $1 ~ /^ties-/ { sub("%", "", $2); print $2; exit }' "$out/merged-correctly.txt")" \
    -v ab="$(score memo-ref-AB ties-density0.3)" -v ba="$(score memo-ref-BA ties-density0.3)" 'BEGIN {
        ref = (ab + ba) / 2
        printf "\njoint training %.1f%%; ties 0.3 by memo-ref %.1f%% (%.1f and %.1f by order), correct %.1f%%, ", \
            joint, ref, ab, ba, correct
        printf "best correct ties %.1f%%\ncorrect ties 0.3 closes %.1f%% of the gap from memo-ref to joint training, ", \
            best, 100 * (correct - ref) / (joint - ref)
        printf "the best correct ties %.1f%%\n", 100 * (best - ref) / (joint - ref)
    }'
