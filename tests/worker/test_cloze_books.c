// SPDX-License-Identifier: Apache-2.0
// Cloze pairs from whole corpora: the example archive of the repository, and nine books that lie
// outside it ($MEMO_TEST_DATA/narrativeqa/stories).
#include "tests/test_data.h"
#include "worker/reflect/cloze.h"

#include "base/mem.h"
#include "datasets/ingest.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct corpus *ingest_directory(const char *path)
{
    struct error err = {""};
    struct ingest_options options = ingest_options_default();
    struct ingest *ingest = NULL;
    struct corpus *corpus = NULL;
    struct ingest_report report;
    assert_int_equal(ingest_create(fs_system(), &options, &ingest, &err), 0);
    assert_int_equal(ingest_add_path(ingest, path, &err), 0);
    assert_int_equal(ingest_finish(ingest, &corpus, &report, &err), 0);
    assert_int_equal(corpus_check(corpus, &err), 0);
    ingest_destroy(ingest);
    return corpus;
}

static int compare_texts(const void *left, const void *right)
{
    return strcmp(*(const char *const *)left, *(const char *const *)right);
}

// Runs every chunk of every third of the documents; no question may come twice in the whole corpus.
static void check_thirds(const struct corpus *corpus, size_t least)
{
    struct generator *generator = cloze_create(&(struct cloze_options)CLOZE_DEFAULTS);
    bool *in_part = mem_calloc(corpus->document_count, sizeof *in_part);
    char **questions = NULL;
    size_t count = 0, capacity = 0;
    for (int part = 1; part <= 3; part++) {
        size_t pairs = 0;
        corpus_select_part(corpus, part, 3, in_part);
        for (size_t c = 0; c < corpus->chunk_count; c++) {
            struct error err = {""};
            struct generator_task task = {.corpus = corpus, .chunk = c};
            struct generated result;
            if (!in_part[corpus->chunks[c].document]) {
                continue;
            }
            assert_int_equal(generator_submit(generator, &task, &err), 0);
            assert_int_equal(generator_poll(generator, &result, &err), 1);
            for (size_t i = 0; i < result.task.pairs; i++) {
                questions = mem_grow(questions, &capacity, count + 1, sizeof *questions);
                questions[count++] = mem_strdup(result.pairs[i].question);
            }
            pairs += result.task.pairs;
            generated_release(&result);
        }
        printf("part %d of 3: %zu pairs\n", part, pairs);
        assert_true(pairs >= least);
    }
    qsort(questions, count, sizeof *questions, compare_texts);
    for (size_t i = 0; i < count; i++) {
        assert_true(i == 0 || strcmp(questions[i - 1], questions[i]) != 0);
    }
    for (size_t i = 0; i < count; i++) {
        free(questions[i]);
    }
    free(questions);
    free(in_part);
    generator_destroy(generator);
}

static void example_archive_gives_enough_pairs(void **state)
{
    (void)state;
    struct corpus *corpus = ingest_directory(MEMO_SOURCE_DIRECTORY "/datasets/examples");
    assert_true(corpus->document_count >= 90);
    check_thirds(corpus, 330);
    corpus_close(corpus);
}

static void nine_books_give_enough_pairs(void **state)
{
    static const char *const titles[] = {"The Sheik",
                                         "Crito",
                                         "Siddhartha",
                                         "The Adventure of the Devil's Foot",
                                         "Almayer's Folly",
                                         "Riders to the Sea",
                                         "The Princess and the Goblin",
                                         "La Grande Breteche",
                                         "Summer"};
    struct corpus *corpus = ingest_directory(*state);
    assert_int_equal(corpus->document_count, 9);
    for (size_t i = 0; i < 9; i++) {
        const struct corpus_document *d = &corpus->documents[i];
        char *text = mem_calloc(d->end - d->begin + 1, 1);
        memcpy(text, corpus->text + d->begin, d->end - d->begin);
        assert_string_equal(d->title, titles[i]);
        assert_null(strchr(text, '\r'));
        assert_null(strcasestr(text, "project gutenberg"));
        assert_null(strcasestr(text, " etext"));
        free(text);
    }
    check_thirds(corpus, 1000);
    corpus_close(corpus);
}

int main(void)
{
    const struct CMUnitTest examples[] = {cmocka_unit_test(example_archive_gives_enough_pairs)};
    int failed = cmocka_run_group_tests_name("examples", examples, NULL, NULL);
    if (failed)
        return failed;
    char *stories = test_data_path("narrativeqa/stories");
    if (!stories)
        return SKIPPED;
    const struct CMUnitTest books[] = {
        cmocka_unit_test_prestate(nine_books_give_enough_pairs, stories)};
    failed = cmocka_run_group_tests_name("books", books, NULL, NULL);
    free(stories);
    return failed;
}
