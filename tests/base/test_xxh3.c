// SPDX-License-Identifier: Apache-2.0
// Our own XXH3 against libxxhash. The full build links libxxhash into memo_base and this file's own
// copy of xxh3.c beside it; the minimal build has no libxxhash and leaves this test out.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/random.h"
#include "base/xxh3.h"

#include <stdlib.h>
#include <xxhash.h>

#define LARGEST 3000000

static uint8_t *make_bytes(void)
{
    uint8_t *bytes = malloc(LARGEST);
    for (size_t i = 0; i < LARGEST; i++)
        bytes[i] = (uint8_t)(random_u64(1, 1, i / 8) >> 8 * (i % 8));
    return bytes;
}

// Compares the digest of bytes, handed over in pieces of the given size.
static void check(const uint8_t *bytes, size_t length, size_t piece)
{
    struct xxh3 state;
    xxh3_init(&state);
    for (size_t at = 0; at < length; at += piece)
        xxh3_update(&state, bytes + at, length - at < piece ? length - at : piece);
    uint8_t ours[16];
    xxh3_finish(&state, ours);

    XXH128_canonical_t theirs;
    XXH128_canonicalFromHash(&theirs, XXH3_128bits(bytes, length));
    assert_memory_equal(ours, theirs.digest, 16);
}

static void small_lengths_agree(void **state)
{
    const uint8_t *bytes = *state;
    for (size_t length = 0; length <= 1100; length++)
        check(bytes + length % 7, length, length ? length : 1); // at all alignments
}

static void block_borders_agree(void **state)
{
    for (size_t blocks = 1; blocks <= 5; blocks++)
        for (size_t length = 1024 * blocks - 70; length <= 1024 * blocks + 70; length++)
            check(*state, length, length);
}

static void large_lengths_agree(void **state)
{
    static const size_t lengths[] = {65536, 100000, 999999, 1 << 20, LARGEST};
    for (size_t i = 0; i < sizeof(lengths) / sizeof(lengths[0]); i++)
        check(*state, lengths[i], lengths[i]);
}

static void pieces_of_any_size_agree(void **state)
{
    static const size_t pieces[] = {1, 31, 33, 63, 64, 65, 1000, 1023, 1024, 1025, 2048, 5000};
    for (size_t i = 0; i < sizeof(pieces) / sizeof(pieces[0]); i++)
        for (size_t length = 200; length < 4000; length += 61)
            check(*state, length, pieces[i]);
}

static int setup(void **state)
{
    *state = make_bytes();
    return 0;
}

static int teardown(void **state)
{
    free(*state);
    return 0;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(small_lengths_agree),
        TEST(block_borders_agree),
        TEST(large_lengths_agree),
        TEST(pieces_of_any_size_agree),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
