// SPDX-License-Identifier: Apache-2.0
// Pairs are made for a whole document at once, because only the document shows what is rare and
// which questions are ambiguous. The last few documents are kept, so that the tasks of one
// document, which come close together, pay for it once.
#include "worker/reflect/cloze.h"

#include "base/mem.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

#define CAPACITY 128 // tasks in flight: a commit takes those that have ended
#define CACHED_DOCUMENTS 4
#define FORMAT_VERSION 1 // to be raised whenever the same text gives other pairs

struct cached_document {
    bool used;
    struct digest corpus;
    uint32_t document;
    uint64_t last_use;
    struct cloze_pairs pairs;
};

struct cloze {
    struct generator base; // first
    struct cloze_options options;
    struct generator_task tasks[CAPACITY]; // in the order of submission
    size_t task_count;
    bool named; // names belong to the corpus of that digest
    struct digest named_corpus;
    struct arena arena; // names
    const char **names;
    struct cached_document cache[CACHED_DOCUMENTS];
    uint64_t uses;
};

void generated_release(struct generated *result)
{
    free(result->memory);
    memset(result, 0, sizeof *result);
}

// "Letter of Agatha Rooksby" of "Letter of Agatha Rooksby, Tarrow Ridge, 2 March 1915".
static const char *shorten_title(const char *title, struct arena *arena)
{
    size_t length = strlen(title);
    if (length <= CLOZE_TITLE_BYTES) {
        return title;
    }
    size_t comma = 0, space = 0, cut = CLOZE_TITLE_BYTES;
    for (size_t i = CLOZE_TITLE_BYTES / 5; i < CLOZE_TITLE_BYTES; i++) {
        comma = comma == 0 && title[i] == ',' ? i : comma;
        space = title[i] == ' ' ? i : space;
    }
    while (((uint8_t)title[cut] & 0xc0) == 0x80) {
        cut--;
    }
    return arena_strndup(arena, title, comma ? comma : space ? space : cut);
}

struct named_document {
    const char *name;
    size_t document;
};

static int compare_names(const void *left, const void *right)
{
    const struct named_document *a = left, *b = right;
    int order = strcmp(a->name, b->name);
    return order ? order : (a->document > b->document) - (a->document < b->document);
}

// Marks the documents whose name another one has too.
static void find_shared(const char *const *names, size_t count, bool *shared)
{
    struct named_document *order = mem_calloc(count + 1, sizeof *order);
    for (size_t i = 0; i < count; i++) {
        order[i] = (struct named_document){names[i], i};
    }
    qsort(order, count, sizeof *order, compare_names);
    memset(shared, 0, count);
    for (size_t i = 1; i < count; i++) {
        if (strcmp(order[i - 1].name, order[i].name) == 0) {
            shared[order[i - 1].document] = shared[order[i].document] = true;
        }
    }
    free(order);
}

#define LAST_NAME_STEP 3

// Step 1 is the whole title, 2 adds the first digits of the digest, 3 all of them.
static const char *lengthen_name(const struct corpus_document *document, int step,
                                 struct arena *arena)
{
    if (step == 1) {
        return document->title;
    }
    char digest[DIGEST_TEXT_BYTES];
    digest_format(document->digest, digest);
    return arena_printf(arena, "%s [%.*s]", document->title, step == 2 ? 6 : 32, digest);
}

const char **cloze_document_names(const struct corpus *corpus, struct arena *arena)
{
    size_t count = corpus->document_count;
    const char **names = arena_alloc(arena, (count + 1) * sizeof *names);
    bool *shared = mem_calloc(count + 1, sizeof *shared);
    for (size_t i = 0; i < count; i++) {
        names[i] = shorten_title(corpus->documents[i].title, arena);
    }
    // A longer name may be another's short one, hence step by step for whoever shares one.
    int *steps = mem_calloc(count + 1, sizeof *steps);
    for (bool changed = true; changed;) {
        find_shared(names, count, shared);
        changed = false;
        for (size_t i = 0; i < count; i++) {
            if (shared[i] && steps[i] < LAST_NAME_STEP) {
                names[i] = lengthen_name(&corpus->documents[i], ++steps[i], arena);
                changed = true;
            }
        }
    }
    free(steps);
    free(shared);
    return names;
}

static const char **get_names(struct cloze *cloze, const struct corpus *corpus)
{
    if (cloze->named && digest_equal(cloze->named_corpus, corpus->digest)) {
        return cloze->names;
    }
    arena_reset(&cloze->arena);
    cloze->names = cloze_document_names(corpus, &cloze->arena);
    // Titles belong to the corpus, which a later task need not have.
    for (size_t i = 0; i < corpus->document_count; i++) {
        cloze->names[i] = arena_strndup(&cloze->arena, cloze->names[i], strlen(cloze->names[i]));
    }
    cloze->named_corpus = corpus->digest;
    cloze->named = true;
    return cloze->names;
}

static const struct cloze_pairs *get_pairs(struct cloze *cloze, const struct corpus *corpus,
                                           uint32_t document)
{
    struct cached_document *oldest = &cloze->cache[0];
    for (size_t i = 0; i < CACHED_DOCUMENTS; i++) {
        struct cached_document *cached = &cloze->cache[i];
        if (cached->used && cached->document == document &&
            digest_equal(cached->corpus, corpus->digest)) {
            cached->last_use = ++cloze->uses;
            return &cached->pairs;
        }
        oldest = cached->last_use < oldest->last_use ? cached : oldest;
    }
    const struct corpus_document *d = &corpus->documents[document];
    cloze_pairs_release(&oldest->pairs);
    cloze_pairs_make(corpus->text + d->begin, d->end - d->begin, get_names(cloze, corpus)[document],
                     &cloze->options, &oldest->pairs);
    oldest->used = true;
    oldest->corpus = corpus->digest;
    oldest->document = document;
    oldest->last_use = ++cloze->uses;
    return &oldest->pairs;
}

// Bytes of the document in which the sentences of this chunk begin.
static void find_own_bytes(const struct corpus *corpus, size_t chunk, uint64_t *begin,
                           uint64_t *end)
{
    const struct corpus_chunk *c = &corpus->chunks[chunk];
    const struct corpus_document *d = &corpus->documents[c->document];
    bool first = chunk == 0 || corpus->chunks[chunk - 1].document != c->document;
    *begin = first ? 0 : corpus->chunks[chunk - 1].end - d->begin;
    *end = c->end - d->begin;
}

static void generate(struct cloze *cloze, const struct generator_task *task, struct generated *out)
{
    const struct corpus *corpus = task->corpus;
    uint32_t document = corpus->chunks[task->chunk].document;
    const struct cloze_pairs *all = get_pairs(cloze, corpus, document);
    uint64_t own_begin, own_end;
    find_own_bytes(corpus, task->chunk, &own_begin, &own_end);
    size_t first = 0, end, text_bytes = 0;
    while (first < all->count && all->pairs[first].begin < own_begin) {
        first++;
    }
    for (end = first; end < all->count && all->pairs[end].begin < own_end; end++) {
        text_bytes += strlen(all->pairs[end].question) + strlen(all->pairs[end].answer) + 2;
    }
    size_t count = end - first;
    struct reflection *pairs =
        mem_calloc(1, sizeof(struct reflection_usage) +
                          count * (sizeof *pairs + sizeof(struct reflection_source)) + text_bytes);
    struct reflection_usage *usage = (struct reflection_usage *)(pairs + count);
    struct reflection_source *sources = (struct reflection_source *)(usage + 1);
    char *texts = (char *)(sources + count);
    *usage = (struct reflection_usage){.step = STEP_CLOZE,
                                       .prompt_tokens = corpus->chunks[task->chunk].tokens};
    for (size_t i = 0; i < count; i++) {
        const struct cloze_pair *pair = &all->pairs[first + i];
        struct reflection *reflection = &pairs[i];
        reflection->record_id = reflection_record_id(task->task_id, STEP_CLOZE, (uint32_t)i);
        reflection->task_id = task->task_id;
        reflection->step = STEP_CLOZE;
        reflection->ordinal = (uint32_t)i;
        reflection->question_bytes = strlen(pair->question);
        reflection->answer_bytes = strlen(pair->answer);
        reflection->question = memcpy(texts, pair->question, reflection->question_bytes + 1);
        texts += reflection->question_bytes + 1;
        reflection->answer = memcpy(texts, pair->answer, reflection->answer_bytes + 1);
        texts += reflection->answer_bytes + 1;
        sources[i] = (struct reflection_source){
            .document = corpus->documents[document].digest, .begin = pair->begin, .end = pair->end};
        reflection->sources = &sources[i];
        reflection->source_count = 1;
        reflection->seed = task->seed;
    }
    *out = (struct generated){
        .task = {.task_id = task->task_id,
                 .outcome = count > 0 ? TASK_DONE : TASK_EMPTY,
                 .pairs = (uint32_t)count,
                 .usage = usage,
                 .usage_count = 1,
                 .reason = ""},
        .pairs = pairs,
        .memory = pairs,
    };
}

// The whole document says what is rare in it, and every question names it.
static struct digest cloze_input_digest(struct generator *generator, const struct corpus *corpus,
                                        size_t chunk)
{
    struct cloze *cloze = (struct cloze *)generator;
    const uint32_t document = corpus->chunks[chunk].document;
    const struct digest *text = &corpus->documents[document].digest;
    uint64_t own_begin, own_end;
    struct digest_builder builder;
    find_own_bytes(corpus, chunk, &own_begin, &own_end);
    digest_begin(&builder);
    digest_field(&builder, text->bytes, sizeof text->bytes);
    digest_field_text(&builder, get_names(cloze, corpus)[document]);
    digest_field_u64(&builder, own_begin);
    digest_field_u64(&builder, own_end);
    return digest_end(&builder);
}

static int cloze_submit(struct generator *generator, const struct generator_task *task,
                        struct error *err)
{
    struct cloze *cloze = (struct cloze *)generator;
    assert(cloze->task_count < CAPACITY);
    if (task->chunk >= task->corpus->chunk_count) {
        return error_set(err, "task names chunk %zu of a corpus of %zu", task->chunk,
                         task->corpus->chunk_count);
    }
    cloze->tasks[cloze->task_count++] = *task;
    return 0;
}

static int cloze_poll(struct generator *generator, struct generated *out, struct error *err)
{
    struct cloze *cloze = (struct cloze *)generator;
    (void)err;
    if (cloze->task_count == 0) {
        return 0;
    }
    struct generator_task task = cloze->tasks[0];
    cloze->task_count--;
    memmove(cloze->tasks, cloze->tasks + 1, cloze->task_count * sizeof *cloze->tasks);
    generate(cloze, &task, out);
    return 1;
}

static void cloze_cancel(struct generator *generator, struct digest task_id)
{
    struct cloze *cloze = (struct cloze *)generator;
    size_t kept = 0;
    for (size_t i = 0; i < cloze->task_count; i++) {
        if (!digest_equal(cloze->tasks[i].task_id, task_id)) {
            cloze->tasks[kept++] = cloze->tasks[i];
        }
    }
    cloze->task_count = kept;
}

static void cloze_destroy(struct generator *generator)
{
    struct cloze *cloze = (struct cloze *)generator;
    for (size_t i = 0; i < CACHED_DOCUMENTS; i++) {
        cloze_pairs_release(&cloze->cache[i].pairs);
    }
    arena_release(&cloze->arena);
    free(cloze);
}

static const struct generator_ops cloze_ops = {
    .input_digest = cloze_input_digest,
    .submit = cloze_submit,
    .poll = cloze_poll,
    .cancel = cloze_cancel,
    .destroy = cloze_destroy,
};

struct generator *cloze_create(const struct cloze_options *options)
{
    struct cloze *cloze = mem_calloc(1, sizeof *cloze);
    struct digest_builder builder;
    digest_begin(&builder);
    digest_field_text(&builder, "cloze");
    digest_field_u64(&builder, FORMAT_VERSION);
    digest_field_u64(&builder, options->max_gaps_per_sentence);
    digest_field_u64(&builder, options->min_words);
    digest_field_u64(&builder, options->max_words);
    digest_field_u64(&builder, options->window_words);
    cloze->base = (struct generator){
        .ops = &cloze_ops, .name = "cloze", .digest = digest_end(&builder), .capacity = CAPACITY};
    cloze->options = *options;
    return &cloze->base;
}
