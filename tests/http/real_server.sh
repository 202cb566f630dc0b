#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# usage: real_server.sh MEMO ASK_SERVER ROOT
#
# The HTTP model against servers that other people wrote, with a small model of our own making:
#   transformers serve   when python3 has transformers with its extra "serving"
#   llama-server         when it is on the PATH or in $LLAMA_SERVER, with a model in $LLAMA_MODEL
# What is not installed is skipped, with the reason; 77 when nothing was tried.
set -uo pipefail

memo=$1
ask_server=$2
root=$3
directory=$(mktemp -d)
server=
tried=0

stop_server() {
    [ -z "$server" ] || { kill "$server" && wait "$server"; } 2>/dev/null
    server=
}
trap 'stop_server; rm -rf "$directory"' EXIT
cd "$directory" || exit 1

fail() {
    printf 'FAILED: %s\n' "$*" >&2
    tail -n 30 server.log stderr >&2 2>/dev/null
    exit 1
}

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# start PORT COMMAND...: returns when /health answers, which it must within two minutes.
start() {
    local port=$1 i
    shift
    "$@" >server.log 2>&1 </dev/null &
    server=$!
    for ((i = 0; i < 240; i++)); do
        python3 -c "import urllib.request as u; u.urlopen('http://127.0.0.1:$port/health', timeout=5)" \
            2>/dev/null && return
        kill -0 "$server" 2>/dev/null || fail "the server ended: $*"
        sleep 0.5
    done
    fail "no answer from: $*"
}

number() { # NAME in the line that ask_server printed
    sed -n "s/.*\b$1=\([0-9]*\).*/\1/p" stdout
}

# ask PORT MODEL COUNT: all are answered.
ask() {
    timeout 300 "$ask_server" "http://127.0.0.1:$1/v1" "$2" "$3" >stdout 2>stderr || fail "ask_server"
    cat stdout
    [ $(($(number stop) + $(number length))) -eq "$3" ] || fail "not all of $3 requests were answered"
    [ "$(number output_tokens)" -ge "$3" ] || fail "answers without tokens"
    [ "$(number prompt_tokens)" -ge $((10 * $3)) ] || fail "prompts without tokens"
}

make_model() {
    {
        "$memo" ingest "$root/datasets/examples" --out corpus.h5 &&
            "$memo" init --text corpus.h5 --out start --layers 2 --hidden 64 --heads 2 --kv-heads 1 \
                --head-width 32 --ffn 128 --vocabulary 1000 &&
            "$memo" train --base start --data corpus.h5 --objective text --out model --sample 200 \
                --max-tokens 128 --batch 8 --epochs 1 --lr 3e-3
    } >stdout 2>stderr || fail "no model"
}

try_transformers() {
    if ! command -v transformers >/dev/null ||
        ! python3 -c 'import fastapi, uvicorn, openai, torch, rich, accelerate' 2>/dev/null; then
        echo "skipped: transformers serve is not installed (pip install 'transformers[serving]')"
        return
    fi
    local port
    port=$(free_port)
    make_model
    start "$port" transformers serve "$directory/model" --device cpu --host 127.0.0.1 --port "$port"
    echo "transformers serve:"
    ask "$port" "$directory/model" 12
    # It refuses top_k and min_p, and leaves response_format out without a word.
    [ "$(number narrowed)" -ge 1 ] || fail "nothing was asked again without top_k and min_p"
    stop_server
    tried=1
}

try_llama() {
    local program=${LLAMA_SERVER:-llama-server} port
    if ! command -v "$program" >/dev/null || [ ! -f "${LLAMA_MODEL:-}" ]; then
        echo "skipped: llama-server is not on the PATH or in LLAMA_SERVER, or LLAMA_MODEL names no file"
        return
    fi
    port=$(free_port)
    start "$port" "$program" -m "$LLAMA_MODEL" --host 127.0.0.1 --port "$port" -t 2 -np 4 -c 8192
    echo "llama-server:"
    ask "$port" model 8
    [ "$(number strays)" -eq 0 ] || fail "answers that do not obey the schema"
    stop_server
    tried=1
}

command -v python3 >/dev/null || { echo "skipped: python3 is not installed"; exit 77; }
try_transformers
try_llama
[ $tried -eq 1 ] || exit 77
