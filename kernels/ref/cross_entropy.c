// SPDX-License-Identifier: Apache-2.0
// Cross-entropy of a softmax: with L = log sum_v exp x_v, loss = L - x_target and
// d loss / d x_v = exp(x_v - L) - [v = target].
#include "kernels/ref/ref.h"

#include <math.h>

void ref_cross_entropy(struct device *device, const struct cross_entropy *a)
{
    (void)device;
    for (size_t row = 0; row < a->rows; row++) {
        size_t at = row * a->vocabulary, target = (size_t)a->targets[row];
        double largest = -INFINITY, sum = 0;
        for (size_t v = 0; v < a->vocabulary; v++)
            largest = fmax(largest, load(a->logits, at + v));
        for (size_t v = 0; v < a->vocabulary; v++)
            sum += exp(load(a->logits, at + v) - largest);
        double log_sum = largest + log(sum);
        a->losses[row] = (float)(log_sum - load(a->logits, at + target));
        if (!a->backward)
            continue;
        for (size_t v = 0; v < a->vocabulary; v++) {
            double p = exp(load(a->logits, at + v) - log_sum);
            store(a->logits, at + v, (p - (v == target)) * a->grad_scale);
        }
    }
}
