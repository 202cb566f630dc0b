// SPDX-License-Identifier: Apache-2.0
#include "tokenizer_fixture.h"

#include "base/random.h"
#include "base/utf8.h"
#include "datasets/bpe_train.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <cmocka.h>

void fixture_text(uint64_t seed, size_t bytes, struct strbuf *out)
{
    static const char *const words[] = {
        "harbour", "the",   "lantern",    "keeper", "wrote",    "down",   "every", "ship",
        "that",    "came",  "in",         "March",  "lightly",  "loaded", "and",   "1874",
        "isn't",   "we'll", "Müller",     "naïve",  "наука",    "東京",   "🚢",     "crossing",
        "crossed", "a",     "lighthouse", "of",     "reckoning"};
    static const char *const ends[] = {" ",  " ",  " ",   " ",        " ",
                                       ", ", ". ", ".\n", "\r\n\r\n", "; "};
    static const char *const syllables[] = {"ka", "lo", "mer", "tin", "sau", "vel", "pro", "gé"};
    size_t target = out->length + bytes;
    for (uint64_t i = 0; out->length < target; i++) {
        if (random_u64(seed, 2, i) % 3 == 0) { // a made-up word of one to four syllables
            for (uint64_t s = 0; s <= random_u64(seed, 3, i) % 4; s++) {
                strbuf_adds(out, syllables[random_u64(seed, 4 + s, i) % 8]);
            }
        } else {
            strbuf_adds(out, words[random_u64(seed, 0, i) % (sizeof words / sizeof *words)]);
        }
        strbuf_adds(out, ends[random_u64(seed, 1, i) % (sizeof ends / sizeof *ends)]);
    }
}

void fixture_unicode(uint64_t seed, size_t characters, struct strbuf *out)
{
    static const uint32_t ranges[][2] = {
        {0x0, 0x7F},      {0x20, 0x7E},       {0x80, 0x24F},    {0x300, 0x36F},
        {0x370, 0x52F},   {0x900, 0x9FF},     {0x1100, 0x11FF}, {0x1E00, 0x1FFF},
        {0x2000, 0x206F}, {0x3040, 0x30FF},   {0x4E00, 0x9FFF}, {0xAC00, 0xD7A3},
        {0xE000, 0xFFFF}, {0x1F300, 0x1FAFF}, {0xF900, 0xFAFF}, {0x10000, 0x10FFFF},
        {0x9, 0xD},       {0x1D157, 0x1D1C0}, {0x20, 0x20}};
    for (uint64_t i = 0; i < characters; i++) {
        const uint32_t *range = ranges[random_u64(seed, 2, i) % (sizeof ranges / sizeof *ranges)];
        uint32_t point = range[0] + (uint32_t)(random_u64(seed, 3, i) % (range[1] - range[0] + 1));
        char encoded[4];
        strbuf_add(out, encoded, (size_t)utf8_encode(point, encoded));
    }
}

struct tokenizer *fixture_tokenizer(int32_t vocabulary_size)
{
    struct error err = {""};
    struct strbuf text = {0};
    struct tokenizer *tokenizer = NULL;
    struct bpe_trainer *trainer = bpe_trainer_create();
    fixture_text(1, 100000, &text);
    assert_int_equal(bpe_trainer_add(trainer, text.bytes, text.length, &err), 0);
    assert_int_equal(bpe_trainer_finish(trainer, vocabulary_size, &tokenizer, &err), 0);
    bpe_trainer_destroy(trainer);
    strbuf_release(&text);
    return tokenizer;
}

char *fixture_directory_create(void)
{
    const char *parent = getenv("TMPDIR");
    char *directory = fs_join(parent == NULL ? "/tmp" : parent, "memo_tokenizer_XXXXXX");
    assert_non_null(mkdtemp(directory));
    return directory;
}

void fixture_directory_remove(char *directory)
{
    struct fs_names names = {0};
    struct error err;
    assert_int_equal(fs_list(fs_system(), directory, &names, &err), 0);
    for (size_t i = 0; i < names.count; i++) {
        char *path = fs_join(directory, names.names[i]);
        unlink(path);
        free(path);
    }
    fs_names_release(&names);
    assert_int_equal(rmdir(directory), 0);
    free(directory);
}

void fixture_write(const char *directory, const char *name, const char *bytes, size_t length)
{
    struct error err = {""};
    char *path = fs_join(directory, name);
    assert_int_equal(fs_write_text(fs_system(), path, bytes, length, &err), 0);
    free(path);
}

void fixture_read(const char *directory, const char *name, struct strbuf *out)
{
    struct error err = {""};
    char *path = fs_join(directory, name);
    if (fs_read(fs_system(), path, out, &err) != 0) {
        fail_msg("%s", err.text);
    }
    free(path);
}

void fixture_copy(const char *from, const char *to, const char *name)
{
    struct strbuf bytes = {0};
    fixture_read(from, name, &bytes);
    fixture_write(to, name, bytes.bytes, bytes.length);
    strbuf_release(&bytes);
}

void fixture_assert_ids(const char *what, const struct token_list *got, const int32_t *expected,
                        size_t count)
{
    for (size_t i = 0; i < count && i < got->count; i++) {
        if (got->ids[i] != expected[i]) {
            fail_msg("'%s': token %zu is %d, not %d", what, i, (int)got->ids[i], (int)expected[i]);
        }
    }
    if (got->count != count) {
        fail_msg("'%s': %zu tokens, not %zu", what, got->count, count);
    }
}
