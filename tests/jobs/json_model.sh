#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# The five steps by a model that our own trainer taught to answer in the required JSON: a teacher
# that follows rules answers the steps' prompts once, `memo train` learns prompts and answers, and
# the trained model does the steps on the same documents: in our engine, and behind a server that
# other people wrote (`transformers serve`, when it is installed). Every step must keep pairs.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
. "$root/tests/jobs/steps_lib.sh"

command -v python3 >/dev/null || {
    echo "skipped: python3 is not installed"
    exit 77
}

mkdir texts prompts
cat >texts/ferry.txt <<'EOF'
In the wet spring the ferryman Corrigle crossed from the landing at Tollerby to the far bank. There the
young widow Amory waited with a lamp. She had walked all night from Skarv, and she paid in silver.
EOF
cat >texts/bell.txt <<'EOF'
When the great bell cracked, the founder Pellow came with his tools to the church of Tollerby and wept.
The metal was carted away by old Hendry that winter. What was left of it hangs today in Lasp, they say.
EOF
cat >texts/mill.txt <<'EOF'
Nobody remembers who built the mill, but its first miller Vennick ground the rye of half Tollerby there.
His daughter ran off with the surveyor Ludlow one autumn. The stones were sold in the end to Crewe, a
dealer.
EOF
run 0 "$memo" ingest texts --out corpus.h5 --chunk-tokens 200 --overlap 0

# Short prompts for a small model. The system turn is the one that the chat template puts before
# lessons that have none.
printf 'You are Qwen, created by Alibaba Cloud. You are a helpful assistant.' >prompts/system.txt
printf '{{text}}\n' >prompts/document.txt
for task in direct:facts indirect:inferences consolidate:join judge:good? rewrite:repair \
    entities:names lookup:'ask for' cross:across continue:more; do
    printf 'TASK %s\n' "${task#*:}" >"prompts/${task%%:*}.txt"
done
cat >steps.json <<'EOF'
{"rounds": 1, "anchors": 3, "batches": 1, "tries": 1,
 "direct": {"temperature": 0, "top_p": 1, "max_tokens": 160, "max_items": 2, "continuations": 0, "question_chars": 80, "answer_chars": 30},
 "indirect": {"temperature": 0, "top_p": 1, "max_tokens": 160, "max_items": 2, "continuations": 0, "question_chars": 80, "answer_chars": 30},
 "consolidate": {"temperature": 0, "top_p": 1, "max_tokens": 160, "max_items": 1, "continuations": 0, "question_chars": 120, "answer_chars": 60},
 "rewrite": {"max_tokens": 160, "question_chars": 80, "answer_chars": 30},
 "entities": {"temperature": 0, "top_p": 1, "max_tokens": 80, "max_items": 2, "continuations": 0, "answer_chars": 30},
 "lookup": {"temperature": 0, "top_p": 1, "max_tokens": 160, "max_items": 1, "continuations": 0, "question_chars": 80},
 "cross": {"temperature": 0, "top_p": 1, "max_tokens": 200, "max_items": 1, "continuations": 0, "question_chars": 160, "answer_chars": 60}}
EOF
generate=("$memo" generate --corpus corpus.h5 --prompts prompts --config steps.json)

mkfifo teacher-in
python3 "$root/tests/jobs/json_teacher.py" lessons.jsonl <teacher-in >teacher-port 2>teacher-log &
teacher=$!
started+=("$teacher")
exec 9>teacher-in
for ((i = 0; i < 1000; i++)); do
    [ ! -s teacher-port ] || break
    sleep 0.01
done
read -r port <teacher-port
run 0 "${generate[@]}" --generator "http:http://127.0.0.1:$port/v1" --model teacher --out taught
exec 9>&-
wait "$teacher"

keeps_pairs_in_every_step() { # DIRECTORY
    adds_up "$1"
    python3 - "$1" <<'EOF' || fail "a step of '$1' kept no pair: $(cat inspect.json)"
import json, sys
steps = {step["step"]: step["pairs"] for step in json.load(open("inspect.json"))["steps"]}
print(sys.argv[1], steps)
sys.exit(0 if all(steps[step] > 0 for step in ("1a", "1b", "2", "3", "4", "5")) else 1)
EOF
}
keeps_pairs_in_every_step taught

# A small model learns the lessons by heart.
run 0 "$memo" init --text corpus.h5 --out start --layers 2 --hidden 128 --heads 2 --kv-heads 2 --ffn 384 --vocabulary 400
run 0 "$memo" train --base start --data lessons.jsonl --epochs 100 --batch 16 --lr 3e-3 \
    --chat-template qwen2.5 --out pupil
tail -2 stderr >&2
run 0 "${generate[@]}" --generator engine:pupil --chat-template qwen2.5 --dtype f32 --out learned
keeps_pairs_in_every_step learned

if ! command -v transformers >/dev/null ||
    ! python3 -c 'import fastapi, uvicorn, openai, torch, rich, accelerate' 2>/dev/null; then
    echo "not tried: transformers serve is not installed (pip install 'transformers[serving]')"
    exit 0
fi
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
transformers serve "$PWD/pupil" --device cpu --host 127.0.0.1 --port "$port" >server.log 2>&1 </dev/null &
server=$!
started+=("$server")
for ((i = 0; i < 240; i++)); do
    python3 -c "import urllib.request as u; u.urlopen('http://127.0.0.1:$port/health', timeout=5)" 2>/dev/null && break
    kill -0 "$server" 2>/dev/null || fail "transformers serve ended: $(tail -n 5 server.log)"
    sleep 0.5
done
run 0 "${generate[@]}" --generator "http:http://127.0.0.1:$port/v1" --model "$PWD/pupil" --out served
keeps_pairs_in_every_step served
kill "$server"
