// SPDX-License-Identifier: Apache-2.0
#include "worker/reflect/tally.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

void tally_drop(struct tally *tally, enum reflection_step step, const char *reason, uint32_t pairs)
{
    if (pairs == 0) {
        return;
    }
    for (size_t i = 0; i < tally->drop_count; i++) {
        struct reflection_drop *drop = &tally->drops[i];
        if (drop->step == step && strcmp(drop->reason, reason) == 0) {
            drop->pairs += pairs;
            return;
        }
    }
    assert(tally->drop_count < sizeof tally->drops / sizeof *tally->drops);
    tally->drops[tally->drop_count++] =
        (struct reflection_drop){.step = step, .reason = reason, .pairs = pairs};
}

static struct reflection_usage *find_usage(struct tally *tally, enum reflection_step step)
{
    for (size_t i = 0; i < tally->usage_count; i++) {
        if (tally->usage[i].step == step) {
            return &tally->usage[i];
        }
    }
    tally->usage[tally->usage_count] = (struct reflection_usage){.step = step};
    return &tally->usage[tally->usage_count++];
}

void tally_use(struct tally *tally, enum reflection_step step, const struct lm_result *result)
{
    struct reflection_usage *usage = find_usage(tally, step);
    usage->requests++;
    usage->prompt_tokens += result->prompt_tokens;
    usage->cached_tokens += result->cached_tokens < result->prompt_tokens ? result->cached_tokens
                                                                          : result->prompt_tokens;
    usage->output_tokens += result->output_tokens;
}

static int compare_drops(const void *left, const void *right)
{
    const struct reflection_drop *a = left, *b = right;
    return a->step != b->step ? (a->step > b->step) - (a->step < b->step)
                              : strcmp(a->reason, b->reason);
}

static int compare_usage(const void *left, const void *right)
{
    const struct reflection_usage *a = left, *b = right;
    return (a->step > b->step) - (a->step < b->step);
}

void tally_sort(struct tally *tally)
{
    qsort(tally->drops, tally->drop_count, sizeof *tally->drops, compare_drops);
    qsort(tally->usage, tally->usage_count, sizeof *tally->usage, compare_usage);
}
