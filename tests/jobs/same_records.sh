#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# However many workers generate, the reflections are the same.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

run 0 "$memo" ingest "$examples" --out corpus.h5 --chunk-tokens 200 --overlap 20
generate=("$memo" generate --corpus corpus.h5)
run 0 "${generate[@]}" --out alone
run 0 "$memo" export alone --out alone.jsonl
[ "$(wc -l <alone.jsonl)" -gt 1000 ] || fail "the examples gave hardly any pair"
for ranks in 2 3 4; do
    run 0 "${mpi[@]}" -np "$ranks" "${generate[@]}" --out "ranks-$ranks"
    run 0 "$memo" audit "ranks-$ranks"
    run 0 "$memo" export "ranks-$ranks" --out ranks.jsonl
    cmp alone.jsonl ranks.jsonl || fail "$ranks ranks made other pairs than one process"
done

run 0 "$memo" compact ranks-4
run 0 "$memo" audit ranks-4
run 0 "$memo" export ranks-4 --out compact.jsonl
cmp alone.jsonl compact.jsonl || fail "compaction changed the pairs"

# Two parts of the corpus are two disjoint sets of pairs, and together the whole.
for part in 1 2; do
    run 0 "${generate[@]}" --part "$part/2" --out "part-$part"
    run 0 "$memo" export "part-$part" --out "part-$part.jsonl"
done
sort part-1.jsonl part-2.jsonl | cmp - <(sort alone.jsonl) || fail "the parts are not the whole"
