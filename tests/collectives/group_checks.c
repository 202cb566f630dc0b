// SPDX-License-Identifier: Apache-2.0
#include "group_checks.h"

#include "base/mem.h"
#include "base/random.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const size_t counts[] = {0, 1, 31, 1000, 1000003};
#define COUNTS (sizeof(counts) / sizeof(counts[0]))

// Keeps the first mismatch; the check goes on.
static void expect(bool good, int *rc, struct error *err, const char *what, size_t count, size_t i)
{
    if (!good && *rc == 0) {
        *rc = error_set(err, "%s of %zu elements: element %zu is wrong", what, count, i);
    }
}

// Terms of very different size, so that (a + b) + c and a + (b + c) differ.
static float term_f32(int rank, size_t i)
{
    uint64_t bits = random_u64(1, (uint64_t)rank, i);
    return (float)(int32_t)bits * (float)(1u << (bits >> 59));
}

static double term_f64(int rank, size_t i)
{
    uint64_t bits = random_u64(2, (uint64_t)rank, i);
    return (double)(int64_t)bits * (double)(1u << (bits & 31));
}

static int64_t term_i64(int rank, size_t i)
{
    return (int64_t)random_u64(3, (uint64_t)rank, i); // sums overflow and wrap
}

static float sum_f32(int size, size_t i)
{
    float sum = term_f32(0, i);
    for (int r = 1; r < size; r++) {
        sum += term_f32(r, i);
    }
    return sum;
}

static double sum_f64(int size, size_t i)
{
    double sum = term_f64(0, i);
    for (int r = 1; r < size; r++) {
        sum += term_f64(r, i);
    }
    return sum;
}

static uint64_t sum_i64(int size, size_t i)
{
    uint64_t sum = 0;
    for (int r = 0; r < size; r++) {
        sum += (uint64_t)term_i64(r, i);
    }
    return sum;
}

// Small integers: every order of addition gives the same sum.
static int check_integers(struct group *group, void *context, struct error *err)
{
    (void)context;
    int rc = 0;
    int size = group_size(group);
    for (size_t c = 0; c < COUNTS; c++) {
        float *data = mem_calloc(counts[c] + 1, sizeof(*data));
        for (size_t i = 0; i < counts[c]; i++) {
            data[i] = (float)(i % 1000) + (float)group_rank(group);
        }
        data[counts[c]] = -1.0f;
        if (group_all_reduce_f32(group, data, counts[c], err) != 0) {
            free(data);
            return -1;
        }
        for (size_t i = 0; i < counts[c]; i++) {
            float want = (float)size * (float)(i % 1000) + (float)(size * (size - 1) / 2);
            expect(data[i] == want, &rc, err, "integers", counts[c], i);
        }
        expect(data[counts[c]] == -1.0f, &rc, err, "the element behind", counts[c], counts[c]);
        free(data);
    }
    return rc;
}

static int check_order_f32(struct group *group, void *context, struct error *err)
{
    (void)context;
    int rc = 0;
    for (size_t c = 0; c < COUNTS; c++) {
        float *data = mem_calloc(counts[c] + 1, sizeof(*data));
        for (size_t i = 0; i < counts[c]; i++) {
            data[i] = term_f32(group_rank(group), i);
        }
        if (group_all_reduce_f32(group, data, counts[c], err) != 0) {
            free(data);
            return -1;
        }
        for (size_t i = 0; i < counts[c]; i++) {
            float want = sum_f32(group_size(group), i);
            expect(memcmp(&data[i], &want, sizeof(want)) == 0, &rc, err, "f32", counts[c], i);
        }
        free(data);
    }
    return rc;
}

static int check_order_f64(struct group *group, void *context, struct error *err)
{
    (void)context;
    int rc = 0;
    for (size_t c = 0; c < COUNTS; c++) {
        double *data = mem_calloc(counts[c] + 1, sizeof(*data));
        for (size_t i = 0; i < counts[c]; i++) {
            data[i] = term_f64(group_rank(group), i);
        }
        if (group_all_reduce_f64(group, data, counts[c], err) != 0) {
            free(data);
            return -1;
        }
        for (size_t i = 0; i < counts[c]; i++) {
            double want = sum_f64(group_size(group), i);
            expect(memcmp(&data[i], &want, sizeof(want)) == 0, &rc, err, "f64", counts[c], i);
        }
        free(data);
    }
    return rc;
}

static int check_i64(struct group *group, void *context, struct error *err)
{
    (void)context;
    int rc = 0;
    for (size_t c = 0; c < COUNTS; c++) {
        int64_t *data = mem_calloc(counts[c] + 1, sizeof(*data));
        for (size_t i = 0; i < counts[c]; i++) {
            data[i] = term_i64(group_rank(group), i);
        }
        if (group_all_reduce_i64(group, data, counts[c], err) != 0) {
            free(data);
            return -1;
        }
        for (size_t i = 0; i < counts[c]; i++) {
            expect((uint64_t)data[i] == sum_i64(group_size(group), i), &rc, err, "i64", counts[c],
                   i);
        }
        free(data);
    }
    return rc;
}

static float from_bf16(uint16_t half)
{
    const uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

static uint16_t term_bf16(int rank, size_t i)
{
    const float value = term_f32(rank, i);
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    return (uint16_t)(bits >> 16);
}

// Rounded once: half a unit of bfloat16 is 2^-9 of a power of two.
static uint16_t sum_bf16(int size, size_t i)
{
    float sum = from_bf16(term_bf16(0, i));
    for (int r = 1; r < size; r++) {
        sum += from_bf16(term_bf16(r, i));
    }
    uint32_t bits;
    memcpy(&bits, &sum, sizeof(bits));
    const uint32_t below = bits >> 16, rest = bits & 0xffffu;
    return (uint16_t)(below + (rest > 0x8000u || (rest == 0x8000u && below % 2 == 1)));
}

static int check_bf16_count(struct group *group, size_t count, struct error *err)
{
    const int size = group_size(group);
    const size_t rank = (size_t)group_rank(group), total = count * (size_t)size;
    uint16_t *data = mem_calloc(total + 1, sizeof(*data));
    uint16_t *part = mem_calloc(count + 1, sizeof(*part));
    int rc = 0;
    for (size_t i = 0; i < total; i++) {
        data[i] = term_bf16((int)rank, i);
    }
    data[total] = part[count] = 0x7fff;
    if (group_reduce_scatter_bf16(group, part, data, count, err) != 0 ||
        group_all_reduce_bf16(group, data, total, err) != 0) {
        rc = -1;
    }
    for (size_t i = 0; rc == 0 && i < total; i++) {
        expect(data[i] == sum_bf16(size, i), &rc, err, "bf16", total, i);
    }
    for (size_t i = 0; rc == 0 && i < count; i++) {
        expect(part[i] == data[rank * count + i], &rc, err, "scattered bf16", count, i);
    }
    expect(data[total] == 0x7fff && part[count] == 0x7fff, &rc, err, "behind bf16", count, count);
    free(data);
    free(part);
    return rc;
}

static int check_bf16(struct group *group, void *context, struct error *err)
{
    (void)context;
    int rc = 0;
    for (size_t c = 0; rc == 0 && c < COUNTS; c++) {
        rc = check_bf16_count(group, counts[c], err);
    }
    return rc;
}

static int scatter_once(struct group *group, size_t count, bool in_place, struct error *err)
{
    int rc = 0;
    size_t rank = (size_t)group_rank(group);
    size_t total = (size_t)group_size(group) * count;
    float *in = mem_calloc(total + 1, sizeof(*in));
    float *apart = mem_calloc(count + 1, sizeof(*apart));
    float *out = in_place ? in + rank * count : apart;
    for (size_t i = 0; i < total; i++) {
        in[i] = term_f32(group_rank(group), i);
    }
    rc = group_reduce_scatter_f32(group, out, in, count, err);
    for (size_t i = 0; rc == 0 && i < count; i++) {
        float want = sum_f32(group_size(group), rank * count + i);
        expect(memcmp(&out[i], &want, sizeof(want)) == 0, &rc, err, "reduce-scatter", count, i);
    }
    free(in);
    free(apart);
    return rc;
}

static int check_reduce_scatter_i64(struct group *group, void *context, struct error *err)
{
    (void)context;
    enum { COUNT = 33 };
    const size_t rank = (size_t)group_rank(group), size = (size_t)group_size(group);
    int64_t *data = mem_calloc(size * COUNT, sizeof(*data));
    for (size_t i = 0; i < size * COUNT; i++) {
        data[i] = (int64_t)((i + 1) << 40) * (int64_t)(rank + 1); // more than a float holds
    }
    int rc = group_reduce_scatter_i64(group, data + rank * COUNT, data, COUNT, err);
    for (size_t i = 0; rc == 0 && i < COUNT; i++) {
        const int64_t want = (int64_t)((rank * COUNT + i + 1) << 40) * (int64_t)(size * (size + 1));
        expect(2 * data[rank * COUNT + i] == want, &rc, err, "reduce-scatter i64", COUNT, i);
    }
    free(data);
    return rc;
}

static int check_reduce_scatter(struct group *group, void *context, struct error *err)
{
    (void)context;
    int rc = 0;
    for (size_t c = 0; c < COUNTS; c++) {
        for (int in_place = 0; in_place < 2; in_place++) {
            struct error first = {{0}};
            if (scatter_once(group, counts[c], in_place != 0, &first) != 0 && rc == 0) {
                *err = first;
                rc = -1;
            }
        }
    }
    return rc;
}

static unsigned char byte_of(int rank, size_t i)
{
    return (unsigned char)(i * 7 + i / 251 + (size_t)rank * 31);
}

static int check_all_gather(struct group *group, void *context, struct error *err)
{
    (void)context;
    int rc = 0;
    int size = group_size(group);
    for (size_t c = 0; c < COUNTS; c++) {
        size_t bytes = counts[c];
        unsigned char *in = mem_calloc(bytes + 1, 1);
        unsigned char *out = mem_calloc(bytes * (size_t)size + 1, 1);
        for (size_t i = 0; i < bytes; i++) {
            in[i] = byte_of(group_rank(group), i);
        }
        if (group_all_gather(group, out, in, bytes, err) != 0) {
            free(in);
            free(out);
            return -1;
        }
        for (int r = 0; r < size; r++) {
            for (size_t i = 0; i < bytes; i++) {
                expect(out[(size_t)r * bytes + i] == byte_of(r, i), &rc, err, "all-gather", bytes,
                       (size_t)r * bytes + i);
            }
        }
        free(in);
        free(out);
    }
    return rc;
}

static int check_broadcast(struct group *group, void *context, struct error *err)
{
    (void)context;
    int rc = 0;
    for (int root = 0; root < group_size(group); root++) {
        for (size_t c = 0; c < COUNTS; c++) {
            unsigned char *data = mem_calloc(counts[c] + 1, 1);
            for (size_t i = 0; i < counts[c]; i++) {
                data[i] = byte_of(group_rank(group), i);
            }
            if (group_broadcast(group, data, counts[c], root, err) != 0) {
                free(data);
                return -1;
            }
            for (size_t i = 0; i < counts[c]; i++) {
                expect(data[i] == byte_of(root, i), &rc, err, "broadcast", counts[c], i);
            }
            free(data);
        }
    }
    return rc;
}

// Each rank fails in turn, then two at once: the text of the lowest reaches everybody.
static int check_agree(struct group *group, void *context, struct error *err)
{
    (void)context;
    int rank = group_rank(group);
    int size = group_size(group);
    bool good = true;
    for (int bad = 0; bad < size; bad++) {
        struct error local = {{0}};
        char want[64];
        int rc = rank >= bad ? error_set(&local, "disk %d is full", rank) : 0;
        good = group_agree(group, rc, &local) == -1 && good;
        snprintf(want, sizeof(want), "disk %d is full", bad);
        const char *text = local.text;
        if (rank != bad) {
            char prefix[32];
            int length = snprintf(prefix, sizeof(prefix), "rank %d: ", bad);
            good = strncmp(text, prefix, (size_t)length) == 0 && good;
            text += length;
        }
        good = strcmp(text, want) == 0 && good;
    }
    struct error untouched = {"untouched"};
    good = group_agree(group, 0, &untouched) == 0 && good;
    good = strcmp(untouched.text, "untouched") == 0 && good;
    return good ? 0 : error_set(err, "agree gave a wrong result or text");
}

static int check_any(struct group *group, void *context, struct error *err)
{
    (void)context;
    bool good = true;
    for (int who = -1; who < group_size(group); who++) {
        bool any = false;
        if (group_any(group, group_rank(group) == who, &any, err) != 0) {
            return -1;
        }
        good = any == (who >= 0) && good;
    }
    return good ? 0 : error_set(err, "any is wrong");
}

// Short calls of different kinds one after the other reuse the same buffers at once.
static int check_mixture(struct group *group, void *context, struct error *err)
{
    (void)context;
    int rc = 0;
    int size = group_size(group);
    for (int turn = 0; turn < 300; turn++) {
        int64_t one = turn;
        float parts[64] = {0};
        float part = 0;
        int32_t ranks[64];
        int32_t rank = group_rank(group);
        int32_t root = rank;
        for (int r = 0; r < size; r++) {
            parts[r] = (float)(r + turn);
        }
        if (group_all_reduce_i64(group, &one, 1, err) != 0 ||
            group_all_gather(group, ranks, &rank, sizeof(rank), err) != 0 ||
            group_broadcast(group, &root, sizeof(root), turn % size, err) != 0 ||
            group_reduce_scatter_f32(group, &part, parts, 1, err) != 0 ||
            (turn % 7 == 0 && group_barrier(group, err) != 0)) {
            return -1;
        }
        expect(one == (int64_t)turn * size, &rc, err, "all-reduce", 1, (size_t)turn);
        expect(ranks[size - 1] == size - 1, &rc, err, "all-gather", 1, (size_t)turn);
        expect(root == turn % size, &rc, err, "broadcast", 1, (size_t)turn);
        expect(part == (float)(size * (rank + turn)), &rc, err, "scatter", 1, (size_t)turn);
    }
    return rc;
}

const struct group_check group_checks[] = {
    {"sums of integers are exact", check_integers},
    {"f32 sums are in rank order bit for bit", check_order_f32},
    {"f64 sums are in rank order bit for bit", check_order_f64},
    {"i64 sums wrap", check_i64},
    {"bf16 sums are added in float32 and rounded once", check_bf16},
    {"reduce-scatter gives each rank its part", check_reduce_scatter},
    {"reduce-scatter adds integers exactly", check_reduce_scatter_i64},
    {"all-gather is in rank order", check_all_gather},
    {"broadcast from every root", check_broadcast},
    {"agree tells everybody of the lowest failure", check_agree},
    {"any", check_any},
    {"short calls one after the other", check_mixture},
    {NULL, NULL},
};
