// SPDX-License-Identifier: Apache-2.0
#include "worker/supervisor/engine_fault.h"

#include "base/mem.h"

#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <unistd.h>

#define BLOCK_BYTES ((size_t)16 << 20)
#define ENOUGH_BYTES ((size_t)1 << 40)
#define BLOCK_PAUSE_US 5000 // the one who watches looks twice a second

static bool holds(const struct lm_request *request, const char *text)
{
    for (size_t i = 0; i < request->part_count; i++) {
        const struct lm_text part = request->parts[i];
        if (memmem(part.text, part.bytes, text, strlen(text)))
            return true;
    }
    return false;
}

static int die(struct error *err)
{
    signal(SIGSEGV, SIG_DFL); // a sanitizer would make an ordinary exit of it
    raise(SIGSEGV);
    return error_set(err, "SIGSEGV did not end the engine");
}

static int stop(struct error *err)
{
    raise(SIGSTOP);
    return error_set(err, "the stopped engine was woken");
}

static int take_memory(struct error *err)
{
    for (size_t taken = 0; taken < ENOUGH_BYTES; taken += BLOCK_BYTES) {
        memset(mem_alloc(BLOCK_BYTES), 1, BLOCK_BYTES);
        usleep(BLOCK_PAUSE_US);
    }
    return error_set(err, "the engine took %zu bytes of memory and was let", ENOUGH_BYTES);
}

static _Noreturn int leave(struct error *err)
{
    (void)err;
    _exit(3);
}

static int report_broken(struct error *err)
{
    return error_set(err, "the device failed, as MEMO_ENGINE_FAULT wants");
}

static const struct {
    const char *kind;
    int (*happen)(struct error *err);
} faults[] = {
    {"segv:", die},
    {"stop:", stop},
    {"memory:", take_memory},
    {"exit:", leave},
    {"broken:", report_broken},
};

int engine_fault_trip(const char *fault, const struct lm_request *request, struct error *err)
{
    for (size_t i = 0; fault && i < sizeof(faults) / sizeof(faults[0]); i++) {
        const size_t length = strlen(faults[i].kind);
        if (strncmp(fault, faults[i].kind, length) == 0)
            return holds(request, fault + length) ? faults[i].happen(err) : 0;
    }
    return fault ? error_set(err, "unknown engine fault '%s'", fault) : 0;
}
