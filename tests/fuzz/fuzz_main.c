// SPDX-License-Identifier: Apache-2.0
// usage: fuzz_TARGET [--seconds S | --inputs N] [--seed N] [--only N] FILE...
//
// Input i is a pure function of seed, files and i: --only i runs it again. When a sanitizer ends
// the process the line before its report's end says which input it was.
#include "base/clock.h"
#include "base/fs.h"
#include "base/random.h"
#include "base/strbuf.h"
#include "tests/fuzz/fuzz.h"

#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_INPUT_BYTES (1u << 20)
#define MAX_MUTATIONS 8

static uint64_t current_input, run_seed;

void __sanitizer_set_death_callback(void (*callback)(void)) __attribute__((weak));

static void tell_input(void)
{
    fprintf(stderr, "fuzz: input %" PRIu64 " of seed %" PRIu64 "\n", current_input, run_seed);
}

static void on_abort(int number)
{
    (void)number;
    tell_input(); // an assertion failed
}

struct samples {
    struct strbuf *files;
    size_t count;
};

// Random draws of one input, in order.
struct draws {
    uint64_t input;
    uint64_t next;
};

static size_t draw(struct draws *draws, size_t below)
{
    const uint64_t value = random_u64(run_seed, draws->input, draws->next++);
    return below ? (size_t)(value % below) : 0;
}

static void remove_span(struct strbuf *data, size_t at, size_t length)
{
    memmove(data->bytes + at, data->bytes + at + length, data->length - at - length);
    data->length -= length;
}

static void insert_span(struct strbuf *data, size_t at, const char *bytes, size_t length)
{
    if (data->length + length > MAX_INPUT_BYTES)
        return;
    char *copy = malloc(length + 1); // the span may lie in data itself
    memcpy(copy, bytes, length);
    strbuf_reserve(data, length);
    memmove(data->bytes + at + length, data->bytes + at, data->length - at);
    memcpy(data->bytes + at, copy, length);
    data->length += length;
    free(copy);
}

static void mutate_once(struct strbuf *data, const struct samples *samples, struct draws *draws)
{
    static const char *const words[] = {
        "[",    "{", "\"", "-1", "1e999", "null", "\\u", "\xff", "99999999999999999999",
        "true", "}", "]"};
    // headers are what parsers trip over: half of the mutations fall near the begin
    const size_t reach = draw(draws, 2) && data->length > 2048 ? 2048 : data->length;
    const size_t at = draw(draws, reach + 1);
    const size_t left = data->length - at;
    const size_t span = draw(draws, left < 64 ? left + 1 : 64);
    const struct strbuf *other = &samples->files[draw(draws, samples->count)];
    const char *word = words[draw(draws, sizeof(words) / sizeof(words[0]))];
    switch (draw(draws, 7)) {
    case 0:
        if (left)
            data->bytes[at] ^= (char)(1 << draw(draws, 8));
        break;
    case 1:
        if (left)
            data->bytes[at] = (char)draw(draws, 256);
        break;
    case 2:
        remove_span(data, at, span);
        break;
    case 3:
        insert_span(data, at, data->bytes + at, span);
        break;
    case 4:
        insert_span(data, at, word, strlen(word));
        break;
    case 5:
        data->length = at; // cut off
        break;
    case 6: { // a piece of another sample
        const size_t from = draw(draws, other->length + 1);
        const size_t rest = other->length - from;
        insert_span(data, at, other->bytes + from, rest < 256 ? rest : 256);
        break;
    }
    }
}

static void run_input(const struct samples *samples, uint64_t input)
{
    struct draws draws = {.input = input};
    struct strbuf data = {0};
    const struct strbuf *sample = &samples->files[draw(&draws, samples->count)];
    current_input = input;
    strbuf_add(&data, sample->bytes, sample->length);
    const size_t mutations = input < samples->count ? 0 : 1 + draw(&draws, MAX_MUTATIONS);
    for (size_t m = 0; m < mutations; m++)
        mutate_once(&data, samples, &draws);
    // an exact block, so that a read behind the end is seen
    uint8_t *exact = malloc(data.length + 1);
    memcpy(exact + 1, data.length ? data.bytes : "", data.length);
    LLVMFuzzerTestOneInput(exact + 1, data.length);
    free(exact);
    strbuf_release(&data);
}

static int read_samples(char **paths, int count, struct samples *out)
{
    struct error err;
    out->files = calloc((size_t)count, sizeof(*out->files));
    for (int i = 0; i < count; i++) {
        struct strbuf *file = &out->files[out->count];
        if (fs_read(fs_system(), paths[i], file, &err)) {
            fprintf(stderr, "fuzz: %s\n", err.text);
            return -1;
        }
        if (file->length <= MAX_INPUT_BYTES)
            out->count++;
        else
            strbuf_release(file);
    }
    return out->count ? 0 : -1;
}

int main(int argc, char **argv)
{
    double seconds = 1;
    uint64_t inputs = UINT64_MAX, only = UINT64_MAX, done = 0;
    struct samples samples = {0};
    int i = 1;
    run_seed = 1;
    for (; i + 1 < argc && strncmp(argv[i], "--", 2) == 0; i += 2) {
        if (strcmp(argv[i], "--seconds") == 0)
            seconds = atof(argv[i + 1]);
        else if (strcmp(argv[i], "--inputs") == 0)
            inputs = strtoull(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--seed") == 0)
            run_seed = strtoull(argv[i + 1], NULL, 10);
        else if (strcmp(argv[i], "--only") == 0)
            only = strtoull(argv[i + 1], NULL, 10);
        else
            return 2;
    }
    if (read_samples(argv + i, argc - i, &samples))
        return 2;
    signal(SIGABRT, on_abort);
    if (__sanitizer_set_death_callback)
        __sanitizer_set_death_callback(tell_input);
    const double end = clock_seconds() + seconds;
    if (only != UINT64_MAX) {
        run_input(&samples, only);
        done = 1;
    }
    for (; only == UINT64_MAX && done < inputs && clock_seconds() < end; done++)
        run_input(&samples, done);
    printf("%" PRIu64 " inputs from %zu samples, seed %" PRIu64 "\n", done, samples.count,
           run_seed);
    for (size_t s = 0; s < samples.count; s++)
        strbuf_release(&samples.files[s]);
    free(samples.files);
    return done > 0 ? 0 : 1;
}
