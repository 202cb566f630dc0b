// SPDX-License-Identifier: Apache-2.0
// Adapters as a PEFT directory.
#include "worker/model/lora.h"

#include "base/fs.h"
#include "base/json.h"
#include "base/mem.h"
#include "datasets/safetensors.h"

#include <stdlib.h>
#include <string.h>

// PEFT takes a module for a target whose name is one of these or ends with "." and one of these. A
// module's own name will do, but where layers of another kind have one that is called alike.
static const char *target_module(const struct model_config *config, const char *name,
                                 size_t *length)
{
    const char *end = strstr(name, ".lora_A.");
    int parts = 1;
    for (int64_t i = 0; i < config->layers; i++)
        parts = config->layer_kinds[i] == LAYER_CONV ? 2 : parts;
    const char *begin = end;
    while (begin > name && (begin[-1] != '.' || --parts > 0))
        begin--;
    *length = (size_t)(end - begin);
    return begin;
}

static void add_targets(struct json_writer *w, const struct model *model)
{
    const struct lora *lora = model->lora;
    uint32_t said = 0;
    json_key(w, "target_modules");
    json_begin_array(w);
    for (size_t i = 0; i < lora->layout.parameter_count; i += 2) {
        const struct parameter *p = &lora->layout.parameters[i];
        size_t length;
        const char *name = target_module(&model->config, p->name, &length);
        if (!(said & 1u << p->kind))
            json_string(w, name, length);
        said |= 1u << p->kind;
    }
    json_end_array(w);
}

static void member_text(struct json_writer *w, const char *key, const char *value)
{
    json_key(w, key);
    json_text(w, value);
}

static void member_bool(struct json_writer *w, const char *key, bool value)
{
    json_key(w, key);
    json_bool(w, value);
}

static int write_config(const struct model *model, struct fs *fs, const char *directory,
                        const char *base, struct error *err)
{
    const struct lora_options *options = &model->lora->options;
    struct strbuf json = {0};
    struct json_writer w = {.out = &json, .indent = 2};
    json_begin_object(&w);
    member_text(&w, "peft_type", "LORA");
    member_text(&w, "task_type", "CAUSAL_LM");
    member_text(&w, "base_model_name_or_path", base);
    json_key(&w, "r");
    json_int(&w, options->r);
    json_key(&w, "lora_alpha");
    json_number(&w, options->alpha);
    json_key(&w, "lora_dropout");
    json_number(&w, options->dropout);
    add_targets(&w, model);
    member_text(&w, "bias", "none");
    member_bool(&w, "fan_in_fan_out", false);
    member_bool(&w, "inference_mode", true);
    member_bool(&w, "init_lora_weights", true);
    member_bool(&w, "use_dora", false);
    member_bool(&w, "use_rslora", false);
    json_end_object(&w);
    strbuf_addc(&json, '\n');
    char *path = fs_join(directory, "adapter_config.json");
    const int rc = fs_write_text(fs, path, json.bytes, json.length, err);
    free(path);
    strbuf_release(&json);
    return rc;
}

static int write_parameter(const struct model *model, const struct parameter *p,
                           struct safetensors_writer *writer, struct error *err)
{
    const size_t bytes = p->count * sizeof(float);
    float *host = mem_alloc(bytes);
    const int rc =
        device_copy_out(model->device, host, (const float *)model->lora->weights.data + p->offset,
                        bytes, err) ||
                safetensors_writer_write(writer, host, bytes, err)
            ? -1
            : 0;
    free(host);
    return rc;
}

static int write_weights(const struct model *model, struct fs *fs, const char *directory,
                         struct error *err)
{
    static const char *const metadata[] = {"format", "pt", NULL};
    const struct layout *layout = &model->lora->layout;
    struct safetensors_entry *entries = mem_calloc(layout->parameter_count, sizeof(*entries));
    struct safetensors_writer *writer = NULL;
    for (size_t i = 0; i < layout->parameter_count; i++) {
        const struct parameter *p = &layout->parameters[i];
        entries[i] = (struct safetensors_entry){.name = p->name,
                                                .dtype = ST_F32,
                                                .rank = p->rank,
                                                .shape = {p->shape[0], p->shape[1]},
                                                .bytes = p->count * sizeof(float)};
    }
    char *path = fs_join(directory, "adapter_model.safetensors");
    int rc = safetensors_writer_create(fs, path, entries, layout->parameter_count, metadata,
                                       &writer, err);
    for (size_t i = 0; rc == 0 && i < layout->parameter_count; i++)
        rc = write_parameter(model, &layout->parameters[i], writer, err);
    if (rc == 0)
        rc = safetensors_writer_finish(writer, err);
    safetensors_writer_destroy(writer);
    free(path);
    free(entries);
    return rc;
}

// The configuration first: what has weights is whole.
int lora_save(const struct model *model, struct fs *fs, const char *directory, const char *base,
              struct error *err)
{
    return fs_make_directories(fs, directory, err) ||
                   write_config(model, fs, directory, base, err) ||
                   write_weights(model, fs, directory, err)
               ? -1
               : 0;
}
