// SPDX-License-Identifier: Apache-2.0
// Sampling and limits of the five steps: steps.json (datasets/prompts/README.md says what each key
// means). The built-in file holds every key; a file of one's own holds those that differ.
#ifndef MEMO_WORKER_REFLECT_CONFIG_H
#define MEMO_WORKER_REFLECT_CONFIG_H

#include "base/error.h"
#include "base/fs.h"
#include "base/hash.h"
#include "worker/engine/sampling.h"
#include "worker/reflect/request_kind.h"

#include <stdint.h>

struct request_limits {
    struct sampling sampling;
    uint32_t max_tokens;    // of one answer
    uint32_t continuations; // requests for the rest of an answer that was cut or full
    struct answer_limits answer;
};

struct reflect_config {
    uint32_t tries;       // of a request whose answer cannot be read
    uint32_t rounds;      // of rewriting and judging a pair again
    uint32_t least_pairs; // below that a chunk's pairs are not consolidated
    uint32_t anchors;     // most anchors of a group; 0: no limit
    uint32_t batches;     // most batches of pairs that an anchor is compared with; 0: no limit
    struct request_limits requests[REQUEST_KINDS];
};

// path NULL: the built-in values. Unknown keys, wrong types and values out of range are errors that
// name them.
int reflect_config_load(struct fs *fs, const char *path, struct reflect_config *out,
                        struct error *err);
// Sets what the JSON text says and leaves the rest of *config alone.
int reflect_config_parse(const char *text, size_t bytes, struct reflect_config *config,
                         struct error *err);
// Of the values, however they are written: the `sampling` of a task's identity.
struct digest reflect_config_digest(const struct reflect_config *config);

#endif
