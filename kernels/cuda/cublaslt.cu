// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/cublaslt.h"

#include <dlfcn.h>
#include <stdio.h>

struct blas blas;

int blas_load(struct error *err)
{
    const struct {
        const char *name;
        void **function;
    } functions[] = {
        {"cublasLtCreate", (void **)&blas.Create},
        {"cublasLtDestroy", (void **)&blas.Destroy},
        {"cublasLtGetStatusString", (void **)&blas.GetStatusString},
        {"cublasLtGetVersion", (void **)&blas.GetVersion},
        {"cublasLtMatmul", (void **)&blas.Matmul},
        {"cublasLtMatmulAlgoCheck", (void **)&blas.MatmulAlgoCheck},
        {"cublasLtMatmulAlgoGetHeuristic", (void **)&blas.MatmulAlgoGetHeuristic},
        {"cublasLtMatmulDescCreate", (void **)&blas.MatmulDescCreate},
        {"cublasLtMatmulDescDestroy", (void **)&blas.MatmulDescDestroy},
        {"cublasLtMatmulDescSetAttribute", (void **)&blas.MatmulDescSetAttribute},
        {"cublasLtMatmulPreferenceCreate", (void **)&blas.MatmulPreferenceCreate},
        {"cublasLtMatmulPreferenceDestroy", (void **)&blas.MatmulPreferenceDestroy},
        {"cublasLtMatmulPreferenceSetAttribute", (void **)&blas.MatmulPreferenceSetAttribute},
        {"cublasLtMatrixLayoutCreate", (void **)&blas.MatrixLayoutCreate},
        {"cublasLtMatrixLayoutDestroy", (void **)&blas.MatrixLayoutDestroy},
    };
    char name[32];
    snprintf(name, sizeof name, "libcublasLt.so.%d", CUBLAS_VER_MAJOR);
    void *library = dlopen(name, RTLD_NOW | RTLD_LOCAL); // stays for the life of the process
    if (!library)
        return error_set(err,
                         "cannot load %s: %s; install cuBLAS of CUDA %d or name its directory in "
                         "LD_LIBRARY_PATH",
                         name, dlerror(), CUBLAS_VER_MAJOR);
    for (size_t i = 0; i < sizeof functions / sizeof functions[0]; i++) {
        *functions[i].function = dlsym(library, functions[i].name);
        if (!*functions[i].function)
            return error_set(err, "%s has no '%s': another version is needed", name,
                             functions[i].name);
    }
    return 0;
}
