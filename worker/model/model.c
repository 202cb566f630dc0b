// SPDX-License-Identifier: Apache-2.0
#include "worker/model/model.h"

#include "worker/model/decoder.h"
#include "worker/model/lora.h"

#include "base/hash.h"
#include "base/mem.h"
#include "base/random.h"

#include <assert.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static int create_frequencies(struct model *model, struct error *err)
{
    size_t half = (size_t)model->config.head_width / 2;
    void *block = NULL;
    if (device_alloc(model->device, 2 * half * sizeof(float), &block, err))
        return -1;
    model->inverse_frequency = block;
    float *host = mem_alloc(2 * half * sizeof *host);
    model_config_frequencies(&model->config, LAYER_FULL, host);
    model_config_frequencies(&model->config, LAYER_SLIDING, host + half);
    device_copy_in(model->device, block, host, 2 * half * sizeof *host);
    free(host);
    return 0;
}

int model_create(struct device *device, const struct model_config *config, enum dtype dtype,
                 struct model **out, struct error *err)
{
    *out = NULL;
    if (model_config_validate(config, err))
        return -1;
    struct model *model = mem_calloc(1, sizeof *model);
    model->config = *config;
    model->device = device;
    model->weights.dtype = dtype;
    model->decoder = mem_calloc(1, sizeof *model->decoder);
    layout_create(config, &model->layout);
    decoder_create(config, model->decoder);
    if (device_alloc(device, (size_t)model->layout.elements * dtype_bytes(dtype),
                     &model->weights.data, err) ||
        create_frequencies(model, err)) {
        error_prefix(err, "model of %llu parameters", (unsigned long long)model->layout.elements);
        model_destroy(model);
        return -1;
    }
    decoder_bind(model->decoder, config, &model->layout, model->weights, NULL);
    *out = model;
    return 0;
}

void model_destroy(struct model *model)
{
    if (!model)
        return;
    assert(model->pack_count == 0);
    lora_destroy(model->device, model->lora);
    device_free(model->device, model->weights.data);
    device_free(model->device, model->inverse_frequency);
    device_free(model->device, model->codes);
    decoder_release(model->decoder);
    free(model->decoder);
    layout_release(&model->layout);
    free(model);
}

void model_replace_weights(struct model *model, struct tensor weights)
{
    assert(model->pack_count == 0 && !model->codes);
    device_free(model->device, model->weights.data);
    model->weights = weights;
    decoder_bind(model->decoder, &model->config, &model->layout, weights, NULL);
}

const struct layout *model_trained_layout(const struct model *model)
{
    return model->lora ? &model->lora->layout : &model->layout;
}

struct tensor model_trained_weights(const struct model *model)
{
    return model->lora ? model->lora->weights : model->weights;
}

static void for_each_linear(struct model *model,
                            void (*operation)(struct device *, struct linear *))
{
    for (int64_t i = 0; i < model->config.layers; i++) {
        struct decoder_layer *layer = &model->decoder->layers[i];
        operation(model->device, &layer->qkv);
        operation(model->device, &layer->o);
        operation(model->device, &layer->gate_up);
        operation(model->device, &layer->down);
    }
    operation(model->device, &model->decoder->head);
}

void model_pack(struct model *model)
{
    if (model->pack_count++ == 0)
        for_each_linear(model, model->device->ops->linear_pack);
}

void model_unpack(struct model *model)
{
    assert(model->pack_count > 0);
    if (--model->pack_count == 0)
        for_each_linear(model, model->device->ops->linear_unpack);
}

struct initial {
    float mean;
    double deviation;
};

// As GPT-2 and its successors: matrices that add to the residual stream (two a layer) start
// smaller, so that the stream's variance does not grow with depth.
static struct initial initial_values(const struct model_config *config, enum parameter_kind kind)
{
    if (parameter_is_norm(kind))
        return (struct initial){.mean = config->offset_norms ? 0.0f : 1.0f};
    switch (kind) {
    case PARAM_Q_BIAS:
    case PARAM_K_BIAS:
    case PARAM_V_BIAS:
        return (struct initial){0};
    case PARAM_O:
    case PARAM_CONV_OUT:
    case PARAM_DOWN:
        return (struct initial){.deviation = 0.02 / sqrt(2.0 * (double)config->layers)};
    default:
        return (struct initial){.deviation = 0.02};
    }
}

static uint64_t stream_of(const char *name)
{
    struct digest digest = digest_bytes(name, strlen(name));
    uint64_t stream = 0;
    for (size_t i = 0; i < sizeof stream; i++)
        stream = stream << 8 | digest.bytes[i];
    return stream;
}

enum { STAGING_ELEMENTS = 1 << 16 };

static void init_parameter(struct model *model, const struct parameter *p, uint64_t seed,
                           float *values, void *converted)
{
    struct initial initial = initial_values(&model->config, p->kind);
    uint64_t stream = stream_of(p->name);
    enum dtype dtype = model->weights.dtype;
    for (uint64_t done = 0; done < p->count;) {
        size_t count = p->count - done < STAGING_ELEMENTS ? (size_t)(p->count - done)
                                                          : (size_t)STAGING_ELEMENTS;
        for (size_t i = 0; i < count; i++) {
            values[i] = initial.mean;
            if (initial.deviation > 0)
                values[i] += (float)(initial.deviation * random_normal(seed, stream, done + i));
        }
        convert_from_f32(converted, dtype, values, count);
        device_copy_in(model->device, tensor_at(model->weights, p->offset + done).data, converted,
                       count * dtype_bytes(dtype));
        done += count;
    }
}

int model_init_random(struct model *model, uint64_t seed, struct error *err)
{
    assert(model->pack_count == 0);
    float *values = mem_alloc(STAGING_ELEMENTS * sizeof *values);
    float *converted = mem_alloc(STAGING_ELEMENTS * sizeof *converted);
    for (size_t i = 0; i < model->layout.parameter_count; i++)
        init_parameter(model, &model->layout.parameters[i], seed, values, converted);
    int rc = device_sync(model->device, err);
    free(values);
    free(converted);
    return rc;
}
