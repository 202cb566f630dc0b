// SPDX-License-Identifier: Apache-2.0
// Outputs of a model that writes noise, with generous and tight budgets of tokens: all parse, all
// obey their schema, and every item that ended inside the model's own bytes comes out.
// $MEMO_TEST_OUTPUTS says how many outputs (default 400).
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/random.h"
#include "tests/test_data.h"
#include "tests/worker/json_fixture.h"
#include "worker/lm/salvage.h"

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

static size_t output_count(void)
{
    const char *asked = getenv("MEMO_TEST_OUTPUTS");
    return asked ? strtoul(asked, NULL, 10) : 400;
}

static size_t shortest(struct json_schema *schema)
{
    struct json_output *output = json_output_create(schema);
    const size_t tokens = json_output_shortest(output);
    json_output_destroy(output);
    return tokens;
}

// A third with no more than a few tokens beyond the shortest output, a third with some, a third
// with plenty.
static size_t choose_budget(size_t least, uint64_t i)
{
    const uint64_t drawn = random_u64(7, 0, i);
    return least + (i % 3 == 0 ? drawn % 4 : i % 3 == 1 ? drawn % 60 : 200 + drawn % 200);
}

static void check_parses(const char *schema_text, const struct json_walk *walk)
{
    struct arena arena = {0};
    struct error err = {""};
    const struct json *schema, *root;
    assert_int_equal(json_parse(&arena, schema_text, strlen(schema_text), &schema, &err), 0);
    if (json_parse(&arena, walk->text.bytes, walk->text.length, &root, &err))
        fail_msg("%s: %s", walk->text.bytes, err.text);
    assert_int_equal(json_fixture_read(schema, walk->text.bytes, walk->text.length), READING_WHOLE);
    arena_release(&arena);
}

// Items of {"pairs":[...]} whose last byte lies before forced_from, counted by brackets outside
// strings.
static size_t count_own_items(const struct json_walk *walk)
{
    size_t items = 0;
    int depth = 0;
    bool in_string = false;
    for (size_t i = 0; i < walk->text.length && i < walk->forced_from; i++) {
        const char c = walk->text.bytes[i];
        if (in_string && c == '\\')
            i++;
        else if (c == '"')
            in_string = !in_string;
        else if (!in_string && (c == '{' || c == '['))
            depth++;
        else if (!in_string && (c == '}' || c == ']'))
            items += --depth == 2 && c == '}';
    }
    return items;
}

static void check_salvage(const struct json_walk *walk)
{
    struct arena arena = {0};
    struct salvage saved;
    salvage_items(&arena, walk->text.bytes, walk->text.length, walk->forced_from, "pairs", &saved);
    assert_int_equal(saved.count, count_own_items(walk));
    assert_int_equal(saved.malformed, 0);
    for (size_t i = 0; i < saved.count; i++) {
        assert_int_equal(saved.items[i]->length, 2);
        assert_non_null(json_get(saved.items[i], "question"));
        assert_non_null(json_get(saved.items[i], "answer"));
    }
    assert_int_equal(saved.whole,
                     walk->forced_from == SIZE_MAX || walk->forced_from >= walk->text.length - 1);
    arena_release(&arena);
}

struct tally {
    size_t forced_ends, own_ends, items, free_forced_tokens;
};

static void check_schema(size_t s, size_t outputs, struct tally *tally, FILE *log)
{
    const char *text = json_fixture_schemas[s];
    struct json_schema *schema = json_fixture_compile(text, vocabulary);
    const size_t least = shortest(schema);
    struct json_walk walk = {0};
    for (uint64_t i = 0; i < outputs; i++) {
        const size_t budget = choose_budget(least, i);
        json_fixture_walk(schema, tokenizer, VOCABULARY, budget, 1000 * s + i, &walk);
        assert_true(walk.tokens <= budget);
        check_parses(text, &walk);
        if (text == json_fixture_pairs) {
            check_salvage(&walk);
            tally->items += count_own_items(&walk);
        }
        tally->forced_ends += walk.forced_from != SIZE_MAX;
        tally->own_ends += walk.forced_from == SIZE_MAX;
        tally->free_forced_tokens += walk.forced;
        fprintf(log, "%s\t", text);
        for (size_t b = 0; b < walk.text.length; b++)
            fprintf(log, "%02x", (unsigned char)walk.text.bytes[b]);
        fprintf(log, "\n");
    }
    strbuf_release(&walk.text);
    json_schema_destroy(schema);
}

// Python reads them all again; without Python only our own reader has.
static void check_with_python(const char *path, size_t outputs)
{
    char *command = mem_printf("python3 '%s' < '%s'", CHECK_SCRIPT, path);
    FILE *pipe = popen(command, "r");
    size_t checked = 0;
    assert_non_null(pipe);
    assert_int_equal(fscanf(pipe, "%zu", &checked), 1);
    assert_int_equal(pclose(pipe), 0);
    assert_int_equal(checked, outputs);
    free(command);
}

static void every_output_parses_and_no_complete_item_is_lost(void **state)
{
    (void)state;
    char path[] = "/tmp/memo_json_outputs_XXXXXX";
    const int file = mkstemp(path);
    FILE *log = fdopen(file, "w");
    struct tally tally = {0};
    size_t outputs = 0;
    assert_non_null(log);
    for (size_t s = 0; s < json_fixture_schema_count; s++) {
        // half of all are pairs, what the reflection steps ask for
        const size_t share =
            s == 0 ? output_count() / 2 : output_count() / 2 / (json_fixture_schema_count - 1) + 1;
        check_schema(s, share, &tally, log);
        outputs += share;
    }
    fclose(log);
    if (system("python3 -c 'import json' > /dev/null 2>&1") == 0)
        check_with_python(path, outputs);
    else
        printf("python3 is not installed: outputs were read by our own reader only\n");
    remove(path);
    printf("%zu outputs, %zu ended by the budget, %zu complete pairs kept, %zu tokens forced\n",
           outputs, tally.forced_ends, tally.items, tally.free_forced_tokens);
    assert_true(tally.forced_ends > outputs / 10 && tally.own_ends > outputs / 10);
    assert_true(tally.items > 0 && tally.free_forced_tokens > 0);
}

// Of the tokens allowed, the one behind which the shortest ending is longest; of equals a late one.
static int32_t most_expensive(struct json_output *output, size_t left)
{
    uint64_t mask[(VOCABULARY + 63) / 64];
    size_t highest = 0;
    int32_t worst = -1;
    memcpy(mask, json_output_mask(output, left), sizeof mask);
    for (int32_t id = 0; id < VOCABULARY; id++) {
        if (!json_fixture_allows(mask, id))
            continue;
        struct json_output *behind = json_output_copy(output);
        json_output_accept(behind, id);
        if (worst < 0 || json_output_shortest(behind) >= highest) {
            highest = json_output_shortest(behind);
            worst = id;
        }
        json_output_destroy(behind);
    }
    assert_true(worst >= 0);
    return worst;
}

// A model that always writes what makes the ending longest ends all the same.
static void an_adversary_cannot_break_a_budget(void **state)
{
    (void)state;
    for (size_t s = 0; s < json_fixture_schema_count; s++) {
        struct json_schema *schema = json_fixture_compile(json_fixture_schemas[s], vocabulary);
        const size_t least = shortest(schema);
        for (size_t budget = least; budget < least + 40; budget += 1 + budget % 3) {
            struct json_output *output = json_output_create(schema);
            size_t left = budget;
            for (; !json_output_complete(output); left--) {
                assert_true(left >= json_output_shortest(output));
                const int32_t token = most_expensive(output, left);
                json_output_mask(output, left);
                json_output_accept(output, token);
            }
            json_output_destroy(output);
        }
        json_schema_destroy(schema);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_adversary_cannot_break_a_budget),
        cmocka_unit_test(every_output_parses_and_no_complete_item_is_lost),
    };
    return cmocka_run_group_tests(tests, create_vocabulary, destroy_vocabulary);
}
