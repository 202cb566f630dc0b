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

void reflection_format_json(const struct reflection *pair, struct strbuf *out)
{
    struct json_writer w = {.out = out};
    char seed[17]; // as text: readers that hold numbers as doubles would round it
    snprintf(seed, sizeof(seed), "%016llx", (unsigned long long)pair->seed);
    json_begin_object(&w);
    add_digest(&w, "id", pair->record_id);
    add_digest(&w, "task", pair->task_id);
    json_key(&w, "step");
    json_text(&w, reflection_step_name(pair->step));
    add_int(&w, "ordinal", pair->ordinal);
    json_key(&w, "question");
    json_string(&w, pair->question, pair->question_bytes);
    json_key(&w, "answer");
    json_string(&w, pair->answer, pair->answer_bytes);
    add_digest(&w, "document", pair->document);
    add_int(&w, "begin", pair->span_begin);
    add_int(&w, "end", pair->span_end);
    json_key(&w, "seed");
    json_text(&w, seed);
    add_int(&w, "prompt_tokens", pair->prompt_tokens);
    add_int(&w, "output_tokens", pair->output_tokens);
    json_end_object(&w);
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
