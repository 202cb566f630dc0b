// SPDX-License-Identifier: Apache-2.0
// What cuBLASLt does, on the CPU: products of bf16 or f16, summed in double and rounded once. It
// does not take float32 or codes of eight bits, so that the kernels for these are tested too.
#include "kernels/cuda/cuda.h"

int gemm_create(struct gemm **out, struct error *err)
{
    (void)err;
    *out = NULL;
    return 0;
}

void gemm_destroy(struct gemm *gemm)
{
    (void)gemm;
}

size_t gemm_library_version(void)
{
    return 0;
}

static void multiply(const struct gemm_call *call)
{
    for (size_t m = 0; m < call->m; m++)
        for (size_t n = 0; n < call->n; n++) {
            double sum = call->bias.data ? load(call->bias, n) : 0;
            for (size_t k = 0; k < call->k; k++)
                sum += load(call->a, call->a_transposed ? k * call->m + m : m * call->k + k) *
                       load(call->b, call->b_transposed ? n * call->k + k : k * call->n + n);
            const size_t at = m * call->n + n;
            store(call->c, at, (float)sum + (call->addend.data ? load(call->addend, at) : 0));
        }
}

int gemm_run(struct device *device, const struct gemm_call *call)
{
    const struct gemm_call copy = *call;
    if (call->a_scales || call->a.dtype != call->b.dtype || call->a.dtype == DTYPE_F32 ||
        (call->c.dtype != call->a.dtype && call->c.dtype != DTYPE_F32))
        return -1;
    emulator_enqueue(cuda_of(device)->stream, [copy]() {
        emulator_note_launch("matrix product");
        emulator_check_argument("matrix product", copy);
        if (emulator_error() != cudaSuccess)
            return;
        emulator_open_memory();
        multiply(&copy);
        emulator_close_memory();
    });
    return 0;
}
