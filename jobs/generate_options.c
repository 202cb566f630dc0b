// SPDX-License-Identifier: Apache-2.0
#include "jobs/generation.h"

#include "jobs/compute.h"
#include "jobs/language_model.h"

#include <stddef.h>

#define OPTION_AT(field) offsetof(struct generate_options, field)

const struct option generate_option_table[] = {
    {"corpus", OPTION_STRING, OPTION_AT(corpus), "FILE", NULL, 0, 0, NULL, "corpus.h5", true},
    {"generator", OPTION_STRING, OPTION_AT(generator), "NAME", "cloze", 0, 0, NULL,
     "cloze: fill-the-gap pairs without a model; engine:DIR: the five steps by the model in DIR; "
     "http:URL[,URL...]: by a model behind OpenAI-compatible servers (key from MEMO_API_KEY)",
     false},
    {"out", OPTION_STRING, OPTION_AT(out), "DIR", NULL, 0, 0, NULL,
     "reflections directory; what is there already is not done again", true},
    {"part", OPTION_STRING, OPTION_AT(part), "K/N", "1/1", 0, 0, NULL,
     "only the documents of part K of N parts of about equal size", false},
    {"model", OPTION_STRING, OPTION_AT(model), "NAME", NULL, 0, 0, NULL,
     "http: the model's name, as the server knows it", false},
    {"revision", OPTION_STRING, OPTION_AT(revision), "TEXT", "", 0, 0, NULL,
     "http: of the model; another revision makes other tasks", false},
    {"steps", OPTION_STRING, OPTION_AT(steps), "LIST", "1a,1b,2,3,4,5", 0, 0, NULL,
     "which of the five steps are done", false},
    {"prompts", OPTION_STRING, OPTION_AT(prompts), "DIR", NULL, 0, 0, NULL,
     "prompts that replace the built-in ones, file by file", false},
    {"config", OPTION_STRING, OPTION_AT(config), "FILE", NULL, 0, 0, NULL,
     "steps.json: sampling and limits of the steps that differ from the built-in ones", false},
    {"groups", OPTION_CHOICE, OPTION_AT(groups), "NAME", "corpus", 0, 0, "corpus|entities|none",
     "which chunks step 5 joins: those of the corpus's groups, or those that share names which step "
     "4 surfaced (after all chunks are done)",
     false},
    {"seed", OPTION_INT, OPTION_AT(seed), "N", "1", 0, INT32_MAX, NULL,
     "of the run; another seed makes other tasks", false},
    {"lease-seconds", OPTION_NUMBER, OPTION_AT(lease_seconds), "S", "0", 0, 1e6, NULL,
     "a task that a worker has not reported for so long goes to another (0: 600 for cloze, 7200 for "
     "a language model)",
     false},
    {"max-attempts", OPTION_INT, OPTION_AT(max_attempts), "N", "3", 1, 100, NULL,
     "then a task is set aside with its reason", false},
    {"max-set-aside", OPTION_NUMBER, OPTION_AT(max_set_aside), "X", "0.001", 0, 1, NULL,
     "share of tasks that may be set aside before the job counts as failed", false},
    {"commit-seconds", OPTION_NUMBER, OPTION_AT(commit_seconds), "S", "60", 0, 1e6, NULL,
     "finished work waits at most so long until it is durable", false},
    {"max-tasks-per-second", OPTION_NUMBER, OPTION_AT(max_tasks_per_second), "X", "0", 0, 1e9, NULL,
     "of one worker (0: no limit)", false},
    {"slots", OPTION_INT, OPTION_AT(slots), "N", "0", 0, 1024, NULL,
     "requests to the model at once, by one worker (0: 32 for an engine, 128 for http)", false},
    {"context-tokens", OPTION_INT, OPTION_AT(context_tokens), "N", "0", 0, INT32_MAX, NULL,
     "most tokens of prompt and answer together (0: 8192 or what an engine's model has; for http: "
     "unknown)",
     false},
    {"cache-tokens", OPTION_INT, OPTION_AT(cache_tokens), "N", "0", 0, INT32_MAX, NULL,
     "engine: keys and values kept, of running requests and of shared prefixes (0: four contexts)",
     false},
    {"dtype", OPTION_CHOICE, OPTION_AT(dtype), "NAME", "bf16", 0, 0, "bf16|f32|fp8",
     "engine: of the weights in memory", false},
    {"chat-template", OPTION_CHOICE, OPTION_AT(chat_template), "NAME", NULL, 0, 0,
     CHAT_TEMPLATE_CHOICES, "engine: default: what the model's files say", false},
    {"backend", OPTION_CHOICE, OPTION_AT(backend), "NAME", NULL, 0, 0, BACKEND_CHOICES,
     "engine: default: the fastest that works here", false},
    {"threads", OPTION_INT, OPTION_AT(threads), "N", "0", 0, 4096, NULL,
     "engine: of one worker (0: the processors of a host, shared among its ranks)", false},
    {"batch-invariant", OPTION_FLAG, OPTION_AT(batch_invariant), NULL, NULL, 0, 0, NULL,
     "engine: an answer is the same whatever is asked beside it, also with --backend cuda, where long "
     "prompts then take two to three times as long (bf16 and fp8; f32 is far slower); the cpu's "
     "always are",
     false},
    {"supervise", OPTION_CHOICE, OPTION_AT(supervise), "WHEN", "auto", 0, 0, "auto|on|off",
     "engine: in a process of its own, which is started again when it dies; a document that kills "
     "three is set aside (auto: on)",
     false},
    {"engine-seconds", OPTION_NUMBER, OPTION_AT(engine_seconds), "S", "300", 0, 1e6, NULL,
     "supervised engine: one that gives no sign of life for so long is killed (0: never)", false},
    {"engine-memory", OPTION_NUMBER, OPTION_AT(engine_memory), "GB", "0", 0, 1e6, NULL,
     "supervised engine: one that uses more memory of the host is killed (0: no limit)", false},
    {"tries", OPTION_INT, OPTION_AT(tries), "N", "10", 1, 100, NULL,
     "http: of one request, before its task fails", false},
    {"answer-seconds", OPTION_NUMBER, OPTION_AT(answer_seconds), "S", "300", 0.01, 1e5, NULL,
     "http: longest wait for the first byte of an answer", false},
    {"stall-seconds", OPTION_NUMBER, OPTION_AT(stall_seconds), "S", "30", 0.01, 1e5, NULL,
     "http: an answer that hardly moves for so long is given up", false},
    {"outage-seconds", OPTION_NUMBER, OPTION_AT(outage_seconds), "S", "600", 0.01, 1e5, NULL,
     "http: without any answer for so long the job ends", false},
    {"retry-seconds", OPTION_NUMBER, OPTION_AT(retry_seconds), "S", "0.5", 0.001, 1e4, NULL,
     "http: about the first delay before a request is tried again; later ones double", false},
    {"claims", OPTION_CHOICE, OPTION_AT(claims), "NAME", "on", 0, 0, "on|off",
     "whether the work is divided with other jobs that run on --out at the same time", false},
    {"claim-tasks", OPTION_INT, OPTION_AT(claim_tasks), "N", "0", 0, 1 << 20, NULL,
     "tasks claimed from other jobs at once (0: chosen by their number)", false},
    {"claim-seconds", OPTION_NUMBER, OPTION_AT(claim_seconds), "S", "60", 1, 1e5, NULL,
     "a job that gives no sign of life for so long loses its tasks to the others", false},
    {"max-gaps", OPTION_INT, OPTION_AT(max_gaps), "N", "2", 1, 16, NULL,
     "cloze: most pairs made of one sentence", false},
    {"status-port", OPTION_INT, OPTION_AT(status_port), "N", "-1", -1, 65535, NULL,
     "a page for people, /status (JSON) and /metrics (Prometheus) on this port (0: any free one, "
     "which is said; -1: none); who asks needs the key in MEMO_STATUS_KEY or MEMO_API_KEY, if one is "
     "set",
     false},
    {"status-host", OPTION_STRING, OPTION_AT(status_host), "HOST", "127.0.0.1", 0, 0, NULL,
     "the address that the page listens on (0.0.0.0: all; set a key then)", false},
    {"gpus", OPTION_NUMBER, OPTION_AT(gpus), "X", "0", 0, 1e6, NULL,
     "that the run occupies, for GPU-hours (0: one for each worker)", false},
    {"time-left", OPTION_NUMBER, OPTION_AT(time_left), "S", "0", 0, 1e9, NULL,
     "seconds until this job is ended from outside: it stops by itself in time for a commit, as on "
     "a signal (0: no limit)",
     false},
    {"max-gpu-hours", OPTION_NUMBER, OPTION_AT(max_gpu_hours), "X", "0", 0, 1e9, NULL,
     "GPUs times wall time, earlier attempts included, after which the run stops with exit code 75 "
     "(0: no limit)",
     false},
    {"quote", OPTION_STRING, OPTION_AT(quote), "FILE", NULL, 0, 0, NULL,
     "of memo plan --out, which the forecast is held against while the run goes on", false},
    {0},
};
