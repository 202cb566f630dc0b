// SPDX-License-Identifier: Apache-2.0
#include "datasets/token_cache.h"

#include "base/mem.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct token_cache_header {
    char magic[8];
    uint32_t version;
    uint32_t zero;
    uint8_t key[16];
    uint64_t sequences;
    uint64_t tokens;
    uint64_t pairs;
    uint64_t too_long;
    uint64_t longest;
    uint64_t longest_refused;
    uint64_t lead_tokens;
    uint8_t zeros[24];
    uint8_t digest[16];
};
_Static_assert(sizeof(struct token_cache_header) == 128, "the header is 128 bytes on disk");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the file is mapped as it is");

static const char magic[8] = "MEMOTOKS";

char *token_cache_path(const char *directory, struct digest key)
{
    char text[DIGEST_TEXT_BYTES];
    digest_format(key, text);
    return mem_printf("%s/tokens-%s.bin", directory, text);
}

static size_t aligned(size_t bytes)
{
    return (bytes + 63) / 64 * 64;
}

// Where the arrays lie.
struct places {
    size_t offsets, target_begin, target_end, ids, end;
};

static struct places places_of(size_t sequences, size_t tokens)
{
    struct places places = {.offsets = sizeof(struct token_cache_header)};
    places.target_begin = places.offsets + aligned((sequences + 1) * sizeof(uint64_t));
    places.target_end = places.target_begin + aligned(sequences * sizeof(uint32_t));
    places.ids = places.target_end + aligned(sequences * sizeof(uint32_t));
    places.end = places.ids + aligned(tokens * sizeof(int32_t));
    return places;
}

static struct digest content_digest(const struct token_cache_header *header,
                                    const struct fs_part *parts, size_t count)
{
    struct digest_builder builder;
    digest_begin(&builder);
    digest_update(&builder, header, offsetof(struct token_cache_header, digest));
    for (size_t i = 0; i < count; i++)
        digest_update(&builder, parts[i].bytes, parts[i].length);
    return digest_end(&builder);
}

// --- writing ---

int token_cache_write(const struct sequence_set *set, uint64_t pairs, struct digest key,
                      struct fs *fs, const char *path, struct error *err)
{
    static const uint8_t zeros[64];
    static const uint64_t none = 0;
    const size_t tokens = set->count ? (size_t)set->offsets[set->count] : 0;
    const size_t offsets = (set->count + 1) * sizeof(uint64_t);
    const size_t targets = set->count * sizeof(uint32_t), ids = tokens * sizeof(int32_t);
    struct token_cache_header header = {.version = TOKEN_CACHE_VERSION,
                                        .sequences = set->count,
                                        .tokens = tokens,
                                        .pairs = pairs,
                                        .too_long = set->too_long,
                                        .longest = set->longest,
                                        .longest_refused = set->longest_refused,
                                        .lead_tokens = set->lead_tokens};
    memcpy(header.magic, magic, sizeof(magic));
    memcpy(header.key, key.bytes, sizeof(header.key));
    const struct fs_part parts[] = {
        {&header, sizeof(header)},           {set->count ? set->offsets : &none, offsets},
        {zeros, aligned(offsets) - offsets}, {set->target_begin, targets},
        {zeros, aligned(targets) - targets}, {set->target_end, targets},
        {zeros, aligned(targets) - targets}, {set->ids, ids},
        {zeros, aligned(ids) - ids},
    };
    enum { PARTS = sizeof(parts) / sizeof(*parts) };
    const struct digest digest = content_digest(&header, parts + 1, PARTS - 1);
    memcpy(header.digest, digest.bytes, sizeof(header.digest));
    return fs_write_atomic(fs, path, parts, PARTS, true, err);
}

// --- reading ---

static int check_header(const struct token_cache_header *header, size_t length, struct digest key,
                        struct error *err)
{
    const uint64_t most = length / sizeof(uint32_t); // of sequences and of tokens
    if (memcmp(header->magic, magic, sizeof(magic)) != 0)
        return error_set(err, "not a file of tokens");
    if (header->version != TOKEN_CACHE_VERSION)
        return error_set(err, "version %" PRIu32 ", this program reads version %d", header->version,
                         TOKEN_CACHE_VERSION);
    if (memcmp(header->key, key.bytes, sizeof(header->key)) != 0)
        return error_set(err, "it was made of other data, or for another tokenizer");
    if (header->sequences >= most || header->tokens > most || header->sequences >= UINT32_MAX ||
        places_of((size_t)header->sequences, (size_t)header->tokens).end != length)
        return error_set(err, "%zu bytes do not hold %" PRIu64 " sequences of %" PRIu64 " tokens",
                         length, header->sequences, header->tokens);
    return 0;
}

static int check_sequence(const struct sequence_set *set, size_t s, size_t *longest,
                          struct error *err)
{
    const uint64_t begin = set->offsets[s], end = set->offsets[s + 1];
    if (begin >= end || end > set->offsets[set->count])
        return error_set(err, "sequence %zu begins at token %" PRIu64 " and ends at %" PRIu64, s,
                         begin, end);
    if (set->target_begin[s] < 1 || set->target_begin[s] >= set->target_end[s] ||
        set->target_end[s] > end - begin ||
        set->lead_tokens >= set->target_end[s] - set->target_begin[s])
        return error_set(err, "sequence %zu of %" PRIu64 " tokens has the targets %u to %u", s,
                         end - begin, set->target_begin[s], set->target_end[s]);
    *longest = end - begin > *longest ? (size_t)(end - begin) : *longest;
    return 0;
}

static int check_sequences(const struct sequence_set *set, uint64_t tokens, struct error *err)
{
    size_t longest = 0;
    if (set->offsets[0] != 0 || set->offsets[set->count] != tokens)
        return error_set(err, "sequences from token %" PRIu64 " to %" PRIu64 " of %" PRIu64,
                         set->offsets[0], set->offsets[set->count], tokens);
    for (size_t s = 0; s < set->count; s++) {
        if (check_sequence(set, s, &longest, err))
            return -1;
    }
    return longest == set->longest ? 0
                                   : error_set(err, "the longest sequence has %zu tokens, not %zu",
                                               longest, set->longest);
}

int token_cache_parse(const uint8_t *bytes, size_t length, struct digest key,
                      struct sequence_set *out, uint64_t *pairs, struct error *err)
{
    struct token_cache_header header;
    *out = (struct sequence_set){0};
    if (length < sizeof(header))
        return error_set(err, "%zu bytes are too few for a file of tokens", length);
    memcpy(&header, bytes, sizeof(header));
    if (check_header(&header, length, key, err))
        return -1;
    const struct fs_part rest = {bytes + sizeof(header), length - sizeof(header)};
    const struct digest digest = content_digest(&header, &rest, 1);
    if (memcmp(header.digest, digest.bytes, sizeof(header.digest)) != 0)
        return error_set(err, "the content does not match its digest");
    const struct places places = places_of((size_t)header.sequences, (size_t)header.tokens);
    uint8_t *base = (uint8_t *)bytes; // nothing writes to a set that is borrowed
    struct sequence_set set = {.ids = (int32_t *)(void *)(base + places.ids),
                               .offsets = (uint64_t *)(void *)(base + places.offsets),
                               .target_begin = (uint32_t *)(void *)(base + places.target_begin),
                               .target_end = (uint32_t *)(void *)(base + places.target_end),
                               .count = (size_t)header.sequences,
                               .too_long = (size_t)header.too_long,
                               .longest = (size_t)header.longest,
                               .longest_refused = (size_t)header.longest_refused,
                               .lead_tokens = (size_t)header.lead_tokens,
                               .borrowed = true};
    if (check_sequences(&set, header.tokens, err))
        return -1;
    *out = set;
    *pairs = header.pairs;
    return 0;
}

int token_cache_open(const char *path, struct digest key, struct token_cache *out,
                     struct error *err)
{
    *out = (struct token_cache){0};
    if (fs_map_open(path, &out->map, err))
        return -1;
    if (token_cache_parse(out->map.bytes, out->map.length, key, &out->set, &out->pairs, err)) {
        token_cache_close(out);
        return error_prefix(err, "'%s'", path);
    }
    return 0;
}

void token_cache_close(struct token_cache *cache)
{
    sequence_set_release(&cache->set);
    fs_map_close(&cache->map);
    *cache = (struct token_cache){0};
}
