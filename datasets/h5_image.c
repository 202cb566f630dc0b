// SPDX-License-Identifier: Apache-2.0
#include "datasets/h5_image.h"

#include "base/hash.h"
#include "base/mem.h"

#include <hdf5.h>

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define GROWTH_BYTES (1u << 20) // the core driver grows the image by this much at a time
#define MAX_ATTRIBUTE_TEXT 4096 // attributes live in the object header, which holds 64 KiB

struct h5_image {
    hid_t file;
    size_t image_bytes; // when opened: no dataset can be larger
};

size_t h5_image_type_bytes(enum h5_image_type type)
{
    static const size_t bytes[] = {1, 4, 8, 8};
    return bytes[type];
}

// As stored: little endian everywhere.
static hid_t file_type(enum h5_image_type type)
{
    switch (type) {
    case H5_IMAGE_U8:
        return H5T_STD_U8LE;
    case H5_IMAGE_U32:
        return H5T_STD_U32LE;
    case H5_IMAGE_U64:
        return H5T_STD_U64LE;
    case H5_IMAGE_F64:
        return H5T_IEEE_F64LE;
    }
    return H5I_INVALID_HID;
}

static hid_t memory_type(enum h5_image_type type)
{
    switch (type) {
    case H5_IMAGE_U8:
        return H5T_NATIVE_UINT8;
    case H5_IMAGE_U32:
        return H5T_NATIVE_UINT32;
    case H5_IMAGE_U64:
        return H5T_NATIVE_UINT64;
    case H5_IMAGE_F64:
        return H5T_NATIVE_DOUBLE;
    }
    return H5I_INVALID_HID;
}

static herr_t visit_error(unsigned depth, const H5E_error2_t *entry, void *context)
{
    const char **innermost = context;
    (void)depth;
    if (!*innermost && entry->desc && *entry->desc) {
        *innermost = entry->desc;
    }
    return 0;
}

// Ids and statuses of the library alike: negative is failure. The innermost entry of the error
// stack says what went wrong.
static int h5_check(int64_t result, const char *what, const char *name, struct error *err)
{
    if (result >= 0) {
        return 0;
    }
    const char *reason = NULL;
    H5Ewalk2(H5E_DEFAULT, H5E_WALK_UPWARD, visit_error, &reason);
    error_set(err, "hdf5 cannot %s '%s': %s", what, name, reason ? reason : "no reason given");
    H5Eclear2(H5E_DEFAULT);
    return -1;
}

// The library prints its error stack by itself unless told otherwise.
static void silence_library(void)
{
    H5open();
    H5Eset_auto2(H5E_DEFAULT, NULL, NULL);
}

static void store_u64(uint8_t *to, uint64_t value)
{
    for (int i = 0; i < 8; i++) {
        to[i] = (uint8_t)(value >> (8 * i));
    }
}

static uint64_t load_u64(const uint8_t *from)
{
    uint64_t value = 0;
    for (int i = 7; i >= 0; i--) {
        value = value << 8 | from[i];
    }
    return value;
}

void h5_image_seal(const char magic[H5_IMAGE_MAGIC_BYTES], uint64_t version, const void *file,
                   size_t length, uint8_t block[H5_IMAGE_BLOCK_BYTES])
{
    memset(block, 0, H5_IMAGE_BLOCK_BYTES);
    memcpy(block, magic, H5_IMAGE_MAGIC_BYTES);
    store_u64(block + 8, version);
    store_u64(block + 16, length);
    struct digest digest = digest_bytes(file, length);
    memcpy(block + 24, digest.bytes, sizeof digest.bytes);
}

int h5_image_verify(const void *bytes, size_t length, const char magic[H5_IMAGE_MAGIC_BYTES],
                    uint64_t version, const char *name, struct error *err)
{
    const uint8_t *block = bytes;
    if (length < H5_IMAGE_BLOCK_BYTES) {
        return error_set(err, "'%s' is truncated: %zu bytes, the header alone has %d", name, length,
                         H5_IMAGE_BLOCK_BYTES);
    }
    if (memcmp(block, magic, H5_IMAGE_MAGIC_BYTES) != 0) {
        return error_set(err, "'%s' is not a %.*s file", name, H5_IMAGE_MAGIC_BYTES, magic);
    }
    uint64_t stored_version = load_u64(block + 8);
    if (stored_version != version) {
        return error_set(err, "'%s' has format version %llu, this program reads version %llu", name,
                         (unsigned long long)stored_version, (unsigned long long)version);
    }
    uint64_t expected = load_u64(block + 16);
    size_t rest = length - H5_IMAGE_BLOCK_BYTES;
    if (expected != rest) {
        return error_set(err, "'%s' is damaged: header promises %llu bytes, %zu follow", name,
                         (unsigned long long)expected, rest);
    }
    struct digest digest = digest_bytes(block + H5_IMAGE_BLOCK_BYTES, rest);
    if (memcmp(block + 24, digest.bytes, sizeof digest.bytes) != 0) {
        return error_set(err, "'%s' is damaged: its content does not match its digest", name);
    }
    for (size_t i = 40; i < H5_IMAGE_BLOCK_BYTES; i++) {
        if (block[i] != 0) {
            return error_set(err, "'%s' is damaged: header byte %zu is not zero", name, i);
        }
    }
    return 0;
}

static hid_t memory_access(void)
{
    hid_t access = H5Pcreate(H5P_FILE_ACCESS);
    H5Pset_fapl_core(access, GROWTH_BYTES, false);
    return access;
}

int h5_image_create(struct h5_image **out, struct error *err)
{
    *out = NULL;
    silence_library();
    // The oldest file layout on purpose: everything reads it, and it has no checksum over the
    // superblock, which H5Fget_file_image of 1.10 leaves wrong in the newer layouts.
    hid_t access = memory_access();
    hid_t creation = H5Pcreate(H5P_FILE_CREATE);
    H5Pset_userblock(creation, H5_IMAGE_BLOCK_BYTES);
    H5Pset_obj_track_times(creation, false);
    hid_t file = H5Fcreate("memo.h5", H5F_ACC_TRUNC, creation, access);
    H5Pclose(creation);
    H5Pclose(access);
    if (h5_check(file, "create", "memory image", err)) {
        return -1;
    }
    *out = mem_calloc(1, sizeof **out);
    (*out)->file = file;
    return 0;
}

int h5_image_open(const void *bytes, size_t length, const char magic[H5_IMAGE_MAGIC_BYTES],
                  uint64_t version, const char *name, struct h5_image **out, struct error *err)
{
    *out = NULL;
    if (h5_image_verify(bytes, length, magic, version, name, err)) {
        return -1;
    }
    silence_library();
    hid_t access = memory_access();
    // The library copies the image; its prototype only lacks the const.
    herr_t status = H5Pset_file_image(access, (void *)(uintptr_t)bytes, length);
    hid_t file = status < 0 ? -1 : H5Fopen("memo.h5", H5F_ACC_RDONLY, access);
    H5Pclose(access);
    if (h5_check(file, "open", name, err)) {
        return -1;
    }
    *out = mem_calloc(1, sizeof **out);
    (*out)->file = file;
    (*out)->image_bytes = length;
    return 0;
}

void h5_image_destroy(struct h5_image *image)
{
    if (!image) {
        return;
    }
    H5Fclose(image->file);
    free(image);
}

int h5_image_write(struct h5_image *image, const char *dataset, enum h5_image_type type,
                   const void *values, size_t rows, size_t columns, struct error *err)
{
    hsize_t extent[2] = {rows, columns};
    hid_t space = H5Screate_simple(columns ? 2 : 1, extent, NULL);
    hid_t creation = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_obj_track_times(creation, false);
    hid_t set = H5Dcreate2(image->file, dataset, file_type(type), space, H5P_DEFAULT, creation,
                           H5P_DEFAULT);
    herr_t status = set < 0 ? -1 : 0;
    if (status >= 0 && rows > 0) {
        status = H5Dwrite(set, memory_type(type), H5S_ALL, H5S_ALL, H5P_DEFAULT, values);
    }
    int rc = h5_check(status, "write dataset", dataset, err);
    if (set >= 0) {
        H5Dclose(set);
    }
    H5Pclose(creation);
    H5Sclose(space);
    return rc;
}

static int write_attribute(struct h5_image *image, const char *attribute, hid_t stored,
                           hid_t native, const void *value, struct error *err)
{
    hid_t space = H5Screate(H5S_SCALAR);
    hid_t id = H5Acreate2(image->file, attribute, stored, space, H5P_DEFAULT, H5P_DEFAULT);
    herr_t status = id < 0 ? -1 : H5Awrite(id, native, value);
    int rc = h5_check(status, "write attribute", attribute, err);
    if (id >= 0) {
        H5Aclose(id);
    }
    H5Sclose(space);
    return rc;
}

int h5_image_write_attribute_u64(struct h5_image *image, const char *attribute, uint64_t value,
                                 struct error *err)
{
    return write_attribute(image, attribute, H5T_STD_U64LE, H5T_NATIVE_UINT64, &value, err);
}

int h5_image_write_attribute_text(struct h5_image *image, const char *attribute, const char *text,
                                  struct error *err)
{
    size_t length = strlen(text);
    if (length > MAX_ATTRIBUTE_TEXT) {
        return error_set(err, "attribute '%s' has %zu bytes, at most %d are stored", attribute,
                         length, MAX_ATTRIBUTE_TEXT);
    }
    hid_t type = H5Tcopy(H5T_C_S1);
    H5Tset_size(type, length + 1);
    H5Tset_cset(type, H5T_CSET_UTF8);
    int rc = write_attribute(image, attribute, type, type, text, err);
    H5Tclose(type);
    return rc;
}

// Checks what the file says about a dataset before anything is allocated for it.
static int check_shape(const struct h5_image *image, hid_t set, const char *dataset,
                       enum h5_image_type type, size_t columns, size_t *rows, struct error *err)
{
    hid_t stored = H5Dget_type(set);
    hid_t space = H5Dget_space(set);
    hid_t creation = H5Dget_create_plist(set);
    bool same_type = stored >= 0 && H5Tequal(stored, file_type(type)) > 0;
    bool contiguous = creation >= 0 && H5Pget_layout(creation) == H5D_CONTIGUOUS &&
                      H5Pget_external_count(creation) == 0;
    hsize_t extent[2] = {0, 0};
    int dimensions = space >= 0 ? H5Sget_simple_extent_ndims(space) : -1;
    bool same_shape = dimensions == (columns ? 2 : 1) &&
                      H5Sget_simple_extent_dims(space, extent, NULL) == dimensions &&
                      (!columns || extent[1] == columns);
    H5Tclose(stored);
    H5Sclose(space);
    H5Pclose(creation);
    if (!same_type || !same_shape || !contiguous) {
        return error_set(err, "dataset '%s' does not have the type and shape of the format",
                         dataset);
    }
    size_t row_bytes = h5_image_type_bytes(type) * (columns ? columns : 1);
    if (extent[0] > image->image_bytes / row_bytes) {
        return error_set(err, "dataset '%s' claims %llu rows, more than the file can hold", dataset,
                         (unsigned long long)extent[0]);
    }
    *rows = (size_t)extent[0];
    return 0;
}

int h5_image_read(struct h5_image *image, const char *dataset, enum h5_image_type type,
                  size_t columns, void **out, size_t *rows, struct error *err)
{
    *out = NULL;
    hid_t set = H5Dopen2(image->file, dataset, H5P_DEFAULT);
    if (h5_check(set, "open dataset", dataset, err)) {
        return -1;
    }
    int rc = check_shape(image, set, dataset, type, columns, rows, err);
    if (rc == 0) {
        size_t bytes = *rows * h5_image_type_bytes(type) * (columns ? columns : 1);
        void *values = mem_alloc(bytes ? bytes : 1);
        herr_t status =
            *rows == 0 ? 0 : H5Dread(set, memory_type(type), H5S_ALL, H5S_ALL, H5P_DEFAULT, values);
        rc = h5_check(status, "read dataset", dataset, err);
        if (rc) {
            free(values);
        } else {
            *out = values;
        }
    }
    H5Dclose(set);
    return rc;
}

int h5_image_read_attribute_u64(struct h5_image *image, const char *attribute, uint64_t *out,
                                struct error *err)
{
    hid_t id = H5Aopen(image->file, attribute, H5P_DEFAULT);
    if (h5_check(id, "open attribute", attribute, err)) {
        return -1;
    }
    hid_t space = H5Aget_space(id);
    hid_t stored = H5Aget_type(id);
    bool good =
        H5Sget_simple_extent_type(space) == H5S_SCALAR && H5Tequal(stored, H5T_STD_U64LE) > 0;
    int rc = good ? h5_check(H5Aread(id, H5T_NATIVE_UINT64, out), "read attribute", attribute, err)
                  : error_set(err, "attribute '%s' is not one unsigned 64-bit number", attribute);
    H5Tclose(stored);
    H5Sclose(space);
    H5Aclose(id);
    return rc;
}

int h5_image_finish(struct h5_image *image, const char magic[H5_IMAGE_MAGIC_BYTES],
                    uint64_t version, struct strbuf *out, struct error *err)
{
    ssize_t bytes = -1;
    if (h5_check(H5Fflush(image->file, H5F_SCOPE_GLOBAL), "flush", "memory image", err)) {
        return -1;
    }
    // The image that the library hands out begins after the user block.
    bytes = H5Fget_file_image(image->file, NULL, 0);
    if (h5_check(bytes, "measure", "memory image", err)) {
        return -1;
    }
    size_t total = H5_IMAGE_BLOCK_BYTES + (size_t)bytes;
    strbuf_reserve(out, total);
    char *block = out->bytes + out->length;
    char *file = block + H5_IMAGE_BLOCK_BYTES;
    bytes = H5Fget_file_image(image->file, file, (size_t)bytes);
    if (h5_check(bytes, "copy", "memory image", err)) {
        return -1;
    }
    h5_image_seal(magic, version, file, (size_t)bytes, (uint8_t *)block);
    out->length += H5_IMAGE_BLOCK_BYTES + (size_t)bytes;
    out->bytes[out->length] = '\0';
    return 0;
}
