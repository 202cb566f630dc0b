// SPDX-License-Identifier: Apache-2.0
// What a language model answered, read without trust: the complete items of the answer's array,
// each either usable or with the reason why not.
#ifndef MEMO_WORKER_ANSWER_H
#define MEMO_WORKER_ANSWER_H

#include "base/arena.h"
#include "base/error.h"
#include "worker/lm/lm.h"
#include "worker/reflect/request_kind.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct answer_item {
    const char *dropped;  // why the item cannot be used (tally.h); NULL: it can
    const char *question; // cleaned, "" where the kind has none; a NUL follows
    size_t question_bytes;
    const char *answer; // of an entities request the name
    size_t answer_bytes;
    const uint32_t *from; // positions in the list, from 0, each once, in the order given
    size_t from_count;
    bool converging; // of a cross request; parallel otherwise
};

struct answer {
    struct answer_item *items; // the complete ones
    size_t count;
    size_t malformed; // stretches between them that are no JSON
    bool cut;         // an item behind them was begun and not completed
    bool whole;       // the array was closed by the model itself
};

// Reads the answer to a listing request; list_count is what "from" may number. An error: nothing in
// it can be read, *out is empty, and it should be asked for again.
int answer_read(enum request_kind kind, const struct answer_limits *limits, size_t list_count,
                const struct lm_result *result, struct arena *arena, struct answer *out,
                struct error *err);

// Reads the answer to a judge request.
int answer_read_verdict(const struct lm_result *result, bool *out_good, struct error *err);

#endif
