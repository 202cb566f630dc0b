#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# What people get wrong and what files may have become: one line that names file and cause, never a
# crash and never a result.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

cp "$examples"/{candle-street-fire,gideon-stannick-biography,salt-bride-legend}.txt .
run 0 "$memo" ingest ./*.txt --out corpus.h5 --chunk-tokens 150 --overlap 0
small_model corpus.h5 model
run 0 "$memo" generate --corpus corpus.h5 --out reflections

# --- the command line: exit code 2, and nothing is written

refuses_use() { # TEXT... -- VERB ARGUMENTS...
    local texts=()
    while [ "$1" != -- ]; do
        texts+=("$1")
        shift
    done
    shift
    refuses 2 "${texts[@]}" -- "$memo" "$@"
    [ ! -e nothing ] && [ ! -e nothing.run ] || fail "a wrong command line left files: $*"
}

run 2 "$memo"
run 2 "$memo" remember
says "unknown verb 'remember'"
mapfile -t verbs < <("$memo" --help | sed -n 's/^  \([a-z]*\)  *[a-z].*/\1/p')
[ "${#verbs[@]}" -ge 14 ] || fail "memo --help lists ${#verbs[@]} verbs"
for verb in "${verbs[@]}"; do
    run 0 "$memo" "$verb" --help
    grep -q '^usage: memo' stdout || fail "memo $verb --help has no usage line"
    grep -q "^  memo $verb\|^  .*| memo $verb\|^  mpirun" stdout || fail "memo $verb --help has no example"
    refuses_use "unknown option '--colour'" -- "$verb" --colour
    if [ "$verb" != bench ] && [ "$verb" != doctor ]; then # which need nothing
        refuses 2 -- "$memo" "$verb"
    fi
done
while read -r option command; do
    # shellcheck disable=SC2086 # the words of a command
    refuses_use "'--$option' is required" -- $command
done <<'LIST'
out ingest candle-street-fire.txt
out init
corpus generate --out nothing
out generate --corpus corpus.h5
base train --data reflections --out nothing
data train --base model --out nothing
out train --base model --data reflections
tuned vector --base model --out nothing
vectors merge --base model --out nothing
model ask question
data eval --models model
model tokenize
ids logits --model model --out nothing
LIST
while read -r value option command; do
    # shellcheck disable=SC2086
    refuses_use "$option" "'$value'" -- $command
done <<'LIST'
many --chunk-tokens ingest candle-street-fire.txt --out nothing --chunk-tokens many
tiniest shape init --out nothing --shape tiniest
f8 --dtype init --out nothing --dtype f8
0/3 part generate --corpus corpus.h5 --out nothing --part 0/3
oracle generator generate --corpus corpus.h5 --out nothing --generator oracle
4/3 part train --base model --data reflections --out nothing --part 4/3
sometimes --schedule train --base model --data reflections --out nothing --schedule sometimes
abacus --backend train --base model --data reflections --out nothing --backend abacus
llama --chat-template train --base model --data reflections --out nothing --chat-template llama
average --method merge --base model --vectors v --out nothing --method average
heavy --weights merge --base model --vectors v --weights heavy --out nothing
LIST
refuses_use "--epochs" "0" -- train --base model --data reflections --out nothing --epochs 0
refuses_use "2 weights for 1 vectors" -- merge --base model --vectors v --weights 1 2 --out nothing
refuses_use "exclude each other" -- init --text corpus.h5 --tokenizer model --out nothing
printf '{"corpus": "corpus.h5", "epoch": 3}' >options.json
refuses_use "options.json" "'epoch'" -- generate --options options.json --out nothing

# --help names every shape that the error message knows.
run 2 "$memo" init --out nothing --shape tiniest
shapes=$(sed -n 's/.*known: //p' stderr | tr -d ,)
run 0 "$memo" init --help
[ "$(wc -w <<<"$shapes")" -ge 7 ] || fail "only these shapes are known: $shapes"
for shape in $shapes; do
    grep -q "[ :]$shape\([ ,]\|$\)" stdout || fail "memo init --help does not name the shape $shape"
done

# --- texts

refuses 1 "'absent.txt'" "no such file" -- "$memo" ingest absent.txt --out x.h5
printf '   \n' >empty.md
refuses 1 "corpus is empty" -- "$memo" ingest empty.md --out x.h5
printf 'good text, then \xff\xfe bytes' >latin.txt
refuses 1 "latin.txt" "UTF-8" "16" -- "$memo" ingest latin.txt --out x.h5
printf '{"text": "first"}\n{"txt": "second"}\n' >lines.jsonl
refuses 1 "lines.jsonl:2" "text" -- "$memo" ingest lines.jsonl --out x.h5
[ ! -e x.h5 ] || fail "a corpus was written from bad texts"

# --- a corpus

refuses 1 "'absent.h5'" "no such file" -- "$memo" generate --corpus absent.h5 --out g
refuses 1 "'model'" "directory" -- "$memo" generate --corpus model --out g
refuses 1 "candle-street-fire.txt" -- "$memo" generate --corpus candle-street-fire.txt --out g
for offset in 3 100 600 2000 -1; do
    cp corpus.h5 flipped.h5
    flip flipped.h5 "$offset"
    refuses 1 "'flipped.h5'" -- "$memo" generate --corpus flipped.h5 --out g
done
head -c 1500 corpus.h5 >short.h5
refuses 1 "'short.h5'" -- "$memo" generate --corpus short.h5 --out g
: >short.h5
refuses 1 "'short.h5'" -- "$memo" init --text short.h5 --out m
[ ! -e m/model.safetensors ] || fail "a model was made from an empty corpus"

# --- reflections

segment=$(find reflections -name '*.h5' | head -n 1)
cp "$segment" whole.h5
for offset in 3 100 600 2000 -1; do
    flip "$segment" "$offset"
    for command in "audit reflections" "export reflections" "inspect reflections" "compact reflections" \
        "train --base model --data reflections --out t" "eval --models model --data reflections" \
        "generate --corpus corpus.h5 --out reflections"; do
        # shellcheck disable=SC2086
        refuses 1 "$segment" -- "$memo" $command
    done
    cp whole.h5 "$segment"
done
head -c 1500 whole.h5 >"$segment"
refuses 1 "$segment" -- "$memo" audit reflections
rm "$segment"
refuses 1 "missing" "memo generate" -- "$memo" audit reflections
cp whole.h5 "$segment"
run 0 "$memo" audit reflections
refuses 1 "'absent'" -- "$memo" audit absent
refuses 1 "'absent'" -- "$memo" export absent
refuses 1 "'absent.jsonl'" -- "$memo" train --base model --data absent.jsonl --out t
printf '{"question": "Who?", "answer": "Ada"}\n{"question": "Why?"}\n' >pairs.jsonl
refuses 1 "pairs.jsonl" "answer" -- "$memo" train --base model --data pairs.jsonl --out t
mkdir nothing-in-it
refuses 1 "nothing-in-it" -- "$memo" train --base model --data nothing-in-it --out t

# --- a model

damaged() { # makes a fresh copy of the model, to be damaged
    rm -rf damaged
    cp -r model damaged
}
refuses_model() { # TEXT...
    refuses 1 "$@" -- "$memo" ask --model damaged "Who?"
    refuses 1 "$@" -- "$memo" train --base damaged --data reflections --out t
}
refuses 1 "'absent" -- "$memo" ask --model absent "Who?"
refuses 1 "'corpus.h5" -- "$memo" ask --model corpus.h5 "Who?"
bytes=$(stat -c %s model/model.safetensors)
for length in 0 7 8 100 1000 $((bytes - 1)); do
    damaged
    head -c "$length" model/model.safetensors >damaged/model.safetensors
    refuses_model "damaged/model.safetensors"
done
damaged
rm damaged/model.safetensors
refuses_model "damaged"
for text in 'garbage' '{' '[]' '{"model_type": "qwen2"}' '{"model_type": "mamba"}'; do
    damaged
    printf '%s' "$text" >damaged/config.json
    refuses_model "damaged/config.json"
done
damaged
sed -i 's/"hidden_size": *64/"hidden_size":128/' damaged/config.json
refuses_model "damaged" "64" "128"
damaged # a tensor under another name is a missing and a left-over one
sed -i 's/model.norm.weight/model.nrom.weight/' damaged/model.safetensors
refuses_model "damaged" "model.norm.weight" "model.nrom.weight"
damaged
printf '{"version": "1.0"' >damaged/tokenizer.json
refuses_model "'damaged'" "tokenizer.json"
damaged
run 0 "$memo" init --text corpus.h5 --out large --layers 1 --hidden 32 --heads 1 --kv-heads 1 --ffn 32 --vocabulary 600
cp large/tokenizer.json damaged/
refuses_model "tokenizer" "do not belong together"

# --- vectors

run 0 "$memo" train --base model --data reflections --sample 8 --epochs 1 --out tuned
run 0 "$memo" vector --base model --tuned tuned --out vector.safetensors
refuses 1 "tensors differ" "[600, 32] in 'large'" -- "$memo" vector --base model --tuned large --out x.safetensors
refuses 1 "'tuned/model.safetensors'" "not a task vector" -- "$memo" merge --base model \
    --vectors tuned/model.safetensors --out x
refuses 1 "'vector.safetensors'" "other weights" -- "$memo" merge --base tuned --vectors vector.safetensors --out x
head -c 5000 vector.safetensors >short.safetensors
refuses 1 "'short.safetensors'" -- "$memo" merge --base model --vectors short.safetensors --out x
[ ! -e x/model.safetensors ] && [ ! -e x.safetensors ] && [ ! -e t/model.safetensors ] ||
    fail "something was written from damaged input"

# --- JSON Lines on standard input

printf '{"text": 1}\n' >bad.jsonl
refuses 1 "line 1" '"text"' -- "$memo" tokenize --model model <bad.jsonl
refuses 1 "line 1" '"text"' -- "$memo" tokenize --model model --seconds 1 <bad.jsonl
refuses 2 "--decode" -- "$memo" tokenize --model model --seconds 1 --decode <bad.jsonl
printf '{"text": "a"}\n{"text": "\\ud800"}\n' >bad.jsonl
refuses 1 "line 2" -- "$memo" tokenize --model model --seconds 1 <bad.jsonl
printf '{"ids": [1]}\n{"ids": [-1]}\n' >bad.jsonl
refuses 1 "line 2" '"ids"' -- "$memo" tokenize --decode --model model <bad.jsonl
refuses 1 "'bad.jsonl'" "line 2" -- "$memo" logits --model model --ids bad.jsonl --out x.safetensors
printf '{"ids": [500]}\n' >bad.jsonl
refuses 1 "500" -- "$memo" logits --model model --ids bad.jsonl --out x.safetensors
[ ! -e x.safetensors ] || fail "logits were written for ids that the model does not have"
