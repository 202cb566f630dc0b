// SPDX-License-Identifier: Apache-2.0
// Bytes as they come, and the same with a digest that fits, so that what lies behind it is reached.
// What parses lies inside the file.
#include "base/mem.h"
#include "datasets/token_cache.h"
#include "tests/fuzz/fuzz.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

enum { KEY_AT = 16, DIGEST_AT = 112, HEADER_BYTES = 128 };

static void check(const uint8_t *bytes, size_t length)
{
    struct digest key = {{0}};
    struct sequence_set set;
    struct error err;
    uint64_t pairs;
    if (length >= HEADER_BYTES)
        memcpy(key.bytes, bytes + KEY_AT, sizeof(key.bytes));
    if (token_cache_parse(bytes, length, key, &set, &pairs, &err))
        return;
    uint32_t sum = 0;
    for (size_t s = 0; s < set.count; s++) {
        assert(set.offsets[s + 1] - set.offsets[s] <= set.longest);
        assert(set.target_end[s] <= set.offsets[s + 1] - set.offsets[s]);
        for (uint64_t t = set.offsets[s]; t < set.offsets[s + 1]; t++)
            sum += (uint32_t)set.ids[t];
    }
    assert((const uint8_t *)(set.ids + set.offsets[set.count]) <= bytes + length);
    volatile uint32_t keep = sum;
    (void)keep;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint64_t *aligned = mem_alloc(size + sizeof(*aligned));
    uint8_t *bytes = (uint8_t *)aligned;
    memcpy(bytes, data, size);
    check(bytes, size);
    if (size >= HEADER_BYTES) {
        struct digest_builder builder;
        digest_begin(&builder);
        digest_update(&builder, bytes, DIGEST_AT);
        digest_update(&builder, bytes + HEADER_BYTES, size - HEADER_BYTES);
        const struct digest digest = digest_end(&builder);
        memcpy(bytes + DIGEST_AT, digest.bytes, sizeof(digest.bytes));
        check(bytes, size);
    }
    free(aligned);
    return 0;
}
