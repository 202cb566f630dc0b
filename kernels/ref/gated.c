// SPDX-License-Identifier: Apache-2.0
// Gated activation, Shazeer 2020 (arXiv 2002.05202): out = f(gate) up, f one of
//     silu(x) = x sigma(x),   sigma(x) = 1 / (1 + exp(-x))
//     gelu_tanh(x) = x (1 + tanh u) / 2,   u = sqrt(2 / pi) (x + 0.044715 x^3)  (Hendrycks 2016)
// and, as 1 + tanh u = 2 sigma(2u), gelu_tanh(x) = x sigma(2u). So both are x sigma(z(x)), and
//     f' = sigma(z) + x sigma(z) (1 - sigma(z)) z'.
// Backward: grad_gate = grad_out up f'(gate), grad_up = grad_out f(gate).
#include "kernels/ref/ref.h"

#include <math.h>

struct activated {
    double value;
    double slope;
};

static struct activated activate(enum activation activation, double x)
{
    const double root = 0.79788456080286535588; // sqrt(2 / pi)
    double z = x, dz = 1;
    if (activation == ACTIVATION_GELU_TANH) {
        z = 2 * root * (x + 0.044715 * x * x * x);
        dz = 2 * root * (1 + 3 * 0.044715 * x * x);
    }
    double sigma = 1 / (1 + exp(-z));
    double sigma_slope = sigma * (1 - sigma);
    // Far out sigma' is 0 exactly while z' may have overflowed.
    double bend = sigma_slope > 0 ? x * sigma_slope * dz : 0;
    return (struct activated){.value = x * sigma, .slope = sigma + bend};
}

void ref_gated_forward(struct device *device, const struct gated_forward *a)
{
    (void)device;
    for (size_t row = 0; row < a->rows; row++)
        for (size_t i = 0; i < a->width; i++) {
            size_t at = row * 2 * a->width + i;
            double gate = activate(a->activation, load(a->gate_up, at)).value;
            store(a->out, row * a->width + i, gate * load(a->gate_up, at + a->width));
        }
}

void ref_gated_backward(struct device *device, const struct gated_backward *a)
{
    (void)device;
    for (size_t row = 0; row < a->rows; row++)
        for (size_t i = 0; i < a->width; i++) {
            size_t at = row * 2 * a->width + i;
            struct activated gate = activate(a->activation, load(a->gate_up, at));
            double up = load(a->gate_up, at + a->width);
            double grad = load(a->grad_out, row * a->width + i);
            store(a->grad_gate_up, at, grad * up * gate.slope);
            store(a->grad_gate_up, at + a->width, grad * gate.value);
        }
}
