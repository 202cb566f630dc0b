// SPDX-License-Identifier: Apache-2.0
#include "worker/train/identity.h"

#include "base/mem.h"
#include "worker/model/lora.h"

#include <stdlib.h>

enum { STAGING_ELEMENTS = 1 << 20 };

static int weights_digest(struct device *device, struct tensor weights, uint64_t elements,
                          struct digest *out, struct error *err)
{
    const size_t element = dtype_bytes(weights.dtype);
    const size_t most = elements < STAGING_ELEMENTS ? (size_t)elements : STAGING_ELEMENTS;
    void *host = mem_alloc(most * element);
    struct digest_builder builder;
    int rc = 0;
    digest_begin(&builder);
    for (uint64_t done = 0; rc == 0 && done < elements; done += most) {
        const size_t count = elements - done < most ? (size_t)(elements - done) : most;
        rc = device_copy_out(device, host, (const char *)weights.data + done * element,
                             count * element, err);
        if (rc == 0)
            digest_update(&builder, host, count * element);
    }
    *out = digest_end(&builder);
    free(host);
    return rc;
}

// Nothing of a model without adapters.
static int add_lora(struct digest_builder *builder, const struct model *model, struct error *err)
{
    const struct lora *lora = model->lora;
    struct digest weights;
    if (!lora)
        return 0;
    if (weights_digest(model->device, lora->weights, lora->layout.elements, &weights, err))
        return -1;
    const double numbers[] = {(double)lora->options.r, lora->options.alpha, lora->options.dropout};
    digest_field(builder, weights.bytes, sizeof(weights.bytes));
    digest_field(builder, numbers, sizeof(numbers));
    digest_field_u64(builder, lora->options.targets);
    digest_field_u64(builder, lora->options.seed);
    digest_field_u64(builder, (uint64_t)model->weights.dtype);
    return 0;
}

int identity_compute(const struct model *model, const struct sequence_set *set,
                     const struct trainer_options *options, struct digest *out, struct error *err)
{
    const struct digest data = sequence_set_digest(set);
    struct digest weights;
    if (weights_digest(model->device, model->weights, model->layout.elements, &weights, err))
        return -1;
    struct strbuf config = {0};
    struct digest_builder builder;
    model_config_write(&model->config, &config);
    digest_begin(&builder);
    digest_field(&builder, data.bytes, sizeof(data.bytes));
    digest_field(&builder, weights.bytes, sizeof(weights.bytes));
    digest_field(&builder, config.bytes, config.length);
    digest_field_u64(&builder, options->plan.seed);
    digest_field_u64(&builder, options->plan.per_step);
    digest_field_u64(&builder, options->plan.epochs);
    digest_field_u64(&builder, (uint64_t)options->schedule.kind);
    digest_field_u64(&builder, (uint64_t)options->optimizer.form.weights);
    digest_field_u64(&builder, (uint64_t)options->optimizer.form.moments);
    digest_field_u64(&builder, options->exact_sums);
    const double numbers[] = {options->schedule.peak,     options->warmup_fraction,
                              options->optimizer.beta1,   options->optimizer.beta2,
                              options->optimizer.epsilon, options->optimizer.weight_decay,
                              options->clip_norm};
    digest_field(&builder, numbers, sizeof(numbers));
    strbuf_release(&config);
    const int rc = add_lora(&builder, model, err);
    *out = digest_end(&builder);
    return rc;
}

int identity_agree(struct group *group, struct digest identity, struct error *err)
{
    const int ranks = group_size(group);
    struct digest *all = mem_calloc((size_t)ranks, sizeof(*all));
    int rc = group_all_gather(group, all, &identity, sizeof(identity), err);
    for (int r = 1; rc == 0 && r < ranks; r++) {
        if (!digest_equal(all[r], all[0]))
            rc = error_set(err, "rank %d of %d has other data, options or weights than rank 0", r,
                           ranks);
    }
    free(all);
    return rc;
}
