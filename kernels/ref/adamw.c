// SPDX-License-Identifier: Apache-2.0
// Adam with decoupled weight decay, Loshchilov and Hutter 2019 (arXiv 1711.05101, algorithm 2), in
// the order of torch.optim.AdamW:
//     g = grad grad_scale,   p = p (1 - lr decay)
//     m += (g - m) (1 - beta1),   v = beta2 v + (1 - beta2) g^2
//     p -= lr / (1 - beta1^step) m / (sqrt(v) / sqrt(1 - beta2^step) + epsilon)
#include "kernels/ref/ref.h"

#include <math.h>

void ref_adamw(struct device *device, const struct adamw *a)
{
    (void)device;
    double rate = a->learning_rate / (1 - pow(a->beta1, (double)a->step));
    double root = sqrt(1 - pow(a->beta2, (double)a->step));
    for (size_t i = 0; i < a->count; i++) {
        double g = (double)a->grad[i] * a->grad_scale;
        double m = a->moment1[i] + (g - a->moment1[i]) * (1 - (double)a->beta1);
        double v = a->beta2 * (double)a->moment2[i] + (1 - (double)a->beta2) * g * g;
        double p = a->parameter[i] * (1 - (double)a->learning_rate * a->weight_decay);
        a->parameter[i] = (float)(p - rate * m / (sqrt(v) / root + a->epsilon));
        a->moment1[i] = (float)m;
        a->moment2[i] = (float)v;
    }
}
