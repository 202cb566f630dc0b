// SPDX-License-Identifier: Apache-2.0
#include "jobs/compute.h"

#include <inttypes.h>
#include <sched.h>
#include <signal.h>
#include <string.h>

int compute_processors(void)
{
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof(set), &set) != 0)
        return 1;
    return CPU_COUNT(&set);
}

int compute_threads(const struct group *group, int64_t wanted)
{
    const int share = compute_processors() / group_local_size(group);
    return wanted > 0 ? (int)wanted : share > 0 ? share : 1;
}

int compute_device_open(const struct group *group, const char *backend, int64_t threads,
                        struct device **out, struct error *err)
{
    const struct device_options options = {.backend = backend,
                                           .threads = compute_threads(group, threads)};
    return device_create(&options, out, err);
}

int compute_device_open_alone(const char *backend, int64_t threads, struct device **out,
                              struct error *err)
{
    struct group *group = NULL;
    if (group_open_self(&group, err))
        return -1;
    const int rc = compute_device_open(group, backend, threads, out, err);
    group_close(group);
    return rc;
}

static volatile sig_atomic_t stop_flag;

static void on_stop(int number)
{
    stop_flag = 1;
    if (number == SIGTERM)
        group_note_termination();
}

void stop_requests_catch(void)
{
    struct sigaction action = {.sa_handler = on_stop, .sa_flags = SA_RESTART};
    sigemptyset(&action.sa_mask);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGUSR2, &action, NULL); // never SIGUSR1: NCCL uses it
}

bool stop_requested(void)
{
    return stop_flag != 0;
}

int text_codec_open(const char *model_directory, const char *chat_name, struct text_codec *out,
                    struct error *err)
{
    *out = (struct text_codec){0};
    if (tokenizer_load(model_directory, &out->tokenizer, err))
        return -1;
    const int rc = chat_name ? chat_template_find(chat_name, &out->chat, err)
                             : chat_template_detect(model_directory, &out->chat, err);
    if (rc != 0) {
        text_codec_close(out);
        return -1;
    }
    out->scratch = tokenizer_scratch_create(out->tokenizer);
    return 0;
}

void text_codec_close(struct text_codec *codec)
{
    tokenizer_scratch_destroy(codec->scratch);
    tokenizer_destroy(codec->tokenizer);
    *codec = (struct text_codec){0};
}

int text_codec_check(const struct text_codec *codec, const struct model_config *config,
                     struct error *err)
{
    const int32_t tokens = tokenizer_vocabulary_size(codec->tokenizer);
    if (tokens > config->vocabulary)
        return error_set(err,
                         "the tokenizer has %" PRId32
                         " tokens but the model's embedding has %" PRId64
                         " rows: they do not belong together",
                         tokens, config->vocabulary);
    return 0;
}
