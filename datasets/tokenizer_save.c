// SPDX-License-Identifier: Apache-2.0
// Writing. Before anything is written the text is parsed again and must give the same digest, so a
// tokenizer that these files cannot express is an error here and not a surprise later.
#include "datasets/chat_template.h"
#include "datasets/tokenizer_internal.h"

#include "base/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void write_byte_level(struct json_writer *w, bool use_regex)
{
    json_begin_object(w);
    json_key(w, "type");
    json_text(w, "ByteLevel");
    json_key(w, "add_prefix_space");
    json_bool(w, false);
    json_key(w, "trim_offsets");
    json_bool(w, false);
    json_key(w, "use_regex");
    json_bool(w, use_regex);
    json_end_object(w);
}

static void write_pre_tokenizer(struct json_writer *w, const struct tokenizer *t)
{
    const char *pattern = splitter_pattern(t->splitter);
    if (strcmp(pattern, splitter_pattern_gpt2) == 0) {
        write_byte_level(w, true);
        return;
    }
    json_begin_object(w);
    json_key(w, "type");
    json_text(w, "Sequence");
    json_key(w, "pretokenizers");
    json_begin_array(w);
    json_begin_object(w);
    json_key(w, "type");
    json_text(w, "Split");
    json_key(w, "pattern");
    json_begin_object(w);
    json_key(w, "Regex");
    json_text(w, pattern);
    json_end_object(w);
    json_key(w, "behavior");
    json_text(w, "Isolated");
    json_key(w, "invert");
    json_bool(w, false);
    json_end_object(w);
    write_byte_level(w, false);
    json_end_array(w);
    json_end_object(w);
}

static void write_normalizer(struct json_writer *w, bool nfc)
{
    if (!nfc) {
        json_null(w);
        return;
    }
    json_begin_object(w);
    json_key(w, "type");
    json_text(w, "NFC");
    json_end_object(w);
}

// Added tokens are kept longest first.
static const struct added_token *find_added(const struct tokenizer *t, size_t id)
{
    for (size_t i = 0; i < t->added_count; i++) {
        if ((size_t)t->added[i].id == id) {
            return &t->added[i];
        }
    }
    return NULL;
}

static void write_added_fields(struct json_writer *w, const struct tokenizer *t, size_t id)
{
    const struct token *token = &t->tokens[id];
    const struct added_rule *rule = &find_added(t, id)->rule;
    json_key(w, "content");
    json_string(w, t->bytes.bytes + token->offset, token->length);
    json_key(w, "single_word");
    json_bool(w, rule->single_word);
    json_key(w, "lstrip");
    json_bool(w, rule->lstrip);
    json_key(w, "rstrip");
    json_bool(w, rule->rstrip);
    json_key(w, "normalized");
    json_bool(w, rule->normalized);
    json_key(w, "special");
    json_bool(w, token->special);
}

static void write_added(struct json_writer *w, const struct tokenizer *t)
{
    json_begin_array(w);
    for (size_t id = 0; id < t->token_count; id++) {
        if (t->tokens[id].kind == TOKEN_ADDED) {
            json_begin_object(w);
            json_key(w, "id");
            json_int(w, (int64_t)id);
            write_added_fields(w, t, id);
            json_end_object(w);
        }
    }
    json_end_array(w);
}

// The token as the vocabulary spells it.
static void spell(const struct tokenizer *t, int32_t id, struct strbuf *out)
{
    const struct token *token = &t->tokens[id];
    const char *bytes = t->bytes.bytes + token->offset;
    if (token->model_kind == TOKEN_ENCODED) {
        byte_alphabet_encode(bytes, token->length, out);
    } else {
        strbuf_add(out, bytes, token->length);
    }
}

static void write_vocabulary(struct json_writer *w, const struct tokenizer *t)
{
    struct strbuf text = {0};
    json_begin_object(w);
    for (size_t id = 0; id < t->token_count; id++) {
        if (t->tokens[id].model_kind != TOKEN_ABSENT) {
            strbuf_reset(&text);
            spell(t, (int32_t)id, &text);
            json_key(w, text.length == 0 ? "" : text.bytes);
            json_int(w, (int64_t)id);
        }
    }
    json_end_object(w);
    strbuf_release(&text);
}

static void write_merges(struct json_writer *w, const struct tokenizer *t)
{
    struct strbuf text = {0};
    json_begin_array(w);
    for (size_t i = 0; i < t->merge_count; i++) {
        strbuf_reset(&text);
        spell(t, t->merges[i].left, &text);
        strbuf_addc(&text, ' ');
        spell(t, t->merges[i].right, &text);
        json_string(w, text.bytes, text.length);
    }
    json_end_array(w);
    strbuf_release(&text);
}

static void write_model(struct json_writer *w, const struct tokenizer *t)
{
    static const char *const unused[] = {"dropout", "unk_token", "continuing_subword_prefix",
                                         "end_of_word_suffix"};
    json_begin_object(w);
    json_key(w, "type");
    json_text(w, "BPE");
    for (size_t i = 0; i < sizeof unused / sizeof *unused; i++) {
        json_key(w, unused[i]);
        json_null(w);
    }
    json_key(w, "fuse_unk");
    json_bool(w, false);
    json_key(w, "byte_fallback");
    json_bool(w, false);
    json_key(w, "ignore_merges");
    json_bool(w, t->ignore_merges);
    json_key(w, "vocab");
    write_vocabulary(w, t);
    json_key(w, "merges");
    write_merges(w, t);
    json_end_object(w);
}

static void write_tokenizer(struct strbuf *out, const struct tokenizer *t)
{
    struct json_writer w = {.out = out, .indent = 2};
    json_begin_object(&w);
    json_key(&w, "version");
    json_text(&w, "1.0");
    json_key(&w, "truncation");
    json_null(&w);
    json_key(&w, "padding");
    json_null(&w);
    json_key(&w, "added_tokens");
    write_added(&w, t);
    json_key(&w, "normalizer");
    write_normalizer(&w, t->nfc);
    json_key(&w, "pre_tokenizer");
    write_pre_tokenizer(&w, t);
    json_key(&w, "post_processor");
    write_byte_level(&w, false);
    json_key(&w, "decoder");
    write_byte_level(&w, false);
    json_key(&w, "model");
    write_model(&w, t);
    json_end_object(&w);
    strbuf_addc(out, '\n');
}

static void write_special_name(struct json_writer *w, const struct tokenizer *t, const char *key,
                               int32_t id)
{
    size_t length;
    const char *text = tokenizer_token_bytes(t, id, &length);
    json_key(w, key);
    if (text == NULL) {
        json_null(w);
    } else {
        json_string(w, text, length);
    }
}

static void write_config(struct strbuf *out, const struct tokenizer *t)
{
    bool is_qwen2 = strcmp(splitter_pattern(t->splitter), splitter_pattern_qwen2) == 0 && t->nfc;
    struct json_writer w = {.out = out, .indent = 2};
    json_begin_object(&w);
    json_key(&w, "tokenizer_class");
    json_text(&w, is_qwen2 ? "Qwen2Tokenizer" : "PreTrainedTokenizerFast");
    json_key(&w, "add_prefix_space");
    json_bool(&w, false);
    json_key(&w, "added_tokens_decoder");
    json_begin_object(&w);
    for (size_t id = 0; id < t->token_count; id++) {
        if (t->tokens[id].kind == TOKEN_ADDED) {
            char key[24];
            snprintf(key, sizeof key, "%zu", id);
            json_key(&w, key);
            json_begin_object(&w);
            write_added_fields(&w, t, id);
            json_end_object(&w);
        }
    }
    json_end_object(&w);
    write_special_name(&w, t, "bos_token", t->bos_id);
    write_special_name(&w, t, "eos_token", t->eos_id);
    write_special_name(&w, t, "pad_token", t->pad_id);
    json_key(&w, "unk_token");
    json_null(&w);
    json_key(&w, "clean_up_tokenization_spaces");
    json_bool(&w, false);
    json_key(&w, "chat_template");
    json_text(&w, chat_template_jinja_chatml());
    json_end_object(&w);
    strbuf_addc(out, '\n');
}

// Without it transformers and vLLM would not end an answer where the model does.
static void write_generation(struct strbuf *out, const struct tokenizer *t)
{
    const struct {
        const char *name;
        int32_t id;
    } tokens[] = {
        {"bos_token_id", t->bos_id}, {"eos_token_id", t->eos_id}, {"pad_token_id", t->pad_id}};
    struct json_writer w = {.out = out, .indent = 2};
    json_begin_object(&w);
    for (size_t i = 0; i < sizeof tokens / sizeof tokens[0]; i++) {
        if (tokens[i].id >= 0) {
            json_key(&w, tokens[i].name);
            json_int(&w, tokens[i].id);
        }
    }
    json_end_object(&w);
    strbuf_addc(out, '\n');
}

static int check_written(const struct tokenizer *t, const struct strbuf *json,
                         const struct strbuf *config, struct error *err)
{
    struct tokenizer *read;
    if (tokenizer_parse(json->bytes, json->length, config->bytes, config->length, &read, err) !=
        0) {
        return error_prefix(err, "this tokenizer cannot be written as tokenizer.json");
    }
    bool same = digest_equal(t->digest, read->digest) && t->eos_id == read->eos_id &&
                t->bos_id == read->bos_id && t->pad_id == read->pad_id;
    tokenizer_destroy(read);
    return same ? 0
                : error_set(err, "this tokenizer cannot be written as tokenizer.json without "
                                 "a change; copy its files instead");
}

static int write_file(struct fs *fs, const char *dir, const char *name, const struct strbuf *text,
                      struct error *err)
{
    char *path = fs_join(dir, name);
    int rc = fs_write_text(fs, path, text->bytes, text->length, err);
    free(path);
    return rc;
}

int tokenizer_save(const struct tokenizer *tokenizer, struct fs *fs, const char *model_dir,
                   struct error *err)
{
    struct strbuf json = {0};
    struct strbuf config = {0};
    struct strbuf generation = {0};
    if (tokenizer->byte_fallback) {
        return error_set(err, "a tokenizer with byte_fallback cannot be written; copy its files "
                              "instead");
    }
    write_tokenizer(&json, tokenizer);
    write_config(&config, tokenizer);
    write_generation(&generation, tokenizer);
    int rc = check_written(tokenizer, &json, &config, err);
    if (rc == 0) {
        rc = write_file(fs, model_dir, "tokenizer_config.json", &config, err);
    }
    if (rc == 0) {
        rc = write_file(fs, model_dir, "generation_config.json", &generation, err);
    }
    if (rc == 0) {
        rc = write_file(fs, model_dir, "tokenizer.json", &json, err);
    }
    strbuf_release(&json);
    strbuf_release(&config);
    strbuf_release(&generation);
    return rc;
}
