// SPDX-License-Identifier: Apache-2.0
// A token's vector is a row of the weight:  out[t] = scale weight[ids[t]].
// Backward:  grad_weight[v] += scale sum over t with ids[t] = v of grad_out[t], in ascending t.
// scale is 1, or sqrt(width) for models that scale their embeddings (Vaswani et al. 2017, 3.4).
#include "kernels/ref/ref.h"

void ref_embedding_forward(struct device *device, const struct embedding_forward *a)
{
    (void)device;
    for (size_t t = 0; t < a->tokens; t++)
        for (size_t i = 0; i < a->width; i++)
            store(a->out, t * a->width + i,
                  load(a->weight, (size_t)a->ids[t] * a->width + i) * a->scale);
}

void ref_embedding_backward(struct device *device, const struct embedding_backward *a)
{
    (void)device;
    for (size_t t = 0; t < a->tokens; t++)
        for (size_t i = 0; i < a->width; i++)
            store_sum(a->grad_weight, (size_t)a->ids[t] * a->width + i,
                      load(a->grad_out, t * a->width + i) * a->scale);
}
