// SPDX-License-Identifier: Apache-2.0
// memo init: a model with random weights and a tokenizer trained on given text, as a Hugging Face
// directory.
#include "base/log.h"
#include "base/mem.h"
#include "datasets/bpe_train.h"
#include "datasets/corpus.h"
#include "datasets/model_directory.h"
#include "jobs/run_directory.h"
#include "jobs/verbs.h"
#include "worker/model/model.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct init_options {
    const char *shape;
    const char *out;
    const char *text;
    const char *tokenizer;
    const char *dtype;
    int64_t vocabulary;
    int64_t layers, hidden, heads, kv_heads, head_width, ffn;
    int64_t seed;
};

#define OPTION_AT(field) offsetof(struct init_options, field)

static const struct option init_option_table[] = {
    {"shape", OPTION_STRING, OPTION_AT(shape), "NAME", "tiny", 0, 0, NULL,
     "published shape to start from: tiny, micro, qwen2.5-0.5b, qwen2.5-1.5b, qwen2.5-3b, qwen2.5-7b, qwen2.5-14b, qwen2.5-32b, qwen3-0.6b, llama3.2-1b, gemma3-1b, lfm2-1.2b",
     false},
    {"out", OPTION_STRING, OPTION_AT(out), "DIR", NULL, 0, 0, NULL, "model directory to write",
     true},
    {"text", OPTION_STRING, OPTION_AT(text), "CORPUS", NULL, 0, 0, NULL,
     "corpus.h5 whose text trains a new tokenizer of --vocabulary tokens", false},
    {"tokenizer", OPTION_STRING, OPTION_AT(tokenizer), "DIR", NULL, 0, 0, NULL,
     "copy the tokenizer of this model directory instead", false},
    {"vocabulary", OPTION_INT, OPTION_AT(vocabulary), "N", "4096", 259, 1 << 20, NULL,
     "tokens of the new tokenizer, special ones included", false},
    {"layers", OPTION_INT, OPTION_AT(layers), "N", "0", 0, 1024, NULL,
     "replaces the shape's own figure; so do the next five (0: keep it)", false},
    {"hidden", OPTION_INT, OPTION_AT(hidden), "N", "0", 0, 1 << 20, NULL, "width", false},
    {"heads", OPTION_INT, OPTION_AT(heads), "N", "0", 0, 4096, NULL, "query heads", false},
    {"kv-heads", OPTION_INT, OPTION_AT(kv_heads), "N", "0", 0, 4096, NULL, "key and value heads",
     false},
    {"head-width", OPTION_INT, OPTION_AT(head_width), "N", "0", 0, 4096, NULL, "width of a head",
     false},
    {"ffn", OPTION_INT, OPTION_AT(ffn), "N", "0", 0, 1 << 22, NULL,
     "width of the feed-forward part", false},
    {"dtype", OPTION_CHOICE, OPTION_AT(dtype), "TYPE", "f32", 0, 0, "f32|bf16|f16",
     "of the weights on disk", false},
    {"seed", OPTION_INT, OPTION_AT(seed), "N", "1", 0, INT32_MAX, NULL, "of the random weights",
     false},
    {0},
};

static int train_tokenizer(const struct init_options *options, struct tokenizer **out,
                           struct error *err)
{
    struct corpus *corpus = NULL;
    struct bpe_trainer *trainer = bpe_trainer_create();
    int rc = corpus_open(options->text, &corpus, err);
    for (size_t d = 0; rc == 0 && d < corpus->document_count; d++) {
        const struct corpus_document *document = &corpus->documents[d];
        rc = bpe_trainer_add(trainer, corpus->text + document->begin,
                             document->end - document->begin, err);
    }
    if (rc == 0)
        rc = bpe_trainer_finish(trainer, (int32_t)options->vocabulary, out, err);
    bpe_trainer_destroy(trainer);
    corpus_close(corpus);
    return rc;
}

// Leaves the tokenizer files in the output directory; *vocabulary is what the model must cover.
static int place_tokenizer(const struct init_options *options, int64_t *vocabulary,
                           struct error *err)
{
    struct tokenizer *tokenizer = NULL;
    struct fs *fs = fs_system();
    int rc;
    if (options->tokenizer)
        rc = model_directory_copy_tokenizer(fs, options->tokenizer, options->out, err) ||
                     tokenizer_load(options->out, &tokenizer, err)
                 ? -1
                 : 0;
    else
        rc = train_tokenizer(options, &tokenizer, err) ||
                     tokenizer_save(tokenizer, fs, options->out, err)
                 ? -1
                 : 0;
    if (rc == 0)
        *vocabulary = tokenizer_vocabulary_size(tokenizer);
    tokenizer_destroy(tokenizer);
    return rc;
}

static void replace(int64_t *figure, int64_t by)
{
    if (by > 0)
        *figure = by;
}

static int resolve_config(const struct init_options *options, struct model_config *config,
                          struct error *err)
{
    if (model_config_shape(options->shape, config, err))
        return -1;
    replace(&config->layers, options->layers);
    replace(&config->hidden, options->hidden);
    replace(&config->heads, options->heads);
    replace(&config->kv_heads, options->kv_heads);
    replace(&config->head_width, options->head_width);
    replace(&config->ffn, options->ffn);
    config->dtype = strcmp(options->dtype, "f32") == 0    ? DTYPE_F32
                    : strcmp(options->dtype, "bf16") == 0 ? DTYPE_BF16
                                                          : DTYPE_F16;
    return model_config_validate(config, err);
}

// A tokenizer smaller than the shape's padded vocabulary leaves the padding; a shape of our own is
// cut to the tokenizer.
static void fit_vocabulary(const struct init_options *options, int64_t tokens,
                           struct model_config *config)
{
    if (tokens > config->vocabulary || strcmp(options->shape, "tiny") == 0)
        config->vocabulary = tokens;
}

static int make_model(const struct init_options *options, const struct model_config *config,
                      uint64_t *parameters, struct error *err)
{
    struct device *device = NULL;
    struct model *model = NULL;
    int rc = device_create(&(struct device_options){0}, &device, err) ||
                     model_create(device, config, DTYPE_F32, &model, err) ||
                     model_init_random(model, (uint64_t)options->seed, err) ||
                     model_save(model, fs_system(), options->out, NULL, err)
                 ? -1
                 : 0;
    if (rc == 0)
        *parameters = model->layout.elements;
    model_destroy(model);
    device_destroy(device);
    return rc;
}

static int init(const struct init_options *options, struct model_config *config,
                struct run_directory *run, struct error *err)
{
    int64_t tokens = 0;
    uint64_t parameters = 0;
    if (options->text || options->tokenizer) {
        if (place_tokenizer(options, &tokens, err))
            return EXIT_FAILED;
        fit_vocabulary(options, tokens, config);
    }
    if (make_model(options, config, &parameters, err))
        return EXIT_FAILED;
    run_directory_int(run, "parameters", (int64_t)parameters);
    run_directory_int(run, "vocabulary", config->vocabulary);
    log_info("%s: %.2f M parameters, %" PRId64 " layers of width %" PRId64 ", vocabulary %" PRId64,
             options->out, (double)parameters / 1e6, config->layers, config->hidden,
             config->vocabulary);
    return EXIT_DONE;
}

static int run_init(const void *parsed, const struct option_list *positional, struct error *err)
{
    const struct init_options *options = parsed;
    struct run_directory run = {0};
    struct model_config config;
    (void)positional;
    if (options->text && options->tokenizer) {
        error_set(err, "--text and --tokenizer exclude each other");
        return EXIT_USAGE;
    }
    if (resolve_config(options, &config, err))
        return EXIT_USAGE;
    if (run_directory_open(&run, options->out, true, &verb_init, options, err))
        return EXIT_FAILED;
    return run_directory_close(&run, init(options, &config, &run, err), err);
}

const struct verb verb_init = {
    .name = "init",
    .summary = "make a model with random weights, and a tokenizer from text",
    .examples = "  memo init --text corpus.h5 --out models/base\n"
                "  memo init --shape qwen2.5-0.5b --dtype bf16 --out /scratch/shape-only\n",
    .options = init_option_table,
    .options_bytes = sizeof(struct init_options),
    .run = run_init,
};
