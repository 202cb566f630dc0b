// SPDX-License-Identifier: Apache-2.0
// One job at a time. The caller publishes it by raising `round`; every worker takes part in every
// round, takes tasks from `next` until none is left, and lowers `busy` when it leaves. Workers and
// caller spin shortly on their atomic and then sleep on a condition variable; whoever changes the
// atomic does it under the mutex, so that no wake-up is lost.
#include "kernels/cpu/pool.h"

#include "base/mem.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

// About 10 microseconds: longer than the gap between two operations of a step, shorter than a
// scheduler's time slice by two orders of magnitude.
enum { SPINS = 1000 };

struct pool {
    pthread_mutex_t mutex;
    pthread_cond_t published; // round was raised
    pthread_cond_t finished;  // busy became 0
    atomic_uint round;
    atomic_int busy;
    atomic_size_t next;
    size_t count;
    void (*run)(void *argument, size_t task, int thread);
    void *argument;
    bool stopping;
    int threads; // started ones and the caller
    struct worker {
        struct pool *pool;
        pthread_t thread;
        int index;
    } workers[];
};

static void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#endif
}

static void work(struct pool *pool, int thread)
{
    for (;;) {
        size_t task = atomic_fetch_add_explicit(&pool->next, 1, memory_order_relaxed);
        if (task >= pool->count)
            return;
        pool->run(pool->argument, task, thread);
    }
}

static void await_round(struct pool *pool, unsigned seen)
{
    for (int spin = 0; spin < SPINS; spin++) {
        if (atomic_load_explicit(&pool->round, memory_order_acquire) != seen)
            return;
        relax();
    }
    pthread_mutex_lock(&pool->mutex);
    while (atomic_load_explicit(&pool->round, memory_order_acquire) == seen)
        pthread_cond_wait(&pool->published, &pool->mutex);
    pthread_mutex_unlock(&pool->mutex);
}

static void await_workers(struct pool *pool)
{
    for (int spin = 0; spin < SPINS; spin++) {
        if (atomic_load_explicit(&pool->busy, memory_order_acquire) == 0)
            return;
        relax();
    }
    pthread_mutex_lock(&pool->mutex);
    while (atomic_load_explicit(&pool->busy, memory_order_acquire) != 0)
        pthread_cond_wait(&pool->finished, &pool->mutex);
    pthread_mutex_unlock(&pool->mutex);
}

static void *worker_main(void *argument)
{
    struct worker *worker = argument;
    struct pool *pool = worker->pool;
    for (unsigned seen = 0;; seen++) {
        await_round(pool, seen);
        if (pool->stopping)
            return NULL;
        work(pool, worker->index);
        if (atomic_fetch_sub_explicit(&pool->busy, 1, memory_order_acq_rel) == 1) {
            pthread_mutex_lock(&pool->mutex);
            pthread_cond_signal(&pool->finished);
            pthread_mutex_unlock(&pool->mutex);
        }
    }
}

static void publish(struct pool *pool)
{
    pthread_mutex_lock(&pool->mutex);
    atomic_fetch_add_explicit(&pool->round, 1, memory_order_release);
    pthread_cond_broadcast(&pool->published);
    pthread_mutex_unlock(&pool->mutex);
}

int pool_create(int threads, struct pool **out, struct error *err)
{
    struct pool *pool = mem_calloc(1, sizeof *pool + (size_t)threads * sizeof pool->workers[0]);
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->published, NULL);
    pthread_cond_init(&pool->finished, NULL);
    pool->threads = 1;
    for (int i = 1; i < threads; i++) {
        struct worker *worker = &pool->workers[i];
        worker->pool = pool;
        worker->index = i;
        int rc = pthread_create(&worker->thread, NULL, worker_main, worker);
        if (rc != 0) {
            pool_destroy(pool);
            return error_set_errno(err, rc, "cannot start thread %d of %d", i + 1, threads);
        }
        pool->threads++;
    }
    *out = pool;
    return 0;
}

void pool_destroy(struct pool *pool)
{
    if (!pool)
        return;
    pool->stopping = true;
    publish(pool);
    for (int i = 1; i < pool->threads; i++)
        pthread_join(pool->workers[i].thread, NULL);
    pthread_cond_destroy(&pool->finished);
    pthread_cond_destroy(&pool->published);
    pthread_mutex_destroy(&pool->mutex);
    free(pool);
}

void pool_run(struct pool *pool, size_t count, void (*run)(void *argument, size_t task, int thread),
              void *argument)
{
    if (pool->threads == 1 || count <= 1) {
        for (size_t task = 0; task < count; task++)
            run(argument, task, 0);
        return;
    }
    pool->run = run;
    pool->argument = argument;
    pool->count = count;
    atomic_store_explicit(&pool->next, 0, memory_order_relaxed);
    atomic_store_explicit(&pool->busy, pool->threads - 1, memory_order_relaxed);
    publish(pool);
    work(pool, 0);
    await_workers(pool);
}
