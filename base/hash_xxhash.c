// SPDX-License-Identifier: Apache-2.0
// Digests by libxxhash.
#include "base/hash.h"

#include <assert.h>
#include <string.h>
#include <xxhash.h>

static struct digest canonical(XXH128_hash_t hash)
{
    XXH128_canonical_t ordered;
    XXH128_canonicalFromHash(&ordered, hash);
    struct digest digest;
    memcpy(digest.bytes, ordered.digest, sizeof(digest.bytes));
    return digest;
}

struct digest digest_bytes(const void *bytes, size_t length)
{
    return canonical(XXH3_128bits(bytes, length));
}

void digest_begin(struct digest_builder *builder)
{
    XXH3_state_t *state = XXH3_createState();
    assert(state); // a kilobyte: as for every small allocation, there is no way on without it
    XXH3_128bits_reset(state);
    builder->state = state;
}

void digest_update(struct digest_builder *builder, const void *bytes, size_t length)
{
    if (length > 0)
        XXH3_128bits_update(builder->state, bytes, length);
}

struct digest digest_end(struct digest_builder *builder)
{
    struct digest digest = canonical(XXH3_128bits_digest(builder->state));
    XXH3_freeState(builder->state);
    builder->state = NULL;
    return digest;
}
