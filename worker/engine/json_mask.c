// SPDX-License-Identifier: Apache-2.0
// Costs and masks.
//
// Every state has one ending that is shortest in bytes, found by walking json_program_nearest. Its
// cost is the least number of tokens that spell it. A budget is kept by allowing only tokens after
// which the cost is still affordable: the first token of the cheapest spelling always is, because
// behind it the rest of that ending is the ending, and costs one token less.
//
// Inside a string, nearly all of the vocabulary may come, whatever is around the string; so what
// each token does there is worked out once for the vocabulary, and a mask asks only how many code
// points are left and which places are affordable. The few tokens with a closing quote are read on
// behind it. Elsewhere few tokens may come: the sorted vocabulary is walked, leaving out all that
// share a rejected beginning.
#include "worker/engine/json_mask.h"

#include "base/mem.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static uint64_t key_hash(const struct json_key *key)
{
    uint64_t words[sizeof *key / sizeof(uint64_t)], hash = 0;
    memcpy(words, key, sizeof *key);
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) {
        hash = (hash ^ words[i]) * 0x9E3779B97F4A7C15u;
        hash ^= hash >> 29;
    }
    return hash;
}

static bool key_equal(const struct json_key *a, const struct json_key *b)
{
    return memcmp(a, b, sizeof *a) == 0;
}

// What the shortest ending depends on. All parts of a number that may end are alike, but told
// apart here.
static struct json_key cost_key(const struct json_program *program, const struct json_state *state)
{
    struct json_key key = {.at = state->at, .place = state->place};
    uint16_t array = program->instructions[state->at].inside;
    while (array != JSON_NO_ARRAY) {
        const struct json_instruction *items = &program->instructions[array];
        const uint32_t count = state->counts[items->level];
        key.missing[items->level] = count < items->minimum ? items->minimum - count : 0;
        array = items->inside;
    }
    return key;
}

static uint32_t at_most(uint32_t value, uint32_t limit)
{
    return value < limit ? value : limit;
}

static struct json_key mask_key(const struct json_schema *schema, const struct json_state *state,
                                uint64_t left)
{
    const struct json_program *program = &schema->program;
    const struct json_instruction *here = &program->instructions[state->at];
    const uint32_t longest = schema->vocabulary->longest;
    struct json_key key = cost_key(program, state);
    key.left = left;
    key.used = here->operation == JSON_READ_STRING ? at_most(here->maximum - state->used, longest)
                                                   : state->used;
    uint16_t array = here->inside;
    while (array != JSON_NO_ARRAY) {
        const struct json_instruction *items = &program->instructions[array];
        key.rooms[items->level] =
            at_most(items->maximum - state->counts[items->level], longest / items->item_bytes + 1);
        array = items->inside;
    }
    return key;
}

static void grow_ending(struct json_schema *schema)
{
    const size_t capacity = schema->ending_capacity ? 2 * schema->ending_capacity : 256;
    schema->ending_capacity = capacity;
    schema->ending = mem_realloc(schema->ending, capacity);
    schema->ending_costs =
        mem_realloc(schema->ending_costs, (capacity + 1) * sizeof *schema->ending_costs);
}

// The ending into schema->ending; returns its bytes.
static size_t spell_ending(struct json_schema *schema, const struct json_state *state)
{
    struct json_state at = *state;
    size_t length = 0;
    for (int byte; (byte = json_program_nearest(&schema->program, &at)) >= 0;) {
        if (length == schema->ending_capacity)
            grow_ending(schema);
        schema->ending[length++] = (uint8_t)byte;
        const bool accepted = json_program_step(&schema->program, &at, (uint8_t)byte);
        assert(accepted);
    }
    return length;
}

// Least tokens of each rest of the ending, from its end.
static uint32_t count_tokens(const struct json_schema *schema, size_t length)
{
    uint32_t *costs = schema->ending_costs;
    if (length == 0)
        return 0;
    costs[length] = 0;
    for (size_t i = length; i-- > 0;) {
        uint32_t found =
            json_vocabulary_lengths(schema->vocabulary, schema->ending + i, length - i);
        costs[i] = JSON_COST_NONE;
        for (size_t n = 1; found; n++, found >>= 1)
            if (found & 1 && costs[i + n] < costs[i] - 1)
                costs[i] = costs[i + n] + 1;
    }
    return costs[0];
}

static struct json_cost *find_cost(struct json_schema *schema, const struct json_key *key)
{
    size_t at = key_hash(key) & (schema->cost_capacity - 1);
    while (schema->costs[at].is_set && !key_equal(&schema->costs[at].key, key))
        at = (at + 1) & (schema->cost_capacity - 1);
    return &schema->costs[at];
}

static void make_room_for_cost(struct json_schema *schema)
{
    if (2 * schema->cost_count < schema->cost_capacity)
        return;
    struct json_cost *old = schema->costs;
    const size_t old_capacity = schema->cost_capacity;
    const bool forget = schema->cost_count >= schema->cost_limit;
    schema->cost_capacity = forget || old_capacity == 0 ? 256 : 2 * old_capacity;
    schema->costs = mem_calloc(schema->cost_capacity, sizeof *schema->costs);
    schema->cost_count = forget ? 0 : schema->cost_count;
    for (size_t i = 0; i < old_capacity && !forget; i++)
        if (old[i].is_set)
            *find_cost(schema, &old[i].key) = old[i];
    free(old);
}

uint32_t json_schema_cost(struct json_schema *schema, const struct json_state *state)
{
    const struct json_key key = cost_key(&schema->program, state);
    make_room_for_cost(schema);
    struct json_cost *cost = find_cost(schema, &key);
    if (!cost->is_set) {
        const size_t length = spell_ending(schema, state);
        *cost = (struct json_cost){key, count_tokens(schema, length), true};
        schema->cost_count++;
    }
    return cost->tokens;
}

// A mask in the making.
struct making {
    struct json_schema *schema;
    uint64_t *words;
    size_t left;
    uint32_t worst;
};

static bool is_affordable(struct making *m, const struct json_state *behind, uint32_t *cost)
{
    *cost = json_schema_cost(m->schema, behind);
    return *cost != JSON_COST_NONE && *cost < m->left;
}

static void allow(struct making *m, int32_t id, uint32_t cost)
{
    m->words[id / 64] |= 1ull << (id % 64);
    if (cost > m->worst)
        m->worst = cost;
}

static void add_stays(struct making *m, const struct json_state *state, uint32_t room,
                      const struct json_string_tokens *tokens)
{
    bool affordable[JSON_PLACE_COUNT], met[JSON_PLACE_COUNT] = {false};
    uint32_t costs[JSON_PLACE_COUNT];
    for (int place = 0; place < JSON_PLACE_COUNT; place++) {
        struct json_state behind = *state;
        behind.place = (uint16_t)place;
        affordable[place] = is_affordable(m, &behind, &costs[place]);
    }
    for (size_t i = 0; i < tokens->stay_count; i++) {
        const struct json_stay *token = &tokens->stays[i];
        const bool may_come = token->points <= room && affordable[token->end];
        m->words[token->id / 64] |= (uint64_t)may_come << (token->id % 64);
        met[token->end] |= may_come;
    }
    for (int place = 0; place < JSON_PLACE_COUNT; place++)
        if (met[place] && costs[place] > m->worst)
            m->worst = costs[place];
}

static void add_closes(struct making *m, const struct json_state *state, uint32_t room,
                       const struct json_string_tokens *tokens)
{
    struct json_state closed = *state;
    closed.place = JSON_PLACE_TEXT;
    json_program_step(&m->schema->program, &closed, '"');
    for (size_t i = 0; i < tokens->close_count; i++) {
        const struct json_close *token = &tokens->closes[i];
        struct json_state behind = closed;
        uint32_t cost;
        bool may_come = token->points <= room;
        for (uint32_t n = 0; n < token->behind_length && may_come; n++)
            may_come = json_program_step(&m->schema->program, &behind, token->behind[n]);
        if (may_come && is_affordable(m, &behind, &cost))
            allow(m, token->id, cost);
    }
}

static void add_string(struct making *m, const struct json_state *state)
{
    const uint32_t maximum = m->schema->program.instructions[state->at].maximum;
    const uint32_t room = maximum - state->used;
    const struct json_string_tokens *tokens =
        json_vocabulary_place(m->schema->vocabulary, (enum json_place)state->place);
    add_stays(m, state, room, tokens);
    add_closes(m, state, room, tokens);
}

static void add_by_walking(struct making *m, const struct json_state *state)
{
    const struct json_vocabulary *v = m->schema->vocabulary;
    struct json_state *states = mem_alloc((v->longest + 1) * sizeof *states);
    uint32_t passed = 0; // bytes of the last token read that may come; states[0..passed] are theirs
    states[0] = *state;
    for (size_t i = 0; i < v->token_count; i++) {
        const struct json_token *token = &v->tokens[i];
        uint32_t cost;
        if (v->shared[i] > passed)
            continue;
        passed = v->shared[i];
        while (passed < token->length) {
            states[passed + 1] = states[passed];
            if (!json_program_step(&m->schema->program, &states[passed + 1], token->bytes[passed]))
                break;
            passed++;
        }
        if (passed == token->length && is_affordable(m, &states[passed], &cost))
            allow(m, token->id, cost);
    }
    free(states);
}

uint32_t json_schema_mask_compute(struct json_schema *schema, const struct json_state *state,
                                  size_t left, uint64_t *words)
{
    struct making m = {schema, words, left, 0};
    if (schema->program.instructions[state->at].operation == JSON_READ_STRING)
        add_string(&m, state);
    else
        add_by_walking(&m, state);
    return m.worst;
}

// A mask to fill: a new one, or the first that was not used since the hand last passed it.
static struct json_mask *evict(struct json_schema *schema)
{
    if (schema->mask_count < schema->mask_limit) {
        struct json_mask *mask = &schema->masks[schema->mask_count++];
        mask->words = mem_alloc(schema->vocabulary->words * sizeof *mask->words);
        return mask;
    }
    while (schema->masks[schema->hand].recent) {
        schema->masks[schema->hand].recent = false;
        schema->hand = (schema->hand + 1) % schema->mask_limit;
    }
    struct json_mask *mask = &schema->masks[schema->hand];
    schema->hand = (schema->hand + 1) % schema->mask_limit;
    const uint32_t index = (uint32_t)(mask - schema->masks) + 1;
    uint32_t *link = &schema->heads[key_hash(&mask->key) % schema->mask_limit];
    while (*link != index)
        link = &schema->masks[*link - 1].chained;
    *link = mask->chained;
    return mask;
}

static const struct json_mask *get_mask(struct json_schema *schema, const struct json_state *state,
                                        size_t left)
{
    const struct json_key key = mask_key(schema, state, left);
    const size_t bucket = key_hash(&key) % schema->mask_limit;
    for (uint32_t i = schema->heads[bucket]; i; i = schema->masks[i - 1].chained) {
        if (key_equal(&schema->masks[i - 1].key, &key)) {
            schema->masks[i - 1].recent = true;
            return &schema->masks[i - 1];
        }
    }
    struct json_mask *mask = evict(schema);
    memset(mask->words, 0, schema->vocabulary->words * sizeof *mask->words);
    mask->key = key;
    mask->worst = json_schema_mask_compute(schema, state, left, mask->words);
    mask->recent = true;
    mask->chained = schema->heads[bucket];
    schema->heads[bucket] = (uint32_t)(mask - schema->masks) + 1;
    return mask;
}

const struct json_mask *json_schema_mask(struct json_schema *schema, const struct json_state *state,
                                         size_t left)
{
    const struct json_mask *all = get_mask(schema, state, SIZE_MAX);
    return all->worst < left ? all : get_mask(schema, state, left);
}
