// SPDX-License-Identifier: Apache-2.0
// Requests with a tokenizer: text, stop strings, and answers that a schema constrains.
#include "tests/worker/json_fixture.h"
#include "tests/worker/model_fixture.h"

#include "base/mem.h"
#include "base/random.h"
#include "worker/engine/engine.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

enum { VOCABULARY = 400, CAPACITY = 200, PROMPT = 9 };

struct rig {
    struct device *device;
    struct model *model;
    struct tokenizer *tokenizer;
    struct engine *engine;
    int32_t prompt[PROMPT];
};

static void setup(struct rig *rig, size_t cache_tokens)
{
    struct error err;
    struct model_config config = fixture_config();
    config.vocabulary = VOCABULARY;
    config.max_positions = CAPACITY;
    rig->tokenizer = json_fixture_tokenizer(VOCABULARY);
    rig->device = fixture_device();
    rig->model = fixture_model(rig->device, &config, DTYPE_F32, 8);
    struct engine_options options = {.slots = 8,
                                     .capacity = CAPACITY,
                                     .max_tokens = 64,
                                     .cache_tokens = cache_tokens,
                                     .tokenizer = rig->tokenizer};
    if (engine_create(rig->model, &options, &rig->engine, &err))
        fail_msg("%s", err.text);
    int32_t size = tokenizer_vocabulary_size(rig->tokenizer);
    for (size_t i = 0; i < PROMPT; i++)
        rig->prompt[i] = (int32_t)(random_u64(4, 0, i) % (uint64_t)size);
}

static void teardown(struct rig *rig)
{
    engine_destroy(rig->engine);
    model_destroy(rig->model);
    device_destroy(rig->device);
    tokenizer_destroy(rig->tokenizer);
}

static struct engine_request noise(const struct rig *rig, uint64_t seed)
{
    return (struct engine_request){.id = seed,
                                   .prompt = rig->prompt,
                                   .prompt_count = PROMPT,
                                   .max_new = 60,
                                   .sampling = {.temperature = 1.5f},
                                   .seed = seed};
}

static void next_result(struct rig *rig, struct engine_result *result)
{
    struct error err;
    enum engine_poll polled;
    while ((polled = engine_poll(rig->engine, result, &err)) == ENGINE_RUNNING)
        continue;
    assert_int_equal(polled, ENGINE_RESULT);
}

// Every piece of an answer, used as a stop string, cuts that answer right before its first place.
static void stop_strings_cut_the_text(void **state)
{
    (void)state;
    struct rig rig;
    struct engine_result result;
    struct strbuf whole = {0};
    setup(&rig, 0);
    struct engine_request request = noise(&rig, 3);
    // Tokens that the tokenizer does not have end the text; the mask of a schema avoids them, here
    // only those with text may come.
    request.max_new = 40;
    engine_submit(rig.engine, &request);
    next_result(&rig, &result);
    assert_int_equal(result.reason, ENGINE_LENGTH);
    strbuf_add(&whole, result.text, result.text_bytes);
    int32_t *ids = mem_dup(result.ids, result.count * sizeof *ids);
    assert_true(whole.length > 20);
    for (size_t at = 0; at + 3 <= whole.length && at < 40; at += 2) {
        char piece[4] = {whole.bytes[at], whole.bytes[at + 1], whole.bytes[at + 2]};
        const char *stops[] = {"never written by anybody", piece};
        if (strlen(piece) < 3)
            continue;
        const char *first = memmem(whole.bytes, whole.length, piece, 3);
        request.stop_strings = stops;
        request.stop_string_count = 2;
        engine_submit(rig.engine, &request);
        next_result(&rig, &result);
        assert_int_equal(result.reason, ENGINE_STOP);
        assert_int_equal(result.text_bytes, first - whole.bytes);
        assert_memory_equal(result.text, whole.bytes, result.text_bytes);
        assert_memory_equal(result.ids, ids, result.count * sizeof *ids);
    }
    free(ids);
    strbuf_release(&whole);
    teardown(&rig);
}

static void stop_strings_need_a_tokenizer_and_bytes(void **state)
{
    (void)state;
    struct rig rig;
    struct engine_result result;
    struct error err;
    const char *stops[] = {"x", ""};
    setup(&rig, 0);
    struct engine_request request = noise(&rig, 1);
    request.stop_strings = stops;
    request.stop_string_count = 2;
    engine_submit(rig.engine, &request);
    next_result(&rig, &result);
    assert_int_equal(result.reason, ENGINE_REJECTED);
    assert_string_equal(result.problem, "stop string 1 is empty");
    engine_destroy(rig.engine);
    struct engine_options options = {.slots = 1, .capacity = CAPACITY, .max_tokens = 64};
    assert_int_equal(engine_create(rig.model, &options, &rig.engine, &err), 0);
    engine_submit(rig.engine, &request);
    next_result(&rig, &result);
    assert_string_equal(result.problem, "stop strings need a tokenizer");
    assert_null(result.text);
    request.stop_string_count = 0;
    request.sampling.top_p = 2;
    engine_submit(rig.engine, &request);
    next_result(&rig, &result);
    assert_string_equal(result.problem, "top_p must be between 0 and 1");
    teardown(&rig);
}

struct kept {
    struct strbuf text;
    size_t count, forced_from;
};

static void run_constrained(struct rig *rig, struct json_schema *schema, struct kept *out,
                            size_t count)
{
    struct engine_result result;
    for (uint64_t i = 0; i < count; i++) {
        struct engine_request request = noise(rig, i);
        request.max_new = 30 + 7 * i % 100;
        request.schema = schema;
        engine_submit(rig->engine, &request);
    }
    for (size_t i = 0; i < count; i++) {
        next_result(rig, &result);
        assert_int_equal(result.reason, ENGINE_STOP);
        struct kept *kept = &out[result.id];
        strbuf_add(&kept->text, result.text, result.text_bytes);
        kept->count = result.count;
        kept->forced_from = result.forced_from;
    }
}

// Answers obey the schema within every budget, also when requests are put back and go on later.
static void constrained_answers_are_whole_and_the_same_under_pressure(void **state)
{
    (void)state;
    enum { COUNT = 24 };
    struct kept roomy[COUNT] = {{{0}, 0, 0}}, tight[COUNT] = {{{0}, 0, 0}};
    for (int pressed = 0; pressed < 2; pressed++) {
        struct rig rig;
        struct json_schema *schema;
        struct error err;
        setup(&rig, pressed ? CAPACITY + 2 * KV_BLOCK_TOKENS : 0);
        if (json_schema_compile(json_fixture_pairs, strlen(json_fixture_pairs), rig.tokenizer,
                                VOCABULARY, &schema, &err))
            fail_msg("%s", err.text);
        run_constrained(&rig, schema, pressed ? tight : roomy, COUNT);
        if (pressed)
            assert_true(engine_statistics(rig.engine).preemptions > 0);
        teardown(&rig);
        json_schema_destroy(schema);
    }
    for (size_t i = 0; i < COUNT; i++) {
        assert_int_equal(roomy[i].text.length, tight[i].text.length);
        assert_memory_equal(roomy[i].text.bytes, tight[i].text.bytes, tight[i].text.length);
        assert_int_equal(roomy[i].forced_from, tight[i].forced_from);
        assert_int_equal(roomy[i].text.bytes[roomy[i].text.length - 1], '}');
        strbuf_release(&roomy[i].text);
        strbuf_release(&tight[i].text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stop_strings_cut_the_text),
        cmocka_unit_test(stop_strings_need_a_tokenizer_and_bytes),
        cmocka_unit_test(constrained_answers_are_whole_and_the_same_under_pressure),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
