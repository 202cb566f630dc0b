// SPDX-License-Identifier: Apache-2.0
// Rotary position embedding, Su et al. 2021 (arXiv 2104.09864), in the halves convention of Llama:
// with a = position inverse_frequency[i], c = magnitude cos a, s = magnitude sin a, the pair
// (x_i, x_{i + d/2}) becomes (x_i c - x_{i + d/2} s, x_{i + d/2} c + x_i s). Backward is the
// transpose, the rotation by -a. The angle is rounded to float32 first, as the published models
// compute it: far positions then turn by the same angle as they did in training.
#include "kernels/ref/ref.h"

#include <math.h>

void ref_rope(struct device *device, const struct rope *a)
{
    (void)device;
    size_t half = a->head_width / 2;
    for (size_t t = 0; t < a->tokens; t++)
        for (size_t head = 0; head < a->heads; head++)
            for (size_t i = 0; i < half; i++) {
                float angle = (float)a->positions[t] * a->inverse_frequency[i];
                double c = a->magnitude * cos(angle), s = a->magnitude * sin(angle);
                if (a->backward)
                    s = -s;
                size_t at = t * a->stride + head * a->head_width + i;
                double x = load(a->x, at), y = load(a->x, at + half);
                store(a->x, at, x * c - y * s);
                store(a->x, at + half, y * c + x * s);
            }
}
