// SPDX-License-Identifier: Apache-2.0
// Digests by our own XXH3, for a machine without libraries.
#include "base/hash.h"

#include "base/mem.h"
#include "base/xxh3.h"

#include <stdlib.h>

struct digest digest_bytes(const void *bytes, size_t length)
{
    struct xxh3 state;
    struct digest digest;
    xxh3_init(&state);
    xxh3_update(&state, bytes, length);
    xxh3_finish(&state, digest.bytes);
    return digest;
}

void digest_begin(struct digest_builder *builder)
{
    builder->state = mem_alloc(sizeof(struct xxh3));
    xxh3_init(builder->state);
}

void digest_update(struct digest_builder *builder, const void *bytes, size_t length)
{
    xxh3_update(builder->state, bytes, length);
}

struct digest digest_end(struct digest_builder *builder)
{
    struct digest digest;
    xxh3_finish(builder->state, digest.bytes);
    free(builder->state);
    builder->state = NULL;
    return digest;
}
