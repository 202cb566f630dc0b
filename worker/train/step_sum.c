// SPDX-License-Identifier: Apache-2.0
#include "worker/train/step_sum.h"

#include "base/random.h"

#include <inttypes.h>
#include <math.h>

#define LOSS_SCALE 0x1p32

void step_sum_add_sequence(struct step_sum *sum, uint32_t sequence)
{
    sum->sequences++;
    sum->tags += (int64_t)(random_u64(0, sequence, 0) >> 33); // 31 bits: sums do not overflow
}

void step_sum_add_bin(struct step_sum *sum, const struct step_layout *layout, uint32_t bin)
{
    for (size_t i = 0; i < layout->count; i++) {
        if (layout->bins[i] == bin)
            step_sum_add_sequence(sum, layout->sequences[i]);
    }
}

int step_sum_add_loss(struct step_sum *sum, double loss, struct error *err)
{
    if (!(loss < 0x1p28)) // NaN too
        return error_set(err, "loss %g: training diverged; lower --lr or raise --warmup", loss);
    sum->loss += loss;
    sum->fixed_loss += (int64_t)rint(loss * LOSS_SCALE);
    return 0;
}

int step_sum_reduce(struct step_sum *sum, struct group *group, struct error *err)
{
    int64_t whole[] = {sum->fixed_loss, sum->sequences, sum->tags};
    if (group_all_reduce_f64(group, &sum->loss, 1, err) ||
        group_all_reduce_i64(group, whole, 3, err))
        return -1;
    sum->fixed_loss = whole[0];
    sum->sequences = whole[1];
    sum->tags = whole[2];
    return 0;
}

double step_sum_loss(const struct step_sum *sum, bool exact)
{
    return exact ? (double)sum->fixed_loss / LOSS_SCALE : sum->loss;
}

int step_sum_check(const struct step_sum *sum, const struct step_sum *planned, struct error *err)
{
    if (sum->sequences == planned->sequences && sum->tags == planned->tags)
        return 0;
    return error_set(err,
                     "the ranks computed %" PRId64 " sequences, which are not the %" PRId64
                     " that the step has",
                     sum->sequences, planned->sequences);
}
