// SPDX-License-Identifier: Apache-2.0
#include "datasets/groups.h"

#include "base/mem.h"
#include "base/random.h"
#include "base/strbuf.h"
#include "tests/datasets/corpus_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const struct groups_options defaults = GROUPS_DEFAULTS;

static const struct fixture_text texts[] = {
    {"A", "We saw Edith Wharton at noon.\n\nWe saw nobody on that day."},
    {"B", "The house of Edith Wharton is red.\n\nIt rained on Monday in Tollerby."},
    {"C", "Nothing is known of it.\n\nThey went to Tollerby by cart."},
};

static void chunks_that_share_a_rare_name_come_together(void **state)
{
    (void)state;
    struct corpus *corpus = corpus_from_texts(texts, 3);
    struct error err = {""};
    groups_find(corpus, &defaults);
    assert_int_equal(corpus_check(corpus, &err), 0);
    assert_int_equal(corpus->group_count, 2);
    assert_int_equal(corpus->group_offsets[1], 2);
    assert_int_equal(corpus->group_offsets[2], 4);
    assert_int_equal(corpus->group_chunks[0], 0); // Edith Wharton
    assert_int_equal(corpus->group_chunks[1], 2);
    assert_int_equal(corpus->group_chunks[2], 3); // Tollerby
    assert_int_equal(corpus->group_chunks[3], 5);
    corpus_close(corpus);
}

static void first_words_and_names_of_one_document_connect_nothing(void **state)
{
    (void)state;
    const struct fixture_text plain[] = {
        {"A", "Nothing came.\n\nThen we met Olaf.\n\nAgain we met Olaf."},
        {"B", "Nothing went.\n\nThen it rained."},
    };
    struct corpus *corpus = corpus_from_texts(plain, 2);
    groups_find(corpus, &defaults);
    assert_int_equal(corpus->group_count, 0);
    assert_int_equal(corpus->group_offsets[0], 0);
    corpus_close(corpus);
}

static void hubs_connect_nothing(void **state)
{
    (void)state;
    enum { COUNT = 40 };
    struct fixture_text many[COUNT];
    char *bytes[COUNT];
    for (size_t i = 0; i < COUNT; i++) {
        bytes[i] = mem_printf("In the year %zu we went to London again.", i);
        many[i] = (struct fixture_text){"", bytes[i]};
    }
    struct corpus *corpus = corpus_from_texts(many, COUNT);
    groups_find(corpus, &defaults);
    assert_int_equal(corpus->group_count, 0);
    groups_find(corpus, &(struct groups_options){.max_chunks = 8, .hub_chunks = 1000});
    assert_int_equal(corpus->group_count, 0); // no hub any more, but still too common
    corpus_close(corpus);
    corpus = corpus_from_texts(many, 8);
    groups_find(corpus, &(struct groups_options){.max_chunks = 3, .hub_chunks = 8});
    assert_true(corpus->group_count >= 2);
    for (size_t g = 0; g < corpus->group_count; g++) {
        assert_true(corpus->group_offsets[g + 1] - corpus->group_offsets[g] <= 3);
    }
    corpus_close(corpus);
    for (size_t i = 0; i < COUNT; i++) {
        free(bytes[i]);
    }
}

static int compare_digests(const void *left, const void *right)
{
    return digest_compare(*(const struct digest *)left, *(const struct digest *)right);
}

// A digest of the groups as sets of sets of (document, chunk) texts.
static struct digest describe(const struct corpus *corpus)
{
    struct digest *groups = mem_calloc(corpus->group_count + 1, sizeof *groups);
    for (size_t g = 0; g < corpus->group_count; g++) {
        uint32_t first = corpus->group_offsets[g];
        uint32_t count = corpus->group_offsets[g + 1] - first;
        struct digest *members = mem_calloc(count, sizeof *members);
        for (uint32_t i = 0; i < count; i++) {
            const struct corpus_chunk *chunk = &corpus->chunks[corpus->group_chunks[first + i]];
            struct digest pair[2] = {corpus->documents[chunk->document].digest, chunk->digest};
            members[i] = digest_bytes(pair, sizeof pair);
        }
        qsort(members, count, sizeof *members, compare_digests);
        groups[g] = digest_bytes(members, count * sizeof *members);
        free(members);
    }
    qsort(groups, corpus->group_count, sizeof *groups, compare_digests);
    struct digest all = digest_bytes(groups, corpus->group_count * sizeof *groups);
    free(groups);
    return all;
}

static void groups_do_not_depend_on_the_order_of_documents(void **state)
{
    (void)state;
    enum { COUNT = 33, PARAGRAPHS = 4 };
    static const char *const names[] = {"Olaf",  "Tollerby", "Edith Wharton", "Cape Mournival",
                                        "Ysolt", "Snood",    "Amos Tull",     "Greywether"};
    struct fixture_text many[COUNT], shuffled[COUNT];
    for (size_t i = 0; i < COUNT; i++) {
        struct strbuf text = {0};
        for (size_t p = 0; p < PARAGRAPHS; p++) {
            strbuf_addf(&text, "On day %zu of %zu we saw %s%zu and then %s%zu there.\n\n", i, p,
                        names[random_u64(i, 1, p) % 8], (size_t)(random_u64(i, 2, p) % 5),
                        names[random_u64(i, 3, p) % 8], (size_t)(random_u64(i, 4, p) % 5));
        }
        many[i] = (struct fixture_text){"", strbuf_detach(&text)};
    }
    struct corpus *corpus = corpus_from_texts(many, COUNT);
    groups_find(corpus, &defaults);
    assert_true(corpus->group_count > 5);
    struct digest expected = describe(corpus);
    corpus_close(corpus);
    for (uint64_t seed = 0; seed < 5; seed++) {
        uint32_t order[COUNT];
        struct error err = {""};
        random_permutation(seed, 9, order, COUNT);
        for (size_t i = 0; i < COUNT; i++) {
            shuffled[i] = many[order[i]];
        }
        corpus = corpus_from_texts(shuffled, COUNT);
        groups_find(corpus, &defaults);
        assert_int_equal(corpus_check(corpus, &err), 0);
        assert_true(digest_equal(describe(corpus), expected));
        corpus_close(corpus);
    }
    for (size_t i = 0; i < COUNT; i++) {
        free((char *)(uintptr_t)many[i].text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(chunks_that_share_a_rare_name_come_together),
        cmocka_unit_test(first_words_and_names_of_one_document_connect_nothing),
        cmocka_unit_test(hubs_connect_nothing),
        cmocka_unit_test(groups_do_not_depend_on_the_order_of_documents),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
