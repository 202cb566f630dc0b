// SPDX-License-Identifier: Apache-2.0
// From files to a tokenizer. tokenizer.json is read as the Python package `tokenizers` writes it:
//
//   normalizer     null, NFC, or a Sequence of these
//   pre_tokenizer  ByteLevel, or Sequence[Split(Regex, Isolated), ByteLevel(use_regex false)]
//   model          BPE: vocab {text: id}, merges ["a b", ...] or [["a", "b"], ...]
//   decoder        ByteLevel
//   added_tokens   [{id, content, special, normalized, ...}]
//
// and with byte_fallback as tokenizer_load_fallback.c says.
//
// Whatever would make our ids differ from those of that package is an error. The post-processor
// (which puts a begin token in front for some models) is not applied by encoding, so it is not
// read.
#include "datasets/tokenizer_internal.h"
#include "datasets/tokenizer_vocabulary.h"

#include "base/json.h"

#include <stdlib.h>
#include <string.h>

static bool text_equals(const struct json *value, const char *text)
{
    return json_is_string(value) && value->length == strlen(text) &&
           memcmp(value->string, text, value->length) == 0;
}

static const char *type_of(const struct json *part)
{
    const struct json *type = json_get(part, "type");
    return json_is_string(type) ? type->string : "nothing";
}

static int require_off(const struct json *object, const char *part, const char *key,
                       struct error *err)
{
    if (json_is_off(object, key)) {
        return 0;
    }
    return error_set(err, "'%s' of the %s is set, which is not supported", key, part);
}

static int parse_normalizer(struct tokenizer *t, const struct json *part, struct error *err)
{
    if (json_is_null(part)) {
        return 0;
    }
    const struct json *steps = json_get(part, "normalizers");
    if (strcmp(type_of(part), "Sequence") == 0 && steps != NULL && steps->type == JSON_ARRAY) {
        for (size_t i = 0; i < steps->length; i++) {
            if (strcmp(type_of(&steps->items[i]), "NFC") != 0) {
                return error_set(err, "the normalizer '%s' is not supported; only NFC is",
                                 type_of(&steps->items[i]));
            }
            t->nfc = true;
        }
        return 0;
    }
    if (strcmp(type_of(part), "NFC") != 0) {
        return error_set(err, "the normalizer '%s' is not supported; only NFC is", type_of(part));
    }
    t->nfc = true;
    return 0;
}

static int parse_byte_level(const struct json *part, bool *use_regex, struct error *err)
{
    if (strcmp(type_of(part), "ByteLevel") != 0) {
        return error_set(err, "the pre-tokenizer ends in '%s'%s", type_of(part),
                         TOKENIZER_UNSUPPORTED);
    }
    *use_regex = true;
    if (json_get_bool(part, "use_regex", use_regex, err) != 0) {
        return -1;
    }
    return require_off(part, "pre-tokenizer", "add_prefix_space", err);
}

static int parse_split(const struct json *part, const struct json **pattern, struct error *err)
{
    if (strcmp(type_of(part), "Split") != 0) {
        return error_set(err, "the pre-tokenizer begins with '%s'%s", type_of(part),
                         TOKENIZER_UNSUPPORTED);
    }
    *pattern = json_get(json_get(part, "pattern"), "Regex");
    if (!json_is_string(*pattern)) {
        return error_set(err, "the pre-tokenizer's Split has no Regex%s", TOKENIZER_UNSUPPORTED);
    }
    if (!text_equals(json_get(part, "behavior"), "Isolated")) {
        return error_set(err, "the pre-tokenizer's Split is not of behavior 'Isolated', which is "
                              "not supported");
    }
    return require_off(part, "pre-tokenizer", "invert", err);
}

static int parse_pre_tokenizer(struct tokenizer *t, const struct json *part, struct error *err)
{
    bool use_regex;
    if (strcmp(type_of(part), "Sequence") != 0) {
        if (parse_byte_level(part, &use_regex, err) != 0) {
            return -1;
        }
        if (!use_regex) {
            return error_set(err, "the pre-tokenizer has no pattern, which is not supported");
        }
        return splitter_create(splitter_pattern_gpt2, strlen(splitter_pattern_gpt2), &t->splitter,
                               err);
    }
    const struct json *steps = json_get(part, "pretokenizers");
    const struct json *pattern = NULL;
    if (steps == NULL || steps->type != JSON_ARRAY || steps->length != 2) {
        return error_set(err, "the pre-tokenizer is not a Sequence of Split and ByteLevel, the "
                              "only one supported");
    }
    if (parse_split(&steps->items[0], &pattern, err) != 0 ||
        parse_byte_level(&steps->items[1], &use_regex, err) != 0) {
        return -1;
    }
    if (use_regex) {
        return error_set(err, "the pre-tokenizer has two patterns, which is not supported");
    }
    return splitter_create(pattern->string, pattern->length, &t->splitter, err);
}

static int parse_model(struct tokenizer *t, const struct json *root, struct error *err)
{
    const struct json *model = json_get(root, "model");
    const struct json *type = json_get(model, "type");
    if (!json_is_null(type) && !text_equals(type, "BPE")) {
        return error_set(err, "the tokenizer is of the kind '%s'%s", type_of(model),
                         TOKENIZER_UNSUPPORTED);
    }
    if (require_off(model, "model", "dropout", err) != 0 ||
        require_off(model, "model", "continuing_subword_prefix", err) != 0 ||
        require_off(model, "model", "end_of_word_suffix", err) != 0 ||
        json_get_bool(model, "ignore_merges", &t->ignore_merges, err) != 0) {
        return -1;
    }
    struct bytes_map texts = {0};
    int rc = vocabulary_add_texts(t, json_get(model, "vocab"), &texts, err);
    if (rc == 0) {
        rc = vocabulary_add_json_merges(t, json_get(model, "merges"), &texts, err);
    }
    bytes_map_release(&texts);
    return rc;
}

// The parts around a byte-level model.
static int parse_byte_level_parts(struct tokenizer *t, const struct json *root, struct error *err)
{
    const char *decoder = type_of(json_get(root, "decoder"));
    if (parse_normalizer(t, json_get(root, "normalizer"), err) != 0 ||
        parse_pre_tokenizer(t, json_get(root, "pre_tokenizer"), err) != 0) {
        return -1;
    }
    if (strcmp(decoder, "ByteLevel") != 0) {
        return error_set(err, "the decoder is '%s'; for this model only ByteLevel is supported",
                         decoder);
    }
    return 0;
}

// "eos_token" is a text, or an object with its text as "content".
static int name_special(const struct tokenizer *t, const struct json *config, const char *key,
                        int32_t *out, struct error *err)
{
    const struct json *value = json_get(config, key);
    if (value != NULL && value->type == JSON_OBJECT) {
        value = json_get(value, "content");
    }
    if (!json_is_null(value) && value->type != JSON_STRING) {
        return error_set(err, "'%s' of tokenizer_config.json is not a text", key);
    }
    return tokenizer_name_special(t, key, json_is_null(value) ? NULL : value->string, out, err);
}

static int name_specials(struct tokenizer *t, const struct json *config, struct error *err)
{
    if (config == NULL) {
        return 0;
    }
    if (name_special(t, config, "eos_token", &t->eos_id, err) != 0 ||
        name_special(t, config, "bos_token", &t->bos_id, err) != 0 ||
        name_special(t, config, "pad_token", &t->pad_id, err) != 0) {
        return -1;
    }
    return 0;
}

static int parse_config(struct arena *arena, const char *config, size_t config_bytes,
                        const struct json **out, struct error *err)
{
    *out = NULL;
    if (config == NULL) {
        return 0;
    }
    if (json_parse(arena, config, config_bytes, out, err) != 0) {
        return error_prefix(err, "tokenizer_config.json");
    }
    return 0;
}

static int build_from_json(struct tokenizer *t, const struct json *root, const struct json *config,
                           struct error *err)
{
    bool byte_fallback = !json_is_off(json_get(root, "model"), "byte_fallback");
    int rc = byte_fallback ? fallback_parse(t, root, err) : parse_byte_level_parts(t, root, err);
    if (rc != 0 || parse_model(t, root, err) != 0 ||
        vocabulary_add_added_list(t, json_get(root, "added_tokens"), err) != 0 ||
        tokenizer_finish(t, err) != 0 || name_specials(t, config, err) != 0) {
        return -1;
    }
    return 0;
}

int tokenizer_parse(const char *json, size_t json_bytes, const char *config, size_t config_bytes,
                    struct tokenizer **out, struct error *err)
{
    struct arena arena = {0};
    const struct json *root = NULL;
    const struct json *config_root = NULL;
    struct tokenizer *t = tokenizer_create_empty();
    int rc = -1;
    if (json_parse(&arena, json, json_bytes, &root, err) != 0) {
        error_prefix(err, "tokenizer.json");
    } else if (parse_config(&arena, config, config_bytes, &config_root, err) == 0) {
        rc = build_from_json(t, root, config_root, err);
    }
    arena_release(&arena);
    if (rc != 0) {
        tokenizer_destroy(t);
        return -1;
    }
    *out = t;
    return 0;
}

// Files without a pre-tokenizer: it follows from the class that Python would use.
static int choose_by_class(struct tokenizer *t, const struct json *config, struct error *err)
{
    const char *class = NULL;
    if (json_get_string(config, "tokenizer_class", &class, err) != 0) {
        return -1;
    }
    if (class != NULL && strncmp(class, "Qwen2Tokenizer", strlen("Qwen2Tokenizer")) == 0) {
        t->nfc = true;
        return splitter_create(splitter_pattern_qwen2, strlen(splitter_pattern_qwen2), &t->splitter,
                               err);
    }
    if (class != NULL && strncmp(class, "GPT2Tokenizer", strlen("GPT2Tokenizer")) == 0) {
        return splitter_create(splitter_pattern_gpt2, strlen(splitter_pattern_gpt2), &t->splitter,
                               err);
    }
    return error_set(err,
                     "vocab.json and merges.txt need a tokenizer_config.json whose "
                     "tokenizer_class is Qwen2Tokenizer or GPT2Tokenizer, not '%s'; or add a "
                     "tokenizer.json",
                     class == NULL ? "" : class);
}

static int read_file(const char *dir, const char *name, struct strbuf *out, struct error *err)
{
    char *path = fs_join(dir, name);
    int rc = fs_read(fs_system(), path, out, err);
    free(path);
    return rc;
}

static bool has_file(const char *dir, const char *name)
{
    char *path = fs_join(dir, name);
    bool exists = fs_exists(fs_system(), path);
    free(path);
    return exists;
}

// Reads a JSON file of the directory; *out is NULL where it is absent.
static int read_json(const char *dir, const char *name, struct arena *arena,
                     const struct json **out, struct error *err)
{
    struct strbuf bytes = {0};
    int rc = 0;
    *out = NULL;
    if (has_file(dir, name)) {
        rc = read_file(dir, name, &bytes, err);
        strbuf_reserve(&bytes, 1);
        rc = rc == 0 ? json_parse(arena, bytes.bytes, bytes.length, out, err) : rc;
    }
    strbuf_release(&bytes);
    return rc == 0 ? 0 : error_prefix(err, "%s", name);
}

// Newer directories list the added tokens in tokenizer_config.json, older ones apart.
static int add_added(struct tokenizer *t, const char *dir, struct arena *arena,
                     const struct json *config, struct error *err)
{
    const struct json *decoder = json_get(config, "added_tokens_decoder");
    const struct json *added;
    const struct json *map;
    if (!json_is_null(decoder)) {
        return vocabulary_add_added_decoder(t, decoder, err);
    }
    if (read_json(dir, "added_tokens.json", arena, &added, err) != 0 ||
        read_json(dir, "special_tokens_map.json", arena, &map, err) != 0) {
        return -1;
    }
    if (added != NULL && vocabulary_add_added_legacy(t, added, config, map, err) != 0) {
        return error_prefix(err, "added_tokens.json");
    }
    return 0;
}

static int build_from_parts(struct tokenizer *t, const char *dir, struct arena *arena,
                            const struct strbuf *vocab, const struct strbuf *merges,
                            const struct json *config, struct error *err)
{
    const struct json *vocabulary;
    struct bytes_map texts = {0};
    int rc = -1;
    if (choose_by_class(t, config, err) != 0) {
        return -1;
    }
    if (json_parse(arena, vocab->bytes, vocab->length, &vocabulary, err) != 0 ||
        vocabulary_add_texts(t, vocabulary, &texts, err) != 0) {
        error_prefix(err, "vocab.json");
    } else if (vocabulary_add_text_merges(t, merges->bytes, merges->length, &texts, err) != 0) {
        error_prefix(err, "merges.txt");
    } else if (add_added(t, dir, arena, config, err) == 0 && tokenizer_finish(t, err) == 0 &&
               name_specials(t, config, err) == 0) {
        rc = 0;
    }
    bytes_map_release(&texts);
    return rc;
}

static int load_json(const char *dir, const struct strbuf *config, struct tokenizer **out,
                     struct error *err)
{
    struct strbuf json = {0};
    int rc = read_file(dir, "tokenizer.json", &json, err);
    if (rc == 0) {
        rc = tokenizer_parse(json.bytes, json.length, config->bytes, config->length, out, err);
    }
    strbuf_release(&json);
    return rc;
}

static int load_parts(const char *dir, const struct strbuf *config, struct tokenizer **out,
                      struct error *err)
{
    struct strbuf vocab = {0};
    struct strbuf merges = {0};
    struct arena arena = {0};
    const struct json *config_root;
    struct tokenizer *t = tokenizer_create_empty();
    int rc = -1;
    if (read_file(dir, "vocab.json", &vocab, err) == 0 &&
        read_file(dir, "merges.txt", &merges, err) == 0 &&
        parse_config(&arena, config->bytes, config->length, &config_root, err) == 0) {
        rc = build_from_parts(t, dir, &arena, &vocab, &merges, config_root, err);
    }
    strbuf_release(&vocab);
    strbuf_release(&merges);
    arena_release(&arena);
    if (rc != 0) {
        tokenizer_destroy(t);
        return -1;
    }
    *out = t;
    return 0;
}

int tokenizer_load(const char *model_dir, struct tokenizer **out, struct error *err)
{
    struct strbuf config = {0};
    int rc = 0;
    if (has_file(model_dir, "tokenizer_config.json")) {
        rc = read_file(model_dir, "tokenizer_config.json", &config, err);
        strbuf_reserve(&config, 1); // bytes is not NULL even for an empty file
    }
    if (rc == 0 && has_file(model_dir, "tokenizer.json")) {
        rc = load_json(model_dir, &config, out, err);
    } else if (rc == 0 && has_file(model_dir, "vocab.json")) {
        rc = load_parts(model_dir, &config, out, err);
    } else if (rc == 0) {
        rc = error_set(err, "there is neither tokenizer.json nor vocab.json");
    }
    strbuf_release(&config);
    return rc == 0 ? 0 : error_prefix(err, "tokenizer in '%s'", model_dir);
}
