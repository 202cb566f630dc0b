// SPDX-License-Identifier: Apache-2.0
// What parses is written, and parses again to an equal tree.
#include "tests/base/json_tree.h"
#include "tests/fuzz/fuzz.h"

#include <assert.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena arena = {0};
    struct error err;
    const struct json *first, *second;
    struct strbuf text = {0};
    if (json_parse(&arena, (const char *)data, size, &first, &err) == 0) {
        json_value(&(struct json_writer){.out = &text}, first);
        assert(json_parse(&arena, text.bytes, text.length, &second, &err) == 0);
        assert(json_tree_equal(first, second));
    }
    strbuf_release(&text);
    arena_release(&arena);
    return 0;
}
