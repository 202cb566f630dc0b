// SPDX-License-Identifier: Apache-2.0
#include "worker/train/reducer.h"

#include "base/clock.h"
#include "base/mem.h"
#include "collectives/group_device.h"
#include "kernels/kernels.h"
#include "worker/train/bucket_queue.h"

#include <assert.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#define BATCH_BYTES (64u << 20)
// A call of the group ends at its deadline, and some seconds later when a communicator will not be
// aborted. A thread that is still inside after that is stuck in the driver.
#define STUCK_SECONDS 60.0

struct reducer {
    struct device *device;
    struct group *group;
    struct shards shards;
    struct reducer_options options;
    // On the device.
    unsigned char *grads; // [padded]
    float *vectors;       // [vector_elements]; NULL: they stand among grads
    float *own;           // [buckets * unit], partial: sums of own units
    int64_t *fixed;       // exact: of everything [padded]; partial: of own units
    int64_t *staging;     // exact and partial: one bucket
    float limit;          // of one gradient, exact
    int32_t *unfit;       // exact: a gradient of the step was beyond it
    // Exact or partial: what the thread computes, in the group's stream where it has one.
    struct device *beside;

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

// Where the integers of a bucket are summed: of exact and partial sums the staging, otherwise where
// they stay.
static int64_t *bucket_fixed(const struct reducer *r, size_t bucket)
{
    return r->options.partial ? r->staging : r->fixed + bucket * bucket_elements(r);
}

// What comes before a bucket's call of the group: exact gradients become integers, and make room.
static void prepare_bucket(struct reducer *r, size_t bucket)
{
    const size_t count = bucket_elements(r);
    struct device *beside = r->beside;
    float *grads = bucket_grads(r, bucket);
    if (!r->options.exact)
        return;
    if (r->options.partial)
        device_zero(beside, r->staging, count * sizeof(*r->staging));
    beside->ops->fixed_accumulate(
        beside, &(struct fixed_accumulate){.sums = bucket_fixed(r, bucket),
                                           .values = {.data = grads, .dtype = DTYPE_F32},
                                           .count = count,
                                           .limit = r->limit,
                                           .unfit = r->unfit});
    (r->options.partial ? device_discard : device_zero)(beside, grads, count * sizeof(*grads));
}

static int sum_bucket(struct reducer *r, size_t bucket, struct error *err)
{
    const size_t unit = r->shards.unit, before = (size_t)r->shards.rank * unit;
    void *grads = bucket_grads(r, bucket);
    if (!r->options.exact)
        return r->options.divided ? reduce_scatter(r, own_unit(r, bucket).data, grads, err)
                                  : all_reduce(r, grads, err);
    int64_t *fixed = bucket_fixed(r, bucket);
    return r->options.divided ? group_reduce_scatter_i64(r->group, fixed + before, fixed, unit, err)
                              : group_all_reduce_i64(r->group, fixed, bucket_elements(r), err);
}

static void value_of(struct reducer *r, float *out, const int64_t *sums, size_t count)
{
    r->beside->ops->fixed_value(r->beside, &(struct fixed_value){out, sums, count});
}

// What comes behind: a partial reducer adds its unit to those of earlier rounds, integers become
// gradients.
static void finish_bucket(struct reducer *r, size_t bucket, bool last)
{
    const size_t unit = r->shards.unit, before = (size_t)r->shards.rank * unit;
    struct device *beside = r->beside;
    if (r->options.partial && r->options.exact) {
        int64_t *sums = r->fixed + bucket * unit;
        beside->ops->fixed_add(beside, &(struct fixed_add){sums, r->staging + before, unit});
        if (last)
            value_of(r, r->own + bucket * unit, sums, unit);
    } else if (r->options.partial) {
        beside->ops->accumulate(beside,
                                &(struct accumulate){.sums = {.data = r->own + bucket * unit},
                                                     .terms = own_unit(r, bucket),
                                                     .count = unit});
        device_discard(beside, bucket_grads(r, bucket),
                       bucket_elements(r) * dtype_bytes(r->options.grads));
    } else if (r->options.exact && r->options.divided) {
        value_of(r, own_unit(r, bucket).data, bucket_fixed(r, bucket) + before, unit);
    } else if (r->options.exact) {
        value_of(r, bucket_grads(r, bucket), bucket_fixed(r, bucket), bucket_elements(r));
    }
}

static void keep_first(int rc, const struct error *failure, int *first_rc, struct error *err)
{
    if (rc != 0 && *first_rc == 0) {
        *first_rc = rc;
        *err = *failure;
    }
}

// Waits for what was enqueued beside; behind the round's last bucket, says whether all gradients of
// the round could be held.
static int settle_batch(struct reducer *r, bool ends_round, struct error *err)
{
    int32_t unfit = 0;
    if (!r->beside)
        return 0;
    if (!r->options.exact || !ends_round)
        return device_sync(r->beside, err);
    if (device_copy_out(r->beside, &unfit, r->unfit, sizeof(unfit), err))
        return -1;
    return unfit ? too_large(err) : 0;
}

static int reduce_batch(struct reducer *r, const struct bucket_batch *batch, bool last,
                        struct error *err)
{
    struct error failure;
    const bool calls = last || r->options.partial;
    int rc = group_after(r->group, batch->mark, err);
    for (uint64_t i = batch->count; i-- > 0;)
        prepare_bucket(r, batch->lowest + i);
    if (calls)
        keep_first(group_batch_begin(r->group, &failure), &failure, &rc, err);
    for (uint64_t i = calls ? batch->count : 0; i-- > 0;)
        keep_first(sum_bucket(r, batch->lowest + i, &failure), &failure, &rc, err);
    if (calls)
        keep_first(group_batch_end(r->group, &failure), &failure, &rc, err);
    for (uint64_t i = calls && rc == 0 ? batch->count : 0; i-- > 0;)
        finish_bucket(r, batch->lowest + i, last);
    keep_first(settle_batch(r, batch->lowest == 0, &failure), &failure, &rc, err);
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

static int allocate_partial(struct reducer *r, size_t grad_bytes, struct error *err)
{
    struct device *device = r->device;
    const size_t own = own_elements(r) * sizeof(*r->own);
    device_discard(device, r->grads, grad_bytes);
    if (device_alloc(device, own, (void **)&r->own, err))
        return -1;
    device_discard(device, r->own, own); // until the first step
    return r->options.exact ? device_alloc(device, bucket_elements(r) * sizeof(*r->staging),
                                           (void **)&r->staging, err)
                            : 0;
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
                      (void **)&r->vectors, err)) ||
        (r->options.partial && allocate_partial(r, bytes, err)))
        return -1;
    if (r->options.exact &&
        (device_alloc(device, sums * sizeof(*r->fixed), (void **)&r->fixed, err) ||
         device_alloc(device, sizeof(*r->unfit), (void **)&r->unfit, err)))
        return -1;
    return r->options.exact || r->options.partial
               ? device_create_beside(device, group_stream(r->group), &r->beside, err)
               : 0;
}

// Launches cost more than waiting for the rest of a batch where buckets are small. There is one
// staging.
static size_t buckets_per_batch(const struct reducer *r)
{
    const size_t wanted = r->options.batch_bytes ? r->options.batch_bytes : BATCH_BYTES;
    const size_t fit = wanted / (bucket_elements(r) * dtype_bytes(r->options.grads));
    if (!group_is_on_device(r->group) || fit < 1 || (r->options.exact && r->options.partial))
        return 1;
    return fit < GROUP_BATCH_CALLS ? fit : GROUP_BATCH_CALLS;
}

static int refuse_unfit(struct reducer_options options, struct error *err)
{
    if (!options.exact || options.grads != DTYPE_BF16)
        return 0;
    return error_set(err, "exact sums take 64 bits an element, and gradients in bfloat16 would "
                          "save nothing: give --grad-dtype f32 or --reduce float");
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
    if (refuse_unfit(options, err) || allocate(r, err)) {
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
    device_destroy(r->beside);
    bucket_queue_release(&r->queue);
    pthread_cond_destroy(&r->changed);
    pthread_mutex_destroy(&r->mutex);
    device_free(r->device, r->grads);
    device_free(r->device, r->vectors);
    device_free(r->device, r->own);
    device_free(r->device, r->fixed);
    device_free(r->device, r->staging);
    device_free(r->device, r->unfit);
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
        bytes += (options.partial ? own + bucket : all) * sizeof(int64_t) + sizeof(int32_t);
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
    if (r->options.exact) {
        device_zero(r->device, r->fixed, sums * sizeof(*r->fixed));
        device_zero(r->device, r->unfit, sizeof(*r->unfit));
    }
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
// without, where memory can be given back.
static bool is_far_behind(const struct reducer *r)
{
    enum { WAITING_BUCKETS = 2 };
    return r->options.partial && device_gives_back(r->device) &&
           bucket_queue_waiting(&r->queue) > WAITING_BUCKETS;
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
