// SPDX-License-Identifier: Apache-2.0
#include "kernels/cuda/gemm_plan.h"

extern "C" {
#include "base/clock.h"
#include "base/fs.h"
#include "base/mem.h"
}

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WORDS = sizeof(cublasLtMatmulAlgo_t) / sizeof(uint64_t), WORD_DIGITS = 16 };

static void write_head(struct strbuf *out, const char *gpu)
{
    strbuf_addf(out, "memo products 1; cuBLASLt %zu; %s; ", blas.GetVersion(), gpu);
}

static struct gemm_shape rounded(struct gemm_shape shape)
{
    uint64_t *sizes[] = {&shape.m, &shape.n, &shape.k};
    for (int i = 0; i < 3; i++) {
        uint64_t unit = 1;
        while (*sizes[i] / unit >= 8)
            unit *= 2;
        *sizes[i] = (*sizes[i] + unit - 1) / unit * unit;
    }
    return shape;
}

static bool read_line(const char *line, struct gemm_record *out)
{
    int used = 0;
    struct gemm_shape *s = &out->shape;
    if (sscanf(line, "%" SCNu64 " %" SCNu64 " %" SCNu64 " %" SCNx64 " %n", &s->m, &s->n, &s->k,
               &s->traits, &used) != 4 ||
        used == 0 || strspn(line + used, "0123456789abcdef") != WORDS * WORD_DIGITS)
        return false;
    for (int w = 0; w < WORDS; w++) {
        char word[WORD_DIGITS + 1] = "";
        memcpy(word, line + used + w * WORD_DIGITS, WORD_DIGITS);
        out->algorithm.data[w] = strtoull(word, NULL, 16);
    }
    return true;
}

// A record that was torn or changed by hand is an error: what it said was part of a run.
static int read_records(struct gemm_records *records, char *text, struct error *err)
{
    char *rest = NULL;
    strtok_r(text, "\n", &rest); // the head
    for (char *line = strtok_r(NULL, "\n", &rest); line; line = strtok_r(NULL, "\n", &rest)) {
        if (records->count == RECORDS_LIMIT || !read_line(line, &records->records[records->count]))
            return error_set(err,
                             "'%s', line %zu, is no record of a product: remove the file, and "
                             "algorithms are chosen anew",
                             records->path, records->count + 2);
        records->count++;
    }
    return 0;
}

static int write_records(const struct gemm_records *records, const char *head, struct error *err)
{
    struct strbuf text = {};
    strbuf_adds(&text, head);
    for (size_t i = 0; i < records->count; i++) {
        const struct gemm_record *r = &records->records[i];
        strbuf_addf(&text, "%" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIx64 " ", r->shape.m,
                    r->shape.n, r->shape.k, r->shape.traits);
        for (int w = 0; w < WORDS; w++)
            strbuf_addf(&text, "%016" PRIx64, (uint64_t)r->algorithm.data[w]);
        strbuf_addc(&text, '\n');
    }
    const int rc = fs_write_text(fs_system(), records->path, text.bytes, text.length, err);
    strbuf_release(&text);
    return rc;
}

// The head up to its line's end, as it is in the file or will be.
static int open_file(struct gemm_records *records, const char *gpu, struct error *err)
{
    struct strbuf text = {}, head = {};
    write_head(&head, gpu);
    int rc =
        fs_exists(fs_system(), records->path) ? fs_read(fs_system(), records->path, &text, err) : 0;
    const char *end = rc == 0 && text.length > head.length ? strchr(text.bytes, '\n') : NULL;
    if (end && strncmp(text.bytes, head.bytes, head.length) == 0) {
        snprintf(records->id, sizeof records->id, "%.*s", (int)(end - text.bytes - head.length),
                 text.bytes + head.length);
        rc = read_records(records, text.bytes, err);
    } else if (rc == 0) {
        clock_format_utc(records->id);
        strbuf_addf(&head, "%s\n", records->id);
        rc = write_records(records, head.bytes, err);
    }
    strbuf_release(&text);
    strbuf_release(&head);
    return rc;
}

int gemm_records_open(struct gemm_records *records, const char *path, const char *gpu,
                      struct error *err)
{
    records->path = mem_strdup(path);
    records->records = (struct gemm_record *)mem_calloc(RECORDS_LIMIT, sizeof *records->records);
    snprintf(records->gpu, sizeof records->gpu, "%s", gpu);
    if (open_file(records, gpu, err) == 0)
        return 0;
    gemm_records_close(records);
    return error_prefix(err, "record of matrix products");
}

void gemm_records_close(struct gemm_records *records)
{
    free(records->path);
    free(records->records);
    *records = {};
}

static bool same_shape(const struct gemm_shape *a, const struct gemm_shape *b)
{
    return a->m == b->m && a->n == b->n && a->k == b->k && a->traits == b->traits;
}

const cublasLtMatmulAlgo_t *gemm_records_find(const struct gemm_records *records,
                                              const struct gemm_shape *shape)
{
    const struct gemm_shape key = rounded(*shape);
    for (size_t i = 0; i < records->count; i++)
        if (same_shape(&records->records[i].shape, &key))
            return &records->records[i].algorithm;
    return NULL;
}

int gemm_records_add(struct gemm_records *records, const struct gemm_shape *shape,
                     const cublasLtMatmulAlgo_t *algorithm, struct error *err)
{
    struct strbuf head = {};
    if (records->count == RECORDS_LIMIT)
        return 0;
    records->records[records->count++] = {rounded(*shape), *algorithm};
    write_head(&head, records->gpu);
    strbuf_addf(&head, "%s\n", records->id);
    const int rc = write_records(records, head.bytes, err);
    strbuf_release(&head);
    return rc;
}
