// SPDX-License-Identifier: Apache-2.0
// A language model whose answers a function gives, and which answers in an order that a seed
// shuffles.
#ifndef MEMO_TESTS_EXECUTIVE_SCRIPTED_LM_H
#define MEMO_TESTS_EXECUTIVE_SCRIPTED_LM_H

#include "base/strbuf.h"
#include "worker/lm/lm.h"

// The request's parts joined, with a NUL behind them; appends the answer.
typedef void scripted_answer(void *context, const char *prompt, const struct lm_request *request,
                             struct strbuf *out);

struct lm *scripted_lm_create(scripted_answer *answer, void *context, size_t capacity,
                              uint64_t seed);
size_t scripted_lm_most_in_flight(const struct lm *lm);

#endif
