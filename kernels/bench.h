// SPDX-License-Identifier: Apache-2.0
// Measurements of a device: its limits by loops that do nothing else, and what dense layers reach.
// Rates move from minute to minute on shared machines: measure limits and work in the same run and
// quote shares.
#ifndef MEMO_KERNELS_BENCH_H
#define MEMO_KERNELS_BENCH_H

#include "kernels/device.h"

struct bench_limits {
    double flops;      // float32 fused multiply-adds, two operations each, per second, all threads
    double dot_flops;  // the same of bfloat16 pairs; 0: the processor does not multiply those
    double read_bytes; // per second, from memory that no cache holds, all threads
};

// Something to repeat: enqueues work and returns the amount of it, in operations or bytes.
struct bench_work {
    double (*call)(void *context);
    void *context;
};

// Normal noise of this deviation in a tensor of the device, in no time: one block repeats.
void bench_fill_noise(struct device *device, struct tensor out, size_t count, double deviation);

// *out = the best rate of several runs of about 20 ms each (a GPU's: 100 ms), per second.
int bench_best_rate(struct device *device, struct bench_work work, double *out, struct error *err);

// Of the cpu by loops that do nothing else; of other devices by products of large square matrices
// and by copies, of which both sides count. Fails when the memory cannot be allocated.
int bench_limits(struct device *device, struct bench_limits *out, struct error *err);

enum bench_pass {
    BENCH_FORWARD,
    BENCH_FORWARD_PACKED,
    BENCH_BACKWARD_INPUT,
    BENCH_BACKWARD_WEIGHT
};

struct bench_linear {
    enum bench_pass pass;
    enum dtype weight; // of BENCH_BACKWARD_WEIGHT the product
    size_t rows, out_width, in_width;
};

// *out = operations per second, 2 rows out_width in_width of them per call, the best of several
// runs.
int bench_linear(struct device *device, const struct bench_linear *shape, double *out,
                 struct error *err);

// A dense layer of generation, whose weight no cache holds: as many copies of it take turns.
struct bench_product {
    size_t rows, out_width, in_width;
    bool codes; // in eight bits, otherwise bfloat16
    enum products products;
};

// *out = bytes of the weight read per second. The device's products are PRODUCTS_FASTEST
// afterwards.
int bench_product(struct device *device, const struct bench_product *product, double *out,
                  struct error *err);

// The operations of a decoder layer and of the optimizer, at the sizes of a model.
struct bench_sizes {
    size_t tokens, hidden, heads, kv_heads, head_width, ffn, vocabulary;
    size_t sequences; // of generation, with `tokens` positions each
    size_t rows;      // tokens of operations that only move memory; 0: as many as `tokens`
};

struct bench_operation {
    const char *name;
    double amount; // of one call: bytes that must be moved, or operations
    double rate;   // per second
    bool computes; // operations, not bytes
};

enum { BENCH_OPERATIONS = 13 };
int bench_operations(struct device *device, const struct bench_sizes *sizes,
                     struct bench_operation out[BENCH_OPERATIONS], struct error *err);

#endif
