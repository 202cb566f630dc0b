// SPDX-License-Identifier: Apache-2.0
// What the optimizer keeps of a range of elements, in memory as in a checkpoint: one block of
// consecutive 64-byte aligned arrays,
//
//     remainder   int16, of every element; with bfloat16 weights only
//     and for every run of elements that are treated alike, in their order,
//     moment 1, moment 2     float, bfloat16 or 8-bit codes
//     scale 1, scale 2       float, with 8-bit codes only, see kernels.h
//
// Moments of norms, biases and tensors below 4,096 elements are always float, with 8-bit codes
// those of the embedding too: they are few, and what is wrong with one of them is wrong everywhere.
#ifndef MEMO_WORKER_TRAIN_STATE_H
#define MEMO_WORKER_TRAIN_STATE_H

#include "kernels/kernels.h"
#include "worker/model/layout.h"
#include "worker/train/shards.h"

struct state_form {
    enum dtype weights; // DTYPE_F32 or DTYPE_BF16
    enum moment_kind moments;
};

const char *moment_kind_name(enum moment_kind kind); // "f32", "bf16", "8bit"
// From the names of a dtype and of a kind of moments.
int state_form_parse(const char *weights, const char *moments, struct state_form *out,
                     struct error *err);

struct state_run {
    struct range range;
    bool decays;
    uint64_t vector; // of what does not decay: where it begins among the model's vectors
    enum moment_kind moments;
    size_t moment1, moment2, scale1, scale2; // bytes from the start of the block
};

struct state {
    struct range range;
    enum dtype weights;
    struct state_run *runs; // cover the range
    size_t run_count;
    size_t bytes;           // of the block
    size_t remainder_bytes; // of them, at its beginning
};

// Where the block of a state is on a device: in two parts, because the remainders come into being
// while the weights are there twice.
struct state_place {
    unsigned char *remainder; // [remainder_bytes]
    unsigned char *moments;   // [bytes - remainder_bytes]
};

void state_plan(const struct layout *layout, struct state_form form, struct range range,
                struct state *out);
void state_release(struct state *state);

// Copies what both ranges have in common from a host block to a device. Both must be of one form;
// ranges begin and end at multiples of MOMENT_BLOCK, or at the model's end.
void state_copy_in(struct device *device, const struct state *to, struct state_place place,
                   const struct state *from, const unsigned char *from_block);
int state_copy_out(struct device *device, const struct state *state, struct state_place place,
                   unsigned char *block, struct error *err); // [bytes], host

enum state_part { STATE_MASTER, STATE_MOMENT1, STATE_MOMENT2 };

// As floats, from host memory; weights are those of the range, f32 or bfloat16.
void state_decode(const struct state *state, const unsigned char *block, const void *weights,
                  enum state_part part, float *out);

#endif
