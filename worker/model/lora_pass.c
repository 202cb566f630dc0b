// SPDX-License-Identifier: Apache-2.0
// Adapters in a pass. q, k and v (and gate and up) are one matrix to the kernels, and a row of its
// output is one row of all of them: B of a projection is therefore applied as a matrix over the
// whole row that is zero outside the projection's part. That costs a rank-r product over a wider
// row, which is little beside the matrix itself. Backward computes dropout(x) and A dropout(x)
// again: both are cheap, and nothing more is kept of a layer.
//
//     x' = s dropout(x)     h = A x'     y += B h          s = alpha / r
//     grad_B += grad_y h^T      grad_h = B^T grad_y      grad_A += grad_h x'^T
//     grad_x += s dropout(A^T grad_h)
#include "worker/model/decoder.h"
#include "worker/model/lora.h"

// A matrix of a layer, and the projections that are parts of it.
struct site {
    size_t layer;
    int first, last;
    bool ffn;
};

// False of the head, which has no adapter.
static bool find_site(const struct model *model, const struct linear *linear, struct site *out)
{
    for (size_t layer = 0; layer < (size_t)model->config.layers; layer++) {
        const struct decoder_layer *l = &model->decoder->layers[layer];
        const struct site sites[] = {{layer, LORA_Q, LORA_V, false},
                                     {layer, LORA_O, LORA_O, false},
                                     {layer, LORA_GATE, LORA_UP, true},
                                     {layer, LORA_DOWN, LORA_DOWN, true}};
        const struct linear *const linears[] = {&l->qkv, &l->o, &l->gate_up, &l->down};
        for (int i = 0; i < 4; i++) {
            if (linears[i] == linear) {
                *out = sites[i];
                return true;
            }
        }
    }
    return false;
}

// One adapter at work.
struct application {
    const struct pass *pass;
    const struct lora_adapter *adapter;
    const uint64_t *keys; // NULL: nothing is dropped
    uint64_t stream;
    struct linear a, b; // b over the whole row
    struct tensor x, hidden;
    size_t rows;
};

static struct tensor floats(float *data)
{
    return (struct tensor){data, DTYPE_F32};
}

// B with zeros around it, unless the row is the projection's alone.
static float *whole_b(const struct pass *pass, const struct lora_adapter *adapter, size_t out_width)
{
    struct device *device = pass->model->device;
    const struct lora *lora = pass->model->lora;
    const size_t r = (size_t)lora->options.r;
    float *own = (float *)lora->weights.data + adapter->b;
    if (adapter->out_width == out_width)
        return own;
    float *whole = pass->workspace->lora_b;
    device_zero(device, whole, out_width * r * sizeof(float));
    device_copy(device, whole + adapter->row * r, own, adapter->out_width * r * sizeof(float));
    return whole;
}

static void drop(const struct application *app, struct tensor out, struct tensor x, bool accumulate)
{
    const struct lora *lora = app->pass->model->lora;
    struct device *device = app->pass->model->device;
    const double p = app->keys ? lora->options.dropout : 0;
    device->ops->dropout(device,
                         &(struct dropout){.out = out,
                                           .x = x,
                                           .keys = app->keys,
                                           .stream = app->stream,
                                           .drop_below = (uint32_t)(p * 0x1p32),
                                           .factor = (float)((double)lora_scale(lora) / (1 - p)),
                                           .rows = app->rows,
                                           .width = app->adapter->in_width,
                                           .accumulate = accumulate});
}

// Leaves s dropout(x) and A of it in the workspace.
static struct application apply(const struct pass *pass, const struct site *site, int target,
                                const struct linear *linear, struct tensor x, size_t rows)
{
    const struct workspace *w = pass->workspace;
    const struct lora *lora = pass->model->lora;
    struct device *device = pass->model->device;
    const bool top = site->ffn && site->layer + 1 == (size_t)pass->model->config.layers;
    const struct lora_adapter *adapter =
        &lora->adapters[site->layer * LORA_TARGETS + (size_t)target];
    struct application app = {.pass = pass,
                              .adapter = adapter,
                              .stream = site->layer * LORA_TARGETS + (size_t)target,
                              .x = floats(w->lora_x),
                              .hidden = floats(w->lora_hidden),
                              .rows = rows};
    if (pass->drops)
        app.keys = top ? w->wanted_keys : w->keys;
    app.a = (struct linear){.weight = floats((float *)lora->weights.data + adapter->a),
                            .out_width = (size_t)lora->options.r,
                            .in_width = adapter->in_width};
    app.b = (struct linear){.weight = floats(whole_b(pass, adapter, linear->out_width)),
                            .out_width = linear->out_width,
                            .in_width = (size_t)lora->options.r};
    drop(&app, app.x, x, false);
    device->ops->linear_forward(
        device,
        &(struct linear_forward){.out = app.hidden, .x = app.x, .linear = &app.a, .rows = rows});
    return app;
}

void lora_forward(const struct pass *pass, const struct linear *linear, struct tensor out,
                  struct tensor x, size_t rows)
{
    struct device *device = pass->model->device;
    const struct lora *lora = pass->model->lora;
    struct site site;
    if (!lora || !find_site(pass->model, linear, &site))
        return;
    for (int target = site.first; target <= site.last; target++) {
        if (!lora->adapters[site.layer * LORA_TARGETS + (size_t)target].present)
            continue;
        const struct application app = apply(pass, &site, target, linear, x, rows);
        device->ops->linear_forward(
            device,
            &(struct linear_forward){
                .out = out, .x = app.hidden, .linear = &app.b, .rows = rows, .accumulate = true});
    }
}

static void multiply_weight(const struct application *app, float *grad, struct tensor grad_out,
                            struct tensor x, const struct linear *linear)
{
    struct device *device = app->pass->model->device;
    device->ops->linear_backward_weight(device, &(struct linear_backward_weight){
                                                    .grad_weight = floats(grad),
                                                    .grad_out = grad_out,
                                                    .x = x,
                                                    .rows = app->rows,
                                                    .out_width = linear->out_width,
                                                    .in_width = linear->in_width,
                                                });
}

// Of the whole row's B only the projection's part is a gradient.
static void backward_b(const struct application *app, struct tensor grad_out)
{
    const struct workspace *w = app->pass->workspace;
    struct device *device = app->pass->model->device;
    const struct lora_adapter *adapter = app->adapter;
    const size_t r = app->b.in_width;
    float *grad = (float *)w->bound.sums.data + adapter->b;
    if (adapter->out_width == app->b.out_width) {
        multiply_weight(app, grad, grad_out, app->hidden, &app->b);
        return;
    }
    device_zero(device, w->lora_grad_b, app->b.out_width * r * sizeof(float));
    multiply_weight(app, w->lora_grad_b, grad_out, app->hidden, &app->b);
    device->ops->dropout(device, &(struct dropout){.out = floats(grad),
                                                   .x = floats(w->lora_grad_b + adapter->row * r),
                                                   .factor = 1,
                                                   .rows = adapter->out_width,
                                                   .width = r,
                                                   .accumulate = true});
}

static void multiply_input(const struct application *app, struct tensor grad_x,
                           struct tensor grad_out, const struct linear *linear)
{
    struct device *device = app->pass->model->device;
    device->ops->linear_backward_input(
        device, &(struct linear_backward_input){
                    .grad_x = grad_x, .grad_out = grad_out, .linear = linear, .rows = app->rows});
}

void lora_backward(const struct pass *pass, const struct linear *linear, struct tensor x,
                   struct tensor grad_out, struct tensor grad_x, size_t rows)
{
    const struct workspace *w = pass->workspace;
    const struct lora *lora = pass->model->lora;
    const struct tensor grad_hidden = floats(w->lora_grad_hidden);
    struct site site;
    if (!lora || !find_site(pass->model, linear, &site))
        return;
    for (int target = site.first; target <= site.last; target++) {
        if (!lora->adapters[site.layer * LORA_TARGETS + (size_t)target].present)
            continue;
        const struct application app = apply(pass, &site, target, linear, x, rows);
        backward_b(&app, grad_out);
        multiply_input(&app, grad_hidden, grad_out, &app.b);
        multiply_weight(&app, (float *)w->bound.sums.data + app.adapter->a, grad_hidden, app.x,
                        &app.a);
        multiply_input(&app, app.x, grad_hidden, &app.a);
        drop(&app, grad_x, app.x, true);
    }
}
