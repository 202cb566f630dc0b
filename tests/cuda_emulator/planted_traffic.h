// SPDX-License-Identifier: Apache-2.0
// Kernels that waste memory's time, made of the real ones by redefining one word before their
// source is read again: test_traffic.cpp must see each of them.
#ifndef MEMO_TESTS_CUDA_EMULATOR_PLANTED_TRAFFIC_H
#define MEMO_TESTS_CUDA_EMULATOR_PLANTED_TRAFFIC_H

extern "C" {
#include "kernels/kernels.h"
}

// Neighbouring threads take elements that are not neighbours.
void planted_strided_adamw(struct device *device, const struct adamw *a);
// One element at a time.
void planted_narrow_gated_forward(struct device *device, const struct gated_forward *a);
// Nothing of a row is kept in shared memory.
void planted_rereading_cross_entropy(struct device *device, const struct cross_entropy *a);
// A tile of 64 x 64 elements of x, read as matrices; with 8 elements behind each row, or none.
void planted_tile(struct device *device, struct tensor x, bool padded);

#endif
