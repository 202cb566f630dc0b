// SPDX-License-Identifier: Apache-2.0
// Errors planted into the real kernels, by redefining one word before the source is read again: the
// emulator, or the comparison with ref, must catch each of them.
#include "kernels/cuda/ptx.h"

// The two registers of a right-hand fragment are swapped.
#define multiply_16x8x16(sum, a, b0, b1) multiply_16x8x16(sum, a, b1, b0)
#define cuda_attention_forward planted_attention_forward
#include "kernels/cuda/attention.cu"
#undef cuda_attention_forward
#undef multiply_16x8x16

#include "kernels/cuda/attention_pieces.h"

extern "C" {
#include "tests/kernels/harness.h"

#include "base/mem.h"
#include "base/random.h"
#include "kernels/fp8.h"
}

#include <math.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

// A barrier is missing.
namespace without_barriers
{
#define __syncthreads() ((void)0)
#define cuda_argmax planted_argmax
#define cuda_sum_squares planted_sum_squares
#define reduce_parts planted_reduce_parts
#include "kernels/cuda/reduce.cu"
#undef reduce_parts
#undef cuda_sum_squares
#undef cuda_argmax
#undef __syncthreads
} // namespace without_barriers

// The last block, which is not full, is forgotten.
namespace without_tail
{
#define blocks_of(count, per_block) ((unsigned)((count) / (per_block)))
#define cuda_adamw planted_adamw
#include "kernels/cuda/adamw.cu"
#undef cuda_adamw
#undef blocks_of
} // namespace without_tail

// In our own products: the two registers of a token's words are swapped; a chunk is used before it
// has come; nobody waits for those who still read a chunk.
namespace swapped_words
{
#define multiply_codes_16x8x32(sum, a, b0, b1) multiply_codes_16x8x32(sum, a, b1, b0)
#define multiply_16x8x16(sum, a, b0, b1) multiply_16x8x16(sum, a, b1, b0)
#define gemm_tiles_run planted_gemm_swapped
#include "kernels/cuda/gemm_tiles.cu"
#undef gemm_tiles_run
#undef multiply_16x8x16
#undef multiply_codes_16x8x32
} // namespace swapped_words

namespace without_wait
{
#define async_wait async_wait_for_one_less
template <int groups> static void async_wait_for_one_less(void)
{
    emulator_async_wait(groups + 1);
}
#define gemm_tiles_run planted_gemm_early
#include "kernels/cuda/gemm_tiles.cu"
#undef gemm_tiles_run
#undef async_wait
} // namespace without_wait

namespace without_waiting_for_readers
{
#define __syncthreads() ((void)0)
#define gemm_tiles_run planted_gemm_racing
#include "kernels/cuda/gemm_tiles.cu"
#undef gemm_tiles_run
#undef __syncthreads
} // namespace without_waiting_for_readers

// What was merged and what is added change places.
namespace merging_the_wrong_way
{
#define merged(m, total, added) merged(m, added, total)
#define cuda_attention_cached planted_attention_cached
#include "kernels/cuda/attention_cached.cu"
#undef cuda_attention_cached
#undef merged
} // namespace merging_the_wrong_way

// Blocks of keys are read before they are there, and overwritten while they are read.
#define __syncthreads() ((void)0)
namespace cached_without_barriers
{
#define cuda_attention_cached planted_attention_cached
#include "kernels/cuda/attention_cached.cu"
#undef cuda_attention_cached
} // namespace cached_without_barriers
namespace backward_without_barriers
{
#define cuda_attention_backward planted_attention_backward
#include "kernels/cuda/attention_backward.cu"
#undef cuda_attention_backward
} // namespace backward_without_barriers
#undef __syncthreads

static void missing_barrier_is_a_race(void **state)
{
    struct devices *devices = (struct devices *)*state;
    struct error err;
    struct test_memory memory = {};
    float *x = memory_random(&memory, 1000);
    int32_t *best = memory_ints(&memory, 1, 1);
    without_barriers::planted_argmax(devices->cpu[0], best, f32(x), 1, 1000);
    assert_int_equal(device_sync(devices->cpu[0], &err), -1);
    assert_non_null(strstr(err.text, "argmax_kernel"));
    assert_non_null(strstr(err.text, "of shared memory"));
    memory_release(&memory);
}

static void forgotten_tail_differs_from_ref(void **state)
{
    enum { COUNT = 2400 }; // two blocks of 1,024 elements and a part of one
    struct devices *devices = (struct devices *)*state;
    float *memory = (float *)devices_memory(4 * COUNT * sizeof *memory);
    for (size_t i = 0; i < 4 * COUNT; i++)
        memory[i] = fabsf((float)random_normal(3, 0, i));
    float *copy = (float *)mem_dup(memory, 4 * COUNT * sizeof *memory);
    struct adamw a = {memory,
                      memory + COUNT,
                      memory + 2 * COUNT,
                      memory + 3 * COUNT,
                      COUNT,
                      1,
                      0.1f,
                      0.9f,
                      0.99f,
                      1e-8f,
                      0.01f,
                      1};
    without_tail::planted_adamw(devices->cpu[0], &a);
    a.parameter = copy, a.moment1 = copy + COUNT, a.moment2 = copy + 2 * COUNT;
    devices->ref->ops->adamw(devices->ref, &a);
    size_t different = 0;
    for (size_t i = 0; i < COUNT; i++)
        different += fabsf(memory[i] - copy[i]) > 1e-3f; // a first step moves by the rate, 0.1
    assert_int_equal(different, COUNT % 1024);
    devices_free(memory);
    free(copy);
}

static void swapped_fragment_differs_from_ref(void **state)
{
    enum { TOKENS = 64, WIDTH = 64, COUNT = TOKENS * WIDTH };
    struct devices *devices = (struct devices *)*state;
    struct tensor tensors[4]; // q, k, v, out
    int32_t *offsets = (int32_t *)devices_memory(2 * sizeof *offsets);
    offsets[0] = 0;
    offsets[1] = TOKENS;
    for (int t = 0; t < 4; t++) {
        tensors[t] = {devices_memory(COUNT * 2), DTYPE_BF16};
        for (size_t i = 0; i < COUNT; i++)
            ((uint16_t *)tensors[t].data)[i] = bf16_from_f32((float)random_normal(5, t, i));
    }
    const struct attention_forward a = {
        tensors[3], NULL, tensors[0], tensors[1], tensors[2], WIDTH, {offsets, 1, TOKENS},
        TOKENS,     1,    1,          WIDTH,      0.125f,     0};
    float planted[COUNT], expected[COUNT], largest = 0;
    struct error err;
    planted_attention_forward(devices->cpu[1], &a);
    assert_int_equal(device_sync(devices->cpu[1], &err), 0);
    convert_to_f32(planted, tensors[3].data, DTYPE_BF16, COUNT);
    devices->ref->ops->attention_forward(devices->ref, &a);
    convert_to_f32(expected, tensors[3].data, DTYPE_BF16, COUNT);
    for (size_t i = 0; i < COUNT; i++)
        largest = fmaxf(largest, fabsf(planted[i] - expected[i]));
    assert_true(largest > 0.1f); // a right one differs by less than 0.02
    for (int t = 0; t < 4; t++)
        devices_free(tensors[t].data);
    devices_free(offsets);
}

// One sequence of 300 positions in blocks 0 to 9, beyond the first piece of 256. Its rows begin at
// multiples of 16 bytes, as tiles need.
struct cached_call {
    struct attention_cached call;
    struct test_memory memory;
    void *aligned[16];
    size_t count;
};

static struct tensor normal_bf16(struct cached_call *c, size_t count)
{
    const struct tensor out = {devices_memory(count * 2), DTYPE_BF16};
    for (size_t i = 0; i < count; i++)
        ((uint16_t *)out.data)[i] = bf16_from_f32((float)random_normal(9, count, i));
    c->aligned[c->count++] = out.data;
    return out;
}

static void cached_call_release(struct cached_call *c)
{
    memory_release(&c->memory);
    while (c->count > 0)
        devices_free(c->aligned[--c->count]);
}

static void cached_call_init(struct cached_call *c)
{
    enum { BLOCKS = 10, WIDTH = 8, CACHE = BLOCKS * KV_BLOCK_TOKENS * WIDTH };
    const struct attention_group group = {0, 1, 0, 1};
    const struct attention_segment segment = {0, 1, 0, BLOCKS};
    int32_t *table = memory_ints(&c->memory, BLOCKS, 1);
    int32_t *position = memory_ints(&c->memory, 1, 1);
    for (int32_t i = 0; i < BLOCKS; i++)
        table[i] = i;
    position[0] = 299;
    c->call = {normal_bf16(c, WIDTH),
               normal_bf16(c, WIDTH),
               WIDTH,
               normal_bf16(c, CACHE),
               normal_bf16(c, CACHE),
               {table, BLOCKS},
               memory_ints(&c->memory, 1, 1),
               position,
               {memory_ints(&c->memory, 1, 1),
                (struct attention_group *)memory_of(&c->memory, &group, 1, sizeof group),
                (struct attention_segment *)memory_of(&c->memory, &segment, 1, sizeof segment), 1,
                1},
               1,
               1,
               1,
               WIDTH,
               0.3f,
               0};
}

static void wrong_merge_differs_from_ref(void **state)
{
    enum { WIDTH = 8 };
    struct devices *devices = (struct devices *)*state;
    struct cached_call c = {};
    struct error err;
    float planted[WIDTH], right[WIDTH], expected[WIDTH];
    float largest = 0, noise = 0;
    cached_call_init(&c);
    merging_the_wrong_way::planted_attention_cached(devices->cpu[1], &c.call);
    assert_int_equal(device_sync(devices->cpu[1], &err), 0);
    convert_to_f32(planted, c.call.out.data, DTYPE_BF16, WIDTH);
    devices->cpu[1]->ops->attention_cached(devices->cpu[1], &c.call);
    convert_to_f32(right, c.call.out.data, DTYPE_BF16, WIDTH);
    devices->ref->ops->attention_cached(devices->ref, &c.call);
    convert_to_f32(expected, c.call.out.data, DTYPE_BF16, WIDTH);
    for (size_t i = 0; i < WIDTH; i++) {
        largest = fmaxf(largest, fabsf(planted[i] - expected[i]));
        noise = fmaxf(noise, fabsf(right[i] - expected[i]));
    }
    assert_true(noise < 2e-3f && largest > 1e-2f);
    cached_call_release(&c);
}

// A product of small numbers, ROWS x WIDTH, whose depth has two parts.
enum { PRODUCT_ROWS = 9, PRODUCT_WIDTH = 70, PRODUCT_DEPTH = 1040 };

struct product {
    struct gemm_call call;
    float *scales;
};

static struct product product_create(bool codes)
{
    struct product p = {};
    uint16_t *x = (uint16_t *)devices_memory(PRODUCT_ROWS * PRODUCT_DEPTH * 2);
    uint16_t *weight = (uint16_t *)devices_memory(PRODUCT_WIDTH * PRODUCT_DEPTH * 2);
    float *scales = (float *)devices_memory((PRODUCT_ROWS + PRODUCT_WIDTH) * sizeof *scales);
    for (size_t i = 0; i < PRODUCT_WIDTH * PRODUCT_DEPTH; i++) {
        const float value = (float)random_normal(9, 0, i);
        weight[i] = codes ? fp8_encode(value) | fp8_encode(-value) << 8 : bf16_from_f32(value);
        if (i < PRODUCT_ROWS * PRODUCT_DEPTH)
            x[i] = codes ? fp8_encode(value) | fp8_encode(1) << 8 : bf16_from_f32(value);
    }
    for (size_t i = 0; i < PRODUCT_ROWS + PRODUCT_WIDTH; i++)
        scales[i] = 1;
    p.call.c = {devices_memory(PRODUCT_ROWS * PRODUCT_WIDTH * 4), DTYPE_F32};
    p.call.a = {x, DTYPE_BF16};
    p.call.b = {weight, DTYPE_BF16};
    p.call.m = PRODUCT_ROWS;
    p.call.n = PRODUCT_WIDTH;
    p.call.k = codes ? 2 * PRODUCT_DEPTH : PRODUCT_DEPTH;
    p.call.b_transposed = true;
    p.scales = scales;
    p.call.a_scales = codes ? scales : NULL;
    p.call.b_scales = codes ? scales + PRODUCT_ROWS : NULL;
    return p;
}

static void product_release(struct product *p)
{
    void *blocks[] = {p->call.a.data, p->call.b.data, p->call.c.data, p->scales};
    for (int i = 0; i < 4; i++)
        devices_free(blocks[i]);
}

static void swapped_words_differ(void **state)
{
    struct devices *devices = (struct devices *)*state;
    struct error err;
    for (int codes = 0; codes < 2; codes++) {
        struct product p = product_create(codes);
        float expected[PRODUCT_ROWS * PRODUCT_WIDTH], largest = 0;
        float *got = (float *)p.call.c.data;
        assert_int_equal(gemm_tiles_run(devices->cpu[1], &p.call), 0);
        assert_int_equal(device_sync(devices->cpu[1], &err), 0);
        memcpy(expected, got, sizeof expected);
        assert_int_equal(swapped_words::planted_gemm_swapped(devices->cpu[1], &p.call), 0);
        assert_int_equal(device_sync(devices->cpu[1], &err), 0);
        for (size_t i = 0; i < PRODUCT_ROWS * PRODUCT_WIDTH; i++)
            largest = fmaxf(largest, fabsf(got[i] - expected[i]));
        assert_true(largest > 1); // right ones differ by less than 1e-3
        product_release(&p);
    }
}

static void expect_fault(struct device *device, const char *text)
{
    struct error err;
    cuda_launched(device, "planted");
    assert_int_equal(device_sync(device, &err), -1);
    if (!strstr(err.text, text))
        fail_msg("'%s' does not say '%s'", err.text, text);
    cuda_of(device)->problem[0] = '\0';
}

static void chunks_that_have_not_come_are_missed(void **state)
{
    struct devices *devices = (struct devices *)*state;
    struct product p = product_create(false);
    (void)without_wait::planted_gemm_early(devices->cpu[1], &p.call);
    expect_fault(devices->cpu[1], "of shared memory");
    product_release(&p);
}

static void chunks_that_are_still_read_are_kept(void **state)
{
    struct devices *devices = (struct devices *)*state;
    struct product p = product_create(true);
    (void)without_waiting_for_readers::planted_gemm_racing(devices->cpu[1], &p.call);
    expect_fault(devices->cpu[1], "of shared memory");
    product_release(&p);
}

static void missing_barriers_in_attention_are_races(void **state)
{
    enum { WIDTH = 8, TOKENS = 130 };
    struct devices *devices = (struct devices *)*state;
    struct cached_call c = {};
    cached_call_init(&c);
    cached_without_barriers::planted_attention_cached(devices->cpu[1], &c.call);
    expect_fault(devices->cpu[1], "of shared memory");
    int32_t *offsets = memory_ints(&c.memory, 2, 1);
    offsets[1] = TOKENS;
    const struct tensor rows = normal_bf16(&c, TOKENS * WIDTH);
    const struct attention_backward backward = {normal_bf16(&c, TOKENS * WIDTH),
                                                normal_bf16(&c, TOKENS * WIDTH),
                                                normal_bf16(&c, TOKENS * WIDTH),
                                                rows,
                                                rows,
                                                memory_floats(&c.memory, TOKENS),
                                                rows,
                                                rows,
                                                rows,
                                                WIDTH,
                                                {offsets, 1, TOKENS},
                                                TOKENS,
                                                1,
                                                1,
                                                WIDTH,
                                                0.3f,
                                                0};
    backward_without_barriers::planted_attention_backward(devices->cpu[1], &backward);
    expect_fault(devices->cpu[1], "of shared memory");
    cached_call_release(&c);
}

static void too_many_kernel(void)
{
    CUDA_SHARED(float, slots, 4);
    slots[threadIdx.x] = 1;
}

static void end_of_shared_memory_is_kept(void **state)
{
    struct devices *devices = (struct devices *)*state;
    CUDA_LAUNCH(too_many_kernel, 1, 5, 0, NULL);
    expect_fault(devices->cpu[1], "element 4 of a shared array of 4");
}

static void store_kernel(float *to)
{
    *to = 1;
}

static void memory_of_the_host_is_out_of_reach(void **state)
{
    struct devices *devices = (struct devices *)*state;
    static float fixed;
    float local = 0;
    void *heap = malloc(64);
    CUDA_LAUNCH(store_kernel, 1, 1, 0, NULL, &local);
    expect_fault(devices->cpu[1], "store_kernel: an argument points to memory of the host");
    CUDA_LAUNCH(store_kernel, 1, 1, 0, NULL, &fixed);
    expect_fault(devices->cpu[1], "store_kernel: an argument points to memory of the host");
#if !defined(__SANITIZE_ADDRESS__) // whose heap is somewhere else
    CUDA_LAUNCH(store_kernel, 1, 1, 0, NULL, (float *)heap);
    expect_fault(devices->cpu[1], "store_kernel: an argument points to memory of the host");
#endif
    free(heap);
    assert_true(local == 0 && fixed == 0);
}

static void memory_of_the_device_is_used_while_it_is_there(void **state)
{
    struct devices *devices = (struct devices *)*state;
    struct error err;
    void *block;
    assert_int_equal(device_alloc(devices->cpu[1], 64, &block, &err), 0);
    CUDA_LAUNCH(store_kernel, 1, 1, 0, NULL, (float *)block);
    cuda_launched(devices->cpu[1], "planted");
    assert_int_equal(device_sync(devices->cpu[1], &err), 0);
    device_free(devices->cpu[1], block);
    CUDA_LAUNCH(store_kernel, 1, 1, 0, NULL, (float *)block);
    expect_fault(devices->cpu[1], "store_kernel: an argument points to memory of the device that");
}

// A child of its own, as it dies.
static void host_cannot_touch_the_device(void **state)
{
    struct devices *devices = (struct devices *)*state;
    struct error err;
    void *block;
    int status;
    assert_int_equal(device_alloc(devices->cpu[1], 64, &block, &err), 0);
    const pid_t child = fork();
    if (child == 0) {
        signal(SIGSEGV, SIG_DFL);
        *(volatile float *)block = 1;
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGSEGV);
    device_free(devices->cpu[1], block);
}

static int release(void **state)
{
    struct devices *devices = (struct devices *)*state;
    device_destroy(devices->ref);
    for (size_t i = 0; i < devices->count; i++)
        device_destroy(devices->cpu[i]);
    free(devices);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(missing_barrier_is_a_race),
        cmocka_unit_test(forgotten_tail_differs_from_ref),
        cmocka_unit_test(swapped_fragment_differs_from_ref),
        cmocka_unit_test(wrong_merge_differs_from_ref),
        cmocka_unit_test(missing_barriers_in_attention_are_races),
        cmocka_unit_test(swapped_words_differ),
        cmocka_unit_test(chunks_that_have_not_come_are_missed),
        cmocka_unit_test(chunks_that_are_still_read_are_kept),
        cmocka_unit_test(end_of_shared_memory_is_kept),
        cmocka_unit_test(memory_of_the_host_is_out_of_reach),
        cmocka_unit_test(memory_of_the_device_is_used_while_it_is_there),
        cmocka_unit_test(host_cannot_touch_the_device),
    };
    return cmocka_run_group_tests(tests, devices_create, release);
}
