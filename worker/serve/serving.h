// SPDX-License-Identifier: Apache-2.0
// Calls to our engine: reads them, runs them in one batch, and answers. A call is one conversation;
// calls that begin alike share what was computed for their common beginning.
#ifndef MEMO_WORKER_SERVE_SERVING_H
#define MEMO_WORKER_SERVE_SERVING_H

#include "worker/lm/engine_host.h"
#include "worker/serve/server.h"

struct serving_options {
    const char *name;     // of the model, for clients
    double drain_seconds; // how long calls that run are still computed after a stop
};

struct serving;

// Host, server and options stay the caller's and outlive it. What the server answers by itself is
// there from now on.
struct serving *serving_create(struct engine_host *host, struct server *server,
                               const struct serving_options *options);
// Serves until stop() is true and what ran has ended. -1: the device failed.
int serving_run(struct serving *serving, bool (*stop)(void), struct error *err);
void serving_destroy(struct serving *serving); // drops what still runs

#endif
