// SPDX-License-Identifier: Apache-2.0
// Masks beside a naive reading of the schema, on a small vocabulary.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/random.h"
#include "tests/worker/json_fixture.h"
#include "worker/engine/json_mask.h"

#include <stdlib.h>
#include <string.h>

enum { VOCABULARY = 420 };

static struct tokenizer *tokenizer;
static struct json_vocabulary *vocabulary;

static int create_vocabulary(void **state)
{
    (void)state;
    tokenizer = json_fixture_tokenizer(VOCABULARY);
    vocabulary = json_vocabulary_create(tokenizer, VOCABULARY);
    return 0;
}

static int destroy_vocabulary(void **state)
{
    (void)state;
    json_vocabulary_destroy(vocabulary);
    tokenizer_destroy(tokenizer);
    return 0;
}

// One state of an output beside the bytes that led there.
struct checked {
    struct json_schema *schema;
    const struct json *tree;
    struct json_output *output;
    struct strbuf text;
};

static void checked_begin(struct checked *c, struct arena *arena, const char *schema)
{
    struct error err = {""};
    *c = (struct checked){.schema = json_fixture_compile(schema, vocabulary)};
    assert_int_equal(json_parse(arena, schema, strlen(schema), &c->tree, &err), 0);
    c->output = json_output_create(c->schema);
}

static void checked_release(struct checked *c)
{
    json_output_destroy(c->output);
    json_schema_destroy(c->schema);
    strbuf_release(&c->text);
}

static enum reading reading_with(struct checked *c, int32_t token)
{
    size_t bytes;
    const char *added = tokenizer_token_bytes(tokenizer, token, &bytes);
    const size_t length = c->text.length;
    strbuf_add(&c->text, added, bytes);
    const enum reading reading = json_fixture_read(c->tree, c->text.bytes, c->text.length);
    c->text.length = length;
    return reading;
}

static void take(struct checked *c, int32_t token)
{
    size_t bytes;
    const char *added = tokenizer_token_bytes(tokenizer, token, &bytes);
    strbuf_add(&c->text, added, bytes);
    json_output_accept(c->output, token);
}

// Every token that may come may, no other.
static void check_mask(struct checked *c)
{
    const uint64_t *mask = json_output_mask(c->output, SIZE_MAX);
    for (int32_t id = 0; id < VOCABULARY; id++) {
        const bool expected =
            !tokenizer_token_is_added(tokenizer, id) && reading_with(c, id) != READING_INVALID;
        if (json_fixture_allows(mask, id) != expected)
            fail_msg("token %d behind '%.*s': expected %d", id, (int)c->text.length, c->text.bytes,
                     expected);
    }
    for (size_t id = VOCABULARY; id < (VOCABULARY + 63) / 64 * 64; id++)
        assert_false(json_fixture_allows(mask, (int32_t)id));
}

// With every budget near the shortest ending: a token may come if and only if what it needs behind
// it fits.
static void check_budgets(struct checked *c)
{
    const size_t shortest = json_output_shortest(c->output);
    size_t needed[VOCABULARY];
    uint64_t valid[(VOCABULARY + 63) / 64], allowed[(VOCABULARY + 63) / 64];
    memcpy(valid, json_output_mask(c->output, SIZE_MAX), sizeof valid);
    size_t least = SIZE_MAX;
    for (int32_t id = 0; id < VOCABULARY; id++) {
        if (!json_fixture_allows(valid, id))
            continue;
        struct json_output *behind = json_output_copy(c->output);
        json_output_accept(behind, id);
        needed[id] = json_output_shortest(behind) + 1;
        least = needed[id] < least ? needed[id] : least;
        json_output_destroy(behind);
    }
    assert_in_range(least, 1, shortest); // some token leads to an ending, or beyond it to a better
    for (size_t left = shortest; left < shortest + 24; left++) {
        memcpy(allowed, json_output_mask(c->output, left), sizeof allowed);
        for (int32_t id = 0; id < VOCABULARY; id++)
            assert_int_equal(json_fixture_allows(allowed, id),
                             json_fixture_allows(valid, id) && needed[id] <= left);
    }
}

static int32_t any_allowed(struct checked *c, uint64_t seed, uint64_t step)
{
    const uint64_t *mask = json_output_mask(c->output, SIZE_MAX);
    for (uint64_t attempt = 0;; attempt++) {
        const int32_t id = (int32_t)(random_u64(seed, step, attempt) % VOCABULARY);
        if (json_fixture_allows(mask, id))
            return id;
    }
}

static void masks_are_what_a_naive_reading_allows(void **state)
{
    (void)state;
    for (size_t s = 0; s < json_fixture_schema_count; s++) {
        for (uint64_t seed = 0; seed < 6; seed++) {
            struct arena arena = {0};
            struct checked c;
            checked_begin(&c, &arena, json_fixture_schemas[s]);
            for (uint64_t step = 0; step < 60 && !json_output_complete(c.output); step++) {
                check_mask(&c);
                if (step % 4 == seed % 4)
                    check_budgets(&c);
                take(&c, any_allowed(&c, seed, step));
                assert_int_not_equal(json_fixture_read(c.tree, c.text.bytes, c.text.length),
                                     READING_INVALID);
            }
            assert_int_equal(json_output_complete(c.output),
                             json_fixture_read(c.tree, c.text.bytes, c.text.length) ==
                                 READING_WHOLE);
            if (json_output_complete(c.output))
                check_mask(&c); // nothing may follow
            checked_release(&c);
            arena_release(&arena);
        }
    }
}

// Every output of few bytes, byte by byte.
static void count_outputs(const struct json_output *output, size_t bytes_left, size_t *count)
{
    if (json_output_complete(output)) {
        ++*count;
        return;
    }
    uint64_t mask[(VOCABULARY + 63) / 64];
    struct json_output *at = json_output_copy(output);
    memcpy(mask, json_output_mask(at, SIZE_MAX), sizeof mask);
    json_output_destroy(at);
    for (int32_t id = 0; id < 256 && bytes_left > 0; id++) {
        if (!json_fixture_allows(mask, id))
            continue;
        struct json_output *behind = json_output_copy(output);
        json_output_accept(behind, id);
        count_outputs(behind, bytes_left - 1, count);
        json_output_destroy(behind);
    }
}

static void every_output_of_a_small_schema_can_be_written(void **state)
{
    (void)state;
    static const struct {
        const char *schema;
        size_t bytes;
        size_t outputs;
    } cases[] = {
        {"{\"type\":\"array\",\"maxItems\":3,\"items\":{\"type\":\"boolean\"}}", 30, 1 + 2 + 4 + 8},
        {"{\"type\":\"array\",\"minItems\":2,\"maxItems\":2,\"items\":{\"type\":\"string\","
         "\"enum\":[\"a\",\"ab\",\"b\"]}}",
         20, 9},
        {"{\"type\":\"array\",\"minItems\":1,\"maxItems\":1,\"items\":{\"type\":\"integer\"}}", 5,
         // 0 to 999, and with '-' 0 to 99
         1000 + 100},
        {"{\"type\":\"array\",\"minItems\":1,\"maxItems\":1,\"items\":{\"type\":\"number\"}}", 5,
         // also d.d
         1000 + 100 + 100},
        // The empty string; of one byte 96 less quote and backslash; of two bytes 1,920 and 8 short
        // escapes.
        {"{\"type\":\"array\",\"minItems\":1,\"maxItems\":1,\"items\":{\"type\":\"string\","
         "\"maxLength\":1}}",
         6, 1 + 94 + 1920 + 8},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct json_schema *schema = json_fixture_compile(cases[i].schema, vocabulary);
        struct json_output *output = json_output_create(schema);
        size_t count = 0;
        count_outputs(output, cases[i].bytes, &count);
        assert_int_equal(count, cases[i].outputs);
        json_output_destroy(output);
        json_schema_destroy(schema);
    }
}

// The text of tokens, for messages and comparisons.
static void spell(const struct token_list *ids, struct strbuf *out)
{
    struct error err;
    strbuf_reset(out);
    assert_int_equal(tokenizer_decode(tokenizer, ids->ids, ids->count, out, &err), 0);
}

static void forced_text_is_encoded_whole_and_ends_before_the_models_choice(void **state)
{
    (void)state;
    struct error err;
    struct json_schema *schema = json_fixture_compile(json_fixture_pairs, vocabulary);
    struct json_output *output = json_output_create(schema);
    struct token_list forced = {0}, whole = {0};
    struct strbuf text = {0};
    const char *begin = "{\"pairs\":[";
    assert_int_equal(tokenizer_encode(tokenizer, NULL, begin, strlen(begin), false, &whole, &err),
                     0);
    assert_true(whole.count > 1);
    assert_int_equal(json_output_forced(output, SIZE_MAX, &forced), whole.count - 1);
    assert_memory_equal(forced.ids, whole.ids, forced.count * sizeof *forced.ids);
    for (size_t i = 0; i < forced.count; i++)
        json_output_accept(output, forced.ids[i]);
    assert_int_equal(json_output_forced(output, SIZE_MAX, &forced), 0); // the last token is chosen
    json_output_accept(output, whole.ids[whole.count - 1]);
    const int32_t close = tokenizer_token_id(tokenizer, "]", 1);
    json_output_accept(output, close);
    forced.count = 0;
    assert_int_equal(json_output_forced(output, SIZE_MAX, &forced), 1); // the end is whole
    spell(&forced, &text);
    assert_string_equal(text.bytes, "}");
    assert_int_equal(json_output_forced_from(output), SIZE_MAX);
    token_list_release(&forced);
    token_list_release(&whole);
    strbuf_release(&text);
    json_output_destroy(output);
    json_schema_destroy(schema);
}

static void the_budget_marks_where_the_models_text_ends(void **state)
{
    (void)state;
    struct json_schema *schema = json_fixture_compile(json_fixture_pairs, vocabulary);
    struct json_output *output = json_output_create(schema);
    const char *begin = "{\"pairs\":[{\"question\":\"a";
    for (size_t i = 0; i < strlen(begin); i++)
        json_output_accept(output, tokenizer_token_id(tokenizer, begin + i, 1));
    size_t left = json_output_shortest(output);
    assert_int_equal(json_output_forced_from(output), SIZE_MAX);
    struct json_output *free_one = json_output_copy(output);
    json_output_mask(free_one, left + 1);
    json_output_accept(free_one, tokenizer_token_id(tokenizer, "\"", 1));
    assert_int_equal(json_output_forced_from(free_one), SIZE_MAX);
    json_output_destroy(free_one);
    while (!json_output_complete(output)) {
        const uint64_t *mask = json_output_mask(output, left--);
        int32_t id = 0;
        while (!json_fixture_allows(mask, id))
            id++;
        json_output_accept(output, id);
        assert_int_equal(json_output_forced_from(output), strlen(begin));
    }
    assert_int_equal(left, 0);
    json_output_destroy(output);
    json_schema_destroy(schema);
}

// Behind the last byte of an item that the model closed, an array that must end is no loss.
static void an_array_closed_by_force_keeps_its_last_item(void **state)
{
    (void)state;
    struct json_schema *schema = json_fixture_compile(json_fixture_pairs, vocabulary);
    struct json_output *output = json_output_create(schema);
    const char *begin = "{\"pairs\":[{\"question\":\"a\",\"answer\":\"b\"";
    for (size_t i = 0; i < strlen(begin); i++)
        json_output_accept(output, tokenizer_token_id(tokenizer, begin + i, 1));
    for (size_t left = json_output_shortest(output); !json_output_complete(output); left--) {
        const uint64_t *mask = json_output_mask(output, left);
        int32_t id = 0;
        while (!json_fixture_allows(mask, id))
            id++;
        json_output_accept(output, id);
    }
    assert_int_equal(json_output_forced_from(output), strlen(begin) + 1);
    json_output_destroy(output);
    json_schema_destroy(schema);
}

static void schemas_outside_the_subset_are_refused_by_keyword_and_place(void **state)
{
    (void)state;
    static const struct {
        const char *schema;
        const char *said;
    } cases[] = {
        {"", "the schema: not valid JSON"},
        {"[1]", "the schema at '#' is neither an object's nor an array's"},
        {"{\"type\":\"string\"}", "the schema at '#' is neither"},
        {"{\"type\":[\"object\"]}", "the schema at '#' is neither"},
        {"{\"type\":\"object\"}", "without 'properties'"},
        {"{\"type\":\"array\"}", "without 'items'"},
        {"{\"type\":\"array\",\"items\":3}", "the schema at '#/items' is not an object"},
        {"{\"type\":\"array\",\"items\":{\"type\":\"null\"}}",
         "the schema at '#/items': type 'null' is not supported"},
        {"{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"string\",\"pattern\":\"x\"}}}",
         "the schema at '#/properties/a': keyword 'pattern' is not supported here"},
        {"{\"type\":\"object\",\"properties\":{\"a\":{\"enum\":[\"x\"]}}}",
         "'#/properties/a' has no 'type'"},
        {"{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"string\",\"enum\":[]}}}",
         "keyword 'enum' must be a list of strings"},
        {"{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"string\",\"enum\":[1]}}}",
         "keyword 'enum' must be a list of strings"},
        {"{\"type\":\"array\",\"items\":{\"type\":\"string\",\"enum\":[\"x\",\"y\",\"x\"]}}",
         "keyword 'enum' lists a value twice"},
        {"{\"type\":\"array\",\"items\":{\"type\":\"string\",\"maxLength\":-1}}",
         "keyword 'maxLength' must be a whole number"},
        {"{\"type\":\"array\",\"items\":{\"type\":\"string\",\"maxLength\":1.5}}",
         "keyword 'maxLength' must be a whole number"},
        {"{\"type\":\"array\",\"minItems\":3,\"maxItems\":2,\"items\":{\"type\":\"boolean\"}}",
         "minItems above its maxItems"},
        {"{\"type\":\"array\",\"minItems\":100000,\"items\":{\"type\":\"boolean\"}}",
         "32,768 bytes or more"},
        {"{\"type\":\"object\",\"properties\":{},\"required\":[\"b\"]}",
         "keyword 'required' names what is not among the properties"},
        {"{\"type\":\"object\",\"properties\":{},\"additionalProperties\":true}",
         "keyword 'additionalProperties' can only be false"},
        {"{\"type\":\"object\",\"type\":\"object\",\"properties\":{}}",
         "keyword 'type' comes twice"},
        {"{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"boolean\"},"
         "\"a\":{\"type\":\"boolean\"}}}",
         "keyword 'properties' has a name twice"},
        {"{\"type\":\"array\",\"items\":{\"type\":\"boolean\",\"enum\":[true]}}",
         "keyword 'enum' is not supported here"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct error err = {""};
        struct json_schema *schema = NULL;
        assert_int_equal(json_schema_compile_shared(cases[i].schema, strlen(cases[i].schema),
                                                    vocabulary, &schema, &err),
                         -1);
        assert_null(schema);
        if (!strstr(err.text, cases[i].said))
            fail_msg("'%s' does not say '%s'", err.text, cases[i].said);
    }
}

static void nested_arrays_have_a_limit(void **state)
{
    (void)state;
    for (int depth = 6; depth <= 7; depth++) {
        struct strbuf text = {0};
        struct error err = {""};
        struct json_schema *schema = NULL;
        for (int i = 0; i < depth; i++)
            strbuf_adds(&text, "{\"type\":\"array\",\"items\":");
        strbuf_adds(&text, "{\"type\":\"boolean\"}");
        for (int i = 0; i < depth; i++)
            strbuf_addc(&text, '}');
        assert_int_equal(
            json_schema_compile_shared(text.bytes, text.length, vocabulary, &schema, &err),
            depth == 6 ? 0 : -1);
        json_schema_destroy(schema);
        strbuf_release(&text);
    }
}

// What is kept depends on places and on counts near their limits, not on how long an output is.
static void masks_kept_do_not_grow_with_counts(void **state)
{
    (void)state;
    static const char *const schemas[] = {
        "{\"type\":\"array\",\"maxItems\":100000,\"items\":{\"type\":\"array\",\"maxItems\":9000,"
        "\"items\":{\"type\":\"string\",\"maxLength\":100000}}}",
        "{\"type\":\"array\",\"items\":{\"type\":\"array\",\"items\":{\"type\":\"number\"}}}"};
    for (size_t s = 0; s < 2; s++) {
        struct arena arena = {0};
        struct checked c;
        size_t after_half = 0;
        checked_begin(&c, &arena, schemas[s]);
        for (uint64_t step = 0; step < 8000; step++) {
            json_output_accept(c.output, any_allowed(&c, s, step));
            if (json_output_complete(c.output)) {
                json_output_destroy(c.output);
                c.output = json_output_create(c.schema);
            }
            if (step == 4000)
                after_half = c.schema->mask_count;
        }
        assert_true(after_half > 0 && c.schema->mask_count < after_half + 40);
        checked_release(&c);
        arena_release(&arena);
    }
}

static void forgotten_masks_and_costs_are_made_again_alike(void **state)
{
    (void)state;
    for (size_t s = 0; s < json_fixture_schema_count; s++) {
        struct arena arena = {0};
        struct checked c, forgetful;
        checked_begin(&c, &arena, json_fixture_schemas[s]);
        checked_begin(&forgetful, &arena, json_fixture_schemas[s]);
        forgetful.schema->mask_limit = 3;
        forgetful.schema->cost_limit = 5;
        for (uint64_t step = 0; step < 300 && !json_output_complete(c.output); step++) {
            const size_t left = json_output_shortest(c.output) + random_u64(s, step, 0) % 12;
            assert_int_equal(json_output_shortest(forgetful.output),
                             json_output_shortest(c.output));
            assert_memory_equal(json_output_mask(forgetful.output, left),
                                json_output_mask(c.output, left),
                                c.schema->vocabulary->words * sizeof(uint64_t));
            const int32_t id = any_allowed(&c, s, step);
            json_output_accept(c.output, id);
            json_output_accept(forgetful.output, id);
        }
        assert_true(forgetful.schema->mask_count <= 3 && forgetful.schema->cost_count <= 128);
        checked_release(&forgetful);
        checked_release(&c);
        arena_release(&arena);
    }
}

static void a_schema_with_a_vocabulary_of_its_own_works_alone(void **state)
{
    (void)state;
    struct error err;
    struct json_schema *schema = NULL;
    struct json_walk walk = {0};
    assert_int_equal(json_schema_compile(json_fixture_pairs, strlen(json_fixture_pairs), tokenizer,
                                         VOCABULARY + 100, &schema, &err),
                     0);
    json_fixture_walk(schema, tokenizer, VOCABULARY + 100, 300, 1, &walk);
    assert_true(walk.text.length > 0);
    strbuf_release(&walk.text);
    json_schema_destroy(schema);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(masks_are_what_a_naive_reading_allows),
        cmocka_unit_test(every_output_of_a_small_schema_can_be_written),
        cmocka_unit_test(forced_text_is_encoded_whole_and_ends_before_the_models_choice),
        cmocka_unit_test(the_budget_marks_where_the_models_text_ends),
        cmocka_unit_test(an_array_closed_by_force_keeps_its_last_item),
        cmocka_unit_test(schemas_outside_the_subset_are_refused_by_keyword_and_place),
        cmocka_unit_test(nested_arrays_have_a_limit),
        cmocka_unit_test(masks_kept_do_not_grow_with_counts),
        cmocka_unit_test(forgotten_masks_and_costs_are_made_again_alike),
        cmocka_unit_test(a_schema_with_a_vocabulary_of_its_own_works_alone),
    };
    return cmocka_run_group_tests(tests, create_vocabulary, destroy_vocabulary);
}
