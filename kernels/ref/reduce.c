// SPDX-License-Identifier: Apache-2.0
// argmax: the lowest index among the largest; a NaN is never the largest, a row of NaN gives 0.
// sum_squares: sum of x^2 in double.
#include "kernels/ref/ref.h"

#include <math.h>

void ref_argmax(struct device *device, int32_t *out, struct tensor logits, size_t rows,
                size_t width)
{
    (void)device;
    for (size_t row = 0; row < rows; row++) {
        size_t best = 0;
        double largest = -INFINITY;
        for (size_t i = 0; i < width; i++)
            if (load(logits, row * width + i) > largest) {
                largest = load(logits, row * width + i);
                best = i;
            }
        out[row] = (int32_t)best;
    }
}

void ref_sum_squares(struct device *device, double *out, struct tensor x, size_t count)
{
    (void)device;
    double sum = 0;
    for (size_t i = 0; i < count; i++)
        sum += load(x, i) * load(x, i);
    *out = sum;
}
