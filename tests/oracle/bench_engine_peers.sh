#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The engine beside llama.cpp on a load as reflections make it: requests that share documents. Both
# get the same shape, random bfloat16 weights, documents, requests and answers, and the same threads.
#
# llama.cpp runs in the mode that serves it best here: llama-batched-bench with -pps computes a
# document once and shares its cache (-kvu) among parallel sequences, with flash attention (twice as
# fast as without); it samples nothing. It shares one prompt at a time, so documents follow one
# another and the time of N of them is N times that of one. The engine takes the most probable token.
#
# usage: bench_engine_peers.sh MEMO LLAMA-BATCHED-BENCH MODEL.gguf [documents [threads]]
# MODEL.gguf has the shape of Qwen2.5-0.5B: memo init --shape qwen2.5-0.5b --dtype bf16, then
# llama.cpp's convert_hf_to_gguf.py --outtype bf16.
set -euo pipefail
memo=$1 batched_bench=$2 model=$3 documents=${4:-1} threads=${5:-2}
document=1500 requests=32 answer=64

echo "== memo, $documents documents of $document tokens, $requests requests on each, answers of $answer"
"$memo" bench engine --documents "$documents" --requests "$requests" --document-tokens "$document" \
    --answer-tokens "$answer" --threads "$threads" | tee /dev/stderr 2>&1 |
    awk '/answer tokens\/s/ {print $1}' >"${TMPDIR:-/tmp}/bench_engine_memo.$$"
ours=$(cat "${TMPDIR:-/tmp}/bench_engine_memo.$$")
rm -f "${TMPDIR:-/tmp}/bench_engine_memo.$$"

echo "== llama.cpp, one such document"
table=$("$batched_bench" -m "$model" -c 8192 -kvu -b 512 -ub 512 -fa on -pps -npp "$document" \
    -ntg "$answer" -npl "$requests" -t "$threads" -tb "$threads" 2>/dev/null | grep '^|')
echo "$table"
theirs=$(echo "$table" | awk -F'|' 'END {print $10}')

awk -v ours="$ours" -v theirs="$theirs" -v documents="$documents" 'BEGIN {
    printf "memo %.1f s, llama.cpp %.1f s (%d times %.1f s): %.2f times as fast\n",
           ours, documents * theirs, documents, theirs, documents * theirs / ours }'
