// SPDX-License-Identifier: Apache-2.0
// What the kernels that move memory ask of it, counted (traffic.h) and held against limits: how
// much of each sector is used, how much more is moved than must be, how wide a lane's accesses are,
// and conflicts of banks. Prints a table. Planted defects must be seen.
#include "tests/cuda_emulator/planted_traffic.h"
#include "tests/cuda_emulator/traffic.h"

#include "kernels/cuda/cuda.h"

extern "C" {
#include "tests/kernels/harness.h"

#include "base/random.h"
}

#include <stdio.h>
#include <vector>

// The share that one of 8 blocks on each of 132 multiprocessors has in the L2 cache of an H200, 50
// MB.
enum { CACHE_BYTES = 48 << 10 };

// A model's sizes, with few tokens.
enum {
    TOKENS = 48,
    HIDDEN = 5120,
    HEADS = 40,
    KV_HEADS = 8,
    HEAD_WIDTH = 128,
    FFN = 13824,
    VOCABULARY = 152064,
    QKV = (HEADS + 2 * KV_HEADS) * HEAD_WIDTH,
    PARAMETERS = 1 << 18,
};

static struct device *gpu;
static std::vector<void *> blocks;

static void *take(size_t bytes)
{
    struct error err;
    void *block;
    if (device_alloc(gpu, bytes, &block, &err))
        fail_msg("%s", err.text);
    blocks.push_back(block);
    return block;
}

static void give_back(void)
{
    for (void *block : blocks)
        device_free(gpu, block);
    blocks.clear();
}

static struct tensor noise(enum dtype dtype, size_t count)
{
    std::vector<float> values(count);
    std::vector<char> converted(count * dtype_bytes(dtype));
    const struct tensor out = {take(converted.size()), dtype};
    for (size_t i = 0; i < count; i++)
        values[i] = (float)((int)(i * 7919 % 2003) - 1001) / 1001;
    convert_from_f32(converted.data(), dtype, values.data(), count);
    device_copy_in(gpu, out.data, converted.data(), converted.size());
    return out;
}

static float *floats(size_t count)
{
    return (float *)noise(DTYPE_F32, count).data;
}

template <typename T> static T *filled(const std::vector<T> &values)
{
    T *out = (T *)take(values.size() * sizeof(T));
    device_copy_in(gpu, out, values.data(), values.size() * sizeof(T));
    return out;
}

// 0, step, 2 step...
static int32_t *steps(size_t count, int32_t step, int32_t limit)
{
    std::vector<int32_t> values(count);
    for (size_t i = 0; i < count; i++)
        values[i] = (int32_t)(i * (size_t)step) % limit;
    return filled(values);
}

// --- operations ---

static void run_embedding_forward(void)
{
    const struct embedding_forward a = {noise(DTYPE_BF16, TOKENS * HIDDEN),
                                        noise(DTYPE_BF16, 100 * HIDDEN),
                                        steps(TOKENS, 7, 100),
                                        TOKENS,
                                        HIDDEN,
                                        1};
    gpu->ops->embedding_forward(gpu, &a);
}

static void run_embedding_backward(void)
{
    const struct embedding_backward a = {noise(DTYPE_F32, 100 * HIDDEN),
                                         noise(DTYPE_BF16, TOKENS * HIDDEN),
                                         steps(TOKENS, 7, 24),
                                         TOKENS,
                                         100,
                                         HIDDEN,
                                         1};
    gpu->ops->embedding_backward(gpu, &a);
}

static void run_rmsnorm_forward(void)
{
    struct rmsnorm_forward a = {};
    a.out = noise(DTYPE_BF16, TOKENS * HIDDEN);
    a.x = noise(DTYPE_BF16, TOKENS * HIDDEN);
    a.weight = noise(DTYPE_BF16, HIDDEN);
    a.rstd = floats(TOKENS);
    a.rows = TOKENS;
    a.width = HIDDEN;
    gpu->ops->rmsnorm_forward(gpu, &a);
}

static void run_rmsnorm_forward_heads(void)
{
    struct rmsnorm_forward a = {};
    a.out = a.x = noise(DTYPE_BF16, TOKENS * QKV);
    a.weight = noise(DTYPE_BF16, HEAD_WIDTH);
    a.rows = TOKENS * HEADS;
    a.width = HEAD_WIDTH;
    a.heads = HEADS;
    a.stride = QKV;
    gpu->ops->rmsnorm_forward(gpu, &a);
}

// Several rows for each of the blocks.
static void run_rmsnorm_backward(void)
{
    enum { ROWS = 1056, WIDTH = 2048 };
    struct rmsnorm_backward a = {};
    a.grad_x = noise(DTYPE_BF16, ROWS * WIDTH);
    a.grad_weight = noise(DTYPE_F32, WIDTH);
    a.grad_out = noise(DTYPE_BF16, ROWS * WIDTH);
    a.x = noise(DTYPE_BF16, ROWS * WIDTH);
    a.rstd = floats(ROWS);
    a.weight = noise(DTYPE_BF16, WIDTH);
    a.rows = ROWS;
    a.width = WIDTH;
    gpu->ops->rmsnorm_backward(gpu, &a);
}

static void run_rope(void)
{
    const struct rope a = {noise(DTYPE_BF16, TOKENS * QKV),
                           steps(TOKENS, 1, 1000),
                           floats(HEAD_WIDTH / 2),
                           1,
                           TOKENS,
                           QKV,
                           HEADS + KV_HEADS,
                           HEAD_WIDTH,
                           false};
    gpu->ops->rope(gpu, &a);
}

static void run_rope_kv_write(void)
{
    const struct tensor x = noise(DTYPE_BF16, TOKENS * QKV);
    const size_t keys = HEADS * HEAD_WIDTH, values = keys + KV_HEADS * HEAD_WIDTH;
    const struct rope_kv_write a = {{x, steps(TOKENS, 1, 1000), floats(HEAD_WIDTH / 2), 1, TOKENS,
                                     QKV, HEADS + KV_HEADS, HEAD_WIDTH, false},
                                    {noise(DTYPE_BF16, 64 * KV_HEADS * HEAD_WIDTH),
                                     noise(DTYPE_BF16, 64 * KV_HEADS * HEAD_WIDTH),
                                     {(bf16 *)x.data + keys, DTYPE_BF16},
                                     {(bf16 *)x.data + values, DTYPE_BF16},
                                     QKV,
                                     steps(TOKENS, 1, 64),
                                     TOKENS,
                                     KV_HEADS,
                                     HEAD_WIDTH}};
    gpu->ops->rope_kv_write(gpu, &a);
}

static void run_gated_forward(void)
{
    const struct gated_forward a = {noise(DTYPE_BF16, 16 * FFN), noise(DTYPE_BF16, 16 * 2 * FFN),
                                    ACTIVATION_SILU, 16, FFN};
    gpu->ops->gated_forward(gpu, &a);
}

static void run_gated_backward(void)
{
    const struct gated_backward a = {noise(DTYPE_BF16, 16 * 2 * FFN),
                                     noise(DTYPE_BF16, 16 * FFN),
                                     noise(DTYPE_BF16, 16 * 2 * FFN),
                                     ACTIVATION_SILU,
                                     16,
                                     FFN};
    gpu->ops->gated_backward(gpu, &a);
}

static struct sequences two_sequences(void)
{
    return {filled<int32_t>({0, 20, TOKENS}), 2, TOKENS - 20};
}

enum { CONV_WIDTH = 2048, TAPS = 3 };

static void run_short_conv_forward(void)
{
    const struct short_conv_forward a = {noise(DTYPE_BF16, TOKENS * CONV_WIDTH),
                                         noise(DTYPE_BF16, TOKENS * 3 * CONV_WIDTH),
                                         noise(DTYPE_BF16, CONV_WIDTH * TAPS),
                                         two_sequences(),
                                         TOKENS,
                                         CONV_WIDTH,
                                         TAPS};
    gpu->ops->short_conv_forward(gpu, &a);
}

static void run_short_conv_backward(void)
{
    const struct short_conv_backward a = {noise(DTYPE_BF16, TOKENS * 3 * CONV_WIDTH),
                                          noise(DTYPE_F32, CONV_WIDTH * TAPS),
                                          noise(DTYPE_BF16, TOKENS * CONV_WIDTH),
                                          noise(DTYPE_BF16, TOKENS * 3 * CONV_WIDTH),
                                          noise(DTYPE_BF16, CONV_WIDTH * TAPS),
                                          two_sequences(),
                                          TOKENS,
                                          CONV_WIDTH,
                                          TAPS};
    gpu->ops->short_conv_backward(gpu, &a);
}

static void run_short_conv_cached(void)
{
    struct short_conv_cached a = {};
    a.out = noise(DTYPE_BF16, 16 * CONV_WIDTH);
    a.bcx = noise(DTYPE_BF16, 16 * 3 * CONV_WIDTH);
    a.weight = noise(DTYPE_BF16, CONV_WIDTH * TAPS);
    a.state = noise(DTYPE_BF16, 16 * (TAPS - 1) * CONV_WIDTH);
    a.tables = {steps(16, 1, 16), 1};
    a.sequences = steps(16, 1, 16);
    a.positions = steps(16, 0, 1);
    a.tokens = 16;
    a.width = CONV_WIDTH;
    a.taps = TAPS;
    gpu->ops->short_conv_cached(gpu, &a);
}

static void cross_entropy_call(bool backward)
{
    const struct cross_entropy a = {noise(DTYPE_BF16, 2 * VOCABULARY),
                                    floats(2),
                                    steps(2, 1000, VOCABULARY),
                                    2,
                                    VOCABULARY,
                                    0.5f,
                                    backward};
    gpu->ops->cross_entropy(gpu, &a);
}

static void run_cross_entropy_forward(void)
{
    cross_entropy_call(false);
}

static void run_cross_entropy_backward(void)
{
    cross_entropy_call(true);
}

static void run_rows_gather(void)
{
    const struct rows_gather a = {noise(DTYPE_BF16, TOKENS * HIDDEN),
                                  noise(DTYPE_BF16, 2 * TOKENS * HIDDEN),
                                  steps(TOKENS, 2, 2 * TOKENS), TOKENS, HIDDEN};
    gpu->ops->rows_gather(gpu, &a);
}

static void run_rows_scatter_add(void)
{
    const struct rows_scatter_add a = {noise(DTYPE_BF16, 2 * TOKENS * HIDDEN),
                                       noise(DTYPE_BF16, TOKENS * HIDDEN),
                                       steps(TOKENS, 2, 2 * TOKENS), TOKENS, HIDDEN};
    gpu->ops->rows_scatter_add(gpu, &a);
}

static void run_dropout(void)
{
    struct dropout a = {};
    a.out = noise(DTYPE_BF16, TOKENS * HIDDEN);
    a.x = noise(DTYPE_BF16, TOKENS * HIDDEN);
    a.keys = filled(std::vector<uint64_t>(TOKENS, 5));
    a.drop_below = 1u << 28;
    a.factor = 1;
    a.rows = TOKENS;
    a.width = HIDDEN;
    gpu->ops->dropout(gpu, &a);
}

static void run_adamw(void)
{
    const struct adamw a = {floats(PARAMETERS),
                            floats(PARAMETERS),
                            floats(PARAMETERS),
                            floats(PARAMETERS),
                            PARAMETERS,
                            1,
                            1e-3f,
                            0.9f,
                            0.99f,
                            1e-8f,
                            0.01f,
                            1};
    gpu->ops->adamw(gpu, &a);
}

static void adamw_of(enum moment_kind moments)
{
    struct adamw_compact a = {};
    const enum dtype kept = moments == MOMENTS_F32 ? DTYPE_F32 : DTYPE_BF16;
    a.parameter = noise(DTYPE_BF16, PARAMETERS);
    a.remainder = (int16_t *)take(PARAMETERS * 2);
    a.moments = moments;
    a.moment1 = noise(kept, PARAMETERS).data;
    a.moment2 = noise(kept, PARAMETERS).data;
    a.scale1 = floats(PARAMETERS / MOMENT_BLOCK);
    a.scale2 = floats(PARAMETERS / MOMENT_BLOCK);
    a.grad = noise(DTYPE_F32, PARAMETERS);
    a.count = PARAMETERS;
    a.grad_scale = 1;
    a.learning_rate = 1e-3f;
    a.beta1 = 0.9f;
    a.beta2 = 0.99f;
    a.epsilon = 1e-8f;
    a.step = 1;
    gpu->ops->adamw_compact(gpu, &a);
}

static void run_adamw_8bit(void)
{
    adamw_of(MOMENTS_8BIT);
}

static void run_adamw_bf16(void)
{
    adamw_of(MOMENTS_BF16);
}

static void sample_row_of(float scale, float top_p)
{
    struct sample_row row = {};
    row.random = 12345;
    row.scale = scale;
    row.top_p = top_p;
    row.mask = row.seen = -1;
    const struct sample a = {
        (int32_t *)take(4), noise(DTYPE_F32, VOCABULARY), filled<struct sample_row>({row}), NULL, 1,
        VOCABULARY};
    gpu->ops->sample(gpu, &a);
}

static void run_sample_top_p(void)
{
    sample_row_of(1, 0.95f);
}

static void run_argmax(void)
{
    gpu->ops->argmax(gpu, (int32_t *)take(8), noise(DTYPE_F32, 2 * VOCABULARY), 2, VOCABULARY);
}

static void run_sum_squares(void)
{
    gpu->ops->sum_squares(gpu, (double *)take(8), noise(DTYPE_F32, 4 * PARAMETERS), 4 * PARAMETERS);
}

static void run_quantize_rows(void)
{
    const struct quantize_rows a = {(uint8_t *)take(TOKENS * HIDDEN), floats(TOKENS),
                                    noise(DTYPE_BF16, TOKENS * HIDDEN), TOKENS, HIDDEN};
    gpu->ops->quantize_rows(gpu, &a);
}

// --- what is expected ---

struct expectation {
    const char *operation;
    void (*call)(void);
    const char *kernel;
    double efficiency; // at least
    double traffic;    // moved / floor, at most
    double lane_bytes; // at least
    double conflicts;  // at most
};

// Ids, positions and scales are few bytes that all lanes ask for: they lower efficiency and lane.
// Codes of moments and weights by digit are looked up at random, hence the conflicts of those.
static const struct expectation expectations[] = {
    {"embedding_forward", run_embedding_forward, "embedding_forward_kernel", 0.98, 1.01, 13.5, 1},
    {"embedding_backward", run_embedding_backward, "embedding_backward_kernel", 0.77, 1.01, 5, 1},
    {"embedding_backward", run_embedding_backward, "sort_tokens_kernel", 0.7, 1.01, 4, 1},
    {"rmsnorm_forward", run_rmsnorm_forward, "rmsnorm_forward_kernel", 0.99, 1.01, 15.9, 1},
    {"rmsnorm_forward, heads", run_rmsnorm_forward_heads, "rmsnorm_forward_kernel", 0.99, 1.01,
     15.9, 1},
    {"rmsnorm_backward", run_rmsnorm_backward, "rmsnorm_backward_kernel", 0.89, 1.07, 13.5, 1},
    {"rmsnorm_backward", run_rmsnorm_backward, "reduce_parts_kernel", 0.99, 1.01, 4, 1},
    {"rope", run_rope, "rope_kernel", 0.99, 1.01, 14.5, 1.05},
    {"rope_kv_write", run_rope_kv_write, "rope_kv_write_kernel", 0.95, 1.01, 10.5, 1},
    {"gated_forward", run_gated_forward, "gated_forward_kernel", 0.99, 1.01, 16, 1},
    {"gated_backward", run_gated_backward, "gated_backward_kernel", 0.99, 1.01, 16, 1},
    {"short_conv_forward", run_short_conv_forward, "short_conv_forward_kernel", 0.59, 1.01, 2, 1},
    {"short_conv_backward", run_short_conv_backward, "short_conv_backward_kernel", 0.6, 1.01, 2, 1},
    {"short_conv_backward", run_short_conv_backward, "short_conv_weight_kernel", 0.85, 1.01, 2, 1},
    {"short_conv_cached", run_short_conv_cached, "short_conv_cached_kernel", 0.55, 1.05, 2, 1},
    {"cross_entropy", run_cross_entropy_forward, "cross_entropy_kernel", 0.99, 1.01, 15, 1},
    {"cross_entropy, gradient", run_cross_entropy_backward, "cross_entropy_kernel", 0.99, 1.01, 15,
     1},
    {"rows_gather", run_rows_gather, "rows_gather_kernel", 0.98, 1.01, 13.5, 1},
    {"rows_scatter_add", run_rows_scatter_add, "rows_scatter_add_kernel", 0.98, 1.01, 14.5, 1},
    {"dropout", run_dropout, "dropout_kernel", 0.98, 1.01, 14.5, 1},
    {"adamw", run_adamw, "adamw_kernel", 1, 1, 16, 1},
    {"adamw_compact, 8 bits", run_adamw_8bit, "adamw_compact_kernel", 0.96, 1.05, 6.5, 2.7},
    {"adamw_compact, bf16", run_adamw_bf16, "adamw_compact_kernel", 1, 1, 8.5, 1},
    {"sample, top_p", run_sample_top_p, "sample_top_kernel", 0.9, 1.01, 7.9, 1},
    {"sample, top_p", run_sample_top_p, "sample_weigh_kernel", 0.98, 1.01, 15, 1.01},
    {"sample, top_p", run_sample_top_p, "sample_pick_kernel", 0.98, 7, 15.9, 2},
    {"argmax", run_argmax, "argmax_kernel", 0.99, 1.01, 15.9, 1},
    {"sum_squares", run_sum_squares, "sum_squares_kernel", 0.99, 1.01, 15.9, 1},
    {"quantize_rows", run_quantize_rows, "quantize_rows_kernel", 0.99, 1.01, 13, 1},
};

static traffic_table counted(void (*call)(void))
{
    struct error err;
    traffic_begin(CACHE_BYTES);
    call();
    if (device_sync(gpu, &err))
        fail_msg("%s", err.text);
    give_back();
    return traffic_end();
}

static double traffic_ratio(const struct traffic_kernel *kernel)
{
    return (double)kernel->moved / (double)kernel->floor;
}

static void print_row(const struct expectation *e, const struct traffic_kernel *kernel)
{
    const struct traffic_count *all = &kernel->all;
    printf("%-24s %-28s %5zu x%5zu %9zu %9zu %6.2f %9zu %6.1f%% %5.1f %6.2f\n", e->operation,
           e->kernel, (size_t)kernel->blocks, (size_t)kernel->threads, (size_t)kernel->floor,
           (size_t)kernel->moved, traffic_ratio(kernel), (size_t)all->sectors * TRAFFIC_SECTOR,
           100 * traffic_efficiency(all), traffic_lane_bytes(all), traffic_conflicts(all));
    if (getenv("MEMO_TRAFFIC_LINES"))
        traffic_print_worst(kernel, 4);
}

static bool holds(const struct expectation *e, const struct traffic_kernel *kernel)
{
    const double rounding = 1e-9;
    return traffic_efficiency(&kernel->all) >= e->efficiency - rounding &&
           traffic_ratio(kernel) <= e->traffic + rounding &&
           traffic_lane_bytes(&kernel->all) >= e->lane_bytes - rounding &&
           traffic_conflicts(&kernel->all) <= e->conflicts + rounding;
}

static void kernels_move_little_more_than_they_must(void **state)
{
    (void)state;
    traffic_table table;
    void (*last)(void) = NULL;
    size_t broken = 0;
    printf("%-24s %-28s %12s %9s %9s %6s %9s %7s %5s %6s\n", "operation", "kernel", "blocks x thr",
           "floor", "moved", "ratio", "requested", "sectors", "lane", "banks");
    for (const struct expectation &e : expectations) {
        if (e.call != last)
            table = counted(last = e.call);
        const auto found = table.find(e.kernel);
        if (found == table.end())
            fail_msg("%s does not launch %s", e.operation, e.kernel);
        print_row(&e, &found->second);
        if (!holds(&e, &found->second)) {
            printf("    expected: ratio %.2f, sectors %.1f%%, lane %.1f, banks %.2f\n", e.traffic,
                   100 * e.efficiency, e.lane_bytes, e.conflicts);
            traffic_print_worst(&found->second, 8);
            broken++;
        }
    }
    assert_int_equal(broken, 0);
}

// --- planted defects ---

static const struct traffic_kernel only_kernel(void (*call)(void))
{
    const traffic_table table = counted(call);
    assert_int_equal(table.size(), 1);
    return table.begin()->second;
}

static void run_planted_strided(void)
{
    const struct adamw a = {floats(4096), floats(4096), floats(4096), floats(4096), 4096,  1,
                            1e-3f,        0.9f,         0.99f,        1e-8f,        0.01f, 1};
    planted_strided_adamw(gpu, &a);
}

static void run_planted_narrow(void)
{
    const struct gated_forward a = {noise(DTYPE_BF16, FFN), noise(DTYPE_BF16, 2 * FFN),
                                    ACTIVATION_SILU, 1, FFN};
    planted_narrow_gated_forward(gpu, &a);
}

static void run_planted_rereading(void)
{
    const struct cross_entropy a = {noise(DTYPE_BF16, VOCABULARY),
                                    floats(1),
                                    steps(1, 1000, VOCABULARY),
                                    1,
                                    VOCABULARY,
                                    0.5f,
                                    true};
    planted_rereading_cross_entropy(gpu, &a);
}

static void run_tile_with_pad(void)
{
    planted_tile(gpu, noise(DTYPE_BF16, 64 * 64), true);
}

static void run_planted_tile(void)
{
    planted_tile(gpu, noise(DTYPE_BF16, 64 * 64), false);
}

static void strided_lanes_waste_sectors(void **state)
{
    (void)state;
    const struct traffic_kernel kernel = only_kernel(run_planted_strided);
    assert_true(traffic_efficiency(&kernel.all) == 0.5); // 16 bytes of each sector
}

static void narrow_loads_show_in_the_bytes_of_a_lane(void **state)
{
    (void)state;
    const struct traffic_kernel kernel = only_kernel(run_planted_narrow);
    assert_true(traffic_lane_bytes(&kernel.all) == 2);
    assert_true(traffic_efficiency(&kernel.all) == 1);
}

static void what_is_read_twice_is_moved_twice(void **state)
{
    (void)state;
    const struct traffic_kernel kernel = only_kernel(run_planted_rereading);
    assert_true(traffic_ratio(&kernel) > 1.3);
}

static void tile_without_pad_has_conflicts(void **state)
{
    (void)state;
    const struct traffic_kernel padded = only_kernel(run_tile_with_pad);
    const struct traffic_kernel bare = only_kernel(run_planted_tile);
    assert_true(traffic_conflicts(&padded.all) == 1);
    assert_true(traffic_conflicts(&bare.all) > 4); // reading; rows are written without conflicts
}

static int create(void **state)
{
    struct error err;
    struct device_options options = {};
    (void)state;
    options.backend = "cuda";
    if (device_create(&options, &gpu, &err))
        fail_msg("%s", err.text);
    return 0;
}

static int release(void **state)
{
    (void)state;
    device_destroy(gpu);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(kernels_move_little_more_than_they_must),
        cmocka_unit_test(strided_lanes_waste_sectors),
        cmocka_unit_test(narrow_loads_show_in_the_bytes_of_a_lane),
        cmocka_unit_test(what_is_read_twice_is_moved_twice),
        cmocka_unit_test(tile_without_pad_has_conflicts),
    };
    return cmocka_run_group_tests(tests, create, release);
}
