// SPDX-License-Identifier: Apache-2.0
#include "coordinator/durations.h"

#include "base/mem.h"

#include <math.h>
#include <stdlib.h>

#define BINS 128
#define BINS_PER_OCTAVE 4
#define SHORTEST_OCTAVE (-10) // a millisecond; the longest bin begins at 2^22 s
#define QUANTILE 0.95

struct histogram {
    uint32_t bins[BINS];
    uint64_t samples;
    uint64_t next_look; // samples at which the quantile is computed again
    double usual;
};

struct durations {
    struct histogram classes[DURATION_CLASSES];
};

struct durations *durations_create(void)
{
    struct durations *durations = mem_calloc(1, sizeof(*durations));
    for (int c = 0; c < DURATION_CLASSES; c++) {
        durations->classes[c].usual = INFINITY;
        durations->classes[c].next_look = DURATION_MINIMUM_SAMPLES;
    }
    return durations;
}

void durations_destroy(struct durations *durations)
{
    free(durations);
}

static double quantile(const struct histogram *histogram)
{
    const double wanted = QUANTILE * (double)histogram->samples;
    uint64_t below = 0;
    int bin = 0;
    while (bin < BINS - 1 && (double)(below += histogram->bins[bin]) < wanted)
        bin++;
    return exp2(SHORTEST_OCTAVE + (bin + 1.0) / BINS_PER_OCTAVE);
}

void durations_add(struct durations *durations, uint32_t class, double seconds)
{
    struct histogram *h =
        &durations->classes[class < DURATION_CLASSES ? class : DURATION_CLASSES - 1];
    const double place = seconds > 0 ? BINS_PER_OCTAVE * (log2(seconds) - SHORTEST_OCTAVE) : 0;
    h->bins[place < 0 ? 0 : place >= BINS ? BINS - 1 : (int)place]++;
    if (++h->samples < h->next_look)
        return;
    h->usual = quantile(h);
    h->next_look = h->samples + h->samples / 8 + 1;
}

double durations_usual(const struct durations *durations, uint32_t class)
{
    return durations->classes[class < DURATION_CLASSES ? class : DURATION_CLASSES - 1].usual;
}
