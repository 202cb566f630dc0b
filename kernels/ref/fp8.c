// SPDX-License-Identifier: Apache-2.0
// Dense layers in eight bits (W8A8), with a scale for every row of the weight and of x (Dettmers et
// al. 2022, Micikevicius et al. 2022):
//     scale[r] = max_i |x[r, i]| / 448, 1 where that is 0;  code[r, i] = e4m3(x[r, i] / scale[r])
//     out[r, n] = x_scale[r] weight_scale[n] sum_k x_code[r, k] weight_code[n, k] + bias + residual
#include "kernels/ref/ref.h"

#include "kernels/fp8.h"

#include <math.h>

void ref_quantize_rows(struct device *device, const struct quantize_rows *a)
{
    (void)device;
    for (size_t row = 0; row < a->rows; row++) {
        float largest = 0;
        for (size_t i = 0; i < a->width; i++)
            largest = fmaxf(largest, fabsf((float)load(a->x, row * a->width + i)));
        const float scale = largest > 0 ? largest / FP8_LARGEST : 1;
        for (size_t i = 0; i < a->width; i++)
            a->codes[row * a->width + i] =
                fp8_encode((float)load(a->x, row * a->width + i) / scale);
        a->scales[row] = scale;
    }
}

void ref_linear_fp8(struct device *device, const struct linear_fp8 *a)
{
    (void)device;
    const struct linear *linear = a->linear;
    const size_t width = linear->in_width;
    for (size_t row = 0; row < a->rows; row++)
        for (size_t n = 0; n < linear->out_width; n++) {
            double sum = 0;
            for (size_t k = 0; k < width; k++)
                sum += (double)fp8_decode(a->x[row * width + k]) *
                       (double)fp8_decode(linear->codes[n * width + k]);
            sum *= (double)a->x_scales[row] * (double)linear->scales[n];
            const size_t at = row * linear->out_width + n;
            sum += linear->bias.data ? load(linear->bias, n) : 0;
            sum += a->residual.data ? load(a->residual, at) : 0;
            store(a->out, at, sum);
        }
}
