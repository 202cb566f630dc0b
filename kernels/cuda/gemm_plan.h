// SPDX-License-Identifier: Apache-2.0
// Inside kernels/cuda: what cuBLASLt is told about a shape of products, and the algorithm that was
// chosen for it.
//
// An algorithm is the first answer of the library's heuristic, which depends on library, GPU and
// shape alone; or, where the device keeps a record, the fastest of its first answers as
// measured when the shape came first. What was measured is written down at once, for later runs:
//
//     memo products 1; cuBLASLt VERSION; GPU; ID
//     M N K TRAITS ALGORITHM     128 hexadecimal digits, the library's own 64 bytes
//
// M, N and K are rounded up to three leading bits, so that batches of about the same size share a
// line. A record of another library or GPU is begun anew, with another ID.
#ifndef MEMO_KERNELS_CUDA_GEMM_PLAN_H
#define MEMO_KERNELS_CUDA_GEMM_PLAN_H

#include "kernels/cuda/cublaslt.h"
#include "kernels/cuda/cuda.h"

enum { RECORDS_LIMIT = 1024 }; // a dozen weights, three passes, some sizes of batches

// What an algorithm is chosen for: also how addresses are aligned, because not every algorithm
// takes every alignment.
struct gemm_shape {
    uint64_t m, n, k;
    uint64_t traits;
};

struct gemm_plan {
    struct gemm_shape shape;
    struct gemm_plan *next; // of the same bucket
    cublasLtMatmulDesc_t operation;
    cublasLtMatrixLayout_t a, b, c;
    cublasLtMatmulAlgo_t algorithm;
    bool usable; // otherwise the library does not multiply these
};

struct gemm_record {
    struct gemm_shape shape; // rounded
    cublasLtMatmulAlgo_t algorithm;
};

struct gemm_records {
    char *path; // NULL: nothing is measured, the heuristic decides
    char id[40], gpu[256];
    struct gemm_record *records; // [RECORDS_LIMIT]
    size_t count;
};

struct gemm_shape gemm_shape_of(const struct gemm_call *call);

// The descriptors of a call, with its pointers: the heuristic wants to know those of scales.
int gemm_plan_describe(struct gemm_plan *plan, const struct gemm_call *call, struct error *err);
int gemm_plan_point(struct gemm_plan *plan, const struct gemm_call *call, struct error *err);
void gemm_plan_release(struct gemm_plan *plan);

// Creates the file where there is none that fits.
int gemm_records_open(struct gemm_records *records, const char *path, const char *gpu,
                      struct error *err);
void gemm_records_close(struct gemm_records *records);
const cublasLtMatmulAlgo_t *gemm_records_find(const struct gemm_records *records,
                                              const struct gemm_shape *shape);
// Also writes the file.
int gemm_records_add(struct gemm_records *records, const struct gemm_shape *shape,
                     const cublasLtMatmulAlgo_t *algorithm, struct error *err);

int blas_check(cublasStatus_t status, const char *what, struct error *err);

#endif
