// SPDX-License-Identifier: Apache-2.0
// cuBLASLt, which is loaded when a GPU is used, not when the program starts: it weighs 500 MB, and
// nodes without a GPU need not have it. tests/cuda_emulator has one of its own.
#ifndef MEMO_KERNELS_CUDA_CUBLASLT_H
#define MEMO_KERNELS_CUDA_CUBLASLT_H

#include <cublasLt.h>

extern "C" {
#include "base/error.h"
}

struct blas {
    decltype(&cublasLtCreate) Create;
    decltype(&cublasLtDestroy) Destroy;
    decltype(&cublasLtGetStatusString) GetStatusString;
    decltype(&cublasLtGetVersion) GetVersion;
    decltype(&cublasLtMatmul) Matmul;
    decltype(&cublasLtMatmulAlgoCheck) MatmulAlgoCheck;
    decltype(&cublasLtMatmulAlgoGetHeuristic) MatmulAlgoGetHeuristic;
    decltype(&cublasLtMatmulDescCreate) MatmulDescCreate;
    decltype(&cublasLtMatmulDescDestroy) MatmulDescDestroy;
    decltype(&cublasLtMatmulDescSetAttribute) MatmulDescSetAttribute;
    decltype(&cublasLtMatmulPreferenceCreate) MatmulPreferenceCreate;
    decltype(&cublasLtMatmulPreferenceDestroy) MatmulPreferenceDestroy;
    decltype(&cublasLtMatmulPreferenceSetAttribute) MatmulPreferenceSetAttribute;
    decltype(&cublasLtMatrixLayoutCreate) MatrixLayoutCreate;
    decltype(&cublasLtMatrixLayoutDestroy) MatrixLayoutDestroy;
};

extern struct blas blas; // filled once, by blas_load

int blas_load(struct error *err);

#endif
