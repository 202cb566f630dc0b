// SPDX-License-Identifier: Apache-2.0
// memo compact: many small segments into few.
#include "base/log.h"
#include "datasets/reflections_tools.h"
#include "jobs/verbs.h"

struct compact_options {
    int64_t segment_mebibytes;
};

static const struct option compact_option_table[] = {
    {"segment-mib", OPTION_INT, offsetof(struct compact_options, segment_mebibytes), "N", "256", 1,
     4096, NULL, "about how large the new segments become", false},
    {0},
};

static int run_compact(const void *parsed, const struct option_list *directories, struct error *err)
{
    const struct compact_options *options = parsed;
    struct reflections_compacted done;
    if (directories->count != 1) {
        error_set(err, "name one reflections directory, not %zu", directories->count);
        return EXIT_USAGE;
    }
    if (reflections_compact(fs_system(), directories->items[0],
                            (size_t)options->segment_mebibytes << 20, &done, err))
        return EXIT_FAILED;
    log_info("%s: %zu segments became %zu; %zu tasks, %zu pairs, %zu duplicate executions removed",
             directories->items[0], done.segments_before, done.segments_after, done.tasks,
             done.pairs, done.duplicate_tasks);
    return EXIT_DONE;
}

const struct verb verb_compact = {
    .name = "compact",
    .summary = "fold the segments of reflections into few",
    .positional = "REFLECTIONS",
    .examples = "  memo compact reflections/\n"
                "Not while memo generate writes to the same directory.\n",
    .options = compact_option_table,
    .options_bytes = sizeof(struct compact_options),
    .run = run_compact,
};
