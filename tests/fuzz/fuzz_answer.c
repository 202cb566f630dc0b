// SPDX-License-Identifier: Apache-2.0
// Whatever a model answers, what is used of it is clean text within its limits, made from pairs of
// the list. The first two bytes choose the kind of request and where the model's own text ends.
#include "base/utf8.h"
#include "tests/fuzz/fuzz.h"
#include "worker/reflect/answer.h"

#include <assert.h>
#include <string.h>

#define LISTED 5

static const struct answer_limits limits = {
    .max_items = 100, .question_chars = 20, .answer_chars = 30, .batch = LISTED};

static void check_text(const char *text, size_t bytes, size_t limit)
{
    assert(strlen(text) == bytes);
    assert(utf8_valid_prefix(text, bytes) == bytes);
    assert(bytes <= 4 * limit);
    assert(bytes == 0 || (text[0] != ' ' && text[bytes - 1] != ' '));
    for (size_t i = 0; i < bytes; i++)
        assert((unsigned char)text[i] >= ' ');
}

static void check_item(enum request_kind kind, const struct answer_item *item)
{
    const bool pair = kind != REQUEST_ENTITIES;
    const bool joins =
        kind == REQUEST_CONSOLIDATE || kind == REQUEST_LOOKUP || kind == REQUEST_CROSS;
    assert((item->question_bytes > 0) == pair);
    assert((item->answer_bytes > 0) == (kind != REQUEST_LOOKUP));
    assert(item->from_count >= (kind == REQUEST_CONSOLIDATE ? 2u : joins ? 1u : 0u));
    check_text(item->question, item->question_bytes, limits.question_chars);
    check_text(item->answer, item->answer_bytes, limits.answer_chars);
    for (size_t i = 0; i < item->from_count; i++) {
        assert(item->from[i] < LISTED);
        for (size_t k = 0; k < i; k++)
            assert(item->from[k] != item->from[i]);
    }
}

static bool lists(enum request_kind kind)
{
    return kind == REQUEST_CONSOLIDATE || kind == REQUEST_ENTITIES || kind == REQUEST_LOOKUP ||
           kind == REQUEST_CROSS;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena arena = {0};
    struct error err;
    struct answer answer;
    bool good = false;
    if (size < 2)
        return 0;
    const enum request_kind kind = (enum request_kind)(data[0] % REQUEST_KINDS);
    const struct lm_result result = {.answer = {(const char *)data + 2, size - 2},
                                     .forced_from =
                                         data[1] < 128 ? SIZE_MAX : (size_t)data[1] - 128};
    if (kind == REQUEST_JUDGE) {
        (void)answer_read_verdict(&result, &good, &err);
    } else if (answer_read(kind, &limits, lists(kind) ? LISTED : 0, &result, &arena, &answer,
                           &err) == 0) {
        for (size_t i = 0; i < answer.count; i++) {
            if (!answer.items[i].dropped)
                check_item(kind, &answer.items[i]);
        }
    }
    arena_release(&arena);
    return 0;
}
