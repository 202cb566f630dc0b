// SPDX-License-Identifier: Apache-2.0
#include "kernels/moment_code.h"

#include <assert.h>
#include <math.h>
#include <pthread.h>
#include <string.h>

static struct moment_code first, second;
static pthread_once_t once = PTHREAD_ONCE_INIT;

static float magnitude_value(int magnitude, int bits)
{
    if (magnitude == 0)
        return 0;
    if (magnitude == (1 << bits) - 1)
        return 1;
    int fraction_bits = bits - 1;
    while (magnitude >> fraction_bits == 0)
        fraction_bits--;
    const int f = magnitude - (1 << fraction_bits), zeros = bits - 1 - fraction_bits;
    return (float)(pow(10, -zeros) * (0.1 + 0.9 * (f + 0.5) / (1 << fraction_bits)));
}

static float cell_begin(int cell)
{
    const uint32_t bits = (uint32_t)(MOMENT_CELL_FIRST + cell) << MOMENT_CELL_SHIFT;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static void make_cells(struct moment_code *code)
{
    const int last = code->magnitudes - 1;
    for (int i = 0; i < last; i++)
        code->middles[i] = 0.5f * (code->values[i] + code->values[i + 1]);
    code->middles[last] = INFINITY;
    for (int cell = 0; cell < MOMENT_CELLS; cell++)
        code->cells[cell] = moment_encode(code, cell_begin(cell));
    for (int cell = 0; cell + 1 < MOMENT_CELLS; cell++)
        assert(code->cells[cell + 1] <= code->cells[cell] + 1);
}

static void make_tables(void)
{
    first.magnitudes = 128;
    second.magnitudes = 256;
    second.keeps_above_zero = true;
    for (int i = 0; i < 128; i++) {
        first.values[i] = magnitude_value(i, 7);
        first.values[128 + i] = -first.values[i];
    }
    for (int i = 0; i < 256; i++)
        second.values[i] = magnitude_value(i, 8);
    make_cells(&first);
    make_cells(&second);
}

const struct moment_code *moment_code_first(void)
{
    pthread_once(&once, make_tables);
    return &first;
}

const struct moment_code *moment_code_second(void)
{
    pthread_once(&once, make_tables);
    return &second;
}

uint8_t moment_encode(const struct moment_code *code, float x)
{
    const float size = fabsf(x);
    int low = 0, high = code->magnitudes - 1; // values[low] <= size, or low is 0
    while (high - low > 1) {
        const int middle = (low + high) / 2;
        if (code->values[middle] <= size)
            low = middle;
        else
            high = middle;
    }
    int nearest = size > 0.5f * (code->values[low] + code->values[high]) ? high : low;
    if (nearest == 0 && size > 0 && code->keeps_above_zero)
        nearest = 1;
    return (uint8_t)(x < 0 ? code->magnitudes + nearest : nearest);
}
