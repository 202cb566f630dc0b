// SPDX-License-Identifier: Apache-2.0
// What is read is what was written; whatever else is found is refused.
#include "datasets/token_cache.h"

#include "tests/base/temporary_directory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/mem.h"
#include "base/random.h"

#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static const struct digest key = {.bytes = {1, 2, 3}}, other_key = {.bytes = {1, 2, 4}};

static struct sequence_set make_set(size_t count)
{
    struct sequence_set set = {.lead_tokens = 2};
    for (size_t s = 0; s < count; s++) {
        int32_t ids[40];
        const size_t length = 6 + random_u64(1, s, 0) % 34;
        for (size_t t = 0; t < length; t++)
            ids[t] = (int32_t)(random_u64(2, s, t) % 150000);
        sequence_set_add(&set, ids, length, 1 + random_u64(3, s, 0) % 2, length, 38);
    }
    return set;
}

static char *write_set(const char *directory, size_t count, struct sequence_set *set)
{
    struct error err;
    char *path = token_cache_path(directory, key);
    *set = make_set(count);
    if (token_cache_write(set, 7, key, fs_system(), path, &err))
        fail_msg("%s", err.text);
    return path;
}

static void assert_same(const struct sequence_set *a, const struct sequence_set *b)
{
    const struct digest x = sequence_set_digest(a), y = sequence_set_digest(b);
    assert_true(digest_equal(x, y));
    assert_int_equal(a->count, b->count);
    assert_int_equal(a->longest, b->longest);
    assert_int_equal(a->too_long, b->too_long);
    assert_int_equal(a->longest_refused, b->longest_refused);
    assert_int_equal(a->lead_tokens, b->lead_tokens);
}

static void what_is_read_is_what_was_written(void **state)
{
    static const size_t counts[] = {0, 1, 15, 16, 17, 1000};
    for (size_t i = 0; i < sizeof(counts) / sizeof(*counts); i++) {
        struct sequence_set set;
        struct token_cache cache;
        struct error err;
        char *path = write_set(*state, counts[i], &set);
        if (token_cache_open(path, key, &cache, &err))
            fail_msg("%s", err.text);
        assert_same(&set, &cache.set);
        assert_int_equal(cache.pairs, 7);
        assert_true(cache.set.borrowed);
        token_cache_close(&cache);
        token_cache_close(&cache);
        sequence_set_release(&set);
        free(path);
    }
}

static void assert_refused(const uint8_t *bytes, size_t length, struct digest wanted,
                           const char *why)
{
    struct sequence_set set;
    uint64_t pairs;
    struct error err = {""};
    uint64_t *aligned = mem_alloc(length + sizeof(*aligned));
    memcpy(aligned, bytes, length);
    if (token_cache_parse((const uint8_t *)aligned, length, wanted, &set, &pairs, &err) == 0)
        fail_msg("taken, though: %s", why);
    if (!strstr(err.text, why))
        fail_msg("'%s' does not say '%s'", err.text, why);
    assert_int_equal(set.count, 0);
    free(aligned);
}

static void read_file(const char *path, struct strbuf *out)
{
    struct error err;
    if (fs_read(fs_system(), path, out, &err))
        fail_msg("%s", err.text);
}

static void a_file_of_another_key_is_refused(void **state)
{
    struct sequence_set set;
    struct strbuf file = {0};
    char *path = write_set(*state, 9, &set);
    read_file(path, &file);
    assert_refused((const uint8_t *)file.bytes, file.length, other_key, "other data");
    strbuf_release(&file);
    sequence_set_release(&set);
    free(path);
}

static void truncated_files_are_refused(void **state)
{
    struct sequence_set set;
    struct strbuf file = {0};
    char *path = write_set(*state, 9, &set);
    read_file(path, &file);
    for (size_t length = 0; length < file.length; length += 1 + length / 50)
        assert_refused((const uint8_t *)file.bytes, length, key, "");
    strbuf_addc(&file, '\0');
    assert_refused((const uint8_t *)file.bytes, file.length, key, "do not hold");
    strbuf_release(&file);
    sequence_set_release(&set);
    free(path);
}

static void every_flipped_bit_is_noticed(void **state)
{
    struct sequence_set set;
    struct strbuf file = {0};
    char *path = write_set(*state, 3, &set);
    read_file(path, &file);
    for (size_t bit = 0; bit < 8 * file.length; bit++) {
        file.bytes[bit / 8] = (char)(file.bytes[bit / 8] ^ (1 << bit % 8));
        assert_refused((const uint8_t *)file.bytes, file.length, key, "");
        file.bytes[bit / 8] = (char)(file.bytes[bit / 8] ^ (1 << bit % 8));
    }
    strbuf_release(&file);
    sequence_set_release(&set);
    free(path);
}

// A writer with a mistake: the digest is right, the content is not.
static void sequences_that_cannot_be_are_refused(void **state)
{
    static const struct {
        int array; // 0 offsets, 1 target begin, 2 target end
        size_t at;
        uint64_t value;
        const char *why;
    } cases[] = {
        {0, 0, 1, "from token 1"},       {0, 1, 0, "ends at 0"},
        {0, 1, 1u << 30, "begins at"},   {0, 3, 5, "begins at"},
        {1, 0, 0, "has the targets"},    {1, 1, 1000, "has the targets"},
        {2, 1, 1000, "has the targets"}, {2, 2, 2, "has the targets"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct error err = {""};
        struct token_cache cache;
        struct sequence_set set = make_set(4);
        char *path = token_cache_path(*state, key);
        if (cases[i].array == 0)
            set.offsets[cases[i].at] = cases[i].value;
        else
            (cases[i].array == 1 ? set.target_begin : set.target_end)[cases[i].at] =
                (uint32_t)cases[i].value;
        assert_int_equal(token_cache_write(&set, 4, key, fs_system(), path, &err), 0);
        assert_int_equal(token_cache_open(path, key, &cache, &err), -1);
        if (!strstr(err.text, cases[i].why) || !strstr(err.text, path))
            fail_msg("case %zu: '%s' does not say '%s'", i, err.text, cases[i].why);
        sequence_set_release(&set);
        free(path);
    }
    struct error err;
    struct token_cache cache;
    struct sequence_set set = make_set(4);
    char *path = token_cache_path(*state, key);
    set.longest++;
    assert_int_equal(token_cache_write(&set, 4, key, fs_system(), path, &err), 0);
    assert_int_equal(token_cache_open(path, key, &cache, &err), -1);
    assert_non_null(strstr(err.text, "the longest sequence has"));
    sequence_set_release(&set);
    free(path);
}

// Whoever looks while others write finds nothing or a whole file.
static void several_may_write_the_same_file(void **state)
{
    enum { WRITERS = 4, TIMES = 15 };
    char *path = token_cache_path(*state, key);
    pid_t writers[WRITERS];
    for (int w = 0; w < WRITERS; w++) {
        writers[w] = fork();
        if (writers[w] == 0) {
            struct sequence_set set = make_set(300);
            struct error err;
            int failed = 0;
            for (int i = 0; i < TIMES; i++)
                failed |= token_cache_write(&set, 7, key, fs_system(), path, &err);
            _exit(failed != 0);
        }
    }
    size_t found = 0;
    for (int ended = 0; ended < WRITERS;) {
        struct token_cache cache;
        struct error err;
        int status;
        if (fs_exists(fs_system(), path)) {
            if (token_cache_open(path, key, &cache, &err))
                fail_msg("%s", err.text);
            assert_int_equal(cache.set.count + cache.set.too_long, 300);
            token_cache_close(&cache);
            found++;
        }
        if (waitpid(writers[ended], &status, WNOHANG) == writers[ended]) {
            assert_int_equal(status, 0);
            ended++;
        }
    }
    assert_true(found > 0);
    free(path);
}

static void a_write_that_fails_leaves_nothing(void **state)
{
    struct sequence_set set = make_set(50);
    char *path = token_cache_path(*state, key);
    struct error err;
    uint64_t budget = 0;
    for (int rc = -1; rc != 0; budget += 997) {
        struct fs_fault fault = {.inner = fs_system(), .write_budget_bytes = budget};
        struct fs fs = fs_with_faults(&fault);
        struct fs_names names;
        rc = token_cache_write(&set, 50, key, &fs, path, &err);
        assert_int_equal(fs_list(fs_system(), *state, &names, &err), 0);
        assert_int_equal(names.count, rc == 0 ? 1 : 0);
        fs_names_release(&names);
    }
    assert_true(budget > 2 * 997);
    sequence_set_release(&set);
    free(path);
}

#define TEST(name)                                                                                 \
    cmocka_unit_test_setup_teardown(name, temporary_directory_setup, temporary_directory_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(what_is_read_is_what_was_written),     TEST(a_file_of_another_key_is_refused),
        TEST(truncated_files_are_refused),          TEST(every_flipped_bit_is_noticed),
        TEST(sequences_that_cannot_be_are_refused), TEST(several_may_write_the_same_file),
        TEST(a_write_that_fails_leaves_nothing),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
