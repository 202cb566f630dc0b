// SPDX-License-Identifier: Apache-2.0
// A dense layer. With x [R, K], weight [N, K], out [R, N]:
//     out = x weight^T + bias + residual,   grad_x = grad_out weight,
//     grad_weight += grad_out^T x,   grad_bias += sum over rows of grad_out.
#include "kernels/ref/ref.h"

void ref_linear_forward(struct device *device, const struct linear_forward *a)
{
    (void)device;
    const struct linear *linear = a->linear;
    for (size_t row = 0; row < a->rows; row++)
        for (size_t n = 0; n < linear->out_width; n++) {
            double sum = linear->bias.data ? load(linear->bias, n) : 0;
            for (size_t k = 0; k < linear->in_width; k++)
                sum += load(a->x, row * linear->in_width + k) *
                       load(linear->weight, n * linear->in_width + k);
            size_t at = row * linear->out_width + n;
            if (a->accumulate || a->residual.data)
                sum += load(a->accumulate ? a->out : a->residual, at);
            store(a->out, at, sum);
        }
}

void ref_linear_backward_input(struct device *device, const struct linear_backward_input *a)
{
    (void)device;
    const struct linear *linear = a->linear;
    for (size_t row = 0; row < a->rows; row++)
        for (size_t k = 0; k < linear->in_width; k++) {
            double sum = 0;
            for (size_t n = 0; n < linear->out_width; n++)
                sum += load(a->grad_out, row * linear->out_width + n) *
                       load(linear->weight, n * linear->in_width + k);
            size_t at = row * linear->in_width + k;
            store(a->grad_x, at, a->accumulate ? load(a->grad_x, at) + sum : sum);
        }
}

void ref_linear_backward_weight(struct device *device, const struct linear_backward_weight *a)
{
    (void)device;
    for (size_t n = 0; n < a->out_width; n++) {
        double column = 0;
        for (size_t row = 0; row < a->rows; row++)
            column += load(a->grad_out, row * a->out_width + n);
        if (a->grad_bias.data)
            store_sum(a->grad_bias, n, column);
        for (size_t k = 0; k < a->in_width; k++) {
            double sum = 0;
            for (size_t row = 0; row < a->rows; row++)
                sum +=
                    load(a->grad_out, row * a->out_width + n) * load(a->x, row * a->in_width + k);
            store_sum(a->grad_weight, n * a->in_width + k, sum);
        }
    }
}

// The reference reads the weight as it is.
void ref_linear_pack(struct device *device, struct linear *linear)
{
    (void)device;
    linear->packed = NULL;
}

void ref_linear_unpack(struct device *device, struct linear *linear)
{
    (void)device;
    linear->packed = NULL;
}
