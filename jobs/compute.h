// SPDX-License-Identifier: Apache-2.0
// What jobs that compute with a model share: device options, stop requests, and the model with its
// tokenizer and chat template.
#ifndef MEMO_JOBS_COMPUTE_H
#define MEMO_JOBS_COMPUTE_H

#include "base/error.h"
#include "collectives/group.h"
#include "datasets/chat_template.h"
#include "datasets/tokenizer.h"
#include "worker/model/model.h"

#include <stdbool.h>

// Those that this process may run on.
int compute_processors(void);

// The processors of this host, shared among its ranks; at least 1. wanted > 0: that.
int compute_threads(const struct group *group, int64_t wanted);

// threads: see compute_threads.
int compute_device_open(const struct group *group, const char *backend, int64_t threads,
                        struct device **out, struct error *err);
// For jobs of one process.
int compute_device_open_alone(const char *backend, int64_t threads, struct device **out,
                              struct error *err);

// Before the group is opened: a rank that computes with backend "cuda" chooses its GPU.
int compute_choose_gpu(const char *backend, struct error *err);
// Collective: the group in which GPUs sum gradients; *out is NULL, and control does it, for one
// rank and for devices in the host's memory. Close it before device and control.
int compute_gpus_open(struct group *control, const struct device *device, struct group **out,
                      struct error *err);

// SIGTERM, SIGINT and SIGUSR2 are remembered from now on instead of ending the process.
void stop_requests_catch(void);
bool stop_requested(void);

// How text becomes tokens for one model.
struct text_codec {
    struct tokenizer *tokenizer;
    struct tokenizer_scratch *scratch;
    const struct chat_template *chat;
};
// chat_name NULL: detected from the directory.
int text_codec_open(const char *model_directory, const char *chat_name, struct text_codec *out,
                    struct error *err);
void text_codec_close(struct text_codec *codec);

// The model's ids must fit its embedding; a foreign tokenizer is an error.
int text_codec_check(const struct text_codec *codec, const struct model_config *config,
                     struct error *err);

#endif
