// SPDX-License-Identifier: Apache-2.0
// The model card: from what, how, and what came of it. It says nothing of ranks, tiles or time, so
// that equal merges have equal cards.
#include "worker/merge/merge_private.h"

#include <inttypes.h>
#include <math.h>

static void add_input(struct strbuf *out, const char *role, const struct source *source)
{
    char digest[DIGEST_TEXT_BYTES];
    digest_format(source->digest, digest);
    strbuf_addf(out, "| %s | `%s` | %s | `%s` |\n", role, source->path,
                source->is_vector ? "task vector" : "model", digest);
}

static void add_inputs(const struct merge_job *job, struct strbuf *out)
{
    strbuf_adds(out,
                "## Inputs\n\n| role | path | kind | digest of the weights |\n|---|---|---|---|\n");
    if (job->base.path)
        add_input(out, "base", &job->base);
    for (size_t k = 0; k < job->count; k++)
        add_input(out, job->memo_ref && k == 0 ? "model, taken as the base" : "model",
                  &job->sources[k]);
    strbuf_adds(out, "\nModels are summed in this order. Digests are XXH3-128 over names, dtypes, "
                     "shapes and content.\n\n");
}

// Distance to the base by layer; tensors outside the layers are one row.
static void add_changes(const struct merge_job *job, const double *changes, struct strbuf *out)
{
    strbuf_adds(out, "| layer | parameters | distance to the base |\n|---|---|---|\n");
    for (int layer = -1; layer < job->layers; layer++) {
        double change = 0;
        uint64_t parameters = 0;
        for (size_t i = 0; i < job->view.count; i++) {
            if (merge_layer_of(job->view.entries[i].name) != layer)
                continue;
            change += changes[i];
            parameters += weights_count(&job->view.entries[i]);
        }
        if (layer < 0)
            strbuf_addf(out, "| outside | %" PRIu64 " | %.6g |\n", parameters, sqrt(change));
        else
            strbuf_addf(out, "| %d | %" PRIu64 " | %.6g |\n", layer, parameters, sqrt(change));
    }
}

void merge_card(const struct merge_job *job, size_t output, struct strbuf *out)
{
    const struct merge_recipe *recipe = &job->request->recipes[output];
    const double *changes = job->changes + output * job->view.count;
    char identity[DIGEST_TEXT_BYTES];
    double total = 0;
    digest_format(job->identities[output], identity);
    for (size_t i = 0; i < job->view.count; i++)
        total += changes[i];
    strbuf_addf(out,
                "---\ntags:\n- merge\n- memo\n---\n\n# A merged model\n\nMerged with memo by `%s`. "
                "The merge's identity is `%s`.\n\n",
                merge_traits(recipe->method)->name, identity);
    add_inputs(job, out);
    strbuf_adds(out, "## Parameters\n\n```json\n");
    merge_recipe_describe(recipe, out);
    strbuf_adds(out, "\n```\n\n`model` counts the inputs in the order in which they were given: ");
    for (size_t k = 0; k < job->count; k++)
        strbuf_addf(out, "%s%d is `%s`", k ? ", " : "", job->sources[k].position,
                    job->sources[k].path);
    strbuf_addf(out, ".\n\n## Statistics\n\n%zu tensors, %" PRIu64 " parameters", job->view.count,
                job->report->parameters);
    if (job->base.path || job->memo_ref) {
        strbuf_addf(out, "; Euclidean distance to the base %.6g.\n\n", sqrt(total));
        add_changes(job, changes, out);
    } else {
        strbuf_addf(out, "; Euclidean norm %.6g.\n", sqrt(total));
    }
}
