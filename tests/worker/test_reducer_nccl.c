// SPDX-License-Identifier: Apache-2.0
// The reducer over NCCL's transport with stand-ins for NCCL and the CUDA runtime: what runs beside
// backward, and what waits for it. "Kernels" are functions in a stream that is a thread, gradients
// are memory of the host.
#include "base/clock.h"
#include "collectives/group_device.h"
#include "worker/train/reducer.h"

#include <cuda_runtime.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { RANKS = 2, BUCKETS = 3, UNIT = SHARD_CUT_LEAST };

static const double patience_seconds = 20; // for what must happen

struct rank {
    struct group *control, *gpus;
    struct device *device;
    struct reducer *reducer;
    struct shards shards;
};

struct job {
    struct reducer_options options;
    int (*body)(struct rank *rank, struct error *err);
};

static cudaStream_t compute;

// Three buckets, of which the last is not whole.
static struct shards three_buckets(int rank)
{
    return (struct shards){.elements = (BUCKETS - 1) * RANKS * UNIT + 100,
                           .cut = SHARD_CUT_LEAST,
                           .unit = UNIT,
                           .rank = rank,
                           .ranks = RANKS,
                           .buckets = BUCKETS};
}

static int run_rank(struct group *control, void *context, struct error *err)
{
    const struct job *job = context;
    struct rank rank = {.control = control, .shards = three_buckets(group_rank(control))};
    const struct device_options ref = {.backend = "ref"};
    char gpu[16];
    snprintf(gpu, sizeof(gpu), "%d", group_rank(control));
    setenv("FAKE_CUDA_FIRST", gpu, 1);
    group_set_deadline(control, patience_seconds);
    cudaStreamCreateWithPriority(&compute, cudaStreamNonBlocking, 0);
    int rc = group_open_nccl(control, &(struct group_device_options){.stream = compute}, &rank.gpus,
                             err) ||
                     device_create(&ref, &rank.device, err) ||
                     reducer_create(rank.device, rank.gpus, &rank.shards, job->options,
                                    &rank.reducer, err) ||
                     job->body(&rank, err)
                 ? -1
                 : 0;
    reducer_destroy(rank.reducer);
    device_destroy(rank.device);
    group_close(rank.gpus);
    cudaStreamDestroy(compute);
    return rc;
}

static int run(const struct job *job, struct error *err)
{
    const int rc = group_run_shm(RANKS, run_rank, (void *)job, err);
    fake_cuda_await_end();
    return rc;
}

static void run_well(const struct job *job)
{
    struct error err = {{0}};
    if (run(job, &err))
        fail_msg("%s", err.text);
}

static float *grads_of(const struct rank *rank)
{
    return reducer_grads(rank->reducer).data;
}

// --- kernels ---

struct fill {
    float *first;
    size_t count;
    float value;
};

static struct fill fills[BUCKETS];
static _Atomic bool gate_open;

static void nap(void)
{
    struct timespec pause = {.tv_nsec = 1000000};
    nanosleep(&pause, NULL);
}

static void fill_kernel(void *argument)
{
    const struct fill *fill = argument;
    for (int i = 0; i < 20; i++)
        nap(); // as long as a layer takes: who does not wait for it sees old gradients
    for (size_t i = 0; i < fill->count; i++)
        fill->first[i] += fill->value;
}

static void gate_kernel(void *argument)
{
    (void)argument;
    while (!atomic_load(&gate_open))
        nap();
}

static void enqueue_bucket(const struct rank *rank, size_t bucket)
{
    const struct range range = shards_bucket(&rank->shards, bucket);
    fills[bucket] = (struct fill){grads_of(rank) + range.begin, (size_t)range_count(range),
                                  (float)(bucket + 1)};
    cudaLaunchHostFunc(compute, fill_kernel, &fills[bucket]);
}

static float element(struct tensor from, size_t i)
{
    return from.dtype == DTYPE_F32 ? ((const float *)from.data)[i]
                                   : bf16_to_f32(((const uint16_t *)from.data)[i]);
}

static void add_to(struct tensor to, size_t i, float value)
{
    if (to.dtype == DTYPE_F32)
        ((float *)to.data)[i] += value;
    else
        ((uint16_t *)to.data)[i] = bf16_from_f32(element(to, i) + value);
}

static int expect_sums(const struct rank *rank, bool divided, float factor, struct error *err)
{
    for (size_t bucket = 0; bucket < BUCKETS; bucket++) {
        const struct range range = divided ? shards_unit(&rank->shards, bucket, rank->shards.rank)
                                           : shards_bucket(&rank->shards, bucket);
        for (size_t i = 0; i < range_count(range); i++) {
            const float sum = element(reducer_sums(rank->reducer, bucket), i);
            if (sum != factor * (float)(bucket + 1))
                return error_set(err, "bucket %zu, sum %zu is %g", bucket, i, (double)sum);
        }
    }
    return 0;
}

// --- beside backward ---

static int await_value(const volatile float *place, float want, struct error *err)
{
    const double begin = clock_seconds();
    while (*place != want) {
        if (clock_seconds() - begin > patience_seconds)
            return error_set(err, "the sum of the upper layer waits for the lower one");
        nap();
    }
    return 0;
}

// The last bucket is summed while the kernels of the layer below it have not ended, and nobody
// waited for them: they cannot end before it is.
static int sum_beside_backward(struct rank *rank, struct error *err)
{
    const size_t top = BUCKETS - 1;
    reducer_begin_step(rank->reducer, RANKS);
    reducer_begin(rank->reducer, true);
    enqueue_bucket(rank, top);
    reducer_advance(rank->reducer, shards_bucket(&rank->shards, top).begin);
    cudaLaunchHostFunc(compute, gate_kernel, NULL);
    enqueue_bucket(rank, 1);
    enqueue_bucket(rank, 0);
    const int rc = await_value(grads_of(rank) + shards_bucket(&rank->shards, top).begin,
                               RANKS * (float)BUCKETS, err);
    reducer_advance(rank->reducer, 0); // only enqueued: the buckets' sums wait for their kernels
    atomic_store(&gate_open, true);
    return rc || reducer_wait(rank->reducer, err) || expect_sums(rank, false, RANKS, err) ||
                   reducer_agree(rank->reducer, rank->control, err)
               ? -1
               : 0;
}

static void sums_run_beside_backward_of_lower_layers(void **state)
{
    (void)state;
    run_well(&(struct job){{.batch_bytes = 1}, sum_beside_backward}); // a launch for each bucket
}

// --- rounds ---

static void fill_now(const struct rank *rank)
{
    for (size_t bucket = 0; bucket < BUCKETS; bucket++) {
        const struct range range = shards_bucket(&rank->shards, bucket);
        for (uint64_t i = range.begin; i < range.end; i++)
            add_to(reducer_grads(rank->reducer), i, (float)(bucket + 1));
    }
}

// Two steps of three rounds; rank 1 has nothing in the last.
static int sum_rounds(struct rank *rank, const struct reducer_options *options, struct error *err)
{
    enum { ROUNDS = 3, CONTRIBUTIONS = ROUNDS * RANKS - 1 };
    for (int step = 0; step < 2; step++) {
        reducer_begin_step(rank->reducer, CONTRIBUTIONS);
        for (int round = 0; round < ROUNDS; round++) {
            reducer_begin(rank->reducer, round + 1 == ROUNDS);
            if (rank->shards.rank == 0 || round + 1 < ROUNDS)
                fill_now(rank);
            reducer_advance(rank->reducer, 0);
            if (reducer_wait(rank->reducer, err))
                return -1;
        }
        if (expect_sums(rank, options->divided, CONTRIBUTIONS, err) ||
            reducer_agree(rank->reducer, rank->control, err))
            return -1;
    }
    return 0;
}

#define ROUNDS_BODY(name, ...)                                                                     \
    static int name(struct rank *rank, struct error *err)                                          \
    {                                                                                              \
        return sum_rounds(rank, &(struct reducer_options){__VA_ARGS__}, err);                      \
    }

ROUNDS_BODY(sum_all, .exact = false)
ROUNDS_BODY(sum_divided, .divided = true)
ROUNDS_BODY(sum_partial, .divided = true, .partial = true)

static void rounds_are_added_on_every_stage(void **state)
{
    (void)state;
    struct reducer_options options[] = {
        {.grads = DTYPE_F32},
        {.grads = DTYPE_F32, .exact = true},
        {.grads = DTYPE_BF16, .vector_elements = 1}, // small integers are exact in it
    };
    for (size_t i = 0; i < sizeof(options) / sizeof(options[0]); i++) {
        run_well(&(struct job){options[i], sum_all});
        options[i].divided = true;
        run_well(&(struct job){options[i], sum_divided});
        options[i].partial = true;
        run_well(&(struct job){options[i], sum_partial});
    }
}

// --- what integers cannot hold ---

static float odd_value;

// In rank 1's first round alone; both ranks make all calls, and rank 1 says why.
static int sum_something_odd(struct rank *rank, struct error *err)
{
    int rc = 0;
    reducer_begin_step(rank->reducer, 2 * RANKS);
    for (int round = 0; round < 2; round++) {
        struct error failure;
        reducer_begin(rank->reducer, round == 1);
        fill_now(rank);
        if (rank->shards.rank == 1 && round == 0)
            grads_of(rank)[UNIT + 7] = odd_value;
        reducer_advance(rank->reducer, 0);
        if (reducer_wait(rank->reducer, &failure) && rc == 0) {
            rc = -1;
            *err = failure;
        }
    }
    return group_agree(rank->control, rc, err);
}

static void what_integers_cannot_hold_is_told(void **state)
{
    (void)state;
    static const float odd[] = {NAN, -INFINITY, 0x1p17f};
    static const struct reducer_options stages[] = {
        {.exact = true},
        {.exact = true, .divided = true},
        {.exact = true, .divided = true, .partial = true},
    };
    for (size_t i = 0; i < 3; i++) {
        struct error err = {{0}};
        odd_value = odd[i];
        assert_int_equal(run(&(struct job){stages[i], sum_something_odd}, &err), -1);
        assert_string_equal(err.text,
                            "rank 1: a gradient is not finite, or too large for exact sums: "
                            "training diverged; lower --lr or raise --warmup");
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sums_run_beside_backward_of_lower_layers),
        cmocka_unit_test(rounds_are_added_on_every_stage),
        cmocka_unit_test(what_integers_cannot_hold_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
