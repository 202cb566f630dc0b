// SPDX-License-Identifier: Apache-2.0
#include "jobs/score.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

static bool is_space(char c)
{
    return c == ' ' || c == '\t' || c == '\n' || c == '\r';
}

// Exact match, but for white space at both ends.
static bool is_right(const char *answer, const struct pair *pair)
{
    size_t length = strlen(answer);
    while (length > 0 && is_space(answer[length - 1]))
        length--;
    while (length > 0 && is_space(*answer)) {
        answer++;
        length--;
    }
    return length == pair->answer_bytes && memcmp(answer, pair->answer, length) == 0;
}

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
        const bool right = rc == 0 && is_right(answers[i], &pairs->pairs[i]);
        out->right += right;
        if (rc == 0 && !right && misses-- > 0)
            log_info("wrong: %s -> '%s', expected '%s'", pairs->pairs[i].question, answers[i],
                     pairs->pairs[i].answer);
        free(answers[i]);
    }
    free(answers);
    free(questions);
    return rc;
}
