// SPDX-License-Identifier: Apache-2.0
#include "jobs/closed_book.h"

#include "base/mem.h"
#include "datasets/answer_score.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { SLOTS = 16, TOKENS_PER_STEP = 256 }; // little memory beside that of training
#define F1_SCALE 0x1p32                     // sums of integers do not depend on their order

struct engine_options closed_book_engine(const struct closed_book *how,
                                         const struct model_config *config, int ranks)
{
    const size_t share = (how->questions + (size_t)ranks - 1) / (size_t)ranks;
    const size_t positions = (size_t)model_config_positions(config);
    const size_t capacity = how->longest_prompt + how->max_new;
    return (struct engine_options){.slots = share < SLOTS ? share : SLOTS,
                                   .capacity = capacity < positions ? capacity : positions,
                                   .max_tokens = TOKENS_PER_STEP,
                                   .unpacked = true};
}

static void submit(struct engine *engine, const struct closed_book *how,
                   const struct text_codec *codec, const struct sequence_set *set, size_t sequence)
{
    const char *end = chat_template_end(codec->chat);
    const int32_t stops[] = {tokenizer_token_id(codec->tokenizer, end, strlen(end)),
                             tokenizer_eos_id(codec->tokenizer),
                             tokenizer_pad_id(codec->tokenizer)};
    engine_submit(engine, &(struct engine_request){.id = sequence,
                                                   .prompt = set->ids + set->offsets[sequence],
                                                   .prompt_count = sequence_answer(set, sequence),
                                                   .max_new = how->max_new,
                                                   .stop_ids = stops,
                                                   .stop_count = 3});
}

// Without the token that ends the turn.
static int expected_text(const struct text_codec *codec, const struct sequence_set *set,
                         size_t sequence, struct strbuf *out, struct error *err)
{
    const char *end = chat_template_end(codec->chat);
    const int32_t *ids = set->ids + set->offsets[sequence];
    const size_t begin = sequence_answer(set, sequence);
    size_t count = set->target_end[sequence] - begin;
    if (ids[begin + count - 1] == tokenizer_token_id(codec->tokenizer, end, strlen(end)))
        count--;
    return tokenizer_decode(codec->tokenizer, ids + begin, count, out, err);
}

// What a rank adds up: questions, exact answers, F1 times F1_SCALE.
enum { ASKED, EXACT, F1, FIGURES };

static int take(const struct engine_result *result, const struct text_codec *codec,
                const struct sequence_set *set, int64_t figures[FIGURES], struct error *err)
{
    struct strbuf answer = {0}, expected = {0};
    if (result->reason == ENGINE_REJECTED)
        return error_set(err, "held-out sequence %llu: %s", (unsigned long long)result->id,
                         result->problem);
    const int rc = tokenizer_decode(codec->tokenizer, result->ids, result->count, &answer, err) ||
                           expected_text(codec, set, (size_t)result->id, &expected, err)
                       ? -1
                       : 0;
    if (rc == 0) {
        figures[ASKED]++;
        figures[EXACT] +=
            answer_is_exact(answer.bytes, answer.length, expected.bytes, expected.length);
        figures[F1] += (int64_t)rint(F1_SCALE * answer_token_f1(answer.bytes, answer.length,
                                                                expected.bytes, expected.length));
    }
    strbuf_release(&answer);
    strbuf_release(&expected);
    return rc;
}

static int poll_all(struct engine *engine, const struct text_codec *codec,
                    const struct sequence_set *set, int64_t figures[FIGURES], struct error *err)
{
    for (;;) {
        struct engine_result result;
        switch (engine_poll(engine, &result, err)) {
        case ENGINE_FAILED:
            return -1;
        case ENGINE_IDLE:
            return 0;
        case ENGINE_RUNNING:
            break;
        case ENGINE_RESULT:
            if (take(&result, codec, set, figures, err))
                return -1;
        }
    }
}

// Every ranks-th question is this rank's.
static int answer_own(const struct closed_book *how, struct model *model, const struct group *group,
                      const struct text_codec *codec, const struct sequence_set *set,
                      int64_t figures[FIGURES], struct error *err)
{
    const size_t rank = (size_t)group_rank(group), ranks = (size_t)group_size(group);
    const struct engine_options options = closed_book_engine(how, &model->config, (int)ranks);
    struct engine *engine;
    if (rank >= how->questions)
        return 0;
    if (engine_create(model, &options, &engine, err))
        return -1;
    for (size_t s = rank; s < how->questions; s += ranks)
        submit(engine, how, codec, set, s);
    const int rc = poll_all(engine, codec, set, figures, err);
    engine_destroy(engine);
    return rc;
}

int closed_book_measure(const struct closed_book *how, struct model *model, struct group *group,
                        const struct text_codec *codec, const struct sequence_set *set,
                        struct closed_book_score *out, struct error *err)
{
    int64_t figures[FIGURES] = {0};
    const int rc = answer_own(how, model, group, codec, set, figures, err);
    if (group_agree(group, rc, err) || group_all_reduce_i64(group, figures, FIGURES, err))
        return error_prefix(err, "held-out answers");
    *out =
        (struct closed_book_score){.asked = (size_t)figures[ASKED],
                                   .exact = (size_t)figures[EXACT],
                                   .f1 = (double)figures[F1] / F1_SCALE / (double)figures[ASKED]};
    return 0;
}
