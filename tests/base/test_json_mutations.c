// SPDX-License-Identifier: Apache-2.0
// 20,000 seeded mutations of valid documents: the reader never crashes, and whatever it accepts is
// the same after the writer wrote it and the reader read it again. Run it under MEMO_SANITIZE.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/random.h"
#include "json_tree.h"

#include <stdlib.h>

#define MUTATIONS 20000

static const char *const documents[] = {
    "{\"hidden_size\": 896, \"rope_theta\": 1000000.0, \"tie_word_embeddings\": true, "
    "\"architectures\": [\"Qwen2ForCausalLM\"], \"rope_scaling\": null, \"eps\": 1e-06}",
    "[[[[1,-2,3.5],[]],{}],[0,-0,1e5,1E-5,0.1e+2],[true,false,null]]",
    "{\"\\u0120the\":1,\"\\ud83d\\ude00\":\"\\\"\\\\\\/\\b\\f\\n\\r\\t\","
    "\"\xE2\x82\xAC\":\"\xF0\x9F\x98\x80\"}",
    "{\"wte\":{\"dtype\":\"F32\",\"shape\":[151936,896],\"data_offsets\":[0,544538624]},"
    "\"__metadata__\":{\"format\":\"pt\"}}",
    "  \"\\u0041 long string of plain text with a few \\u00e9scapes \\ud834\\udd1e in it\"  ",
    "{\"a\":1,\"a\":2,\"\":{\"\":{\"\":[{\"\":-9223372036854775808}]}}}",
};

struct source {
    uint64_t round;
    uint64_t drawn;
};

static size_t draw(struct source *source, size_t bound)
{
    return (size_t)(random_u64(20261123, source->round, source->drawn++) % bound);
}

// Mutates text in place: sets, flips, deletes, inserts or repeats a few bytes.
static void mutate(struct source *source, struct strbuf *text)
{
    static const char telling[] = "{}[]\",:\\u0123456789eE+-.tfn \n\0\x80\xFF\xED\xA0";
    char byte = telling[draw(source, sizeof(telling) - 1)];
    size_t at = draw(source, text->length + 1);
    size_t span = 1 + draw(source, 6);
    if (span > text->length - at)
        span = text->length - at;
    char copy[8];
    switch (draw(source, 5)) {
    case 0:
        if (span)
            text->bytes[at] = byte;
        break;
    case 1:
        if (span)
            text->bytes[at] ^= (char)(1 << draw(source, 8));
        break;
    case 2:
        memmove(text->bytes + at, text->bytes + at + span, text->length - at - span);
        text->length -= span;
        break;
    case 3:
        strbuf_addc(text, byte);
        memmove(text->bytes + at + 1, text->bytes + at, text->length - 1 - at);
        text->bytes[at] = byte;
        break;
    default:
        memcpy(copy, text->bytes + at, span);
        strbuf_add(text, copy, span);
    }
}

static bool survives_round_trip(const struct json *root, int indent)
{
    struct strbuf written = {0};
    struct arena arena = {0};
    struct error err = {""};
    const struct json *again = NULL;
    struct json_writer w = {.out = &written, .indent = indent};
    json_value(&w, root);
    bool equal = json_parse(&arena, written.bytes, written.length, &again, &err) == 0 &&
                 json_tree_equal(root, again);
    arena_release(&arena);
    strbuf_release(&written);
    return equal;
}

static bool check_mutation(uint64_t round, size_t *accepted)
{
    struct source source = {.round = round};
    const char *document = documents[round % (sizeof(documents) / sizeof(documents[0]))];
    struct strbuf text = {0};
    strbuf_adds(&text, document);
    for (size_t edits = draw(&source, 4); edits > 0; edits--)
        mutate(&source, &text);

    char *exact = malloc(text.length ? text.length : 1);
    memcpy(exact, text.bytes, text.length);
    struct arena arena = {0};
    struct error err = {""};
    const struct json *root = NULL;
    bool good = true;
    if (json_parse(&arena, exact, text.length, &root, &err) == 0) {
        (*accepted)++;
        good = survives_round_trip(root, round % 2 ? 2 : 0);
    } else {
        good = strncmp(err.text, "not valid JSON at byte ", 23) == 0;
    }
    arena_release(&arena);
    strbuf_release(&text);
    free(exact);
    return good;
}

static void mutated_documents_are_refused_or_survive_a_round_trip(void **state)
{
    (void)state;
    size_t accepted = 0;
    for (uint64_t round = 0; round < MUTATIONS; round++)
        if (!check_mutation(round, &accepted))
            fail_msg("mutation %llu", (unsigned long long)round);
    assert_true(accepted > MUTATIONS / 5); // the unmutated quarter and harmless edits
    assert_true(accepted < MUTATIONS * 4 / 5);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(mutated_documents_are_refused_or_survive_a_round_trip),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
