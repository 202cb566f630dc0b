// SPDX-License-Identifier: Apache-2.0
#include "jobs/task_plan.h"

#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_PARTS 1000000

int corpus_part_parse(const char *text, struct corpus_part *out, struct error *err)
{
    int used = 0;
    *out = (struct corpus_part){.part = 1, .parts = 1};
    if (!text)
        return 0;
    if (sscanf(text, "%d/%d%n", &out->part, &out->parts, &used) != 2 || text[used] != '\0' ||
        out->parts < 1 || out->parts > MAX_PARTS || out->part < 1 || out->part > out->parts)
        return error_set(err, "part '%s' is not K/N with 1 <= K <= N", text);
    return 0;
}

static struct digest chunk_task_id(const struct corpus *corpus, size_t chunk,
                                   enum reflection_step step, struct generator *generator,
                                   uint64_t seed)
{
    const struct digest input = generator_input_digest(generator, corpus, chunk);
    const struct task_identity identity = {.kind = "chunk",
                                           .contents = &input,
                                           .content_count = 1,
                                           .step = step,
                                           .generator = generator->digest,
                                           .seed = seed};
    return task_identity_digest(&identity);
}

struct numbered_id {
    struct digest id;
    uint32_t chunk;
};

static int compare_ids(const void *a, const void *b)
{
    const struct numbered_id *x = a, *y = b;
    const int order = digest_compare(x->id, y->id);
    return order != 0 ? order : (x->chunk > y->chunk) - (x->chunk < y->chunk);
}

static int compare_chunks(const void *a, const void *b)
{
    const struct numbered_id *x = a, *y = b;
    return (x->chunk > y->chunk) - (x->chunk < y->chunk);
}

// The same text in two documents is the same task: the first chunk stands for it.
static size_t drop_repeated(struct numbered_id *ids, size_t count)
{
    size_t kept = 0;
    qsort(ids, count, sizeof(*ids), compare_ids);
    for (size_t i = 0; i < count; i++) {
        if (kept == 0 || !digest_equal(ids[kept - 1].id, ids[i].id))
            ids[kept++] = ids[i];
    }
    qsort(ids, kept, sizeof(*ids), compare_chunks);
    return kept;
}

void task_plan_create(const struct corpus *corpus, struct corpus_part part,
                      enum reflection_step step, struct generator *generator, uint64_t seed,
                      struct task_plan *out)
{
    bool *in_part = mem_calloc(corpus->document_count + 1, sizeof(*in_part));
    struct numbered_id *ids = mem_calloc(corpus->chunk_count + 1, sizeof(*ids));
    size_t count = 0;
    corpus_select_part(corpus, part.part, part.parts, in_part);
    for (size_t c = 0; c < corpus->chunk_count; c++) {
        if (in_part[corpus->chunks[c].document])
            ids[count++] =
                (struct numbered_id){chunk_task_id(corpus, c, step, generator, seed), (uint32_t)c};
    }
    *out = (struct task_plan){0};
    out->count = drop_repeated(ids, count);
    out->repeated = count - out->count;
    out->ids = mem_calloc(out->count + 1, sizeof(*out->ids));
    out->chunks = mem_calloc(out->count + 1, sizeof(*out->chunks));
    for (size_t t = 0; t < out->count; t++) {
        out->ids[t] = ids[t].id;
        out->chunks[t] = ids[t].chunk;
    }
    out->digest = digest_bytes(out->ids, out->count * sizeof(*out->ids));
    free(ids);
    free(in_part);
}

void task_plan_release(struct task_plan *plan)
{
    free(plan->ids);
    free(plan->chunks);
    *plan = (struct task_plan){0};
}
