// SPDX-License-Identifier: Apache-2.0
// Root mean square normalisation, Zhang and Sennrich 2019 (arXiv 1910.07467).
//     r = 1 / sqrt(mean(x^2) + epsilon),  w' = weight + weight_offset
//     out_i = x_i r w'_i (+ residual_i)
// With g = grad_out and dr/dx_i = -r^3 x_i / D:
//     grad_x_i += r g_i w'_i - x_i r^3 / D sum_j g_j w'_j x_j
//     grad_weight_i += sum over rows of g_i x_i r
#include "kernels/ref/ref.h"

#include <math.h>

void ref_rmsnorm_forward(struct device *device, const struct rmsnorm_forward *a)
{
    (void)device;
    for (size_t row = 0; row < a->rows; row++) {
        size_t at = norm_row(row, a->width, a->heads, a->stride);
        double squares = 0;
        for (size_t i = 0; i < a->width; i++)
            squares += load(a->x, at + i) * load(a->x, at + i);
        double r = 1 / sqrt(squares / (double)a->width + a->epsilon);
        for (size_t i = 0; i < a->width; i++) {
            double value = load(a->x, at + i) * r * (load(a->weight, i) + a->weight_offset);
            store(a->out, at + i, value + (a->residual.data ? load(a->residual, at + i) : 0));
        }
        if (a->rstd)
            a->rstd[row] = (float)r;
    }
}

void ref_rmsnorm_backward(struct device *device, const struct rmsnorm_backward *a)
{
    (void)device;
    for (size_t row = 0; row < a->rows; row++) {
        size_t at = norm_row(row, a->width, a->heads, a->stride);
        double r = a->rstd[row], dot = 0;
        for (size_t i = 0; i < a->width; i++)
            dot += load(a->grad_out, at + i) * (load(a->weight, i) + a->weight_offset) *
                   load(a->x, at + i);
        for (size_t i = 0; i < a->width; i++) {
            double g = load(a->grad_out, at + i), x = load(a->x, at + i);
            double before = a->overwrite ? 0 : load(a->grad_x, at + i);
            store(a->grad_x, at + i,
                  before + (r * g * (load(a->weight, i) + a->weight_offset) -
                            x * r * r * r / (double)a->width * dot));
            store_sum(a->grad_weight, i, g * x * r);
        }
    }
}
