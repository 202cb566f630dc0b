// SPDX-License-Identifier: Apache-2.0
// Items are JSON that can be written and read again, and what is behind forced_from does not count.
#include "tests/base/json_tree.h"
#include "tests/fuzz/fuzz.h"
#include "worker/lm/salvage.h"

#include <assert.h>

static void check_same(const struct salvage *a, const struct salvage *b)
{
    assert(a->count == b->count && a->whole == b->whole && a->cut == b->cut);
    for (size_t i = 0; i < a->count; i++)
        assert(json_tree_equal(a->items[i], b->items[i]));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena arena = {0};
    struct salvage all, before, prefix;
    const char *answer = (const char *)data;
    salvage_items(&arena, answer, size, SIZE_MAX, "pairs", &all);
    assert(all.found || all.count == 0);
    for (size_t i = 0; i < all.count; i++) {
        struct strbuf text = {0};
        const struct json *again;
        json_value(&(struct json_writer){.out = &text}, all.items[i]);
        assert(json_parse(&arena, text.bytes, text.length, &again, NULL) == 0);
        assert(json_tree_equal(all.items[i], again));
        strbuf_release(&text);
    }
    salvage_items(&arena, answer, size, size / 2, "pairs", &before);
    salvage_items(&arena, answer, size / 2, SIZE_MAX, "pairs", &prefix);
    check_same(&before, &prefix);
    arena_release(&arena);
    return 0;
}
