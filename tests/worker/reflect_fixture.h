// SPDX-License-Identifier: Apache-2.0
// Runs tasks of a small corpus through the five steps. For tests only.
#ifndef MEMO_TESTS_REFLECT_FIXTURE_H
#define MEMO_TESTS_REFLECT_FIXTURE_H

#include "datasets/corpus.h"
#include "tests/worker/fake_lm.h"
#include "worker/reflect/reflect.h"

// Two documents of two chunks and one of one, about the names that the fake knows.
struct corpus *reflect_fixture_corpus(void);

struct generator *reflect_fixture_create(struct fake_lm *fake, const char *steps);

struct digest reflect_fixture_task_id(size_t task);

// Submits one chunk's task, with the seed 7.
void reflect_fixture_submit(struct generator *generator, const struct corpus *corpus, size_t chunk);

// Polls until a task is finished. The caller releases the result.
struct generated reflect_fixture_wait(struct generator *generator);

// All chunks, as many at once as the generator takes: results[chunk]. [corpus->chunk_count]
void reflect_fixture_run(struct generator *generator, const struct corpus *corpus,
                         struct generated *results);

// The group of all chunks, made from their results.
struct generated reflect_fixture_run_group(struct generator *generator, const struct corpus *corpus,
                                           const struct generated *results);

// Everything of a result that must not depend on time, as text; the caller frees it.
char *reflect_fixture_describe(const struct generated *result);

#endif
