// SPDX-License-Identifier: Apache-2.0
// What makes a training run the one that it is. Equal identities: the same sequences in the same
// steps, the same options, starting from the same weights; the results then differ by rounding.
#ifndef MEMO_WORKER_TRAIN_IDENTITY_H
#define MEMO_WORKER_TRAIN_IDENTITY_H

#include "worker/train/trainer.h"

// Digest of data, options, model shape and of the weights as they are now.
int identity_compute(const struct model *model, const struct sequence_set *set,
                     const struct trainer_options *options, struct digest *out, struct error *err);

// Collective. An error on every rank when one of them has another identity than rank 0.
int identity_agree(struct group *group, struct digest identity, struct error *err);

#endif
