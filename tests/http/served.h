// SPDX-License-Identifier: Apache-2.0
// Scripted servers of one test, and models that ask them. For tests only.
#ifndef MEMO_TESTS_HTTP_SERVED_H
#define MEMO_TESTS_HTTP_SERVED_H

#include "tests/http/load.h"
#include "tests/http/scripted.h"

extern struct scripted servers[2]; // started by the test

int served_stop(void **state); // a teardown: ends them

#define SERVED(test) cmocka_unit_test_teardown(test, served_stop)

// A model that asks the first `count` servers.
struct lm *served_model(size_t count, struct lm_http_options options);

// Submits requests 0 to count - 1 and polls until the model is idle.
struct load_result *served_run(struct lm *lm, size_t count);

// Each request ended once, with an answer of its kind.
void served_check_answered(const struct load_result *results, size_t count);
void served_check_sums(const struct lm *lm); // all tries are accounted for

#endif
