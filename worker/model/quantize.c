// SPDX-License-Identifier: Apache-2.0
#include "worker/model/decoder.h"

#include <assert.h>

enum { LINEARS = 4, ALIGNMENT = 256 };

static void linears_of(struct decoder_layer *layer, struct linear *out[LINEARS])
{
    out[0] = &layer->qkv;
    out[1] = &layer->o;
    out[2] = &layer->gate_up;
    out[3] = &layer->down;
}

static size_t take(size_t *used, size_t bytes)
{
    const size_t at = *used;
    *used += (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    return at;
}

// With block NULL it only measures.
static size_t place(struct model *model, char *block)
{
    size_t used = 0;
    for (int64_t i = 0; i < model->config.layers; i++) {
        struct linear *linears[LINEARS];
        linears_of(&model->decoder->layers[i], linears);
        for (size_t l = 0; l < LINEARS; l++) {
            const size_t codes = take(&used, linears[l]->out_width * linears[l]->in_width);
            const size_t scales = take(&used, linears[l]->out_width * sizeof(float));
            if (!block)
                continue;
            linears[l]->codes = (uint8_t *)block + codes;
            linears[l]->scales = (float *)(void *)(block + scales);
        }
    }
    return used;
}

int model_quantize(struct model *model, struct error *err)
{
    struct device *device = model->device;
    assert(!model->codes && !model->lora);
    if (device_alloc(device, place(model, NULL), &model->codes, err))
        return error_prefix(err, "weights in eight bits");
    place(model, model->codes);
    for (int64_t i = 0; i < model->config.layers; i++) {
        struct linear *linears[LINEARS];
        linears_of(&model->decoder->layers[i], linears);
        for (size_t l = 0; l < LINEARS; l++)
            device->ops->quantize_rows(device,
                                       &(struct quantize_rows){.codes = linears[l]->codes,
                                                               .scales = linears[l]->scales,
                                                               .x = linears[l]->weight,
                                                               .rows = linears[l]->out_width,
                                                               .width = linears[l]->in_width});
    }
    return device_sync(device, err);
}
