// SPDX-License-Identifier: Apache-2.0
#include "datasets/near_duplicates.h"

#include "base/mem.h"
#include "base/random.h"
#include "base/strbuf.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct near_duplicate_text make(const char *text)
{
    return (struct near_duplicate_text){text, strlen(text), digest_bytes(text, strlen(text))};
}

// `words` random words; word number i is another one when changed[i] is set.
static char *write_words(uint64_t seed, size_t words, const bool *changed)
{
    struct strbuf out = {0};
    for (size_t i = 0; i < words; i++) {
        strbuf_addf(&out, "w%llu%s ", (unsigned long long)(random_u64(seed, 7, i) % 100000),
                    changed && changed[i] ? "x" : "");
    }
    return strbuf_detach(&out);
}

static void similarity_is_that_of_the_definition(void **state)
{
    (void)state;
    struct near_duplicate_text a = make("a b c d e f g");  // 3 shingles
    struct near_duplicate_text b = make("A B, c d e f h"); // shares 2, has 3
    struct near_duplicate_text c = make("short");
    struct near_duplicate_text d = make("...");
    assert_true(near_duplicate_similarity(&a, &a) == 1);
    assert_true(near_duplicate_similarity(&a, &b) == 0.5);
    assert_true(near_duplicate_similarity(&a, &c) == 0);
    assert_true(near_duplicate_similarity(&c, &c) == 1);
    assert_true(near_duplicate_similarity(&d, &d) == 0);
}

static void one_changed_word_is_found_and_many_are_not(void **state)
{
    (void)state;
    enum { WORDS = 300, COUNT = 30 };
    char *texts[COUNT];
    struct near_duplicate_text documents[COUNT];
    size_t of[COUNT];
    // 0..9 originals; 10..19 with 2 words changed (J about 0.93); 20..29 with 40 changed (below
    // 0.5).
    for (size_t i = 0; i < COUNT; i++) {
        bool changed[WORDS] = {false};
        size_t changes = i < 10 ? 0 : i < 20 ? 2 : 40;
        for (size_t c = 0; c < changes; c++) {
            changed[(c * 7 + i) % WORDS] = true;
        }
        texts[i] = write_words(i % 10, WORDS, changed);
        documents[i] = make(texts[i]);
    }
    near_duplicates_find(documents, COUNT, NEAR_DUPLICATE_THRESHOLD, of);
    for (size_t i = 0; i < 10; i++) {
        // The one with the changes is longer by two bytes, so that it is kept.
        assert_int_equal(of[i], i + 10);
        assert_true(of[i + 10] == NEAR_DUPLICATE_NONE);
        assert_true(of[i + 20] == NEAR_DUPLICATE_NONE);
        assert_true(near_duplicate_similarity(&documents[i], &documents[i + 10]) >= 0.8);
        assert_true(near_duplicate_similarity(&documents[i], &documents[i + 20]) < 0.8);
    }
    for (size_t i = 0; i < COUNT; i++) {
        free(texts[i]);
    }
}

static void the_answer_does_not_depend_on_the_order(void **state)
{
    (void)state;
    enum { WORDS = 60, COUNT = 33 };
    char *texts[COUNT];
    struct near_duplicate_text documents[COUNT], shuffled[COUNT];
    size_t of[COUNT], of_shuffled[COUNT];
    uint32_t order[COUNT];
    for (size_t i = 0; i < COUNT; i++) {
        bool changed[WORDS] = {false};
        changed[i * 5 % WORDS] = i % 3 != 0;
        texts[i] = write_words(i / 6, WORDS, changed);
        documents[i] = make(texts[i]);
    }
    near_duplicates_find(documents, COUNT, 0.7, of);
    size_t found = 0;
    for (uint64_t seed = 0; seed < 10; seed++) {
        random_permutation(seed, 3, order, COUNT);
        for (size_t i = 0; i < COUNT; i++) {
            shuffled[i] = documents[order[i]];
        }
        near_duplicates_find(shuffled, COUNT, 0.7, of_shuffled);
        for (size_t i = 0; i < COUNT; i++) {
            size_t expected = of[order[i]];
            if (expected == NEAR_DUPLICATE_NONE || of_shuffled[i] == NEAR_DUPLICATE_NONE) {
                // Equal texts have equal digests; which of them is kept cannot matter.
                assert_true(
                    expected == of_shuffled[i] ||
                    digest_equal(documents[order[i]].digest,
                                 documents[expected == NEAR_DUPLICATE_NONE ? order[of_shuffled[i]]
                                                                           : expected]
                                     .digest));
            } else {
                assert_true(
                    digest_equal(documents[expected].digest, shuffled[of_shuffled[i]].digest));
                found++;
            }
        }
    }
    assert_true(found > 0);
    for (size_t i = 0; i < COUNT; i++) {
        free(texts[i]);
    }
}

static void texts_without_words_and_no_texts_are_kept(void **state)
{
    (void)state;
    struct near_duplicate_text documents[] = {make("..."), make("...!"), make("")};
    size_t of[3];
    near_duplicates_find(documents, 3, 0.8, of);
    for (size_t i = 0; i < 3; i++) {
        assert_true(of[i] == NEAR_DUPLICATE_NONE);
    }
    near_duplicates_find(documents, 0, 0.8, of);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(similarity_is_that_of_the_definition),
        cmocka_unit_test(one_changed_word_is_found_and_many_are_not),
        cmocka_unit_test(the_answer_does_not_depend_on_the_order),
        cmocka_unit_test(texts_without_words_and_no_texts_are_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
