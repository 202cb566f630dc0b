// SPDX-License-Identifier: Apache-2.0
#include "datasets/corpus.h"

#include "base/mem.h"
#include "datasets/h5_image.h"
#include "tests/base/temporary_directory.h"
#include "tests/datasets/corpus_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static const struct fixture_text texts[] = {
    {"First", "Alpha one.\n\nAlpha two.\n\nAlpha three."},
    {"Zweiter – Text", "Straße.\n\nשלום עולם.\n\n世界。"},
    {"", "x"},
};

static struct corpus *make_corpus(void)
{
    static const uint32_t offsets[] = {0, 2, 5};
    static const uint32_t chunks[] = {0, 3, 1, 4, 6};
    static const struct corpus_set_aside aside[] = {
        {"copy.txt", CORPUS_EXACT_DUPLICATE, "0.txt"},
        {"nothing.txt", CORPUS_EMPTY, ""},
    };
    struct corpus *corpus = corpus_from_texts(texts, 3);
    corpus->group_offsets = offsets;
    corpus->group_chunks = chunks;
    corpus->group_count = 2;
    corpus->set_aside = aside;
    corpus->set_aside_count = 2;
    corpus->digest = corpus_content_digest(corpus);
    return corpus;
}

static void write_bytes(const char *path, const void *bytes, size_t length)
{
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, length, file), length);
    assert_int_equal(fclose(file), 0);
}

static void what_was_written_is_opened(void **state)
{
    struct error err = {""};
    struct corpus *corpus = make_corpus(), *read = NULL;
    char *path = fs_join(*state, "corpus.h5");
    assert_int_equal(corpus_write(fs_system(), path, corpus, &err), 0);
    assert_int_equal(corpus_write(fs_system(), path, corpus, &err), 0); // replaces
    assert_int_equal(corpus_open(path, &read, &err), 0);
    assert_true(digest_equal(read->digest, corpus->digest));
    assert_int_equal(read->text_bytes, corpus->text_bytes);
    assert_memory_equal(read->text, corpus->text, corpus->text_bytes);
    assert_int_equal(read->document_count, 3);
    assert_string_equal(read->documents[1].title, "Zweiter – Text");
    assert_string_equal(read->documents[1].source, "1.txt");
    assert_string_equal(read->documents[2].title, "");
    assert_int_equal(read->chunk_count, 7);
    assert_true(digest_equal(read->chunks[5].digest, corpus->chunks[5].digest));
    assert_int_equal(read->chunks[5].tokens, corpus->chunks[5].tokens);
    assert_int_equal(read->group_count, 2);
    assert_int_equal(read->group_chunks[4], 6);
    assert_int_equal(read->set_aside_count, 2);
    assert_int_equal(read->set_aside[1].reason, CORPUS_EMPTY);
    assert_string_equal(read->set_aside[0].of, "0.txt");
    corpus_close(read);
    corpus_close(corpus);
    free(path);
}

static void damage_is_always_an_error(void **state)
{
    struct error err = {""};
    struct corpus *corpus = make_corpus();
    char *good = fs_join(*state, "corpus.h5"), *bad = fs_join(*state, "damaged.h5");
    struct strbuf file = {0};
    assert_int_equal(corpus_write(fs_system(), good, corpus, &err), 0);
    assert_int_equal(fs_read(fs_system(), good, &file, &err), 0);
    for (size_t i = 0; i < file.length; i += 97) {
        struct corpus *read = NULL;
        file.bytes[i] ^= 1 << i % 8;
        write_bytes(bad, file.bytes, file.length);
        assert_int_equal(corpus_open(bad, &read, &err), -1);
        assert_null(read);
        assert_non_null(strstr(err.text, "damaged.h5"));
        file.bytes[i] ^= 1 << i % 8;
    }
    for (size_t length = 0; length < file.length; length += length < 600 ? 1 : 97) {
        struct corpus *read = NULL;
        write_bytes(bad, file.bytes, length);
        assert_int_equal(corpus_open(bad, &read, &err), -1);
    }
    strbuf_add(&file, "", 1);
    write_bytes(bad, file.bytes, file.length);
    struct corpus *read = NULL;
    assert_int_equal(corpus_open(bad, &read, &err), -1); // longer than promised
    strbuf_release(&file);
    corpus_close(corpus);
    free(good);
    free(bad);
}

static void what_is_no_corpus_is_an_error(void **state)
{
    struct error err = {""};
    struct corpus *read = NULL;
    char *path = fs_join(*state, "other.h5");
    assert_int_equal(corpus_open(path, &read, &err), -1);
    assert_non_null(strstr(err.text, "other.h5"));
    assert_int_equal(corpus_open(*state, &read, &err), -1); // a directory
    write_bytes(path, "", 0);
    assert_int_equal(corpus_open(path, &read, &err), -1);
    char text[2000];
    memset(text, 'a', sizeof text);
    write_bytes(path, text, sizeof text);
    assert_int_equal(corpus_open(path, &read, &err), -1);
    assert_non_null(strstr(err.text, "not a MEMOCORP file"));
    // Sealed as a corpus, but something else inside.
    struct h5_image *image = NULL;
    struct strbuf file = {0};
    assert_int_equal(h5_image_create(&image, &err), 0);
    assert_int_equal(h5_image_write(image, "text", H5_IMAGE_U32, (uint32_t[]){1}, 1, 0, &err), 0);
    assert_int_equal(h5_image_finish(image, "MEMOCORP", 1, &file, &err), 0);
    h5_image_destroy(image);
    write_bytes(path, file.bytes, file.length);
    assert_int_equal(corpus_open(path, &read, &err), -1);
    assert_non_null(strstr(err.text, "dataset 'text'"));
    strbuf_release(&file);
    free(path);
}

static void full_disk_leaves_nothing_behind(void **state)
{
    struct error err = {""};
    struct corpus *corpus = make_corpus();
    char *path = fs_join(*state, "full.h5");
    for (uint64_t budget = 0; budget < 4000; budget += 500) {
        struct fs_fault fault = {.inner = fs_system(), .write_budget_bytes = budget};
        struct fs fs = fs_with_faults(&fault);
        assert_int_equal(corpus_write(&fs, path, corpus, &err), -1);
        assert_non_null(strstr(err.text, "full.h5"));
        assert_non_null(strstr(err.text, "o space left"));
        assert_false(fs_exists(fs_system(), path));
    }
    struct fs_names names = {0};
    assert_int_equal(fs_list(fs_system(), *state, &names, &err), 0);
    for (size_t i = 0; i < names.count; i++) {
        assert_null(strstr(names.names[i], "full"));
    }
    fs_names_release(&names);
    corpus_close(corpus);
    free(path);
}

// What a corpus must not be, one defect each; each must be refused at writing.
static void broken_corpora_are_not_written(void **state)
{
    char *path = fs_join(*state, "broken.h5");
    for (int defect = 0; defect < 11; defect++) {
        struct error err = {""};
        struct corpus *corpus = make_corpus();
        struct corpus_document documents[3];
        struct corpus_chunk chunks[7];
        uint32_t group_chunks[5];
        memcpy(documents, corpus->documents, sizeof documents);
        memcpy(chunks, corpus->chunks, sizeof chunks);
        memcpy(group_chunks, corpus->group_chunks, sizeof group_chunks);
        corpus->documents = documents;
        corpus->chunks = chunks;
        corpus->group_chunks = group_chunks;
        struct corpus_set_aside aside = {"a", (enum corpus_aside)9, ""};
        switch (defect) {
        case 0:
            documents[2].end = corpus->text_bytes + 1;
            break;
        case 1:
            documents[1].begin = documents[0].begin;
            break;
        case 2:
            documents[0].title = "\xff";
            break;
        case 3:
            chunks[0].document = 3;
            break;
        case 4:
            chunks[3].end = chunks[3].begin + 5; // inside ß
            break;
        case 5:
            chunks[1].begin = chunks[0].begin;
            break;
        case 6:
            group_chunks[1] = 7;
            break;
        case 7:
            group_chunks[3] = group_chunks[2];
            break;
        case 8:
            corpus->set_aside = &aside;
            corpus->set_aside_count = 1;
            break;
        case 9:
            documents[1].digest.bytes[15] ^= 1;
            break;
        case 10:
            chunks[6].digest.bytes[0] ^= 1;
            break;
        }
        assert_int_equal(corpus_write(fs_system(), path, corpus, &err), -1);
        assert_non_null(strstr(err.text, "broken.h5"));
        corpus_close(corpus);
    }
    assert_false(fs_exists(fs_system(), path));
    struct error err = {""};
    struct corpus *empty = corpus_create();
    assert_int_equal(corpus_write(fs_system(), path, empty, &err), -1);
    assert_non_null(strstr(err.text, "corpus is empty"));
    corpus_close(empty);
    free(path);
}

static void parts_are_disjoint_complete_and_even(void **state)
{
    (void)state;
    struct fixture_text many[33];
    char bytes[34];
    memset(bytes, 'x', sizeof bytes);
    bytes[33] = '\0';
    for (size_t i = 0; i < 33; i++) {
        many[i] = (struct fixture_text){"", bytes + i}; // 33 bytes down to 1
    }
    struct corpus *corpus = corpus_from_texts(many, 33);
    for (int parts = 1; parts <= 5; parts++) {
        size_t times[33] = {0};
        uint64_t least = UINT64_MAX, most = 0;
        for (int part = 1; part <= parts; part++) {
            bool in_part[33];
            uint64_t weight = 0;
            corpus_select_part(corpus, part, parts, in_part);
            for (size_t i = 0; i < 33; i++) {
                times[i] += in_part[i];
                weight += in_part[i] ? 33 - i : 0;
            }
            least = weight < least ? weight : least;
            most = weight > most ? weight : most;
        }
        for (size_t i = 0; i < 33; i++) {
            assert_int_equal(times[i], 1);
        }
        assert_true(most - least <= 6);
    }
    corpus_close(corpus);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_was_written_is_opened),
        cmocka_unit_test(damage_is_always_an_error),
        cmocka_unit_test(what_is_no_corpus_is_an_error),
        cmocka_unit_test(full_disk_leaves_nothing_behind),
        cmocka_unit_test(broken_corpora_are_not_written),
        cmocka_unit_test(parts_are_disjoint_complete_and_even),
    };
    return cmocka_run_group_tests(tests, temporary_directory_setup, temporary_directory_teardown);
}
