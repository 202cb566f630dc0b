// SPDX-License-Identifier: Apache-2.0
// What parses lies inside the file, and every byte of it can be read.
#include "datasets/safetensors.h"
#include "tests/fuzz/fuzz.h"

#include <assert.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct safetensors tensors;
    struct error err;
    if (safetensors_parse(data, size, "fuzz", &tensors, &err) != 0)
        return 0;
    unsigned sum = 0;
    for (size_t i = 0; i < tensors.count; i++) {
        const struct safetensors_entry *entry = &tensors.entries[i];
        const uint8_t *bytes = entry->data;
        assert(entry->bytes == 0 || (bytes >= data && bytes + entry->bytes <= data + size));
        assert(safetensors_find(&tensors, entry->name) == entry);
        for (uint64_t b = 0; b < entry->bytes; b++)
            sum += bytes[b];
    }
    volatile unsigned keep = sum;
    (void)keep;
    safetensors_close(&tensors);
    return 0;
}
