// SPDX-License-Identifier: Apache-2.0
// usage: resave_model FROM TO SHARD_BYTES: loads a model directory and saves it in shards, for
// tests/oracle/check_saved_models.py.
#include "worker/model/model.h"

#include "base/fs.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

static int resave(const char *from, const char *to, const struct model_save_options *options,
                  struct error *err)
{
    struct device *device = NULL;
    struct model *model = NULL;
    int rc = device_create(&(struct device_options){0}, &device, err) ||
                     model_load(device, from, DTYPE_F32, &model, err) ||
                     model_save(model, fs_system(), to, options, err)
                 ? -1
                 : 0;
    model_destroy(model);
    device_destroy(device);
    return rc;
}

int main(int count, char **arguments)
{
    struct error err;
    if (count != 4) {
        fprintf(stderr, "usage: %s FROM TO SHARD_BYTES\n", arguments[0]);
        return EXIT_FAILURE;
    }
    struct model_save_options options = {.max_shard_bytes = strtoull(arguments[3], NULL, 10)};
    if (resave(arguments[1], arguments[2], &options, &err)) {
        fprintf(stderr, "%s\n", err.text);
        return EXIT_FAILURE;
    }
    return EXIT_SUCCESS;
}
