// SPDX-License-Identifier: Apache-2.0
#include "worker/merge/merge.h"

#include "base/mem.h"
#include "worker/merge/select.h"

#include <math.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

int merge_parse_method(const char *text, enum merge_method *out, struct error *err)
{
    static const char *const names[] = {"linear", "task_arithmetic", "ties"};
    for (int i = 0; i < 3; i++) {
        if (strcmp(text, names[i]) == 0) {
            *out = (enum merge_method)i;
            return 0;
        }
    }
    return error_set(err, "unknown merge method '%s': use one of %s", text, MERGE_METHOD_CHOICES);
}

// divisor apart from scale: with one vector sum / divisor is that vector again, rounded at most
// once.
static void merge_sum(float *out, const float *base, const float *const *taus,
                      const struct merge_options *options, size_t vectors, double scale,
                      double divisor, size_t count)
{
    const double *weights = options->weights;
    for (size_t i = 0; i < count; i++) {
        double sum = 0;
        for (size_t k = 0; k < vectors; k++)
            sum += weights[k] * (double)taus[k][i];
        out[i] = (float)((double)base[i] + scale * (sum / divisor));
    }
}

// Whether element value, the next in index order, survives the trim; ties are used up in order.
static bool survives(float value, struct magnitude_cut *cut)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    bits &= 0x7fffffffu;
    if (bits != cut->bits)
        return bits > cut->bits;
    if (cut->ties == 0)
        return false;
    cut->ties--;
    return true;
}

// kept: w_k tau_k of the vectors that survived the trim at one element, weights beside them.
static double elect_and_merge(const double *kept, const double *weights, size_t count)
{
    double total = 0, sum = 0, weight = 0;
    for (size_t k = 0; k < count; k++)
        total += kept[k];
    for (size_t k = 0; k < count; k++) {
        if ((total > 0 && kept[k] > 0) || (total < 0 && kept[k] < 0)) {
            sum += kept[k];
            weight += weights[k];
        }
    }
    return weight != 0 ? sum / weight : 0;
}

static void merge_ties(const struct merge_options *options, float *out, const float *base,
                       const float *const *taus, size_t vectors, size_t count)
{
    struct magnitude_cut *cuts = mem_calloc(vectors, sizeof(*cuts));
    double *kept = mem_calloc(vectors, sizeof(*kept));
    double *weights = mem_calloc(vectors, sizeof(*weights));
    const size_t keep = (size_t)floor(options->density * (double)count);
    for (size_t k = 0; k < vectors; k++)
        cuts[k] = magnitude_select(taus[k], count, keep);
    for (size_t i = 0; i < count; i++) {
        size_t n = 0;
        for (size_t k = 0; k < vectors; k++) {
            if (!survives(taus[k][i], &cuts[k]))
                continue;
            kept[n] = options->weights[k] * (double)taus[k][i];
            weights[n++] = options->weights[k];
        }
        out[i] = (float)((double)base[i] + options->lambda * elect_and_merge(kept, weights, n));
    }
    free(cuts);
    free(kept);
    free(weights);
}

void merge_tensor(const struct merge_options *options, float *out, const float *base,
                  const float *const *taus, size_t vectors, size_t count)
{
    double total = 0;
    switch (options->method) {
    case MERGE_LINEAR:
        for (size_t k = 0; k < vectors; k++)
            total += options->weights[k];
        merge_sum(out, base, taus, options, vectors, 1, total, count);
        break;
    case MERGE_TASK_ARITHMETIC:
        merge_sum(out, base, taus, options, vectors, options->lambda, 1, count);
        break;
    case MERGE_TIES:
        merge_ties(options, out, base, taus, vectors, count);
        break;
    }
}
