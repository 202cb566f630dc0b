// SPDX-License-Identifier: Apache-2.0
#include "jobs/score.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "datasets/answer_score.h"

#include <stdlib.h>
#include <string.h>

int score_pairs(struct answering *answering, const struct pair_list *pairs, int64_t misses,
                const char *label, struct score *out, struct error *err)
{
    struct question *questions = mem_calloc(pairs->count, sizeof(*questions));
    char **answers = mem_calloc(pairs->count, sizeof(*answers));
    const double start = clock_seconds();
    const uint64_t tokens = answering->tokens;
    for (size_t i = 0; i < pairs->count; i++)
        questions[i] = (struct question){pairs->pairs[i].question, pairs->pairs[i].question_bytes};
    const int rc = answer_questions(answering, questions, pairs->count, answers, label, err);
    *out = (struct score){.asked = pairs->count,
                          .tokens = answering->tokens - tokens,
                          .seconds = clock_seconds() - start};
    for (size_t i = 0; i < pairs->count; i++) {
        const struct pair *pair = &pairs->pairs[i];
        const size_t bytes = rc == 0 ? strlen(answers[i]) : 0;
        const bool right =
            rc == 0 && answer_is_exact(answers[i], bytes, pair->answer, pair->answer_bytes);
        out->right += right;
        if (rc == 0)
            out->f1 += answer_token_f1(answers[i], bytes, pair->answer, pair->answer_bytes) /
                       (double)pairs->count;
        if (rc == 0 && !right && misses-- > 0)
            log_info("wrong: %s -> '%s', expected '%s'", pair->question, answers[i], pair->answer);
        free(answers[i]);
    }
    free(answers);
    free(questions);
    return rc;
}
