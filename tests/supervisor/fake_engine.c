// SPDX-License-Identifier: Apache-2.0
#include "tests/supervisor/fake_engine.h"

#include "base/clock.h"
#include "base/mem.h"
#include "worker/supervisor/engine_child.h"
#include "worker/supervisor/launcher.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SLOW_SECONDS 0.3

struct fake_request {
    uint64_t id;
    struct strbuf answer;
    double ready_seconds;
};

struct fake {
    struct lm lm;
    struct fake_request requests[2 * FAKE_CAPACITY];
    size_t count;
    struct strbuf told;
};

static bool says(const struct lm_request *request, const char *word)
{
    for (size_t i = 0; i < request->part_count; i++) {
        if (memmem(request->parts[i].text, request->parts[i].bytes, word, strlen(word)))
            return true;
    }
    return false;
}

void fake_engine_answer(const struct lm_request *request, struct strbuf *out)
{
    strbuf_reset(out);
    strbuf_addf(out, "%llu:", (unsigned long long)request->seed);
    for (size_t i = request->part_count; i-- > 0;) {
        for (size_t k = request->parts[i].bytes; k-- > 0;)
            strbuf_addc(out, request->parts[i].text[k]);
    }
    while (says(request, "long") && out->length < FAKE_LONG_BYTES)
        strbuf_adds(out, "0123456789abcdef");
}

static void misbehave(const struct lm_request *request)
{
    if (says(request, "segv")) {
        signal(SIGSEGV, SIG_DFL);
        raise(SIGSEGV);
    }
    if (says(request, "stop"))
        raise(SIGSTOP);
    if (says(request, "exit"))
        _exit(7);
}

static void submit(struct lm *lm, const struct lm_request *request)
{
    struct fake *fake = (struct fake *)lm;
    misbehave(request);
    struct fake_request *mine = &fake->requests[fake->count++];
    *mine = (struct fake_request){.id = request->id, .ready_seconds = clock_seconds()};
    if (says(request, "slow"))
        mine->ready_seconds += SLOW_SECONDS;
    fake_engine_answer(request, &mine->answer);
}

static enum lm_poll poll_fake(struct lm *lm, struct lm_result *out, struct error *err)
{
    struct fake *fake = (struct fake *)lm;
    (void)err;
    for (size_t i = 0; i < fake->count; i++) {
        struct fake_request *request = &fake->requests[i];
        if (clock_seconds() < request->ready_seconds)
            continue;
        strbuf_release(&fake->told);
        fake->told = request->answer;
        *out = (struct lm_result){.id = request->id,
                                  .answer = {fake->told.bytes, fake->told.length},
                                  .prompt_tokens = 3,
                                  .output_tokens = 4,
                                  .forced_from = SIZE_MAX,
                                  .problem = ""};
        *request = fake->requests[--fake->count];
        return LM_POLL_RESULT;
    }
    usleep(1000);
    return fake->count > 0 ? LM_POLL_RUNNING : LM_POLL_IDLE;
}

static void cancel(struct lm *lm, uint64_t id)
{
    struct fake *fake = (struct fake *)lm;
    for (size_t i = fake->count; i-- > 0;) {
        if (fake->requests[i].id == id) {
            strbuf_release(&fake->requests[i].answer);
            fake->requests[i] = fake->requests[--fake->count];
        }
    }
}

static void destroy(struct lm *lm)
{
    struct fake *fake = (struct fake *)lm;
    while (fake->count > 0)
        strbuf_release(&fake->requests[--fake->count].answer);
    strbuf_release(&fake->told);
    free(fake);
}

static const struct lm_ops fake_ops = {submit, poll_fake, cancel, destroy};

static void die_as_often_as(const char *file)
{
    struct stat info;
    if (stat(file, &info) == 0 && info.st_size > 0 && truncate(file, info.st_size - 1) == 0)
        _exit(9);
}

static int open_fake(const struct lm_engine_options *options, struct lm **out, struct error *err)
{
    static const char garbage[] = "Good morning.";
    const char *model = options->model;
    const pid_t self = getpid();
    if (strcmp(model, "refuses") == 0)
        return error_set(err, "no such model");
    if (strncmp(model, "dies:", 5) == 0)
        die_as_often_as(model + 5);
    if (strcmp(model, "stops-loading") == 0)
        raise(SIGSTOP);
    if (strcmp(model, "babbles") == 0 &&
        write(LAUNCHER_CHANNEL, garbage, sizeof(garbage)) == (ssize_t)sizeof(garbage))
        pause();
    if (strcmp(model, "talks") == 0)
        fprintf(stderr, "12:34:56 warning: one line\nand \x01 another");
    struct fake *fake = mem_calloc(1, sizeof(*fake));
    fake->lm =
        (struct lm){.ops = &fake_ops,
                    .digest = digest_bytes(&self, strcmp(model, "changes") ? 0 : sizeof(self)),
                    .capacity = FAKE_CAPACITY,
                    .context_tokens = 100};
    *out = &fake->lm;
    return 0;
}

int fake_engine_main(void)
{
    struct error err;
    return engine_child_run(
               &(struct engine_child_options){.socket = LAUNCHER_CHANNEL, .open = open_fake}, &err)
               ? 1
               : 0;
}
