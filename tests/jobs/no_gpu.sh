#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Where there is no GPU, the cuda backend says in one line what is missing and what to do, and the verb ends with 1.
# shellcheck source=tests/jobs/lib.sh
. "$(dirname "$0")/lib.sh"

if command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q GPU; then
    echo "skipped: there is a GPU here"
    exit 77
fi
run 0 "$memo" ingest "$examples"/[a-b]*.txt --out corpus.h5
run 0 "$memo" generate --corpus corpus.h5 --out reflections
run 0 "$memo" init --text corpus.h5 --out base --layers 1 --hidden 32 --heads 2 --kv-heads 1 --ffn 48 --vocabulary 400

# VERB...: one line, which says what to do.
refuses() {
    run 1 "$@" --backend cuda
    [ "$(wc -l <stderr)" -eq 1 ] || fail "'$2' says more than one line"
    grep -qE "no NVIDIA driver|no GPU is visible|driver supports CUDA|unknown backend 'cuda': this build has" stderr ||
        fail "'$2' does not say what is missing"
}
refuses "$memo" train --base base --data reflections --out model
refuses "$memo" bench limits
refuses "$memo" ask --model base "Who?"
[ ! -e model ] || [ ! -e model/model.safetensors ] || fail "a model was written"
