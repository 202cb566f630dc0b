#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# A rank that crashes: the job is requeued and ends with the undisturbed set. A job that crashes each
# time is given up. One that fails by itself is not requeued.
# shellcheck source=tests/slurm/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

cluster_start 2
make_corpus

# A memo that crashes while the file is there.
cat >crashing <<END
#!/usr/bin/env bash
[ ! -e crash ] || { sleep 1 && kill -SEGV \$\$; }
exec "$memo" "\$@"
END
chmod +x crashing
export MEMO=$directory/crashing MEMO_MAX_CRASHES=2

touch crash
submit_generate reflections 2
log=memo-generate-$job.log
crashed() { grep -qs 'crashed with exit code' "$log"; }
cluster_until 60 crashed || fail "the job did not crash"
rm crash
ends "$job" COMPLETED 60
[ "$(field "$job" Restarts)" -eq 1 ] || fail "requeued $(field "$job" Restarts) times, not once"
identical reflections
say "a job that crashed once"

touch crash
submit_generate never 2
log=memo-generate-$job.log
ends "$job" FAILED 90
[ "$(grep -c 'crashed with exit code' "$log")" -eq 2 ] || fail "not two crashes"
grep -q 'MEMO_MAX_CRASHES allows no more than 2' "$log" || fail "the log does not say why it ended"
say "a job that crashes each time"
rm crash

submit "${small[@]}" --export=ALL,CORPUS=absent.h5,OUT=absent "$root/slurm/generate.sbatch"
ends "$job" FAILED 60
[ "$(field "$job" Restarts)" -eq 0 ] || fail "a job that failed was requeued"
say "a job that fails"
