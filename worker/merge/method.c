// SPDX-License-Identifier: Apache-2.0
#include "worker/merge/method.h"

#include "base/random.h"

#include <string.h>

#define MANY ((size_t)-1)

static const struct merge_traits table[MERGE_METHODS] = {
    [MERGE_LINEAR] = {.name = "linear", .normalizes = true, .least = 1, .most = MANY},
    [MERGE_TASK_ARITHMETIC] = {.name = "task_arithmetic",
                               .needs_base = true,
                               .least = 1,
                               .most = MANY},
    [MERGE_TIES] = {.name = "ties",
                    .sparsify = SPARSIFY_TRIM,
                    .elects = true,
                    .normalizes = true,
                    .needs_base = true,
                    .least = 1,
                    .most = MANY},
    [MERGE_DARE_LINEAR] = {.name = "dare_linear",
                           .sparsify = SPARSIFY_RANDOM,
                           .rescale = RESCALE_DENSITY,
                           .needs_base = true,
                           .least = 1,
                           .most = MANY},
    [MERGE_DARE_TIES] = {.name = "dare_ties",
                         .sparsify = SPARSIFY_RANDOM,
                         .rescale = RESCALE_DENSITY,
                         .elects = true,
                         .needs_base = true,
                         .least = 1,
                         .most = MANY},
    [MERGE_DELLA] = {.name = "della",
                     .sparsify = SPARSIFY_RANKED,
                     .rescale = RESCALE_DENSITY,
                     .elects = true,
                     .normalizes = true,
                     .needs_base = true,
                     .least = 1,
                     .most = MANY},
    [MERGE_DELLA_LINEAR] = {.name = "della_linear",
                            .sparsify = SPARSIFY_RANKED,
                            .rescale = RESCALE_DENSITY,
                            .needs_base = true,
                            .least = 1,
                            .most = MANY},
    [MERGE_BREADCRUMBS] = {.name = "breadcrumbs",
                           .sparsify = SPARSIFY_OUTLIERS,
                           .needs_base = true,
                           .least = 1,
                           .most = MANY},
    [MERGE_BREADCRUMBS_TIES] = {.name = "breadcrumbs_ties",
                                .sparsify = SPARSIFY_OUTLIERS,
                                .elects = true,
                                .needs_base = true,
                                .least = 1,
                                .most = MANY},
    [MERGE_SCE] = {.name = "sce",
                   .family = FAMILY_SCE,
                   .elects = true,
                   .normalizes = true,
                   .needs_base = true,
                   .least = 1,
                   .most = MANY},
    [MERGE_MODEL_STOCK] = {.name = "model_stock",
                           .family = FAMILY_SPAN,
                           .needs_base = true,
                           .least = 2,
                           .most = MANY},
    [MERGE_SLERP] =
        {.name = "slerp", .family = FAMILY_SPAN, .on_models = true, .least = 2, .most = 2},
    [MERGE_NUSLERP] = {.name = "nuslerp", .family = FAMILY_SPAN, .least = 2, .most = 2},
    [MERGE_MULTISLERP] = {.name = "multislerp", .family = FAMILY_SPAN, .least = 1, .most = MANY},
    [MERGE_KARCHER] =
        {.name = "karcher", .family = FAMILY_SPAN, .on_models = true, .least = 1, .most = MANY},
};

const struct merge_traits *merge_traits(enum merge_method method)
{
    return &table[method];
}

int merge_parse_method(const char *text, enum merge_method *out, struct error *err)
{
    for (int i = 0; i < MERGE_METHODS; i++) {
        if (strcmp(text, table[i].name) == 0) {
            *out = (enum merge_method)i;
            return 0;
        }
    }
    return error_set(err, "unknown merge method '%s': use one of %s", text, MERGE_METHOD_CHOICES);
}

static uint64_t share(double part, uint64_t count)
{
    const double product = part * (double)count;
    return product >= (double)count ? count : (uint64_t)product;
}

uint64_t merge_kept_count(double density, uint64_t count)
{
    if (density >= 1 || count == 0)
        return count;
    const uint64_t kept = share(density, count);
    return kept > 0 ? kept : 1;
}

void merge_kept_behind(double density, double gamma, uint64_t count, uint64_t *dropped,
                       uint64_t *kept)
{
    *kept = density >= 1 ? count : share(density, count);
    const uint64_t largest = share(gamma, count);
    *dropped = largest < count - *kept ? largest : count - *kept;
}

double merge_uniform(uint64_t seed, uint64_t stream, uint64_t index)
{
    uint32_t words[4];
    random_words(seed, stream, index / 4, words);
    return words[index % 4] * 0x1p-32;
}

double merge_ranked_probability(double density, double epsilon, uint64_t rank, uint64_t columns)
{
    if (density >= 1)
        return 1;
    const double place = columns > 1 ? (double)rank / (double)(columns - 1) : 0.5;
    return density - epsilon + 2 * epsilon * place;
}
