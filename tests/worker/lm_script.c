// SPDX-License-Identifier: Apache-2.0
#include "tests/worker/lm_script.h"

#include "base/mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

void script_play(void *state, const struct fake_request *request, struct fake_answer *answer)
{
    struct lm_script *script = state;
    const enum request_kind kind = request->kind;
    const size_t turn = script->asked[kind]++;
    const char *says = NULL;
    for (size_t i = 0; i <= turn && i < SCRIPT_TURNS; i++) {
        says = script->says[kind][i] ? script->says[kind][i] : says;
    }
    if (turn < SCRIPT_TURNS) {
        script->seeds[kind][turn] = request->lm->seed;
        script->prompts[kind][turn] = mem_strdup(request->item);
    }
    if (script->fails[kind]) {
        answer->end = script->end;
        answer->problem = script->fails[kind];
    } else if (says) {
        strbuf_adds(&answer->text, says);
    } else if (kind == REQUEST_JUDGE) {
        strbuf_adds(&answer->text, "{\"self_contained\":true}");
    } else {
        strbuf_addf(&answer->text, "{\"%s\":[]}", request_kind_info(kind)->answer_key);
    }
    if (turn == 0 && script->length[kind]) {
        answer->end = LM_LENGTH;
        answer->forced_from = script->cut_from[kind] ? script->cut_from[kind] : SIZE_MAX;
    }
}

void script_release(struct lm_script *script)
{
    for (size_t i = 0; i < REQUEST_KINDS * SCRIPT_TURNS; i++) {
        free(script->prompts[i / SCRIPT_TURNS][i % SCRIPT_TURNS]);
    }
}

struct generated script_run(struct lm_script *script, const char *steps)
{
    struct corpus *corpus = reflect_fixture_corpus();
    struct fake_lm *fake = fake_lm_create(4);
    fake->answer = script_play;
    fake->state = script;
    struct generator *generator = reflect_fixture_create(fake, steps);
    reflect_fixture_submit(generator, corpus, 0);
    struct generated result = reflect_fixture_wait(generator);
    generator_destroy(generator);
    corpus_close(corpus);
    return result;
}

uint32_t script_dropped(const struct generated *result, enum reflection_step step,
                        const char *reason)
{
    for (size_t i = 0; i < result->task.drop_count; i++) {
        const struct reflection_drop *drop = &result->task.drops[i];
        if (drop->step == step && strcmp(drop->reason, reason) == 0) {
            return drop->pairs;
        }
    }
    return 0;
}

void assert_pair(const struct generated *result, uint32_t ordinal, enum reflection_step step,
                 const char *question, const char *answer)
{
    assert_true(ordinal < result->task.pairs);
    const struct reflection *pair = &result->pairs[ordinal];
    assert_int_equal(pair->step, step);
    assert_string_equal(pair->question, question);
    assert_string_equal(pair->answer, answer);
}
