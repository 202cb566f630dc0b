#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# How many pairs a second a coordinator and its workers commit: cloze pairs of an invented corpus.
# A measurement, not a test: it asserts only that everything is there.
# usage: bench_generate.sh BINARY ROOT [RANKS [DOCUMENTS]]
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

ranks=${3:-33}
documents=${4:-3000}

invent() { # DOCUMENTS: one file each, 60 sentences with a year, numbers and names
    python3 - "$1" <<'PYTHON'
import random, sys
random.seed(7)
nouns = "lantern harbour miller ferry orchard granary beacon quarry chapel foundry weaver cooper".split()
syllables = "ar en ol it um ber co dast os tri vel and er mo kit us burg holm stad wick".split()
name = lambda: "".join(random.choice(syllables) for _ in range(3)).capitalize()
sentence = lambda: "In %d the %s of %s paid %d crowns to %s for the %s at %s." % (
    random.randrange(1500, 2000), random.choice(nouns), name(), random.randrange(9000), name(),
    random.choice(nouns), name())
for number in range(int(sys.argv[1])):
    with open("texts/%06d.txt" % number, "w") as out:
        out.write(" ".join(sentence() for _ in range(60)))
PYTHON
}

mkdir texts
invent "$documents"
run 0 "$memo" ingest texts --out corpus.h5 --chunk-tokens 250 --overlap 0
begin=$(date +%s.%N)
run 0 "${mpi[@]}" -np "$ranks" "$memo" generate --corpus corpus.h5 --out out
end=$(date +%s.%N)
run 0 "$memo" audit --json out
bytes=$(du -sb out | cut -f1)
segments=$(find out -name '*.h5' | wc -l)
pairs=$(json_number stdout pairs)
own=$(json_number out/run/summary.json seconds)
awk -v pairs="$pairs" -v seconds="$(echo "$end $begin" | awk '{ print $1 - $2 }')" -v bytes="$bytes" \
    -v segments="$segments" -v own="$own" -v ranks="$ranks" 'BEGIN {
    printf "%d ranks: %d pairs in %.2f s with start and end, %.0f pairs/s; %.2f s without, %.0f pairs/s; %.1f MB in %d segments\n",
        ranks, pairs, seconds, pairs / seconds, own, pairs / own, bytes / 1e6, segments }'

# What the disk gives: as many synced files of that size, one after the other.
begin=$(date +%s.%N)
mkdir plain
for ((i = 0; i < segments; i++)); do
    dd if=/dev/zero of="plain/$i" bs="$((bytes / segments))" count=1 conv=fsync status=none
done
end=$(date +%s.%N)
awk -v seconds="$(echo "$end $begin" | awk '{ print $1 - $2 }')" -v bytes="$bytes" 'BEGIN {
    printf "the same bytes in plain files, synced one by one: %.2f s, %.1f MB/s\n", seconds, bytes / 1e6 / seconds }'
