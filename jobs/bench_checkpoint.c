// SPDX-License-Identifier: Apache-2.0
// memo bench train --checkpoint DIR: how long a run waits for a checkpoint that is written behind
// it. What it may wait at most: 50 ms and the time of one plain copy of the states.
#include "jobs/bench.h"

#include "base/clock.h"
#include "base/mem.h"
#include "worker/train/checkpoint.h"

#include <stdlib.h>
#include <string.h>

enum { COPY_BYTES = 256 << 20, COPIES = 4 };

// Of memory that is there already, the best of a few.
static double copy_rate(void)
{
    char *from = mem_alloc(COPY_BYTES), *to = mem_alloc(COPY_BYTES);
    double best = 0;
    memset(from, 1, COPY_BYTES);
    memset(to, 2, COPY_BYTES);
    for (int i = 0; i < COPIES; i++) {
        from[i] = (char)(to[COPY_BYTES - 1 - i] + 1);
        const double start = clock_seconds();
        memcpy(to, from, COPY_BYTES);
        const double rate = COPY_BYTES / (clock_seconds() - start);
        best = rate > best ? rate : best;
    }
    free(from);
    free(to);
    return best;
}

static double state_bytes(const struct trainer *trainer)
{
    const struct layout *layout = model_trained_layout(trainer->model);
    const struct shards shards = shards_make(layout->elements, 0, 1);
    const struct optimizer_bytes bytes =
        optimizer_bytes_needed(layout, &shards, false, trainer->options.optimizer.form);
    return (double)(bytes.weights + bytes.remainder + bytes.moments);
}

int bench_checkpoint(struct trainer *trainer, const char *directory, struct bench_checkpoint *out,
                     struct error *err)
{
    struct checkpoint_write *write = NULL;
    char *own = mem_printf("%s/ranks-%d", directory, group_size(trainer->group));
    *out = (struct bench_checkpoint){.bytes = state_bytes(trainer), .copy_bytes = copy_rate()};
    const double start = clock_seconds();
    int rc = checkpoint_begin(trainer, fs_system(), own, 1, &write, err);
    if (rc == 0 && !write)
        rc = error_set(err, "'%s' has a checkpoint already: give an empty directory", own);
    out->waited = clock_seconds() - start;
    while (rc == 0 && write) {
        struct step_stats stats;
        rc = trainer_step(trainer, &stats, err);
        const double before = clock_seconds();
        if (rc == 0)
            rc = checkpoint_poll(&write, err);
        out->waited += stats.settle_seconds + (clock_seconds() - before);
        out->tokens += (double)stats.tokens;
        out->steps++;
    }
    out->seconds = clock_seconds() - start;
    checkpoint_abandon(write);
    free(own);
    return rc;
}

void bench_checkpoint_report(const struct bench *bench, const struct bench_checkpoint *checkpoint,
                             double tokens_per_second)
{
    const double allowed = 0.05 + checkpoint->bytes / checkpoint->copy_bytes;
    bench_report(bench, "checkpoint: size", checkpoint->bytes / 1e9, "GB", 0, NULL);
    bench_report(bench, "checkpoint: a plain copy", checkpoint->copy_bytes / 1e9, "GB/s", 0, NULL);
    bench_report(bench, "checkpoint: stands after", checkpoint->seconds, "s", 0, NULL);
    bench_report(bench, "checkpoint: the run waited", 1e3 * checkpoint->waited, "ms",
                 checkpoint->waited / allowed, "50 ms and a copy");
    bench_report(bench, "checkpoint: training meanwhile", checkpoint->tokens / checkpoint->seconds,
                 "tokens/s", checkpoint->tokens / checkpoint->seconds / tokens_per_second,
                 "training alone");
    bench_report(bench, "checkpoint: every ten times as long", 1e3 * checkpoint->waited, "ms",
                 checkpoint->waited / (10 * checkpoint->seconds), "the run");
}
