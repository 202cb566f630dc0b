// SPDX-License-Identifier: Apache-2.0
// NCCL on real GPUs: one rank, and as many over shared memory as there are GPUs (MEMO_TEST_GPUS
// says how many to use). Sums of small integers are exact in any order.
#include "collectives/group_device.h"

#include <cuda_runtime_api.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

enum { SKIPPED = 77, RANKS_LIMIT = 8, SIZES = 5 };

static const size_t sizes[SIZES] = {1, 31, 1000, 100003, 10000019};

static int ranks = 1;

static int cuda_check(cudaError_t status, const char *what, struct error *err)
{
    return status == cudaSuccess ? 0 : error_set(err, "%s: %s", what, cudaGetErrorString(status));
}

static float value_of(int rank, size_t i)
{
    return (float)((i * 7 + (size_t)rank * 3) % 31);
}

static int sum_once(struct group *gpus, float *block, float *host, size_t count, struct error *err)
{
    const int rank = group_rank(gpus), size = group_size(gpus);
    for (size_t i = 0; i < count; i++)
        host[i] = value_of(rank, i);
    if (cuda_check(cudaMemcpy(block, host, count * sizeof *host, cudaMemcpyHostToDevice),
                   "copying to the GPU", err) ||
        group_all_reduce_f32(gpus, block, count, err) ||
        cuda_check(cudaMemcpy(host, block, count * sizeof *host, cudaMemcpyDeviceToHost),
                   "copying from the GPU", err))
        return -1;
    for (size_t i = 0; i < count; i++) {
        float sum = 0;
        for (int r = 0; r < size; r++)
            sum += value_of(r, i);
        if (host[i] != sum)
            return error_set(err, "element %zu of %zu is %g, the sum is %g", i, count,
                             (double)host[i], (double)sum);
    }
    return 0;
}

static int sum_all(struct group *gpus, struct error *err)
{
    float *block = NULL, *host = malloc(sizes[SIZES - 1] * sizeof *host);
    int rc = host ? cuda_check(cudaMalloc((void **)&block, sizes[SIZES - 1] * sizeof *block),
                               "allocating on the GPU", err)
                  : error_set(err, "out of memory");
    for (int s = 0; s < SIZES && rc == 0; s++)
        rc = sum_once(gpus, block, host, sizes[s], err);
    (void)cudaFree(block);
    free(host);
    return rc;
}

static int run_rank(struct group *control, void *context, struct error *err)
{
    struct group *gpus = NULL;
    cudaStream_t stream = NULL;
    (void)context;
    if (cuda_check(cudaSetDevice(group_rank(control)), "choosing a GPU", err) ||
        cuda_check(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "a stream", err))
        return -1;
    const struct group_device_options options = {.stream = stream, .ordinal = group_rank(control)};
    const int rc = group_open_nccl(control, &options, &gpus, err) || sum_all(gpus, err) ? -1 : 0;
    group_close(gpus);
    (void)cudaStreamDestroy(stream);
    return rc;
}

// In a process of its own: rank 0 is the caller, and CUDA does not survive the next fork.
static void expect_sums(int count)
{
    struct error err;
    int status = 0;
    const pid_t child = fork();
    if (child == 0) {
        const int rc = group_run_shm(count, run_rank, NULL, &err);
        if (rc)
            printf("%d ranks: %s\n", count, err.text);
        fflush(stdout);
        _exit(rc ? 1 : 0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 0);
    printf("%d rank%s: sums are exact\n", count, count == 1 ? "" : "s");
}

static void one_rank_sums(void **state)
{
    (void)state;
    expect_sums(1);
}

static void ranks_of_all_gpus_sum(void **state)
{
    (void)state;
    if (ranks == 1) {
        printf("not tested: several ranks, as there is one GPU\n");
        return;
    }
    expect_sums(ranks);
}

// In a process of its own, too.
static int count_gpus(void)
{
    int status = 0, count = 0;
    const pid_t child = fork();
    if (child == 0)
        _exit(cudaGetDeviceCount(&count) == cudaSuccess ? count : 0);
    if (child < 0 || waitpid(child, &status, 0) != child)
        return 0;
    return WIFEXITED(status) ? WEXITSTATUS(status) : 0;
}

int main(void)
{
    const char *wanted = getenv("MEMO_TEST_GPUS");
    const int there = count_gpus();
    if (there == 0) {
        printf("skipped: no GPU here\n");
        return SKIPPED;
    }
    ranks = there < RANKS_LIMIT ? there : RANKS_LIMIT;
    if (wanted && atoi(wanted) > 0 && atoi(wanted) < ranks)
        ranks = atoi(wanted);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(one_rank_sums),
        cmocka_unit_test(ranks_of_all_gpus_sum),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
