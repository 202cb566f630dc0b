// SPDX-License-Identifier: Apache-2.0
// memo engine: the process in which `memo generate` has its engine. Not for people: it speaks with
// the rank that started it, over a socket that it inherits.
#include "base/log.h"
#include "jobs/verbs.h"
#include "worker/supervisor/engine_child.h"
#include "worker/supervisor/launcher.h"

#include <stdlib.h>
#include <sys/stat.h>

static const struct option engine_option_table[] = {{0}};

static int run_engine(const void *parsed, const struct option_list *positional, struct error *err)
{
    struct stat channel;
    (void)parsed;
    (void)positional;
    if (fstat(LAUNCHER_CHANNEL, &channel) != 0 || !S_ISSOCK(channel.st_mode)) {
        error_set(err, "engines are started by `memo generate --generator engine:DIR`");
        return EXIT_USAGE;
    }
    const struct engine_child_options options = {
        .socket = LAUNCHER_CHANNEL, .open = lm_engine_create, .fault = getenv("MEMO_ENGINE_FAULT")};
    if (engine_child_run(&options, err))
        err->text[0] = '\0'; // the rank was told, and says it
    return EXIT_DONE;
}

const struct verb verb_engine = {
    .name = "engine",
    .summary = "the process of an engine, started by generate",
    .options = engine_option_table,
    .internal = true,
    .run = run_engine,
};
