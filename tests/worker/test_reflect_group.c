// SPDX-License-Identifier: Apache-2.0
// Step 5: what becomes of comparisons.
#include "tests/worker/reflect_fixture.h"

#include "base/mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

// One pair of each chunk, and what a comparison says.
struct talk {
    const char *says;   // to every comparison
    const char *anchor; // only to that with this text in the anchor; NULL: to all
    enum lm_end end;
};

static void talk(void *state, const struct fake_request *request, struct fake_answer *answer)
{
    const struct talk *talk = state;
    if (request->kind == REQUEST_DIRECT) {
        const char *at = strstr(request->prompt, "180");
        strbuf_addf(&answer->text,
                    "{\"pairs\":[{\"question\":\"What happened in %.4s?\","
                    "\"answer\":\"Something in %.4s.\"}]}",
                    at, at);
    } else if (!talk->anchor || strstr(request->item, talk->anchor)) {
        strbuf_adds(&answer->text, talk->says);
        answer->end = talk->end;
        answer->problem = "it is over";
    } else {
        strbuf_adds(&answer->text, "{\"pairs\":[]}");
    }
}

static struct generated run(struct talk *script, struct generated *chunks, struct corpus *corpus)
{
    struct fake_lm *fake = fake_lm_create(4);
    fake->answer = talk;
    fake->state = script;
    struct generator *generator = reflect_fixture_create(fake, "1a,5");
    reflect_fixture_run(generator, corpus, chunks);
    struct generated result = reflect_fixture_run_group(generator, corpus, chunks);
    generator_destroy(generator);
    return result;
}

static void release(struct generated *chunks, struct generated *group, struct corpus *corpus)
{
    for (size_t i = 0; i < corpus->chunk_count; i++) {
        generated_release(&chunks[i]);
    }
    generated_release(group);
    corpus_close(corpus);
}

// Anchored at 1803 (the second document's first chunk) the list holds 1801, 1802 and 1805.
static void a_pair_joins_its_anchor_with_other_documents(void **state)
{
    (void)state;
    struct talk script = {
        .says =
            "{\"pairs\":[{\"kind\":\"parallel\",\"from\":[2,3],\"question\":\"All?\",\"answer\":\"Yes.\"}"
            ",{\"kind\":\"parallel\",\"from\":[1],\"question\":\"ALL\",\"answer\":\"Again.\"}"
            ",{\"kind\":\"parallel\",\"from\":[4],\"question\":\"None?\",\"answer\":\"No.\"}"
            ",{\"kind\":\"parallel\",\"from\":[],\"question\":\"None?\",\"answer\":\"No.\"}"
            ",{\"kind\":\"odd\",\"from\":[1],\"question\":\"Odd?\",\"answer\":\"No.\"}"
            ",{\"kind\":\"parallel\",\"from\":[1],\"question\":\"What happened in 1804\",\"answer\":\"No.\"}"
            ",{\"kind\":\"converging\",\"from\":[1],\"question\":\"Is it Nan?\",\"answer\":\"Nan.\"}"
            ",{\"kind\":\"parallel\",\"from\":[1],\"question\":\"Who is in 0.txt?\",\"answer\":\"No.\"}"
            "]}",
        .anchor = "What happened in 1803?"};
    struct generated chunks[5];
    struct corpus *corpus = reflect_fixture_corpus();
    struct generated group = run(&script, chunks, corpus);
    assert_int_equal(group.task.outcome, TASK_DONE);
    assert_int_equal(group.task.pairs, 1);
    const struct reflection *pair = &group.pairs[0];
    assert_string_equal(pair->question, "All?");
    assert_int_equal(pair->step, STEP_CROSS);
    assert_int_equal(pair->parent_count, 3);
    assert_true(digest_equal(pair->parents[0], chunks[2].pairs[0].record_id));
    assert_true(digest_equal(pair->parents[1], chunks[1].pairs[0].record_id));
    assert_true(digest_equal(pair->parents[2], chunks[4].pairs[0].record_id));
    assert_int_equal(pair->source_count, 3);
    assert_true(digest_equal(pair->sources[0].document, corpus->documents[1].digest));
    assert_true(digest_equal(pair->sources[1].document, corpus->documents[0].digest));
    assert_int_equal(pair->sources[1].begin, corpus->chunks[1].begin);
    assert_true(digest_equal(pair->sources[2].document, corpus->documents[2].digest));
    const struct reflection_drop expected[] = {
        {STEP_CROSS, "malformed", 1},
        {STEP_CROSS, "names its source file", 1},
        {STEP_CROSS, "not made from pairs of the list", 2},
        {STEP_CROSS, "question tells the answer", 1},
        {STEP_CROSS, "repeated question", 2},
    };
    assert_int_equal(group.task.drop_count, 5);
    for (size_t i = 0; i < 5; i++) {
        assert_int_equal(group.task.drops[i].step, expected[i].step);
        assert_string_equal(group.task.drops[i].reason, expected[i].reason);
        assert_int_equal(group.task.drops[i].pairs, expected[i].pairs);
    }
    release(chunks, &group, corpus);
}

static void a_group_without_common_ground_is_empty(void **state)
{
    (void)state;
    struct talk script = {.says = "{\"pairs\":[]}"};
    struct generated chunks[5];
    struct corpus *corpus = reflect_fixture_corpus();
    struct generated group = run(&script, chunks, corpus);
    assert_int_equal(group.task.outcome, TASK_EMPTY);
    assert_int_equal(group.task.usage_count, 1);
    assert_int_equal(group.task.usage[0].step, STEP_CROSS);
    assert_int_equal(group.task.usage[0].requests, 5); // a batch for each of five anchors
    release(chunks, &group, corpus);
}

static void a_comparison_that_fails_sets_the_group_aside(void **state)
{
    (void)state;
    struct talk script = {.says = "", .anchor = "1805", .end = LM_FAILED};
    struct generated chunks[5];
    struct corpus *corpus = reflect_fixture_corpus();
    struct generated group = run(&script, chunks, corpus);
    assert_int_equal(group.task.outcome, TASK_SET_ASIDE);
    assert_string_equal(group.task.reason, "step 5 (cross): it is over");
    release(chunks, &group, corpus);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_pair_joins_its_anchor_with_other_documents),
        cmocka_unit_test(a_group_without_common_ground_is_empty),
        cmocka_unit_test(a_comparison_that_fails_sets_the_group_aside),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
