// SPDX-License-Identifier: Apache-2.0
// Threads that share the tasks of one call. Tasks are taken one by one, so which thread runs a task
// is chance: a task's result must not depend on it. An idle thread looks for work for some
// microseconds and then sleeps, because a core that only waits is taken from the other ranks of the
// machine.
#ifndef MEMO_KERNELS_CPU_POOL_H
#define MEMO_KERNELS_CPU_POOL_H

#include "base/error.h"

#include <stddef.h>

struct pool;

int pool_create(int threads, struct pool **out, struct error *err);
void pool_destroy(struct pool *pool);

// Calls run(argument, task, thread) for every task below count, 0 <= thread < threads; returns when
// all are done. The calling thread is thread 0. Not reentrant.
void pool_run(struct pool *pool, size_t count, void (*run)(void *argument, size_t task, int thread),
              void *argument);

#endif
