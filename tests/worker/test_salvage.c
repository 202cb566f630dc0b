// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/random.h"
#include "tests/base/json_tree.h"
#include "worker/lm/salvage.h"

#include <stdlib.h>
#include <string.h>

enum { ITEMS_LIMIT = 12 };

struct made {
    struct strbuf text;
    size_t ends[ITEMS_LIMIT]; // text.length from which on an item is complete
    size_t count;
    size_t bracket; // the array's closing one
};

static void add_random_string(struct strbuf *out, uint64_t seed, uint64_t *draws)
{
    static const char *const pieces[] = {"word ",
                                         "[{",
                                         "}]",
                                         "\\\"",
                                         "\\\\",
                                         "\\u00e9",
                                         "\\ud83d\\udea2",
                                         "Müller",
                                         "🚢",
                                         ",",
                                         ":",
                                         "\\\"pairs\\\":[",
                                         "```",
                                         "\\n"};
    strbuf_addc(out, '"');
    for (uint64_t n = random_u64(seed, 0, ++*draws) % 5; n > 0; n--)
        strbuf_adds(out, pieces[random_u64(seed, 0, ++*draws) % (sizeof pieces / sizeof *pieces)]);
    strbuf_addc(out, '"');
}

static void add_random_value(struct strbuf *out, int depth, uint64_t seed, uint64_t *draws)
{
    static const char *const scalars[] = {"0", "-12.5e3", "true", "false", "null", "123"};
    const uint64_t kind = random_u64(seed, 0, ++*draws) % (depth > 2 ? 2 : 4);
    if (kind == 0) {
        add_random_string(out, seed, draws);
    } else if (kind == 1) {
        strbuf_adds(out, scalars[random_u64(seed, 0, ++*draws) % 6]);
    } else {
        strbuf_addc(out, kind == 2 ? '[' : '{');
        for (uint64_t n = random_u64(seed, 0, ++*draws) % 4, i = 0; i < n; i++) {
            strbuf_adds(out, i > 0 ? ", " : "");
            if (kind == 3) {
                add_random_string(out, seed, draws);
                strbuf_addc(out, ':');
            }
            add_random_value(out, depth + 1, seed, draws);
        }
        strbuf_addc(out, kind == 2 ? ']' : '}');
    }
}

static void add_space(struct strbuf *out, uint64_t seed, uint64_t *draws)
{
    static const char *const spaces[] = {"", "", " ", "\n\t", "\r\n  "};
    strbuf_adds(out, spaces[random_u64(seed, 0, ++*draws) % 5]);
}

// A valid answer with other members around the array, some of them of the same name further in.
static void make_answer(struct made *out, uint64_t seed)
{
    uint64_t draws = 0;
    struct strbuf *text = &out->text;
    strbuf_adds(text, "{");
    if (seed % 2 == 0)
        strbuf_adds(text, "\"first\":{\"pairs\":[1,{\"a\":[]}]} ,");
    add_space(text, seed, &draws);
    strbuf_adds(text, "\"pairs\" :");
    add_space(text, seed, &draws);
    strbuf_addc(text, '[');
    out->count = random_u64(seed, 0, ++draws) % (ITEMS_LIMIT + 1);
    for (size_t i = 0; i < out->count; i++) {
        add_space(text, seed, &draws);
        const size_t begin = text->length;
        add_random_value(text, 0, seed, &draws);
        const bool has_end = strchr("{[\"", text->bytes[begin]) != NULL;
        out->ends[i] = text->length + !has_end;
        add_space(text, seed, &draws);
        strbuf_adds(text, i + 1 < out->count ? "," : "");
    }
    add_space(text, seed, &draws);
    strbuf_adds(text, "]");
    out->bracket = text->length;
    strbuf_adds(text, seed % 3 == 0 ? ",\"last\":[{}]}" : "}");
}

static void check_prefix(const struct made *made, const struct json *whole, size_t length,
                         size_t forced_from, const char *bytes, size_t bytes_length)
{
    struct arena arena = {0};
    struct salvage got;
    size_t expected = 0;
    while (expected < made->count && made->ends[expected] <= length)
        expected++;
    salvage_items(&arena, bytes, bytes_length, forced_from, "pairs", &got);
    assert_int_equal(got.count, expected);
    for (size_t i = 0; i < expected; i++)
        assert_true(json_tree_equal(got.items[i], &whole->items[i]));
    assert_int_equal(got.whole, length >= made->bracket);
    assert_int_equal(got.malformed, 0);
    assert_true(got.cut <= (expected < made->count));
    arena_release(&arena);
}

static void exactly_the_items_inside_a_prefix_come_out(void **state)
{
    (void)state;
    size_t prefixes = 0;
    for (uint64_t seed = 0; seed < 60; seed++) {
        struct made made = {0};
        struct arena arena = {0};
        struct error err;
        const struct json *root;
        make_answer(&made, seed);
        assert_int_equal(json_parse(&arena, made.text.bytes, made.text.length, &root, &err), 0);
        const struct json *pairs = json_get(root, "pairs");
        assert_int_equal(pairs->length, made.count);
        for (size_t n = 0; n <= made.text.length; n++, prefixes++) {
            char *copy = mem_dup(made.text.bytes, n); // so that a sanitizer sees every read beyond
            check_prefix(&made, pairs, n, SIZE_MAX, copy, n);
            free(copy);
            check_prefix(&made, pairs, n, n, made.text.bytes, made.text.length);
        }
        arena_release(&arena);
        strbuf_release(&made.text);
    }
    assert_true(prefixes > 5000);
}

static void what_stands_around_json_is_passed_over(void **state)
{
    (void)state;
    static const struct {
        const char *answer;
        size_t count, malformed, cut;
        bool found, whole;
    } cases[] = {
        {"", 0, 0, 0, false, false},
        {"no JSON at all", 0, 0, 0, false, false},
        {"{\"other\":[{}]}", 0, 0, 0, false, false},
        {"{\"pairs\":{}}", 0, 0, 0, false, false},
        {"{\"pairs\":[]}", 0, 0, 0, true, true},
        {"```json\n{\"pairs\":[{\"q\":1}]}\n```", 1, 0, 0, true, true},
        {"Sure {here}: {\"pairs\":[{\"q\":1},{}]} Enjoy!", 2, 0, 0, true, true},
        {"[{\"q\":1},{\"q\":2}]", 2, 0, 0, true, true},
        {"As in [1]: [{\"q\":1},{\"q\"", 1, 0, 1, true, false},
        {" <think>{\"pairs\":[{},{}]}</think>{\"pairs\":[{}]}", 1, 0, 0, true, true},
        {"<think>{\"pairs\":[{},{}]}", 0, 0, 0, false, false},
        {"{\"pairs\":[{\"q\":\"</think>\"}]}", 1, 0, 0, true, true},
        {"{\"pairs\":[{\"q\":1},]}", 1, 0, 0, true, true},
        {"{\"pairs\":[{\"q\":1} {\"q\":2}]}", 2, 0, 0, true, true},
        {"{\"pairs\":[{\"q\":\"a\nb\"},{\"q\":2}]}", 1, 1, 0, true, true},
        {"{\"pairs\":[{'q':1},{\"q\":2},{\"q\":},{\"q\":3}]}", 2, 2, 0, true, true},
        {"{\"pairs\":[{\"q\":\"say \"hi\"\"},{\"q\":2}]}", 1, 1, 0, true, true},
        {"{\"pairs\":[{\"q\":\"\\ud800\"},{\"q\":2}]", 1, 1, 0, true, true},
        {"{\"pairs\":[{\"q\":\"\xff\"},{\"q\":2}", 1, 1, 0, true, false},
        {"{\"pairs\":[{\"q\":1},{\"q\":\"never ends},{\"q\":2}]}", 1, 1, 0, true, false},
        {"{\"note\":\"in \\\"pairs\\\":[1]\",\"pairs\":[{}]}", 1, 0, 0, true, true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct arena arena = {0};
        struct salvage got;
        salvage_items(&arena, cases[i].answer, strlen(cases[i].answer), SIZE_MAX, "pairs", &got);
        if (got.count != cases[i].count || got.malformed != cases[i].malformed ||
            got.cut != cases[i].cut || got.found != cases[i].found || got.whole != cases[i].whole)
            fail_msg("'%s': %zu items, %zu malformed, %zu cut, found %d, whole %d", cases[i].answer,
                     got.count, got.malformed, got.cut, got.found, got.whole);
        arena_release(&arena);
    }
}

// A megabyte that could be read again and again takes no longer than once.
static void hostile_megabytes_are_read_in_one_pass(void **state)
{
    (void)state;
    static const char *const blocks[] = {
        "[", "{", "{\"", "[\"", "{\"\\q", "\"pairs\":[", "{\"a\":[{}],", "<think>", "[{}"};
    for (size_t b = 0; b < sizeof blocks / sizeof *blocks; b++) {
        struct arena arena = {0};
        struct strbuf text = {0};
        struct salvage got;
        strbuf_adds(&text, "{\"pairs\":[");
        while (text.length < 1 << 20)
            strbuf_adds(&text, blocks[b]);
        salvage_items(&arena, text.bytes, text.length, SIZE_MAX, "pairs", &got);
        assert_true(got.found);
        assert_false(got.whole);
        arena_release(&arena);
        strbuf_release(&text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(exactly_the_items_inside_a_prefix_come_out),
        cmocka_unit_test(what_stands_around_json_is_passed_over),
        cmocka_unit_test(hostile_megabytes_are_read_in_one_pass),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
