// SPDX-License-Identifier: Apache-2.0
#include "jobs/cost_sources.h"

#include "base/fs.h"
#include "base/mem.h"
#include "jobs/compute.h"
#include "kernels/bench.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

int cost_model_read(const char *name, struct cost_model *out, struct error *err)
{
    struct model_config *config = mem_calloc(1, sizeof(*config));
    struct strbuf text = {0};
    char *path = fs_join(name, "config.json");
    int rc;
    if (fs_exists(fs_system(), path))
        rc = fs_read(fs_system(), path, &text, err) ||
                     model_config_parse(text.bytes, text.length, config, err)
                 ? error_prefix(err, "'%s'", path)
                 : 0;
    else
        rc = model_config_shape(name, config, err);
    if (rc == 0)
        cost_model_shape(config, out);
    free(path);
    strbuf_release(&text);
    free(config);
    return rc;
}

static int measure_cpu(struct cost_hardware *out, struct error *err)
{
    struct device *device;
    struct bench_limits limits;
    if (compute_device_open_alone(NULL, 0, &device, err))
        return -1;
    const int rc = bench_limits(device, &limits, err);
    device_destroy(device);
    if (rc == 0)
        *out = (struct cost_hardware){
            .name = "cpu",
            .memory_bytes = (double)sysconf(_SC_PHYS_PAGES) * (double)sysconf(_SC_PAGESIZE),
            .flops = fmax(limits.flops, limits.dot_flops),
            .bandwidth = limits.read_bytes,
            .source = "measured just now, all processors of this machine"};
    return rc;
}

int cost_hardware_find(const char *name, struct cost_hardware *out, struct error *err)
{
    for (size_t i = 0; i < cost_hardware_count; i++) {
        if (strcmp(cost_hardware_rows[i].name, name) == 0) {
            *out = cost_hardware_rows[i];
            return 0;
        }
    }
    return measure_cpu(out, err);
}
