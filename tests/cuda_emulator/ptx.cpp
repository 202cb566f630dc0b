// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/ptx.h"

extern "C" {
#include "kernels/device.h"
#include "kernels/fp8.h"
}

#include <vector>

bf16 bf16_round(float value)
{
    return {bf16_from_f32(value)};
}

f16 f16_round(float value)
{
    return {f16_from_f32(value)};
}

float f16_widen(f16 value)
{
    return f16_to_f32(value.bits);
}

uint32_t bf16_pair(float low, float high)
{
    return (uint32_t)bf16_from_f32(high) << 16 | bf16_from_f32(low);
}

float exp2_approx(float x)
{
    return x < -126 ? 0 : exp2f(x);
}

// What an instruction of the GPU does as a whole is not counted element by element.
class uncounted
{
    const struct emulator_observer *observer = emulator_observed;

  public:
    uncounted()
    {
        emulator_observed = NULL;
    }
    ~uncounted()
    {
        emulator_observed = observer;
    }
};

// Eight elements of shared memory.
static void observe_row(const void *at, shared_pointer<bf16> row, bool write)
{
    if (emulator_observed)
        emulator_observed->shared(at, (size_t)row.offset * sizeof(bf16), 8 * sizeof(bf16), write);
}

// --- asynchronous copies ---

struct copy {
    shared_pointer<bf16> to;
    bf16 values[8];
    const bf16 *from;
    bool valid;
    unsigned group;
};

struct copies {
    std::vector<struct copy> pending;
    unsigned committed; // groups
};

// Of each thread of the block. That emulator_async_wait has come is checked by the reads of what
// nobody wrote.
static struct copies copies[EMULATOR_THREADS_LIMIT];
static bool copied; // by a thread of this block

void emulator_forget_copies(void)
{
    for (unsigned i = 0; copied && i < EMULATOR_THREADS_LIMIT; i++) {
        copies[i].pending.clear();
        copies[i].committed = 0;
    }
    copied = false;
}

void async_copy8(shared_pointer<bf16> to, const bf16 *from, bool valid)
{
    struct copies *mine = &copies[emulator_current->number];
    if ((to.offset & 7) != 0 || (valid && ((uintptr_t)from & 15) != 0))
        emulator_fail("asynchronous copy between addresses that are not multiples of 16 bytes");
    copied = true;
    mine->pending.push_back({to, {}, from, valid, mine->committed});
    if (emulator_observed && valid)
        emulator_observed->global(__builtin_return_address(0), from, 8 * sizeof(bf16), false);
    observe_row(__builtin_return_address(0), to, true);
}

void async_commit(void)
{
    copies[emulator_current->number].committed++;
}

void emulator_async_wait(unsigned groups)
{
    struct copies *mine = &copies[emulator_current->number];
    const uncounted here;
    std::vector<struct copy> still;
    for (struct copy &copy : mine->pending) {
        if (copy.group + groups >= mine->committed) {
            still.push_back(copy);
            continue;
        }
        for (int i = 0; i < 8; i++)
            copy.to[i] = copy.valid ? copy.from[i] : bf16{0};
    }
    mine->pending = still;
}

// --- matrices ---

static uint32_t pair(bf16 low, bf16 high)
{
    return (uint32_t)high.bits << 16 | low.bits;
}

static shared_pointer<bf16> row_of(const void *rows, unsigned lane)
{
    shared_pointer<bf16> row;
    memcpy(&row, emulator_lane(rows, lane), sizeof row);
    return row;
}

void load_matrices(uint32_t out[4], shared_pointer<bf16> row)
{
    if ((row.offset & 7) != 0)
        emulator_fail("ldmatrix from an address that is not a multiple of 16 bytes");
    const unsigned lane = emulator_current->number % EMULATOR_WARP;
    observe_row(__builtin_return_address(0), row, false);
    const void *rows = emulator_exchange(0xffffffffu, &row, sizeof row, "ldmatrix");
    const uncounted here;
    for (unsigned i = 0; i < 4; i++) {
        const shared_pointer<bf16> from = row_of(rows, i * 8 + lane / 4);
        out[i] = pair(from[lane % 4 * 2], from[lane % 4 * 2 + 1]);
    }
}

void load_matrices_transposed(uint32_t out[4], shared_pointer<bf16> row)
{
    if ((row.offset & 7) != 0)
        emulator_fail("ldmatrix from an address that is not a multiple of 16 bytes");
    const unsigned lane = emulator_current->number % EMULATOR_WARP;
    observe_row(__builtin_return_address(0), row, false);
    const void *rows = emulator_exchange(0xffffffffu, &row, sizeof row, "ldmatrix.trans");
    const uncounted here;
    for (unsigned i = 0; i < 4; i++) {
        const shared_pointer<bf16> low = row_of(rows, i * 8 + lane % 4 * 2);
        const shared_pointer<bf16> high = row_of(rows, i * 8 + lane % 4 * 2 + 1);
        out[i] = pair(low[lane / 4], high[lane / 4]);
    }
}

struct fragments {
    uint32_t a[4];
    uint32_t b[2];
};

static float half_of(uint32_t two, unsigned which)
{
    return bf16_to_f32((uint16_t)(two >> (16 * which)));
}

static float a_element(const void *lanes, unsigned row, unsigned k)
{
    struct fragments f;
    memcpy(&f, emulator_lane(lanes, row % 8 * 4 + k % 8 / 2), sizeof f);
    return half_of(f.a[row / 8 + 2 * (k / 8)], k % 2);
}

static float b_element(const void *lanes, unsigned k, unsigned column)
{
    struct fragments f;
    memcpy(&f, emulator_lane(lanes, column * 4 + k % 8 / 2), sizeof f);
    return half_of(f.b[k / 8], k % 2);
}

void multiply_16x8x16(float sum[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
    const struct fragments mine = {{a[0], a[1], a[2], a[3]}, {b0, b1}};
    const unsigned lane = emulator_current->number % EMULATOR_WARP;
    const void *lanes = emulator_exchange(0xffffffffu, &mine, sizeof mine, "mma");
    for (unsigned i = 0; i < 4; i++) {
        const unsigned row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        for (unsigned k = 0; k < 16; k++)
            sum[i] += a_element(lanes, row, k) * b_element(lanes, k, column);
    }
}

// Byte k of a row of a, or of a column of b: as a_element and b_element, twice as many in a
// register.
static float code_of(uint32_t four, unsigned which)
{
    return fp8_decode((uint8_t)(four >> (8 * which)));
}

static float a_code(const void *lanes, unsigned row, unsigned k)
{
    struct fragments f;
    memcpy(&f, emulator_lane(lanes, row % 8 * 4 + k % 16 / 4), sizeof f);
    return code_of(f.a[row / 8 + 2 * (k / 16)], k % 4);
}

static float b_code(const void *lanes, unsigned k, unsigned column)
{
    struct fragments f;
    memcpy(&f, emulator_lane(lanes, column * 4 + k % 16 / 4), sizeof f);
    return code_of(f.b[k / 16], k % 4);
}

void multiply_codes_16x8x32(float sum[4], const uint32_t a[4], uint32_t b0, uint32_t b1)
{
    const struct fragments mine = {{a[0], a[1], a[2], a[3]}, {b0, b1}};
    const unsigned lane = emulator_current->number % EMULATOR_WARP;
    const void *lanes = emulator_exchange(0xffffffffu, &mine, sizeof mine, "mma of codes");
    for (unsigned i = 0; i < 4; i++) {
        const unsigned row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        for (unsigned k = 0; k < 32; k++)
            sum[i] += a_code(lanes, row, k) * b_code(lanes, k, column);
    }
}
