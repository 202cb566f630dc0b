// SPDX-License-Identifier: Apache-2.0
// memo export: pairs as JSON Lines, for every other tool.
#include "base/log.h"
#include "base/mem.h"
#include "datasets/reflections_tools.h"
#include "jobs/verbs.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct export_options {
    const char *out;
    int64_t sample;
};

#define OPTION_AT(field) offsetof(struct export_options, field)

static const struct option export_option_table[] = {
    {"out", OPTION_STRING, OPTION_AT(out), "FILE", "-", 0, 0, NULL,
     "file to write; - is standard output", false},
    {"sample", OPTION_INT, OPTION_AT(sample), "N", "0", 0, INT32_MAX, NULL,
     "only the N pairs with the smallest record ids, those that `memo train --sample N` trains on "
     "(0: all)",
     false},
    {0},
};

static int compare_records(const void *a, const void *b)
{
    const struct reflection *x = a, *y = b;
    return digest_compare(x->record_id, y->record_id);
}

static int write_pairs(const struct reflection_set *set, const char *out, struct error *err)
{
    if (strcmp(out, "-") != 0)
        return reflections_export(set, fs_system(), out, err);
    struct strbuf line = {0};
    for (size_t i = 0; i < set->pair_count; i++) {
        strbuf_reset(&line);
        reflection_format_json(&set->pairs[i], &line);
        fwrite(line.bytes, 1, line.length, stdout);
    }
    strbuf_release(&line);
    return 0;
}

static int export_directory(const struct export_options *options, const char *directory,
                            struct error *err)
{
    struct reflection_set set;
    if (reflection_set_open(fs_system(), directory, &set, err))
        return -1;
    struct reflection_set chosen = set; // a view: owns the copied rows only
    struct reflection *pairs = mem_dup(set.pairs, set.pair_count * sizeof(*pairs));
    if (options->sample > 0) {
        qsort(pairs, set.pair_count, sizeof(*pairs), compare_records);
        chosen.pairs = pairs;
        if ((size_t)options->sample < set.pair_count)
            chosen.pair_count = (size_t)options->sample;
    }
    const int rc = write_pairs(&chosen, options->out, err);
    if (rc == 0 && strcmp(options->out, "-") != 0)
        log_info("%s: %zu pairs", options->out, chosen.pair_count);
    free(pairs);
    reflection_set_close(&set);
    return rc;
}

static int run_export(const void *parsed, const struct option_list *directories, struct error *err)
{
    if (directories->count != 1) {
        error_set(err, "name one reflections directory, not %zu", directories->count);
        return EXIT_USAGE;
    }
    return export_directory(parsed, directories->items[0], err) ? EXIT_FAILED : EXIT_DONE;
}

const struct verb verb_export = {
    .name = "export",
    .summary = "write reflections as JSON Lines",
    .positional = "REFLECTIONS",
    .examples = "  memo export reflections/ --out pairs.jsonl\n"
                "  memo export reflections/ --sample 5\n",
    .options = export_option_table,
    .options_bytes = sizeof(struct export_options),
    .run = run_export,
};
