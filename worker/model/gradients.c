// SPDX-License-Identifier: Apache-2.0
#include "worker/model/gradients.h"

#include "worker/model/decoder.h"

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

size_t gradients_product_elements(const struct model_config *config)
{
    const size_t hidden = (size_t)config->hidden;
    size_t rows = larger((size_t)config->vocabulary, 2 * (size_t)config->ffn);
    for (int64_t i = 0; i < config->layers; i++) {
        const enum layer_kind kind = (enum layer_kind)config->layer_kinds[i];
        rows = larger(rows, larger(mixer_in_width(config, kind), mixer_out_width(config, kind)));
    }
    return rows * hidden;
}

struct tensor gradients_open(const struct pass *pass, struct tensor grad, size_t count)
{
    const struct gradients *bound = &pass->workspace->bound;
    if (!grad.data || grad.dtype == DTYPE_F32)
        return grad;
    device_zero(pass->model->device, bound->product, count * sizeof(float));
    return (struct tensor){bound->product, DTYPE_F32};
}

void gradients_close(const struct pass *pass, struct tensor grad, size_t count)
{
    struct device *device = pass->model->device;
    const struct gradients *bound = &pass->workspace->bound;
    if (!grad.data || grad.dtype == DTYPE_F32)
        return;
    const size_t bytes = (size_t)((char *)grad.data - (char *)bound->sums.data);
    device->ops->accumulate(device, &(struct accumulate){
                                        .sums = grad,
                                        .terms = {bound->product, DTYPE_F32},
                                        .count = count,
                                        .first = bytes / dtype_bytes(grad.dtype),
                                        .draw = bound->draw,
                                    });
}
