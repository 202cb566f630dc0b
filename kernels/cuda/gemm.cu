// SPDX-License-Identifier: Apache-2.0
// Matrix products by cuBLASLt, float32 sums. Row-major C = A B is, to a library that stores
// columns, C^T = B^T A^T. Every shape's algorithm is chosen once (gemm_plan.h) and kept. Plans are
// found by hash; when there are more than PLANS_LIMIT, those go that the heuristic would choose
// again: equal calls give equal bits for the life of the process.
#include "kernels/cuda/gemm_plan.h"

extern "C" {
#include "base/clock.h"
}

#include <stdlib.h>
#include <string.h>

enum {
    WORKSPACE_BYTES = 32 << 20, // NVIDIA's advice for Hopper
    BUCKETS = 1024,
    PLANS_LIMIT = 4096, // packed training has another number of tokens in every micro-batch
    CANDIDATES = 6,     // that are measured
    REPEATS = 3,
};

struct gemm {
    cublasLtHandle_t handle;
    void *workspace;
    struct gemm_plan *buckets[BUCKETS];
    size_t count;
    struct gemm_records records;
};

size_t gemm_library_version(void)
{
    return blas.GetVersion ? blas.GetVersion() : 0;
}

const char *gemm_record_id(const struct gemm *gemm)
{
    return gemm->records.id;
}

int gemm_create(struct gemm **out, struct error *err)
{
    struct gemm *gemm = (struct gemm *)calloc(1, sizeof *gemm);
    *out = NULL;
    if (!gemm)
        return error_set(err, "cannot allocate the state of matrix products: out of memory");
    if (blas_load(err) || blas_check(blas.Create(&gemm->handle), "cublasLtCreate", err)) {
        free(gemm);
        return -1;
    }
    if (cudaMalloc(&gemm->workspace, WORKSPACE_BYTES) != cudaSuccess) {
        error_set(err, "cannot allocate the %d bytes that cuBLASLt works in", WORKSPACE_BYTES);
        gemm_destroy(gemm);
        return -1;
    }
    *out = gemm;
    return 0;
}

static void forget_plans(struct gemm *gemm)
{
    for (int i = 0; i < BUCKETS; i++)
        while (gemm->buckets[i]) {
            struct gemm_plan *plan = gemm->buckets[i];
            gemm->buckets[i] = plan->next;
            gemm_plan_release(plan);
            free(plan);
        }
    gemm->count = 0;
}

void gemm_destroy(struct gemm *gemm)
{
    if (!gemm)
        return;
    forget_plans(gemm);
    gemm_records_close(&gemm->records);
    cudaFree(gemm->workspace);
    blas.Destroy(gemm->handle);
    free(gemm);
}

int gemm_record(struct gemm *gemm, const char *path, const char *gpu, struct error *err)
{
    forget_plans(gemm);
    gemm_records_close(&gemm->records);
    return gemm_records_open(&gemm->records, path, gpu, err);
}

// --- choosing ---

static int set_preference(cublasLtMatmulPreference_t preference, const struct gemm_call *call,
                          struct error *err)
{
    const void *c = call->addend.data ? call->addend.data : call->c.data;
    const struct {
        cublasLtMatmulPreferenceAttributes_t attribute;
        const void *address;
    } matrices[] = {{CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, call->b.data},
                    {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, call->a.data},
                    {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, c},
                    {CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, call->c.data}};
    const uint64_t workspace = WORKSPACE_BYTES;
    for (size_t i = 0; i < sizeof matrices / sizeof matrices[0]; i++) {
        uint32_t bytes = 256; // what the library takes for granted
        while ((uintptr_t)matrices[i].address % bytes != 0)
            bytes /= 2;
        if (blas_check(blas.MatmulPreferenceSetAttribute(preference, matrices[i].attribute, &bytes,
                                                         sizeof bytes),
                       "alignment", err))
            return -1;
    }
    return blas_check(blas.MatmulPreferenceSetAttribute(preference,
                                                        CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES,
                                                        &workspace, sizeof workspace),
                      "workspace", err);
}

// How many of the heuristic's answers are good, at the front of out.
static int candidates(struct gemm *gemm, struct gemm_plan *plan, const struct gemm_call *call,
                      int wanted, cublasLtMatmulHeuristicResult_t *out)
{
    struct error ignored; // the caller has another way to multiply
    cublasLtMatmulPreference_t preference = NULL;
    int count = 0, good = 0;
    if (blas_check(blas.MatmulPreferenceCreate(&preference), "preference", &ignored))
        return 0;
    if (set_preference(preference, call, &ignored) ||
        blas_check(blas.MatmulAlgoGetHeuristic(gemm->handle, plan->operation, plan->b, plan->a,
                                               plan->c, plan->c, preference, wanted, out, &count),
                   "heuristic", &ignored))
        count = 0;
    blas.MatmulPreferenceDestroy(preference);
    for (int i = 0; i < count; i++)
        if (out[i].state == CUBLAS_STATUS_SUCCESS)
            out[good++] = out[i];
    return good;
}

static cublasStatus_t run(struct device *device, const struct gemm_plan *plan,
                          const cublasLtMatmulAlgo_t *algorithm, const struct gemm_call *call,
                          void *c)
{
    struct gemm *gemm = cuda_of(device)->gemm;
    const float one = 1, beta = call->addend.data ? 1 : 0;
    const void *addend = call->addend.data ? call->addend.data : c;
    return blas.Matmul(gemm->handle, plan->operation, &one, call->b.data, plan->b, call->a.data,
                       plan->a, &beta, addend, plan->c, c, plan->c, algorithm, gemm->workspace,
                       WORKSPACE_BYTES, cuda_of(device)->stream);
}

// Seconds of one run; negative: it failed.
static double measure(struct device *device, const struct gemm_plan *plan,
                      const cublasLtMatmulAlgo_t *algorithm, const struct gemm_call *call, void *c)
{
    cudaStream_t stream = cuda_of(device)->stream;
    double begin = 0;
    for (int i = 0; i <= REPEATS; i++) {
        if (run(device, plan, algorithm, call, c) != CUBLAS_STATUS_SUCCESS)
            return -1;
        if (i == 0) { // which loads the kernel
            if (cudaStreamSynchronize(stream) != cudaSuccess)
                return -1;
            begin = clock_seconds();
        }
    }
    return cudaStreamSynchronize(stream) == cudaSuccess ? (clock_seconds() - begin) / REPEATS : -1;
}

// Into memory of its own where the result is added to what is there.
static int fastest(struct device *device, const struct gemm_plan *plan,
                   const struct gemm_call *call, const cublasLtMatmulHeuristicResult_t *found,
                   int count)
{
    const size_t bytes = call->m * call->n * (call->c.dtype == DTYPE_F32 ? 4 : 2);
    void *own = NULL;
    int best = 0;
    double least = -1;
    if (call->addend.data == call->c.data && cudaMalloc(&own, bytes) != cudaSuccess) {
        (void)cudaGetLastError(); // no room: the heuristic's first
        return 0;
    }
    for (int i = 0; i < count; i++) {
        const double seconds =
            measure(device, plan, &found[i].algo, call, own ? own : call->c.data);
        if (seconds >= 0 && (least < 0 || seconds < least)) {
            least = seconds;
            best = i;
        }
    }
    (void)cudaFree(own);
    return best;
}

static bool still_fits(struct gemm *gemm, const struct gemm_plan *plan,
                       const cublasLtMatmulAlgo_t *algorithm)
{
    cublasLtMatmulHeuristicResult_t result;
    return blas.MatmulAlgoCheck(gemm->handle, plan->operation, plan->b, plan->a, plan->c, plan->c,
                                algorithm, &result) == CUBLAS_STATUS_SUCCESS &&
           result.workspaceSize <= WORKSPACE_BYTES;
}

static void choose(struct device *device, struct gemm_plan *plan, const struct gemm_call *call)
{
    struct gemm *gemm = cuda_of(device)->gemm;
    struct error err;
    cublasLtMatmulHeuristicResult_t found[CANDIDATES];
    const bool measures = gemm->records.path && gemm->records.count < RECORDS_LIMIT;
    const cublasLtMatmulAlgo_t *recorded = gemm_records_find(&gemm->records, &plan->shape);
    if (recorded && still_fits(gemm, plan, recorded)) {
        plan->algorithm = *recorded;
        plan->usable = true;
        return;
    }
    const int count = candidates(gemm, plan, call, measures ? CANDIDATES : 1, found);
    if (count == 0)
        return;
    plan->usable = true;
    plan->algorithm = found[0].algo;
    if (!measures || recorded)
        return;
    if (count > 1 && !cuda_of(device)->capturing)
        plan->algorithm = found[fastest(device, plan, call, found, count)].algo;
    if (gemm_records_add(&gemm->records, &plan->shape, &plan->algorithm, &err))
        cuda_keep_error(device, "matrix product", err.text);
}

// --- plans ---

static size_t bucket_of(const struct gemm_shape *s)
{
    uint64_t hash = s->m;
    const uint64_t more[] = {s->n, s->k, s->traits};
    for (int i = 0; i < 3; i++)
        hash = (hash ^ hash >> 29) * 0x9E3779B97F4A7C15u + more[i];
    return (size_t)((hash ^ hash >> 32) * 0x9E3779B97F4A7C15u >> 32) % BUCKETS;
}

static struct gemm_plan *find_plan(struct device *device, const struct gemm_call *call)
{
    struct gemm *gemm = cuda_of(device)->gemm;
    struct error ignored;
    const struct gemm_shape shape = gemm_shape_of(call);
    struct gemm_plan **bucket = &gemm->buckets[bucket_of(&shape)];
    for (struct gemm_plan *plan = *bucket; plan; plan = plan->next)
        if (memcmp(&plan->shape, &shape, sizeof shape) == 0)
            return plan;
    if (gemm->count == PLANS_LIMIT)
        forget_plans(gemm);
    struct gemm_plan *plan = (struct gemm_plan *)calloc(1, sizeof *plan);
    if (!plan)
        return NULL;
    if (gemm_plan_describe(plan, call, &ignored) == 0)
        choose(device, plan, call);
    plan->next = *bucket;
    *bucket = plan;
    gemm->count++;
    return plan;
}

// Codes in the one form that there is on Hopper: both row by row, widths of 16. Others have found
// that a bias must be aligned to 16 bytes, which the documentation does not say.
static bool can_multiply(const struct gemm_call *call)
{
    if (call->k == 0 || (uintptr_t)call->bias.data % 16 != 0)
        return false;
    if (call->a_scales)
        return !call->a_transposed && call->b_transposed && call->k % 16 == 0 &&
               call->n % 16 == 0 && (uintptr_t)call->a.data % 16 == 0 &&
               (uintptr_t)call->b.data % 16 == 0 && (uintptr_t)call->c.data % 16 == 0 &&
               (uintptr_t)call->addend.data % 16 == 0 && call->c.dtype != DTYPE_F16 &&
               (!call->bias.data || call->bias.dtype == DTYPE_BF16);
    return call->a.dtype == call->b.dtype &&
           (call->c.dtype == call->a.dtype || call->c.dtype == DTYPE_F32) &&
           (!call->bias.data || call->bias.dtype == call->c.dtype);
}

int gemm_run(struct device *device, const struct gemm_call *call)
{
    struct error ignored;
    if (!can_multiply(call))
        return -1;
    struct gemm_plan *plan = find_plan(device, call);
    if (!plan || !plan->usable || gemm_plan_point(plan, call, &ignored))
        return -1;
    const cublasStatus_t status = run(device, plan, &plan->algorithm, call, call->c.data);
    if (status != CUBLAS_STATUS_SUCCESS)
        cuda_keep_error(device, "matrix product", blas.GetStatusString(status));
    return 0;
}
