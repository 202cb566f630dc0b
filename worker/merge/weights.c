// SPDX-License-Identifier: Apache-2.0
#include "worker/merge/weights.h"

#include "base/mem.h"
#include "worker/merge/clones.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PIECE_BYTES ((uint64_t)4 << 20)

int weights_dtype(const struct safetensors_entry *entry, enum dtype *out, struct error *err)
{
    switch (entry->dtype) {
    case ST_F32:
        *out = DTYPE_F32;
        return 0;
    case ST_BF16:
        *out = DTYPE_BF16;
        return 0;
    case ST_F16:
        *out = DTYPE_F16;
        return 0;
    default:
        return error_set(err, "tensor '%s' in '%s' is %s: only F32, BF16 and F16 can be merged",
                         entry->name, entry->file, safetensors_dtype_name(entry->dtype));
    }
}

enum safetensors_dtype weights_file_dtype(enum dtype dtype)
{
    return dtype == DTYPE_F32 ? ST_F32 : dtype == DTYPE_BF16 ? ST_BF16 : ST_F16;
}

size_t weights_count(const struct safetensors_entry *entry)
{
    return entry->bytes / safetensors_dtype_bytes(entry->dtype);
}

size_t weights_columns(const struct safetensors_entry *entry)
{
    return entry->rank > 0 ? (size_t)entry->shape[entry->rank - 1] : 1;
}

// convert_to_f32 for the dtype that matters, compiled for this processor.
MERGE_CLONES static void widen(float *out, const unsigned char *bytes, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        uint16_t half;
        memcpy(&half, bytes + 2 * i, sizeof(half));
        const uint32_t bits = (uint32_t)half << 16;
        memcpy(&out[i], &bits, sizeof(bits));
    }
}

void weights_read(const struct safetensors_entry *entry, size_t begin, size_t count, float *out)
{
    const unsigned char *bytes = entry->data;
    switch (entry->dtype) {
    case ST_F32:
        memcpy(out, bytes + 4 * begin, 4 * count);
        return;
    case ST_BF16:
        widen(out, bytes + 2 * begin, count);
        return;
    default:
        convert_to_f32(out, bytes + 2 * begin, DTYPE_F16, count);
    }
}

void weights_release(const void *data, uint64_t bytes)
{
    const uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    const uintptr_t begin = (uintptr_t)data / page * page;
    const uintptr_t end = ((uintptr_t)data + bytes) / page * page; // the last page may be shared
    if (bytes > 0 && end > begin)
        madvise((void *)begin, end - begin, MADV_DONTNEED);
}

// One pass over all tensors, cut into pieces.
struct scan {
    const struct safetensors *tensors;
    size_t *tensor_of; // [pieces]
    uint64_t *offset;  // [pieces] bytes into the tensor
    struct digest *digests;
    uint64_t *infinite;
};

MERGE_CLONES static uint64_t count_halves(const unsigned char *bytes, size_t count, uint32_t mask)
{
    uint32_t infinite = 0;
    for (size_t i = 0; i < count; i++) {
        uint16_t bits;
        memcpy(&bits, bytes + 2 * i, sizeof(bits));
        infinite += (bits & mask) == mask;
    }
    return infinite;
}

MERGE_CLONES static uint64_t count_floats(const unsigned char *bytes, size_t count)
{
    uint32_t infinite = 0;
    for (size_t i = 0; i < count; i++) {
        uint32_t bits;
        memcpy(&bits, bytes + 4 * i, sizeof(bits));
        infinite += (bits & 0x7f800000u) == 0x7f800000u;
    }
    return infinite;
}

static void scan_piece(void *argument, size_t piece, int thread)
{
    struct scan *scan = argument;
    const struct safetensors_entry *entry = &scan->tensors->entries[scan->tensor_of[piece]];
    const unsigned char *bytes = (const unsigned char *)entry->data + scan->offset[piece];
    const uint64_t left = entry->bytes - scan->offset[piece];
    const size_t length = left < PIECE_BYTES ? left : PIECE_BYTES;
    (void)thread;
    scan->digests[piece] = digest_bytes(bytes, length);
    if (entry->dtype == ST_F32)
        scan->infinite[piece] = count_floats(bytes, length / 4);
    if (entry->dtype == ST_BF16 || entry->dtype == ST_F16)
        scan->infinite[piece] =
            count_halves(bytes, length / 2, entry->dtype == ST_BF16 ? 0x7f80u : 0x7c00u);
    weights_release(bytes, length);
}

static size_t pieces_of(const struct safetensors_entry *entry)
{
    return (entry->bytes + PIECE_BYTES - 1) / PIECE_BYTES;
}

static void summarise(const struct scan *scan, struct weights_scan *out)
{
    struct digest_builder builder;
    size_t piece = 0;
    digest_begin(&builder);
    for (size_t i = 0; i < scan->tensors->count; i++) {
        const struct safetensors_entry *entry = &scan->tensors->entries[i];
        const size_t pieces = pieces_of(entry);
        uint64_t infinite = 0;
        digest_field_text(&builder, entry->name);
        digest_field_text(&builder, safetensors_dtype_name(entry->dtype));
        digest_field(&builder, entry->shape, (size_t)entry->rank * sizeof(entry->shape[0]));
        digest_field(&builder, scan->digests + piece, pieces * sizeof(*scan->digests));
        for (size_t p = 0; p < pieces; p++)
            infinite += scan->infinite[piece++];
        if (infinite > 0)
            strbuf_addf(&out->infinite,
                        "tensor '%s' in '%s' holds %" PRIu64 " values that are not finite\n",
                        entry->name, entry->file, infinite);
    }
    out->digest = digest_end(&builder);
}

int weights_scan(const struct safetensors *tensors, struct pool *pool, struct weights_scan *out,
                 struct error *err)
{
    struct scan scan = {.tensors = tensors};
    size_t pieces = 0, piece = 0;
    *out = (struct weights_scan){0};
    for (size_t i = 0; i < tensors->count; i++)
        pieces += pieces_of(&tensors->entries[i]);
    scan.tensor_of = mem_calloc(pieces + 1, sizeof(*scan.tensor_of));
    scan.offset = mem_calloc(pieces + 1, sizeof(*scan.offset));
    scan.digests = mem_calloc(pieces + 1, sizeof(*scan.digests));
    scan.infinite = mem_calloc(pieces + 1, sizeof(*scan.infinite));
    for (size_t i = 0; i < tensors->count; i++) {
        for (uint64_t at = 0; at < tensors->entries[i].bytes; at += PIECE_BYTES) {
            scan.tensor_of[piece] = i;
            scan.offset[piece++] = at;
        }
    }
    pool_run(pool, pieces, scan_piece, &scan);
    summarise(&scan, out);
    free(scan.tensor_of);
    free(scan.offset);
    free(scan.digests);
    free(scan.infinite);
    if (out->infinite.length == 0)
        return 0;
    const int rc = error_set(err, "%.*s", (int)out->infinite.length - 1, out->infinite.bytes);
    weights_scan_release(out);
    return rc;
}

void weights_scan_release(struct weights_scan *scan)
{
    strbuf_release(&scan->infinite);
}
