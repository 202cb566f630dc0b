// SPDX-License-Identifier: Apache-2.0
#include "datasets/reflections_tools.h"

#include "base/json.h"

#include <stdio.h>

static void add_digest(struct json_writer *w, const char *key, struct digest d)
{
    char text[DIGEST_TEXT_BYTES];
    digest_format(d, text);
    json_key(w, key);
    json_text(w, text);
}

static void add_int(struct json_writer *w, const char *key, uint64_t value)
{
    json_key(w, key);
    json_int(w, (int64_t)value);
}

static void add_origin(struct json_writer *w, const struct reflection *pair)
{
    json_key(w, "sources");
    json_begin_array(w);
    for (size_t i = 0; i < pair->source_count; i++) {
        json_begin_object(w);
        add_digest(w, "document", pair->sources[i].document);
        add_int(w, "begin", pair->sources[i].begin);
        add_int(w, "end", pair->sources[i].end);
        json_end_object(w);
    }
    json_end_array(w);
    json_key(w, "parents");
    json_begin_array(w);
    for (size_t i = 0; i < pair->parent_count; i++) {
        char text[DIGEST_TEXT_BYTES];
        digest_format(pair->parents[i], text);
        json_text(w, text);
    }
    json_end_array(w);
}

void reflection_write_json(const struct reflection *pair, struct json_writer *w)
{
    char seed[17]; // as text: readers that hold numbers as doubles would round it
    snprintf(seed, sizeof(seed), "%016llx", (unsigned long long)pair->seed);
    json_begin_object(w);
    add_digest(w, "id", pair->record_id);
    add_digest(w, "task", pair->task_id);
    json_key(w, "step");
    json_text(w, reflection_step_name(pair->step));
    add_int(w, "ordinal", pair->ordinal);
    json_key(w, "question");
    json_string(w, pair->question, pair->question_bytes);
    json_key(w, "answer");
    json_string(w, pair->answer, pair->answer_bytes);
    add_origin(w, pair);
    json_key(w, "seed");
    json_text(w, seed);
    add_int(w, "prompt_tokens", pair->prompt_tokens);
    add_int(w, "output_tokens", pair->output_tokens);
    json_end_object(w);
}

void reflection_format_json(const struct reflection *pair, struct strbuf *out)
{
    struct json_writer w = {.out = out};
    reflection_write_json(pair, &w);
    strbuf_addc(out, '\n');
}

int reflections_export(const struct reflection_set *set, struct fs *fs, const char *path,
                       struct error *err)
{
    struct strbuf text = {0};
    for (size_t i = 0; i < set->pair_count; i++)
        reflection_format_json(&set->pairs[i], &text);
    int rc = fs_write_text(fs, path, text.bytes, text.length, err);
    strbuf_release(&text);
    return rc;
}
