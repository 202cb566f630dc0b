// SPDX-License-Identifier: Apache-2.0
// Selected rows, to compute the head on answer tokens alone: out[r] = x[index[r]], and its
// transpose out[index[r]] += x[r].
#include "kernels/ref/ref.h"

void ref_rows_gather(struct device *device, const struct rows_gather *a)
{
    (void)device;
    for (size_t row = 0; row < a->rows; row++)
        for (size_t i = 0; i < a->width; i++)
            store(a->out, row * a->width + i, load(a->x, (size_t)a->index[row] * a->width + i));
}

void ref_rows_scatter_add(struct device *device, const struct rows_scatter_add *a)
{
    (void)device;
    for (size_t row = 0; row < a->rows; row++)
        for (size_t i = 0; i < a->width; i++)
            store_sum(a->out, (size_t)a->index[row] * a->width + i, load(a->x, row * a->width + i));
}
