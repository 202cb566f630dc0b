// SPDX-License-Identifier: Apache-2.0
#include "worker/train/environment.h"

#include "base/fs.h"
#include "base/hash.h"
#include "base/mem.h"
#include "worker/train/trainer.h"

#include <gnu/libc-version.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const char *const environment_names[ENVIRONMENT_FIELDS] = {
    "ranks",   "stage",     "micro-batch tokens", "gradients",
    "devices", "transport", "C library",          "program",
};

enum { DEVICE_TEXT_BYTES = 256 };

// Of ranks with different ones "2 x cpu avx512, 2 threads + 1 x cpu avx2, 2 threads", in their
// order.
static char *join_devices(const char (*texts)[DEVICE_TEXT_BYTES], int ranks)
{
    struct strbuf joined = {0};
    for (int r = 0, next; r < ranks; r = next) {
        for (next = r + 1; next < ranks && strcmp(texts[next], texts[r]) == 0;)
            next++;
        if (next - r == ranks)
            return mem_strdup(texts[0]);
        strbuf_addf(&joined, "%s%d x %s", r == 0 ? "" : " + ", next - r, texts[r]);
    }
    return strbuf_detach(&joined);
}

static void describe_device(const struct device *device, char out[DEVICE_TEXT_BYTES])
{
    char libraries[DEVICE_TEXT_BYTES / 2], name[DEVICE_TEXT_BYTES / 2 - 4];
    device_describe(device, name, sizeof(name));
    device_libraries(device, libraries, sizeof(libraries));
    snprintf(out, DEVICE_TEXT_BYTES, "%s%s%s", name, libraries[0] ? ", " : "", libraries);
}

static int gather_devices(const struct trainer *trainer, char **out, struct error *err)
{
    const int ranks = group_size(trainer->group);
    char(*texts)[DEVICE_TEXT_BYTES] = mem_calloc((size_t)ranks, sizeof(*texts));
    char own[DEVICE_TEXT_BYTES] = "";
    describe_device(trainer->model->device, own);
    const int rc = group_all_gather(trainer->group, texts, own, sizeof(own), err);
    *out = rc == 0 ? join_devices((const char(*)[DEVICE_TEXT_BYTES])texts, ranks) : NULL;
    free(texts);
    return rc;
}

static char *program_digest(void)
{
    struct fs_map map;
    struct error unknown;
    char text[DIGEST_TEXT_BYTES];
    if (fs_map_open("/proc/self/exe", &map, &unknown))
        return NULL;
    digest_format(digest_bytes(map.bytes, map.length), text);
    fs_map_close(&map);
    return mem_strdup(text);
}

int environment_gather(const struct trainer *trainer, struct environment *out, struct error *err)
{
    const struct trainer_options *options = &trainer->options;
    char **values = out->values;
    values[ENVIRONMENT_RANKS] = mem_printf("%d", group_size(trainer->group));
    values[ENVIRONMENT_STAGE] = mem_printf("%d", (int)options->zero);
    values[ENVIRONMENT_MICRO_BATCH] = mem_printf("%zu", options->micro_batch_tokens);
    values[ENVIRONMENT_GRADIENTS] = mem_strdup(dtype_name(options->grads));
    values[ENVIRONMENT_TRANSPORT] = mem_strdup(group_transport(trainer->group));
    values[ENVIRONMENT_LIBRARIES] = mem_printf("glibc %s", gnu_get_libc_version());
    values[ENVIRONMENT_PROGRAM] = program_digest();
    return gather_devices(trainer, &values[ENVIRONMENT_DEVICES], err);
}

void environment_release(struct environment *environment)
{
    for (int f = 0; f < ENVIRONMENT_FIELDS; f++)
        free(environment->values[f]);
    *environment = (struct environment){0};
}

static bool matters(int field, bool exact_sums)
{
    return !exact_sums || (field != ENVIRONMENT_RANKS && field != ENVIRONMENT_STAGE &&
                           field != ENVIRONMENT_TRANSPORT);
}

static bool same(const char *a, const char *b)
{
    return a && b ? strcmp(a, b) == 0 : a == b;
}

void environment_compare(const struct environment *was, const struct environment *is,
                         bool exact_sums, struct strbuf *out)
{
    const size_t begin = out->length;
    for (int f = 0; f < ENVIRONMENT_FIELDS; f++) {
        const char *a = was->values[f], *b = is->values[f];
        if (!matters(f, exact_sums) || same(a, b))
            continue;
        strbuf_addf(out, "%s%s", out->length > begin ? " and " : "", environment_names[f]);
        if (f != ENVIRONMENT_PROGRAM)
            strbuf_addf(out, " (%s, now %s)", a ? a : "unknown", b ? b : "unknown");
    }
}
