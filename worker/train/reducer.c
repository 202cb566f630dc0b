// SPDX-License-Identifier: Apache-2.0
#include "worker/train/reducer.h"

#include "base/clock.h"
#include "base/mem.h"
#include "collectives/group_device.h"
#include "worker/train/bucket_queue.h"

#include <assert.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define FIXED_SCALE 0x1p44      // 5.7e-14 of a mean loss's gradient; 2^62 holds 262,144
#define BATCH_BYTES (64u << 20) // of gradients that a GPU sums in one launch: some 0.3 ms
// A call of the group ends at its deadline, and some seconds later when a communicator will not be
// aborted. A thread that is still inside after that is stuck in the driver.
#define STUCK_SECONDS 60.0

struct reducer {
    struct device *device;
    struct group *group;
    struct shards shards;
    struct reducer_options options;
    unsigned char *grads; // [padded], device
    float *vectors;       // [vector_elements], device; NULL: they stand among grads
    float *own;           // [buckets * unit], partial: sums of own units
    int64_t *fixed;       // exact: of everything [padded]; partial: of own units
    int64_t *staging;     // exact and partial: one bucket
    float limit;          // of one gradient, exact

    pthread_t thread;
    bool has_thread;
    pthread_mutex_t mutex;
    pthread_cond_t changed;

    // Under the mutex.
    bool stop;
    bool last;       // the round under way is the step's last
    bool sums_round; // buckets are summed in it; also read by the computing thread alone
    bool stuck;      // the thread will not come back
    struct bucket_queue queue;
    int rc;
    struct error failure;
    struct reducer_times times;
};

static size_t bucket_elements(const struct reducer *r)
{
    return r->shards.unit * (size_t)r->shards.ranks;
}

static size_t own_elements(const struct reducer *r)
{
    return r->shards.unit * r->shards.buckets;
}

static void *bucket_grads(const struct reducer *r, size_t bucket)
{
    return r->grads + bucket * bucket_elements(r) * dtype_bytes(r->options.grads);
}

static struct tensor own_unit(const struct reducer *r, size_t bucket)
{
    const size_t before = (size_t)r->shards.rank * r->shards.unit;
    char *grads = bucket_grads(r, bucket);
    return (struct tensor){grads + before * dtype_bytes(r->options.grads), r->options.grads};
}

// sums += values 2^44, rounded; false when one of them is too large or not a number.
static bool add_fixed(int64_t *sums, const float *values, size_t count, float limit)
{
    bool good = true;
    for (size_t i = 0; i < count; i++) {
        const bool fits = fabsf(values[i]) < limit;
        sums[i] += fits ? (int64_t)rint((double)values[i] * FIXED_SCALE) : 0;
        good &= fits;
    }
    return good;
}

static void from_fixed(float *out, const int64_t *sums, size_t count)
{
    for (size_t i = 0; i < count; i++)
        out[i] = (float)((double)sums[i] * (1 / FIXED_SCALE));
}

static int too_large(struct error *err)
{
    return error_set(err, "a gradient is not finite, or too large for exact sums: training "
                          "diverged; lower --lr or raise --warmup");
}

static int all_reduce(struct reducer *r, void *grads, struct error *err)
{
    const size_t count = bucket_elements(r);
    return r->options.grads == DTYPE_BF16 ? group_all_reduce_bf16(r->group, grads, count, err)
                                          : group_all_reduce_f32(r->group, grads, count, err);
}

static int reduce_scatter(struct reducer *r, void *unit, const void *grads, struct error *err)
{
    const size_t count = r->shards.unit;
    return r->options.grads == DTYPE_BF16
               ? group_reduce_scatter_bf16(r->group, unit, grads, count, err)
               : group_reduce_scatter_f32(r->group, unit, grads, count, err);
}

// The reducer's thread works on host memory here, beside the device's own threads.
static void add_unit(float *own, struct tensor unit, size_t count)
{
    const float *wide = unit.data;
    const uint16_t *half = unit.data;
    for (size_t i = 0; unit.dtype == DTYPE_F32 && i < count; i++)
        own[i] += wide[i];
    for (size_t i = 0; unit.dtype == DTYPE_BF16 && i < count; i++)
        own[i] += bf16_to_f32(half[i]);
}

static int reduce_plain(struct reducer *r, size_t bucket, struct error *err)
{
    void *grads = bucket_grads(r, bucket);
    const struct tensor unit = own_unit(r, bucket);
    if (!r->options.divided)
        return all_reduce(r, grads, err);
    if (reduce_scatter(r, unit.data, grads, err))
        return -1;
    if (r->options.partial) {
        add_unit(r->own + bucket * r->shards.unit, unit, r->shards.unit);
        device_discard(r->device, grads, bucket_elements(r) * dtype_bytes(unit.dtype));
    }
    return 0;
}

static int reduce_exact(struct reducer *r, size_t bucket, bool last, struct error *err)
{
    const size_t count = bucket_elements(r);
    float *grads = bucket_grads(r, bucket);
    int64_t *sums = r->fixed + bucket * count;
    const bool good = add_fixed(sums, grads, count, r->limit);
    device_zero(r->device, grads, count * sizeof(*grads));
    if (!last)
        return good ? 0 : too_large(err);
    size_t begin = 0, own = count;
    int rc;
    if (r->options.divided) {
        own = r->shards.unit;
        begin = (size_t)r->shards.rank * own;
        rc = group_reduce_scatter_i64(r->group, sums + begin, sums, own, err);
    } else {
        rc = group_all_reduce_i64(r->group, sums, count, err);
    }
    if (rc != 0)
        return -1;
    from_fixed(grads + begin, sums + begin, own);
    return good ? 0 : too_large(err);
}

static int reduce_exact_partial(struct reducer *r, size_t bucket, bool last, struct error *err)
{
    const size_t count = bucket_elements(r), own = r->shards.unit;
    float *grads = bucket_grads(r, bucket);
    int64_t *sums = r->fixed + bucket * own;
    int64_t *mine = r->staging + (size_t)r->shards.rank * own;
    memset(r->staging, 0, count * sizeof(*r->staging));
    const bool good = add_fixed(r->staging, grads, count, r->limit);
    device_discard(r->device, grads, count * sizeof(*grads));
    if (group_reduce_scatter_i64(r->group, mine, r->staging, own, err))
        return -1;
    for (size_t i = 0; i < own; i++)
        sums[i] += mine[i];
    if (last)
        from_fixed(r->own + bucket * own, sums, own);
    return good ? 0 : too_large(err);
}

static int reduce_bucket(struct reducer *r, size_t bucket, bool last, struct error *err)
{
    if (!r->options.exact)
        return reduce_plain(r, bucket, err);
    return r->options.partial ? reduce_exact_partial(r, bucket, last, err)
                              : reduce_exact(r, bucket, last, err);
}

static void keep_first(int rc, const struct error *failure, int *first_rc, struct error *err)
{
    if (rc != 0 && *first_rc == 0) {
        *first_rc = rc;
        *err = *failure;
    }
}

static int reduce_batch(struct reducer *r, const struct bucket_batch *batch, bool last,
                        struct error *err)
{
    struct error failure;
    int rc = 0;
    group_after(r->group, batch->mark);
    keep_first(group_batch_begin(r->group, &failure), &failure, &rc, err);
    for (uint64_t i = batch->count; i-- > 0;)
        keep_first(reduce_bucket(r, batch->lowest + i, last, &failure), &failure, &rc, err);
    keep_first(group_batch_end(r->group, &failure), &failure, &rc, err);
    return rc;
}

// Every batch is reduced whatever became of the others, so that all ranks make the same calls; a
// group that failed answers the rest at once.
static void *run_thread(void *argument)
{
    struct reducer *r = argument;
    pthread_mutex_lock(&r->mutex);
    for (;;) {
        struct bucket_batch batch;
        while (!r->stop && !bucket_queue_take(&r->queue, clock_seconds(), &batch))
            pthread_cond_wait(&r->changed, &r->mutex);
        if (r->stop)
            break;
        const bool last = r->last;
        struct error err;
        pthread_mutex_unlock(&r->mutex);
        const double start = clock_seconds();
        const int rc = reduce_batch(r, &batch, last, &err);
        const double seconds = clock_seconds() - start;
        pthread_mutex_lock(&r->mutex);
        keep_first(rc, &err, &r->rc, &r->failure);
        r->times.busy_seconds += seconds;
        bucket_queue_finish(&r->queue);
        pthread_cond_broadcast(&r->changed);
    }
    pthread_mutex_unlock(&r->mutex);
    return NULL;
}

static int allocate(struct reducer *r, struct error *err)
{
    struct device *device = r->device;
    const size_t all = (size_t)shards_padded_elements(&r->shards);
    const size_t sums = r->options.partial ? own_elements(r) : all;
    const size_t bytes = all * dtype_bytes(r->options.grads);
    if (device_alloc(device, bytes, (void **)&r->grads, err) ||
        (r->options.grads == DTYPE_BF16 &&
         device_alloc(device, r->options.vector_elements * sizeof(*r->vectors),
                      (void **)&r->vectors, err)))
        return -1;
    if (r->options.partial) {
        device_discard(device, r->grads, bytes);
        if (device_alloc(device, own_elements(r) * sizeof(*r->own), (void **)&r->own, err))
            return -1;
        device_discard(device, r->own, own_elements(r) * sizeof(*r->own)); // until the first step
        r->staging = r->options.exact ? mem_alloc(bucket_elements(r) * sizeof(*r->staging)) : NULL;
    }
    return r->options.exact
               ? device_alloc(device, sums * sizeof(*r->fixed), (void **)&r->fixed, err)
               : 0;
}

// Launches cost more than waiting for the rest of a batch where buckets are small.
static size_t buckets_per_batch(const struct reducer *r)
{
    const size_t fit = BATCH_BYTES / (bucket_elements(r) * dtype_bytes(r->options.grads));
    if (!group_is_on_device(r->group) || fit < 1)
        return 1;
    return fit < GROUP_BATCH_CALLS ? fit : GROUP_BATCH_CALLS;
}

static int refuse_unfit(struct group *group, struct reducer_options options, struct error *err)
{
    if (options.exact && options.grads == DTYPE_BF16)
        return error_set(err, "exact sums take 64 bits an element, and gradients in bfloat16 would "
                              "save nothing: give --grad-dtype f32 or --reduce float");
    if (!group_is_on_device(group) || !(options.exact || options.partial))
        return 0;
    return error_set(err,
                     options.exact
                         ? "sums as integers are made on the CPU: several GPUs need --reduce float"
                         : "several GPUs divide the optimizer's states only: use --zero 1");
}

int reducer_create(struct device *device, struct group *group, const struct shards *shards,
                   struct reducer_options options, struct reducer **out, struct error *err)
{
    assert(options.divided || !options.partial);
    *out = NULL;
    struct reducer *r = mem_calloc(1, sizeof(*r));
    r->device = device;
    r->group = group;
    r->shards = *shards;
    r->options = options;
    pthread_mutex_init(&r->mutex, NULL);
    pthread_cond_init(&r->changed, NULL);
    bucket_queue_init(&r->queue, r->shards.buckets, buckets_per_batch(r));
    if (refuse_unfit(group, options, err) || allocate(r, err)) {
        reducer_destroy(r);
        return -1;
    }
    const int rc = pthread_create(&r->thread, NULL, run_thread, r);
    if (rc != 0) {
        error_set_errno(err, rc, "cannot start a thread for the gradients");
        reducer_destroy(r);
        return -1;
    }
    r->has_thread = true;
    *out = r;
    return 0;
}

void reducer_destroy(struct reducer *r)
{
    if (!r)
        return;
    if (r->stuck) { // all that it uses stays
        pthread_detach(r->thread);
        return;
    }
    if (r->has_thread) {
        pthread_mutex_lock(&r->mutex);
        r->stop = true;
        pthread_cond_broadcast(&r->changed);
        pthread_mutex_unlock(&r->mutex);
        pthread_join(r->thread, NULL);
    }
    bucket_queue_release(&r->queue);
    pthread_cond_destroy(&r->changed);
    pthread_mutex_destroy(&r->mutex);
    device_free(r->device, r->grads);
    device_free(r->device, r->vectors);
    device_free(r->device, r->own);
    device_free(r->device, r->fixed);
    free(r->staging);
    free(r);
}

size_t reducer_bytes_needed(const struct shards *shards, struct reducer_options options)
{
    const size_t all = (size_t)shards_padded_elements(shards);
    const size_t own = shards->unit * shards->buckets;
    const size_t bucket = shards->unit * (size_t)shards->ranks;
    size_t bytes = all * dtype_bytes(options.grads);
    if (options.grads == DTYPE_BF16)
        bytes += options.vector_elements * sizeof(float);
    if (options.exact)
        bytes += (options.partial ? own + bucket : all) * sizeof(int64_t);
    return bytes + (options.partial ? own * sizeof(float) : 0);
}

struct tensor reducer_grads(const struct reducer *r)
{
    return (struct tensor){r->grads, r->options.grads};
}

float *reducer_vectors(const struct reducer *r)
{
    return r->vectors;
}

void reducer_begin_step(struct reducer *r, size_t contributions)
{
    const size_t all = (size_t)shards_padded_elements(&r->shards), own = own_elements(r);
    const size_t sums = r->options.partial ? own : all;
    r->times = (struct reducer_times){0};
    r->limit = (float)(0x1p62 / FIXED_SCALE / (double)contributions);
    if (r->options.partial)
        device_zero(r->device, r->own, own * sizeof(*r->own));
    else
        device_zero(r->device, r->grads, all * dtype_bytes(r->options.grads));
    if (r->vectors)
        device_zero(r->device, r->vectors, r->options.vector_elements * sizeof(*r->vectors));
    if (r->options.exact)
        device_zero(r->device, r->fixed, sums * sizeof(*r->fixed));
}

void reducer_begin(struct reducer *r, bool last)
{
    pthread_mutex_lock(&r->mutex);
    assert(bucket_queue_is_done(&r->queue));
    r->last = last;
    r->sums_round = last || r->options.exact || r->options.partial;
    if (r->sums_round)
        bucket_queue_begin(&r->queue, last || r->options.partial);
    pthread_mutex_unlock(&r->mutex);
}

// Buckets that are complete but not yet summed hold memory that a partial reducer promised to do
// without.
static bool is_far_behind(const struct reducer *r)
{
    enum { WAITING_BUCKETS = 2 };
    return r->options.partial && bucket_queue_waiting(&r->queue) > WAITING_BUCKETS;
}

void reducer_advance(void *reducer, uint64_t from)
{
    struct reducer *r = reducer;
    struct error err;
    uint64_t mark = 0;
    const int rc = r->sums_round ? group_mark(r->group, &mark, &err) : 0;
    pthread_mutex_lock(&r->mutex);
    keep_first(rc, &err, &r->rc, &r->failure);
    for (size_t b = r->shards.buckets; r->sums_round && b-- > 0;) {
        if (shards_bucket(&r->shards, b).begin < from)
            break;
        bucket_queue_ready(&r->queue, b, mark);
    }
    pthread_cond_broadcast(&r->changed);
    while (from > 0 && is_far_behind(r))
        pthread_cond_wait(&r->changed, &r->mutex);
    pthread_mutex_unlock(&r->mutex);
}

// Until something changed, at most a second.
static void wait_a_moment(struct reducer *r)
{
    struct timespec until;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec++;
    pthread_cond_timedwait(&r->changed, &r->mutex, &until);
}

static void check_stuck(struct reducer *r)
{
    const double seconds = bucket_queue_under_way(&r->queue, clock_seconds());
    if (seconds < group_deadline(r->group) + STUCK_SECONDS)
        return;
    r->stuck = true;
    r->rc = error_set(&r->failure,
                      "a sum of gradients has been under way for %.0f s, and does not "
                      "come back from the driver",
                      seconds);
    bucket_queue_abort(&r->queue);
}

// Vectors are complete when everything is, and so few that nothing is worth doing beside.
static int reduce_vectors(struct reducer *r, struct error *err)
{
    if (!r->vectors || !r->last || r->stuck)
        return 0;
    return group_all_reduce_f32(r->group, r->vectors, r->options.vector_elements, err);
}

int reducer_wait(struct reducer *r, struct error *err)
{
    const double start = clock_seconds();
    pthread_mutex_lock(&r->mutex);
    while (!bucket_queue_is_done(&r->queue)) {
        wait_a_moment(r);
        check_stuck(r);
    }
    r->times.exposed_seconds += clock_seconds() - start;
    int rc = r->rc;
    if (rc != 0)
        *err = r->failure;
    r->rc = 0;
    pthread_mutex_unlock(&r->mutex);
    struct error failure;
    keep_first(reduce_vectors(r, &failure), &failure, &rc, err);
    return rc;
}

int reducer_agree(const struct reducer *r, struct group *control, struct error *err)
{
    return bucket_queue_agree(&r->queue, control, err);
}

struct tensor reducer_sums(const struct reducer *r, size_t bucket)
{
    if (r->options.partial)
        return (struct tensor){r->own + bucket * r->shards.unit, DTYPE_F32};
    return r->options.divided ? own_unit(r, bucket)
                              : (struct tensor){bucket_grads(r, bucket), r->options.grads};
}

struct reducer_times reducer_times(const struct reducer *r)
{
    return r->times;
}
