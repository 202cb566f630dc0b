// SPDX-License-Identifier: Apache-2.0
// What holds for the five steps whatever a model answers and whenever.
#include "tests/worker/reflect_fixture.h"

#include "base/mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define CHUNKS 5

struct outcome {
    char *texts[CHUNKS + 1]; // of the chunks and of their group
    size_t made[REFLECTION_STEPS];
    size_t kept[REFLECTION_STEPS];
    size_t dropped[REFLECTION_STEPS]; // but for unreadable answers, in which nothing was made
    uint64_t used[REFLECTION_STEPS];
    uint64_t answered[REFLECTION_STEPS];
    uint64_t shared[REFLECTION_STEPS]; // output tokens of the records
    size_t cross;
};

static void count_result(const struct generated *result, struct outcome *out)
{
    for (uint32_t i = 0; i < result->task.pairs; i++) {
        out->kept[result->pairs[i].step]++;
        out->shared[result->pairs[i].step] += result->pairs[i].output_tokens;
    }
    for (size_t i = 0; i < result->task.drop_count; i++) {
        const struct reflection_drop *drop = &result->task.drops[i];
        if (strcmp(drop->reason, "unreadable answer") != 0) {
            out->dropped[drop->step] += drop->pairs;
        }
    }
    for (size_t i = 0; i < result->task.usage_count; i++) {
        out->used[result->task.usage[i].step] += result->task.usage[i].output_tokens;
    }
}

static bool joins_documents(const struct reflection *pair)
{
    for (size_t i = 1; i < pair->source_count; i++) {
        if (!digest_equal(pair->sources[i].document, pair->sources[0].document)) {
            return true;
        }
    }
    return false;
}

static bool is_record(const struct generated *results, size_t count, struct digest id)
{
    for (size_t r = 0; r < count; r++) {
        for (uint32_t i = 0; i < results[r].task.pairs; i++) {
            if (digest_equal(results[r].pairs[i].record_id, id)) {
                return true;
            }
        }
    }
    return false;
}

static void check_provenance(const struct generated *results, const struct corpus *corpus)
{
    for (size_t r = 0; r <= CHUNKS; r++) {
        for (uint32_t i = 0; i < results[r].task.pairs; i++) {
            const struct reflection *pair = &results[r].pairs[i];
            for (size_t k = 0; k < pair->parent_count; k++) {
                assert_true(is_record(results, CHUNKS, pair->parents[k]));
            }
            if (r < CHUNKS) {
                const struct corpus_chunk *chunk = &corpus->chunks[r];
                const struct corpus_document *document = &corpus->documents[chunk->document];
                assert_int_equal(pair->source_count, 1);
                assert_true(digest_equal(pair->sources[0].document, document->digest));
                assert_int_equal(pair->sources[0].begin, chunk->begin - document->begin);
                assert_int_equal(pair->sources[0].end, chunk->end - document->begin);
            } else {
                assert_int_equal(pair->step, STEP_CROSS);
                assert_true(pair->parent_count >= 2);
                assert_true(joins_documents(pair));
            }
        }
    }
}

static struct outcome run(uint64_t shuffle, size_t capacity)
{
    struct outcome out = {0};
    struct corpus *corpus = reflect_fixture_corpus();
    struct fake_lm *fake = fake_lm_create(capacity);
    fake->shuffle = shuffle;
    struct generator *generator = reflect_fixture_create(fake, NULL);
    struct generated results[CHUNKS + 1];
    assert_int_equal(corpus->chunk_count, CHUNKS);
    reflect_fixture_run(generator, corpus, results);
    results[CHUNKS] = reflect_fixture_run_group(generator, corpus, results);
    out.cross = results[CHUNKS].task.pairs;
    check_provenance(results, corpus);
    for (size_t i = 0; i <= CHUNKS; i++) {
        out.texts[i] = reflect_fixture_describe(&results[i]);
        count_result(&results[i], &out);
        generated_release(&results[i]);
    }
    memcpy(out.made, fake->made, sizeof out.made);
    memcpy(out.answered, fake->output_tokens, sizeof out.answered);
    assert_true(fake->most_in_flight <= capacity);
    assert_int_equal(fake->flight_count, 0);
    generator_destroy(generator);
    corpus_close(corpus);
    return out;
}

static void release(struct outcome *outcome)
{
    for (size_t i = 0; i <= CHUNKS; i++) {
        free(outcome->texts[i]);
    }
}

static void pairs_do_not_depend_on_the_order_of_answers(void **state)
{
    (void)state;
    const size_t capacities[] = {1, 2, 3, 7, 64};
    struct outcome plain = run(0, 16);
    for (uint64_t shuffle = 0; shuffle < 10; shuffle++) {
        struct outcome other = run(shuffle, capacities[shuffle % 5]);
        for (size_t i = 0; i <= CHUNKS; i++) {
            assert_string_equal(other.texts[i], plain.texts[i]);
        }
        release(&other);
    }
    release(&plain);
}

static void what_is_made_is_kept_or_counted(void **state)
{
    (void)state;
    struct outcome outcome = run(3, 16);
    for (int step = STEP_DIRECT; step <= STEP_CROSS; step++) {
        assert_true(outcome.kept[step] > 0);
        assert_true(outcome.dropped[step] > 0);
        assert_int_equal(outcome.made[step], outcome.kept[step] + outcome.dropped[step]);
        assert_int_equal(outcome.used[step], outcome.answered[step]);
        assert_true(outcome.shared[step] <= outcome.used[step]);
    }
    assert_true(outcome.cross > 0);
    release(&outcome);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(pairs_do_not_depend_on_the_order_of_answers),
        cmocka_unit_test(what_is_made_is_kept_or_counted),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
