// SPDX-License-Identifier: Apache-2.0
#include "tests/executive/scripted_lm.h"

#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

struct pending {
    uint64_t id;
    char *text;
    size_t bytes;
};

struct scripted_lm {
    struct lm lm;
    scripted_answer *answer;
    void *context;
    struct pending *pending;
    size_t count, pending_capacity, most;
    uint64_t draws;
    char *told;
};

static struct scripted_lm *of(struct lm *lm)
{
    return (struct scripted_lm *)lm;
}

static void submit(struct lm *lm, const struct lm_request *request)
{
    struct scripted_lm *s = of(lm);
    struct strbuf prompt = {0}, text = {0};
    for (size_t i = 0; i < request->part_count; i++)
        strbuf_add(&prompt, request->parts[i].text, request->parts[i].bytes);
    s->answer(s->context, prompt.bytes, request, &text);
    strbuf_reserve(&text, 1);
    const size_t bytes = text.length;
    s->pending = mem_grow(s->pending, &s->pending_capacity, s->count + 1, sizeof *s->pending);
    s->pending[s->count++] = (struct pending){request->id, strbuf_detach(&text), bytes};
    s->most = s->count > s->most ? s->count : s->most;
    strbuf_release(&prompt);
}

static enum lm_poll poll(struct lm *lm, struct lm_result *out, struct error *err)
{
    struct scripted_lm *s = of(lm);
    (void)err;
    free(s->told);
    s->told = NULL;
    if (s->count == 0)
        return LM_POLL_IDLE;
    s->draws = s->draws * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    if (s->draws >> 62 == 0)
        return LM_POLL_RUNNING;
    const size_t at = (size_t)(s->draws >> 33) % s->count;
    *out = (struct lm_result){.id = s->pending[at].id,
                              .end = LM_STOP,
                              .answer = {s->pending[at].text, s->pending[at].bytes},
                              .forced_from = SIZE_MAX,
                              .problem = ""};
    s->told = s->pending[at].text;
    s->pending[at] = s->pending[--s->count];
    return LM_POLL_RESULT;
}

static void cancel(struct lm *lm, uint64_t id)
{
    struct scripted_lm *s = of(lm);
    for (size_t i = s->count; i-- > 0;) {
        if (s->pending[i].id != id)
            continue;
        free(s->pending[i].text);
        s->pending[i] = s->pending[--s->count];
    }
}

static void destroy(struct lm *lm)
{
    struct scripted_lm *s = of(lm);
    for (size_t i = 0; i < s->count; i++)
        free(s->pending[i].text);
    free(s->pending);
    free(s->told);
    free(s);
}

static const struct lm_ops scripted_ops = {submit, poll, cancel, destroy};

struct lm *scripted_lm_create(scripted_answer *answer, void *context, size_t capacity,
                              uint64_t seed)
{
    struct scripted_lm *s = mem_calloc(1, sizeof *s);
    *s = (struct scripted_lm){.lm = {.ops = &scripted_ops, .capacity = capacity},
                              .answer = answer,
                              .context = context,
                              .draws = seed};
    return &s->lm;
}

size_t scripted_lm_most_in_flight(const struct lm *lm)
{
    return ((const struct scripted_lm *)lm)->most;
}
