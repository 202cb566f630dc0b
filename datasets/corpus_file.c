// SPDX-License-Identifier: Apache-2.0
// corpus.h5: an HDF5 image behind our block (h5_image.h), magic "MEMOCORP", version 1. Datasets,
// all of one dimension but the digests [count, 16]:
//
//   text                                  u8   all documents, UTF-8
//   document_begin, document_end          u64  bytes of text
//   document_digest                       u8   XXH3-128 of the document's text
//   chunk_document                        u32
//   chunk_begin, chunk_end                u64  bytes of text
//   chunk_tokens                          u32
//   chunk_digest                          u8
//   group_offsets                         u32  [groups + 1] into group_chunks
//   group_chunks                          u32
//   set_aside_reason                      u8   0 exact duplicate, 1 near duplicate, 2 empty, 3
//   known digest                                u8   [1, 16] of everything above
//
// and for each column of names (document_id, document_title, document_source, document_date,
// set_aside_source, set_aside_of) NAME_bytes u8, packed UTF-8, and NAME_offsets u64 [count + 1].
// Attributes: format "memo corpus", version.
#include "datasets/corpus.h"

#include "base/mem.h"
#include "datasets/h5_image.h"

#include <stdlib.h>
#include <string.h>

#define MAGIC "MEMOCORP"
#define VERSION 1
#define DIGEST_BYTES 16

// One member of every element of an array of structs, copied to or from a packed column.
struct column {
    const char *name;
    enum h5_image_type type;
    size_t columns; // 0, or 16 for digests
    size_t offset;  // of the member
    size_t bytes;   // of the member
};

#define MEMBER(owner, member) offsetof(struct owner, member), sizeof(((struct owner *)0)->member)

static const struct column document_columns[] = {
    {"document_begin", H5_IMAGE_U64, 0, MEMBER(corpus_document, begin)},
    {"document_end", H5_IMAGE_U64, 0, MEMBER(corpus_document, end)},
    {"document_digest", H5_IMAGE_U8, DIGEST_BYTES, MEMBER(corpus_document, digest)},
};

static const struct column chunk_columns[] = {
    {"chunk_document", H5_IMAGE_U32, 0, MEMBER(corpus_chunk, document)},
    {"chunk_begin", H5_IMAGE_U64, 0, MEMBER(corpus_chunk, begin)},
    {"chunk_end", H5_IMAGE_U64, 0, MEMBER(corpus_chunk, end)},
    {"chunk_tokens", H5_IMAGE_U32, 0, MEMBER(corpus_chunk, tokens)},
    {"chunk_digest", H5_IMAGE_U8, DIGEST_BYTES, MEMBER(corpus_chunk, digest)},
};

struct name_column {
    const char *name;
    size_t offset; // of the const char * member
};

static const struct name_column document_names[] = {
    {"document_id", offsetof(struct corpus_document, id)},
    {"document_title", offsetof(struct corpus_document, title)},
    {"document_source", offsetof(struct corpus_document, source)},
    {"document_date", offsetof(struct corpus_document, date)},
};

static const struct name_column set_aside_names[] = {
    {"set_aside_source", offsetof(struct corpus_set_aside, source)},
    {"set_aside_of", offsetof(struct corpus_set_aside, of)},
};

#define COUNT(array) (sizeof(array) / sizeof *(array))

static int write_columns(struct h5_image *image, const struct column *columns, size_t column_count,
                         const void *elements, size_t count, size_t stride, struct error *err)
{
    for (size_t c = 0; c < column_count; c++) {
        const struct column *column = &columns[c];
        uint8_t *packed = mem_alloc(count * column->bytes + 1);
        for (size_t i = 0; i < count; i++) {
            memcpy(packed + i * column->bytes,
                   (const uint8_t *)elements + i * stride + column->offset, column->bytes);
        }
        int rc =
            h5_image_write(image, column->name, column->type, packed, count, column->columns, err);
        free(packed);
        if (rc) {
            return -1;
        }
    }
    return 0;
}

static const char *get_name(const void *elements, size_t index, size_t stride, size_t offset)
{
    const char *name;
    memcpy(&name, (const uint8_t *)elements + index * stride + offset, sizeof name);
    return name;
}

static int write_names(struct h5_image *image, const struct name_column *columns,
                       size_t column_count, const void *elements, size_t count, size_t stride,
                       struct error *err)
{
    struct strbuf packed = {0};
    struct strbuf dataset = {0};
    uint64_t *offsets = mem_calloc(count + 1, sizeof *offsets);
    int rc = 0;
    for (size_t c = 0; rc == 0 && c < column_count; c++) {
        strbuf_reset(&packed);
        for (size_t i = 0; i < count; i++) {
            strbuf_adds(&packed, get_name(elements, i, stride, columns[c].offset));
            offsets[i + 1] = packed.length;
        }
        strbuf_reset(&dataset);
        strbuf_addf(&dataset, "%s_bytes", columns[c].name);
        rc = h5_image_write(image, dataset.bytes, H5_IMAGE_U8, packed.bytes, packed.length, 0, err);
        if (rc == 0) {
            strbuf_reset(&dataset);
            strbuf_addf(&dataset, "%s_offsets", columns[c].name);
            rc = h5_image_write(image, dataset.bytes, H5_IMAGE_U64, offsets, count + 1, 0, err);
        }
    }
    free(offsets);
    strbuf_release(&dataset);
    strbuf_release(&packed);
    return rc;
}

static int write_set_aside(struct h5_image *image, const struct corpus *corpus, struct error *err)
{
    uint8_t *reasons = mem_calloc(corpus->set_aside_count + 1, 1);
    for (size_t i = 0; i < corpus->set_aside_count; i++) {
        reasons[i] = (uint8_t)corpus->set_aside[i].reason;
    }
    int rc = h5_image_write(image, "set_aside_reason", H5_IMAGE_U8, reasons,
                            corpus->set_aside_count, 0, err);
    free(reasons);
    return rc ? -1
              : write_names(image, set_aside_names, COUNT(set_aside_names), corpus->set_aside,
                            corpus->set_aside_count, sizeof *corpus->set_aside, err);
}

static int write_image(struct h5_image *image, const struct corpus *corpus, struct error *err)
{
    struct digest digest = corpus_content_digest(corpus);
    size_t documents = corpus->document_count;
    size_t groups = corpus->group_count;
    return h5_image_write_attribute_text(image, "format", "memo corpus", err) ||
                   h5_image_write_attribute_u64(image, "version", VERSION, err) ||
                   h5_image_write(image, "text", H5_IMAGE_U8, corpus->text, corpus->text_bytes, 0,
                                  err) ||
                   write_columns(image, document_columns, COUNT(document_columns),
                                 corpus->documents, documents, sizeof *corpus->documents, err) ||
                   write_names(image, document_names, COUNT(document_names), corpus->documents,
                               documents, sizeof *corpus->documents, err) ||
                   write_columns(image, chunk_columns, COUNT(chunk_columns), corpus->chunks,
                                 corpus->chunk_count, sizeof *corpus->chunks, err) ||
                   h5_image_write(image, "group_offsets", H5_IMAGE_U32, corpus->group_offsets,
                                  groups + 1, 0, err) ||
                   h5_image_write(image, "group_chunks", H5_IMAGE_U32, corpus->group_chunks,
                                  corpus->group_offsets[groups], 0, err) ||
                   write_set_aside(image, corpus, err) ||
                   h5_image_write(image, "digest", H5_IMAGE_U8, digest.bytes, 1, DIGEST_BYTES, err)
               ? -1
               : 0;
}

int corpus_write(struct fs *fs, const char *path, const struct corpus *corpus, struct error *err)
{
    if (corpus->document_count == 0) {
        return error_set(err, "corpus is empty, '%s' is not written", path);
    }
    struct h5_image *image = NULL;
    struct strbuf file = {0};
    int rc = corpus_check(corpus, err) || h5_image_create(&image, err) ||
             write_image(image, corpus, err) || h5_image_finish(image, MAGIC, VERSION, &file, err);
    h5_image_destroy(image); // before the write: the image is as large as the file
    if (rc == 0) {
        struct fs_part part = {file.bytes, file.length};
        rc = fs_write_atomic(fs, path, &part, 1, true, err);
    }
    strbuf_release(&file);
    return rc ? error_prefix(err, "writing corpus '%s'", path) : 0;
}

// The first column of a table says how many elements there are, the others must agree.
static int read_columns(struct h5_image *image, const struct column *columns, size_t column_count,
                        struct arena *arena, void **out, size_t *count, size_t stride,
                        struct error *err)
{
    uint8_t *elements = NULL;
    for (size_t c = 0; c < column_count; c++) {
        const struct column *column = &columns[c];
        void *packed = NULL;
        size_t rows = 0;
        if (h5_image_read(image, column->name, column->type, column->columns, &packed, &rows,
                          err)) {
            return -1;
        }
        if (c == 0) {
            *count = rows;
            elements = arena_alloc(arena, rows * stride + 1);
        }
        if (rows != *count) {
            free(packed);
            return error_set(err, "dataset '%s' has %zu rows, expected %zu", column->name, rows,
                             *count);
        }
        for (size_t i = 0; i < rows; i++) {
            memcpy(elements + i * stride + column->offset,
                   (const uint8_t *)packed + i * column->bytes, column->bytes);
        }
        free(packed);
    }
    *out = elements;
    return 0;
}

static int unpack_names(const struct name_column *column, const char *packed, size_t length,
                        const uint64_t *offsets, size_t rows, struct arena *arena, void *elements,
                        size_t count, size_t stride, struct error *err)
{
    if (rows != count + 1 || offsets[0] != 0 || offsets[count] != length) {
        return error_set(err, "dataset '%s_offsets' does not fit %zu names of %zu bytes",
                         column->name, count, length);
    }
    for (size_t i = 0; i < count; i++) {
        if (offsets[i + 1] < offsets[i] || offsets[i + 1] > length ||
            memchr(packed + offsets[i], '\0', offsets[i + 1] - offsets[i])) {
            return error_set(err, "dataset '%s_offsets' has a bad entry %zu", column->name, i);
        }
        const char *name = arena_strndup(arena, packed + offsets[i], offsets[i + 1] - offsets[i]);
        memcpy((uint8_t *)elements + i * stride + column->offset, &name, sizeof name);
    }
    return 0;
}

static int read_names(struct h5_image *image, const struct name_column *columns,
                      size_t column_count, struct arena *arena, void *elements, size_t count,
                      size_t stride, struct error *err)
{
    struct strbuf dataset = {0};
    int rc = 0;
    for (size_t c = 0; rc == 0 && c < column_count; c++) {
        void *packed = NULL, *offsets = NULL;
        size_t length = 0, rows = 0;
        strbuf_reset(&dataset);
        strbuf_addf(&dataset, "%s_bytes", columns[c].name);
        rc = h5_image_read(image, dataset.bytes, H5_IMAGE_U8, 0, &packed, &length, err);
        if (rc == 0) {
            strbuf_reset(&dataset);
            strbuf_addf(&dataset, "%s_offsets", columns[c].name);
            rc = h5_image_read(image, dataset.bytes, H5_IMAGE_U64, 0, &offsets, &rows, err);
        }
        if (rc == 0) {
            rc = unpack_names(&columns[c], packed, length, offsets, rows, arena, elements, count,
                              stride, err);
        }
        free(packed);
        free(offsets);
    }
    strbuf_release(&dataset);
    return rc;
}

static int read_documents(struct h5_image *image, struct corpus *corpus, struct error *err)
{
    struct arena *arena = corpus_arena(corpus);
    void *documents = NULL, *chunks = NULL;
    if (read_columns(image, document_columns, COUNT(document_columns), arena, &documents,
                     &corpus->document_count, sizeof *corpus->documents, err) ||
        read_names(image, document_names, COUNT(document_names), arena, documents,
                   corpus->document_count, sizeof *corpus->documents, err) ||
        read_columns(image, chunk_columns, COUNT(chunk_columns), arena, &chunks,
                     &corpus->chunk_count, sizeof *corpus->chunks, err)) {
        return -1;
    }
    corpus->documents = documents;
    corpus->chunks = chunks;
    return 0;
}

static int read_groups(struct h5_image *image, struct corpus *corpus, struct error *err)
{
    void *offsets = NULL, *chunks = NULL;
    size_t offset_count = 0, chunk_count = 0;
    if (h5_image_read(image, "group_offsets", H5_IMAGE_U32, 0, &offsets, &offset_count, err)) {
        return -1;
    }
    corpus_own(corpus, offsets);
    if (h5_image_read(image, "group_chunks", H5_IMAGE_U32, 0, &chunks, &chunk_count, err)) {
        return -1;
    }
    corpus_own(corpus, chunks);
    corpus->group_offsets = offsets;
    corpus->group_chunks = chunks;
    bool ascending = offset_count > 0;
    for (size_t i = 0; ascending && i + 1 < offset_count; i++) {
        ascending = corpus->group_offsets[i] <= corpus->group_offsets[i + 1];
    }
    if (!ascending || corpus->group_offsets[offset_count - 1] != chunk_count) {
        return error_set(err, "dataset 'group_offsets' does not fit %zu chunks", chunk_count);
    }
    corpus->group_count = offset_count - 1;
    return 0;
}

static int read_set_aside(struct h5_image *image, struct corpus *corpus, struct error *err)
{
    void *reasons = NULL;
    size_t count = 0;
    if (h5_image_read(image, "set_aside_reason", H5_IMAGE_U8, 0, &reasons, &count, err)) {
        return -1;
    }
    struct arena *arena = corpus_arena(corpus);
    struct corpus_set_aside *set_aside = arena_alloc(arena, count * sizeof *set_aside + 1);
    for (size_t i = 0; i < count; i++) {
        set_aside[i].reason = ((const uint8_t *)reasons)[i];
    }
    free(reasons);
    corpus->set_aside = set_aside;
    corpus->set_aside_count = count;
    return read_names(image, set_aside_names, COUNT(set_aside_names), arena, set_aside, count,
                      sizeof *set_aside, err);
}

static int read_image(struct h5_image *image, struct corpus *corpus, struct error *err)
{
    void *text = NULL, *stored = NULL;
    size_t bytes = 0, rows = 0;
    if (h5_image_read(image, "text", H5_IMAGE_U8, 0, &text, &bytes, err)) {
        return -1;
    }
    corpus_own(corpus, text);
    corpus->text = text;
    corpus->text_bytes = bytes;
    if (read_documents(image, corpus, err) || read_groups(image, corpus, err) ||
        read_set_aside(image, corpus, err) || corpus_check(corpus, err) ||
        h5_image_read(image, "digest", H5_IMAGE_U8, DIGEST_BYTES, &stored, &rows, err)) {
        return -1;
    }
    corpus->digest = corpus_content_digest(corpus);
    bool same = rows == 1 && memcmp(stored, corpus->digest.bytes, DIGEST_BYTES) == 0;
    free(stored);
    return same ? 0 : error_set(err, "content does not match its digest");
}

int corpus_open(const char *path, struct corpus **out, struct error *err)
{
    *out = NULL;
    struct fs_map map = {0};
    struct h5_image *image = NULL;
    if (fs_map_open(path, &map, err)) {
        return error_prefix(err, "opening corpus");
    }
    int rc = h5_image_open(map.bytes, map.length, MAGIC, VERSION, path, &image, err);
    fs_map_close(&map);
    if (rc) {
        return error_prefix(err, "opening corpus");
    }
    struct corpus *corpus = corpus_create();
    rc = read_image(image, corpus, err);
    h5_image_destroy(image);
    if (rc) {
        corpus_close(corpus);
        return error_prefix(err, "opening corpus '%s'", path);
    }
    *out = corpus;
    return 0;
}
