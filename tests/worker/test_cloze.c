// SPDX-License-Identifier: Apache-2.0
#include "worker/reflect/cloze.h"

#include "base/mem.h"
#include "tests/datasets/corpus_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const struct cloze_options defaults = CLOZE_DEFAULTS;

static struct digest make_id(size_t chunk)
{
    return digest_bytes(&chunk, sizeof chunk);
}

static struct generated run_task(struct generator *generator, const struct corpus *corpus,
                                 size_t chunk)
{
    struct error err = {""};
    struct generator_task task = {
        .task_id = make_id(chunk), .corpus = corpus, .chunk = chunk, .seed = 42};
    struct generated result;
    assert_int_equal(generator_submit(generator, &task, &err), 0);
    assert_int_equal(generator_poll(generator, &result, &err), 1);
    assert_true(digest_equal(result.task.task_id, task.task_id));
    return result;
}

static const char text[] =
    "Late in 1871 Olaf came to Tollerby by sea. The people gave him 12 geese.\n\n"
    "It was so.\n\n"
    "Early in 1880 Ysolt came to Greywether by road. Nobody there gave her 13 ducks.";

static void chunks_give_the_pairs_of_their_sentences(void **state)
{
    (void)state;
    struct fixture_text one = {"Arrivals", text};
    struct corpus *corpus = corpus_from_texts(&one, 1);
    struct generator *generator = cloze_create(&defaults);
    assert_int_equal(corpus->chunk_count, 3);
    struct generated first = run_task(generator, corpus, 0);
    struct generated empty = run_task(generator, corpus, 1);
    struct generated last = run_task(generator, corpus, 2);
    assert_int_equal(first.task.outcome, TASK_DONE);
    assert_true(first.task.pairs >= 3);
    assert_int_equal(empty.task.outcome, TASK_EMPTY);
    assert_int_equal(empty.task.pairs, 0);
    assert_string_equal(empty.task.reason, "");
    assert_true(last.task.pairs >= 3);
    for (uint32_t i = 0; i < last.task.pairs; i++) {
        const struct reflection *pair = &last.pairs[i];
        assert_int_equal(pair->ordinal, i);
        assert_int_equal(pair->step, STEP_CLOZE);
        assert_int_equal(pair->seed, 42);
        assert_int_equal(pair->question_bytes, strlen(pair->question));
        assert_int_equal(pair->answer_bytes, strlen(pair->answer));
        assert_int_equal(pair->source_count, 1);
        assert_int_equal(pair->parent_count, 0);
        assert_true(digest_equal(pair->sources[0].document, corpus->documents[0].digest));
        assert_true(digest_equal(pair->task_id, last.task.task_id));
        assert_true(digest_equal(pair->record_id, reflection_record_id(make_id(2), STEP_CLOZE, i)));
        assert_true(pair->sources[0].begin >= corpus->chunks[2].begin);
        assert_true(pair->sources[0].end <= corpus->chunks[2].end);
        assert_non_null(strstr(pair->question, "In \"Arrivals\": "));
    }
    generated_release(&first);
    generated_release(&empty);
    generated_release(&last);
    generator_destroy(generator);
    corpus_close(corpus);
}

// Twelve sentences in chunks that overlap by two of them.
static void overlaps_give_no_pair_twice(void **state)
{
    (void)state;
    enum { SENTENCES = 12 };
    struct strbuf story = {0};
    size_t begins[SENTENCES / 4], chunks = 0, length = 0;
    for (int i = 0; i < SENTENCES; i++) {
        if (i % 4 == 0) {
            begins[chunks++] = story.length;
        }
        strbuf_addf(&story, "In the year %d the man sold %d white birds. ", 1800 + i, 100 + i);
        length = length ? length : story.length;
    }
    struct corpus *corpus = corpus_from_spans("Birds", story.bytes, begins, chunks, 2 * length);
    struct generator *generator = cloze_create(&defaults);
    struct cloze_pairs expected;
    cloze_pairs_make(story.bytes, story.length, "Birds", &defaults, &expected);
    assert_int_equal(expected.count, 2 * SENTENCES);
    size_t next = 0;
    for (size_t c = 0; c < chunks; c++) {
        struct generated result = run_task(generator, corpus, c);
        assert_int_equal(result.task.pairs, c == 0 ? 12 : c + 1 < chunks ? 8 : 4);
        for (size_t i = 0; i < result.task.pairs; i++, next++) {
            assert_string_equal(result.pairs[i].question, expected.pairs[next].question);
            assert_string_equal(result.pairs[i].answer, expected.pairs[next].answer);
            assert_int_equal(result.pairs[i].sources[0].begin, expected.pairs[next].begin);
        }
        generated_release(&result);
    }
    assert_int_equal(next, expected.count);
    cloze_pairs_release(&expected);
    generator_destroy(generator);
    corpus_close(corpus);
    strbuf_release(&story);
}

// More documents than are cached, asked for in one order and in the other.
static void results_do_not_depend_on_the_order_of_tasks(void **state)
{
    (void)state;
    enum { COUNT = 9 };
    struct fixture_text many[COUNT];
    char *texts[COUNT];
    for (size_t i = 0; i < COUNT; i++) {
        texts[i] =
            mem_printf("We saw %zu boats at noon near Tollerby.\n\nThen %zu men went off to the "
                       "barometer again.",
                       i + 20, i + 50);
        many[i] = (struct fixture_text){i % 2 ? "Odd" : "Even", texts[i]};
    }
    struct corpus *corpus = corpus_from_texts(many, COUNT);
    struct generator *forward = cloze_create(&defaults), *backward = cloze_create(&defaults);
    struct generated results[2 * COUNT];
    for (size_t c = 0; c < 2 * COUNT; c++) {
        results[c] = run_task(forward, corpus, c);
        assert_true(results[c].task.pairs > 0);
    }
    for (size_t c = 2 * COUNT; c-- > 0;) {
        struct generated again = run_task(backward, corpus, c);
        assert_int_equal(again.task.pairs, results[c].task.pairs);
        for (size_t i = 0; i < again.task.pairs; i++) {
            assert_string_equal(again.pairs[i].question, results[c].pairs[i].question);
            assert_true(digest_equal(again.pairs[i].record_id, results[c].pairs[i].record_id));
        }
        generated_release(&again);
        generated_release(&results[c]);
    }
    assert_true(digest_equal(forward->digest, backward->digest));
    generator_destroy(forward);
    generator_destroy(backward);
    corpus_close(corpus);
    for (size_t i = 0; i < COUNT; i++) {
        free(texts[i]);
    }
}

static void tasks_queue_up_to_the_capacity_and_can_be_cancelled(void **state)
{
    (void)state;
    struct fixture_text one = {"Arrivals", text};
    struct corpus *corpus = corpus_from_texts(&one, 1);
    struct generator *generator = cloze_create(&defaults);
    struct error err = {""};
    struct generated result;
    assert_int_equal(generator_poll(generator, &result, &err), 0);
    for (size_t i = 0; i < generator->capacity; i++) {
        struct generator_task task = {
            .task_id = make_id(i), .corpus = corpus, .chunk = i % 3, .seed = 0};
        assert_int_equal(generator_submit(generator, &task, &err), 0);
    }
    generator_cancel(generator, make_id(1));
    generator_cancel(generator, make_id(generator->capacity)); // nobody's
    size_t finished = 0;
    while (generator_poll(generator, &result, &err) == 1) {
        assert_false(digest_equal(result.task.task_id, make_id(1)));
        generated_release(&result);
        finished++;
    }
    assert_int_equal(finished, generator->capacity - 1);
    struct generator_task outside = {
        .task_id = make_id(0), .corpus = corpus, .chunk = 3, .seed = 0};
    assert_int_equal(generator_submit(generator, &outside, &err), -1);
    assert_string_equal(err.text, "task names chunk 3 of a corpus of 3");
    generator_destroy(generator);
    generator_destroy(NULL);
    corpus_close(corpus);
}

static void every_option_is_part_of_the_digest(void **state)
{
    (void)state;
    struct generator *plain = cloze_create(&defaults);
    for (int i = 0; i < 4; i++) {
        struct cloze_options options = defaults;
        uint32_t *const fields[] = {&options.max_gaps_per_sentence, &options.min_words,
                                    &options.max_words, &options.window_words};
        ++*fields[i];
        struct generator *other = cloze_create(&options);
        assert_false(digest_equal(plain->digest, other->digest));
        generator_destroy(other);
    }
    generator_destroy(plain);
}

static void documents_have_short_names_of_their_own(void **state)
{
    (void)state;
    const struct fixture_text texts[] = {
        {"Summer", "a"},
        {"Letter of Agatha Rooksby to Sunniva, Tarrow Ridge, 2 March 1915", "b"},
        {"A title that simply goes on and on without any comma until it ends", "c"},
        {"Minutes of the Harbour Council, Extraordinary Session of 17 June", "d"},
        {"Minutes of the Harbour Council, Extraordinary Session of 18 June", "e"},
        {"Untitled", "f"},
        {"Untitled", "g"},
        {"", "h"},
    };
    struct corpus *corpus = corpus_from_texts(texts, 8);
    struct arena arena = {0};
    const char **names = cloze_document_names(corpus, &arena);
    assert_string_equal(names[0], "Summer");
    assert_string_equal(names[1], "Letter of Agatha Rooksby to Sunniva");
    assert_string_equal(names[2], "A title that simply goes on and on without any comma until");
    assert_string_equal(names[3], texts[3].title);
    assert_string_equal(names[4], texts[4].title);
    assert_int_equal(strlen(names[5]), strlen("Untitled [012345]"));
    assert_string_not_equal(names[5], names[6]);
    assert_string_equal(names[7], "");
    arena_release(&arena);
    corpus_close(corpus);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(chunks_give_the_pairs_of_their_sentences),
        cmocka_unit_test(overlaps_give_no_pair_twice),
        cmocka_unit_test(results_do_not_depend_on_the_order_of_tasks),
        cmocka_unit_test(tasks_queue_up_to_the_capacity_and_can_be_cancelled),
        cmocka_unit_test(every_option_is_part_of_the_digest),
        cmocka_unit_test(documents_have_short_names_of_their_own),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
