// SPDX-License-Identifier: Apache-2.0
// A compiled schema with its caches. What its tokens cost and which may come depends on less than
// the state: see json_key.
#ifndef MEMO_WORKER_JSON_MASK_H
#define MEMO_WORKER_JSON_MASK_H

#include "worker/engine/json_program.h"
#include "worker/engine/json_vocabulary.h"

#define JSON_COST_NONE UINT32_MAX // no ending can be written with these tokens

// What a mask depends on, or, with rooms, used and left zero, what the shortest ending does. No
// padding.
struct json_key {
    uint16_t at;
    uint16_t place;
    uint32_t used;                      // STRING: code points left, at most the longest token's
                                        // bytes; NUMBER: digits
    uint32_t missing[JSON_ARRAY_DEPTH]; // items to the minimum of each array around
    uint32_t rooms[JSON_ARRAY_DEPTH];   // items to its maximum, at most as many as a token reaches
    uint64_t left;                      // tokens of the budget; UINT64_MAX: unlimited
};

struct json_cost {
    struct json_key key;
    uint32_t tokens; // of the shortest ending
    bool is_set;
};

struct json_mask {
    struct json_key key;
    uint64_t *words;
    uint32_t worst;   // the longest of the shortest endings behind its tokens
    uint32_t chained; // the next of the same hash, plus 1
    bool recent;      // used since the clock's hand passed
};

struct json_schema {
    struct json_program program;
    struct json_vocabulary *vocabulary;
    bool owns_vocabulary;

    struct json_cost *costs; // open addressing, a power of two
    size_t cost_count;
    size_t cost_capacity;
    size_t cost_limit;      // costs kept before all are forgotten
    uint8_t *ending;        // [ending_capacity] scratch for one shortest ending
    uint32_t *ending_costs; // [ending_capacity + 1] of its rests
    size_t ending_capacity;

    struct json_mask *masks; // [mask_count] of at most mask_limit; the clock's hand evicts
    size_t mask_count;
    size_t mask_limit;
    size_t hand;
    uint32_t *heads; // [mask_limit] by hash: index plus 1
};

// Tokens of the shortest ending from a state.
uint32_t json_schema_cost(struct json_schema *schema, const struct json_state *state);

// The tokens after which the shortest ending takes less than `left`.
const struct json_mask *json_schema_mask(struct json_schema *schema, const struct json_state *state,
                                         size_t left);

// The same, computed anew into words, which are zero. Returns the worst cost.
uint32_t json_schema_mask_compute(struct json_schema *schema, const struct json_state *state,
                                  size_t left, uint64_t *words);

#endif
