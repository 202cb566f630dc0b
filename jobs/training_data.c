// SPDX-License-Identifier: Apache-2.0
#include "jobs/training_data.h"

#include "base/mem.h"

#include <assert.h>
#include <stdlib.h>

static int add_pair(const struct text_codec *codec, const struct pair *pair, size_t max_tokens,
                    bool loss_on_header, struct token_list *ids, struct sequence_set *out,
                    struct error *err)
{
    const struct chat_message messages[] = {
        {.role = "user", .content = pair->question, .length = pair->question_bytes},
        {.role = "assistant", .content = pair->answer, .length = pair->answer_bytes}};
    struct chat_span spans[2];
    ids->count = 0;
    if (chat_render_ids(codec->chat, codec->tokenizer, codec->scratch, messages, 2, false, ids,
                        spans, err))
        return -1;
    const size_t target_begin = loss_on_header ? spans[0].end : spans[1].begin;
    assert(out->count == 0 || out->lead_tokens == spans[1].begin - target_begin);
    out->lead_tokens = spans[1].begin - target_begin;
    // What the template writes behind the answer is never read by anybody: it is left out.
    sequence_set_add(out, ids->ids, spans[1].end, target_begin, spans[1].end, max_tokens);
    return 0;
}

static void begin_key(const struct text_codec *codec, const char *objective, size_t max_tokens,
                      struct digest_builder *builder)
{
    const struct digest tokenizer = tokenizer_digest(codec->tokenizer);
    digest_begin(builder);
    digest_field_text(builder, objective);
    digest_field(builder, tokenizer.bytes, sizeof(tokenizer.bytes));
    digest_field_text(builder, chat_template_name(codec->chat));
    digest_field_u64(builder, max_tokens);
}

struct digest training_data_pairs_key(const struct text_codec *codec, const struct pair_list *pairs,
                                      size_t max_tokens, bool loss_on_header)
{
    struct digest_builder builder;
    begin_key(codec, "qa", max_tokens, &builder);
    digest_field_u64(&builder, loss_on_header);
    digest_field_u64(&builder, pairs->count);
    for (size_t i = 0; i < pairs->count; i++) {
        digest_field(&builder, pairs->pairs[i].question, pairs->pairs[i].question_bytes);
        digest_field(&builder, pairs->pairs[i].answer, pairs->pairs[i].answer_bytes);
    }
    return digest_end(&builder);
}

struct digest training_data_corpus_key(const struct text_codec *codec, const struct corpus *corpus,
                                       struct corpus_part part, size_t max_tokens, size_t sample)
{
    struct digest_builder builder;
    bool *in_part = mem_calloc(corpus->document_count + 1, sizeof(*in_part));
    corpus_select_part(corpus, part.part, part.parts, in_part);
    begin_key(codec, "text", max_tokens, &builder);
    digest_field_u64(&builder, sample);
    for (size_t d = 0; d < corpus->document_count; d++) {
        const struct corpus_document *document = &corpus->documents[d];
        if (in_part[d])
            digest_field(&builder, corpus->text + document->begin, document->end - document->begin);
    }
    free(in_part);
    return digest_end(&builder);
}

int training_data_from_pairs(const struct text_codec *codec, const struct pair_list *pairs,
                             size_t max_tokens, bool loss_on_header, struct sequence_set *out,
                             struct error *err)
{
    struct token_list ids = {0};
    int rc = 0;
    for (size_t i = 0; rc == 0 && i < pairs->count; i++)
        rc = add_pair(codec, &pairs->pairs[i], max_tokens, loss_on_header, &ids, out, err);
    token_list_release(&ids);
    return rc;
}

void training_data_hold_out(struct sequence_set *set, size_t count, struct sequence_set *held_out)
{
    assert(count < set->count);
    held_out->lead_tokens = set->lead_tokens;
    for (size_t s = set->count - count; s < set->count; s++)
        sequence_set_add(held_out, set->ids + set->offsets[s],
                         (size_t)(set->offsets[s + 1] - set->offsets[s]), set->target_begin[s],
                         set->target_end[s], SIZE_MAX);
    set->count -= count;
}

static int add_document(const struct text_codec *codec, const char *text, size_t length,
                        size_t max_tokens, struct token_list *ids, struct sequence_set *out,
                        struct error *err)
{
    ids->count = 0;
    if (tokenizer_encode(codec->tokenizer, codec->scratch, text, length, false, ids, err))
        return -1;
    const int32_t end = tokenizer_pad_id(codec->tokenizer);
    if (end >= 0)
        token_list_add(ids, end);
    for (size_t at = 0; at + 1 < ids->count; at += max_tokens) {
        const size_t left = ids->count - at;
        const size_t piece = left < max_tokens ? left : max_tokens;
        if (piece > 1)
            sequence_set_add(out, ids->ids + at, piece, 1, piece, max_tokens);
    }
    return 0;
}

struct digested_sequence {
    struct digest digest;
    size_t sequence;
};

static int compare_digested(const void *a, const void *b)
{
    const struct digested_sequence *x = a, *y = b;
    const int order = digest_compare(x->digest, y->digest);
    return order != 0 ? order : (x->sequence > y->sequence) - (x->sequence < y->sequence);
}

static void keep_sample(struct sequence_set *set, size_t sample, size_t max_tokens)
{
    struct sequence_set kept = {0};
    struct digested_sequence *order = mem_calloc(set->count, sizeof(*order));
    for (size_t s = 0; s < set->count; s++) {
        const size_t length = (size_t)(set->offsets[s + 1] - set->offsets[s]);
        order[s].digest = digest_bytes(set->ids + set->offsets[s], length * sizeof(*set->ids));
        order[s].sequence = s;
    }
    qsort(order, set->count, sizeof(*order), compare_digested);
    for (size_t i = 0; i < sample; i++) {
        const size_t s = order[i].sequence;
        sequence_set_add(&kept, set->ids + set->offsets[s],
                         (size_t)(set->offsets[s + 1] - set->offsets[s]), set->target_begin[s],
                         set->target_end[s], max_tokens);
    }
    free(order);
    sequence_set_release(set);
    *set = kept;
}

int training_data_from_corpus(const struct text_codec *codec, const struct corpus *corpus,
                              struct corpus_part part, size_t max_tokens, size_t sample,
                              struct sequence_set *out, struct error *err)
{
    struct token_list ids = {0};
    bool *in_part = mem_calloc(corpus->document_count + 1, sizeof(*in_part));
    corpus_select_part(corpus, part.part, part.parts, in_part);
    int rc = 0;
    for (size_t d = 0; rc == 0 && d < corpus->document_count; d++) {
        const struct corpus_document *document = &corpus->documents[d];
        if (!in_part[d])
            continue;
        rc = add_document(codec, corpus->text + document->begin, document->end - document->begin,
                          max_tokens, &ids, out, err);
        if (rc != 0)
            error_prefix(err, "document '%s'", document->id);
    }
    if (rc == 0 && sample > 0 && sample < out->count)
        keep_sample(out, sample, max_tokens);
    token_list_release(&ids);
    free(in_part);
    return rc;
}
