#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A disk that fills at any point: one line names the file and the cause, nothing half-written stands
# under a final name, and the same command works once there is space again.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

cp "$examples"/{candle-street-fire,gideon-stannick-biography,salt-bride-legend}.txt .
ingest=("$memo" ingest ./*.txt --chunk-tokens 150 --overlap 0)
run 0 "${ingest[@]}" --out corpus.h5
init=("$memo" init --text corpus.h5 --layers 1 --hidden 32 --heads 1 --kv-heads 1 --ffn 32 --vocabulary 300)
run 0 "${init[@]}" --out model
generate=("$memo" generate --corpus corpus.h5)
run 0 "${generate[@]}" --out reflections
run 0 "$memo" export reflections --out pairs.jsonl
train=("$memo" train --base model --data reflections --sample 32 --batch 8 --epochs 2 --checkpoint-steps 2
    --lr 1e-3 --threads 1)
run 0 "${train[@]}" --out tuned
vector=("$memo" vector --base model --tuned tuned)
run 0 "${vector[@]}" --out vector.safetensors
merge=("$memo" merge --base model --vectors vector.safetensors)
run 0 "${merge[@]}" --out merged

# fills WHOLE FILE OUTPUT COMMAND...: FILE under OUTPUT is WHOLE (a file of the undisturbed run) or
# is not there, at every size of the disk; "" for FILE: OUTPUT itself.
fills() {
    local whole=$1 file=$2 output=$3 free code failures=0
    shift 3
    for free in 0 1 100 400 700 1000 1500 3000 5000 9000 17000 33000 60000 90000 130000 200000 400000; do
        rm -rf "$output" "$output.run"
        MEMO_FS_FAULT=enospc:$free "$@" --out "$output" >stdout 2>stderr
        code=$?
        if [ "$code" -ne 0 ]; then
            failures=$((failures + 1))
            [ "$code" -eq 1 ] || fail "exit code $code with $free bytes of space: $*"
            [ "$(grep -c 'error: ' stderr)" -eq 1 ] || fail "not one error line: $*"
            says "no space left on device" "'$output"
            if [ -e "$output$file" ]; then
                cmp "$output$file" "$whole" || fail "'$output$file' is half-written with $free bytes of space"
            fi
            run 0 "$@" --out "$output" # there is space again
        fi
        cmp "$output$file" "$whole" || fail "'$output$file' differs after $free bytes of space"
        [ -z "$(find "$output" "$output.run" -name '*.tmp*' 2>/dev/null)" ] || fail "temporary files are left: $*"
    done
    [ "$failures" -ge 5 ] || fail "the disk was full only $failures times: $*"
}
fills corpus.h5 "" corpus-full.h5 "${ingest[@]}"
fills model/model.safetensors /model.safetensors model-full "${init[@]}"
fills tuned/model.safetensors /model.safetensors tuned-full "${train[@]}"
fills vector.safetensors "" vector-full.safetensors "${vector[@]}"
fills merged/model.safetensors /model.safetensors merged-full "${merge[@]}"

# Segments hold times, so their pairs are compared. All that stands must be readable at any moment.
for free in 0 100 700 1200 1500 2000 3000 5000 9000 12000 17000 20000 33000; do
    rm -rf reflections-full
    MEMO_FS_FAULT=enospc:$free "${generate[@]}" --commit-seconds 0 --out reflections-full >stdout 2>stderr
    code=$?
    if [ "$code" -ne 0 ]; then
        [ "$code" -eq 1 ] || fail "exit code $code with $free bytes of space: memo generate"
        [ "$(grep -c 'error: ' stderr)" -eq 1 ] || fail "not one error line: memo generate"
        says "no space left on device" "'reflections-full"
        [ ! -d reflections-full ] || run 0 "$memo" export reflections-full
        run 0 "${generate[@]}" --out reflections-full
    fi
    run 0 "$memo" audit reflections-full
    run 0 "$memo" export reflections-full --out again.jsonl
    cmp pairs.jsonl again.jsonl || fail "other pairs after $free bytes of space"
done

# Every rank has a disk of its own here, and one of them says why the job ends.
ranks=("${mpi[@]}" -np 3 "${generate[@]}" --commit-seconds 0 --out reflections-ranks)
MEMO_FS_FAULT=enospc:3000 "${ranks[@]}" >stdout 2>stderr && fail "ranks with full disks ended well"
[ "$(grep -c 'error: ' stderr)" -eq 1 ] || fail "not one error line of three ranks"
says "no space left on device" "'reflections-ranks/attempt-0001/rank-"
run 1 "$memo" audit reflections-ranks
run 0 "${ranks[@]}"
run 0 "$memo" export reflections-ranks --out again.jsonl
cmp pairs.jsonl again.jsonl || fail "other pairs after the disks of the ranks were full"
