#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The whole of MeMo on one machine: text in, merged memory model out, every step a plain memo command.
# Documents are divided into C (the base model's schooling), A and B (what two memory models learn).
# Running it again continues where it stopped.
set -euo pipefail

memo=$1
shift
out=run
if [ "${1:-}" = --out ]; then
    out=$2
    shift 2
fi
here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
inputs=("$@")
[ ${#inputs[@]} -gt 0 ] || inputs=("$here/datasets/examples")

pairs=${MEMO_PAIRS:-320} # that each memory model learns
workers=${MEMO_WORKERS:-2}
ranks=${MEMO_RANKS:-2}

mpi=(mpirun --oversubscribe --bind-to none)
[ "$(id -u)" -ne 0 ] || mpi+=(--allow-run-as-root)
export OMPI_MCA_pml=ob1 OMPI_MCA_btl=self,vader # one machine: shared memory, quick to start

step() {
    printf '\n== %s\n' "$1" >&2
    shift
    printf '   $ %s\n' "$*" >&2
    "$@"
}

generate() { # part, directory
    step "reflections $2: 1 coordinator, $workers workers" \
        "${mpi[@]}" -np $((workers + 1)) "$memo" generate --corpus "$out/corpus.h5" --part "$1" \
        --generator cloze --out "$out/reflections/$2"
}

train() { # title, name, base, options...
    local title=$1 name=$2 base=$3
    shift 3
    step "$title, $ranks ranks" "${mpi[@]}" -np "$ranks" "$memo" train --base "$out/models/$base" \
        --out "$out/models/$name" --seed 1 "$@"
}

merge() { # name, options...
    local name=$1
    shift
    step "merge A and B: $name" "$memo" merge --base "$out/models/base" --vectors "$out/vectors/A.safetensors" \
        "$out/vectors/B.safetensors" --out "$out/models/merged-$name" "$@"
}

mkdir -p "$out/models" "$out/vectors" "$out/reflections"
started=$SECONDS

step "corpus" "$memo" ingest --out "$out/corpus.h5" --chunk-tokens 1000 --overlap 100 -- "${inputs[@]}"
if [ ! -e "$out/models/start/model.safetensors" ]; then
    step "a model with random weights" "$memo" init --shape tiny --text "$out/corpus.h5" --out "$out/models/start"
fi

generate 1/3 C
generate 2/3 A
generate 3/3 B
for name in C A B; do
    step "audit $name" "$memo" audit "$out/reflections/$name"
done

train "the base model reads C" text start --data "$out/corpus.h5" --objective text --part 1/3 \
    --sample 150 --max-tokens 256 --epochs 2 --batch 8 --lr 1e-3
# The better the base knows how to answer, the less two memories disturb each other when merged.
train "the base model learns to answer from C" base text --data "$out/reflections/C" \
    --sample 500 --epochs 20 --batch 16 --lr 1e-3 --schedule linear
for name in A B; do
    train "memory model $name" "$name" base --data "$out/reflections/$name" --sample "$pairs" \
        --epochs 24 --batch 16 --lr 5e-4 --schedule linear
done

for name in A B; do
    step "task vector of $name" "$memo" vector --base "$out/models/base" --tuned "$out/models/$name" \
        --out "$out/vectors/$name.safetensors"
done
merge linear --method linear
merge task-arithmetic --method task_arithmetic --lambda 0.7
merge ties --method ties --density 0.3

printf '\n== one question to the merged model\n' >&2
question=$("$memo" export "$out/reflections/A" --sample 1 | sed -E 's/.*"question":"(([^"\\]|\\.)*)".*/\1/; s/\\"/"/g')
step "ask" "$memo" ask --model "$out/models/merged-task-arithmetic" "$question"

printf '\n== what each model remembers\n' >&2
models=()
for name in base A B merged-linear merged-task-arithmetic merged-ties; do models+=("$out/models/$name"); done
"$memo" eval --models "${models[@]}" --data "$out/reflections/A" "$out/reflections/B" --sample "$pairs"

printf '\n'
"$memo" status "$out/corpus.h5" "$out/models/start" "$out"/reflections/{C,A,B} "$out"/models/{text,base,A,B} \
    "$out"/vectors/{A,B}.safetensors "$out"/models/merged-{linear,task-arithmetic,ties}
printf '\nall of it took %d s; everything is in %s\n' $((SECONDS - started)) "$out"
