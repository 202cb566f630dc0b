// SPDX-License-Identifier: Apache-2.0
// Dropout and scaling: out = x * factor of the elements that are kept, 0 of the others.
#include "kernels/ref/ref.h"

void ref_dropout(struct device *device, const struct dropout *a)
{
    (void)device;
    for (size_t row = 0; row < a->rows; row++) {
        const uint64_t state = a->keys ? dropout_row(a->keys[row], a->stream) : 0;
        for (size_t i = 0; i < a->width; i++) {
            const size_t at = row * a->width + i;
            const bool kept = !a->keys || dropout_bits(state, i) >= a->drop_below;
            const double value = kept ? (float)load(a->x, at) * a->factor : 0;
            if (a->accumulate)
                store_sum(a->out, at, value);
            else
                store(a->out, at, value);
        }
    }
}
