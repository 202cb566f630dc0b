// SPDX-License-Identifier: Apache-2.0
// Generators turn a task (which text, what seed) into reflections. They are interchangeable: a
// worker submits as many tasks as the generator has room for and polls for what is finished;
// nothing here waits. A generator is used by one thread.
#ifndef MEMO_WORKER_GENERATOR_H
#define MEMO_WORKER_GENERATOR_H

#include "base/error.h"
#include "base/hash.h"
#include "datasets/corpus.h"
#include "datasets/reflections.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// The pairs of a finished chunk, input of its group's task.
struct generator_member {
    size_t chunk;
    const struct reflection *pairs;
    size_t pair_count;
};

struct generator_task {
    struct digest task_id;
    const struct corpus *corpus; // outlives the task
    size_t chunk;                // index into corpus->chunks; of a group's task unused
    // A group's task (step 5): its chunks, ascending. The caller's until submit returns.
    const struct generator_member *members;
    size_t member_count; // 0: a chunk's task
    uint64_t seed;       // of the run
};

// What became of a task: done, empty, or set aside with a reason. A task that fails is a result,
// not an error of the generator.
struct generated {
    struct reflection_task task;
    const struct reflection *pairs; // task.pairs of them, in the order of ordinals
    void *memory;                   // behind the pairs and the reason
    bool fatal;                     // set aside: another attempt would do harm
};
void generated_release(struct generated *result);

struct generator;

struct generator_ops {
    // Digest of all that the generator reads of the corpus for this chunk: part of the task's
    // identity, so that a task is new when anything it depends on has changed.
    struct digest (*input_digest)(struct generator *generator, const struct corpus *corpus,
                                  size_t chunk);
    // The same for a group's task, from the chunks of the group. NULL: makes nothing of groups.
    struct digest (*group_input_digest)(struct generator *generator, const struct corpus *corpus,
                                        const uint32_t *chunks, size_t chunk_count);
    // Takes a task. Called with fewer than `capacity` tasks in flight. An error means that the
    // generator itself cannot work on.
    int (*submit)(struct generator *generator, const struct generator_task *task,
                  struct error *err);
    // 1: *out is one finished task, released by the caller. 0: nothing is finished yet. -1: the
    // generator cannot work on.
    int (*poll)(struct generator *generator, struct generated *out, struct error *err);
    // The task need not be finished and will not be reported; an unknown id is no error.
    void (*cancel)(struct generator *generator, struct digest task_id);
    void (*destroy)(struct generator *generator); // cancels what is in flight
};

// The head of every generator's own struct.
struct generator {
    const struct generator_ops *ops;
    const char *name;     // "cloze", for messages
    struct digest digest; // part of every task's identity: equal digests make equal pairs
    size_t capacity;      // tasks that may be in flight
};

static inline struct digest generator_input_digest(struct generator *generator,
                                                   const struct corpus *corpus, size_t chunk)
{
    return generator->ops->input_digest(generator, corpus, chunk);
}

static inline int generator_submit(struct generator *generator, const struct generator_task *task,
                                   struct error *err)
{
    return generator->ops->submit(generator, task, err);
}

static inline int generator_poll(struct generator *generator, struct generated *out,
                                 struct error *err)
{
    return generator->ops->poll(generator, out, err);
}

static inline void generator_cancel(struct generator *generator, struct digest task_id)
{
    generator->ops->cancel(generator, task_id);
}

static inline void generator_destroy(struct generator *generator)
{
    if (generator) {
        generator->ops->destroy(generator);
    }
}

#endif
