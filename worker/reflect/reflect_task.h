// SPDX-License-Identifier: Apache-2.0
// One task of the five steps on its way: a chunk's (chunk_task.c: steps 1 to 4) or a group's
// (group_task.c: step 5). A small state machine that is driven from outside: it has requests to
// send, takes their results in any order, and is finished when none is left and its last phase is
// over. What it makes depends on its input, the setup and the answers alone, not on their order.
//
// A phase plans its requests in a fixed order; answers may add further ones (the rest of a list, a
// rewrite, another judgement). The next phase begins when all of them are answered.
#ifndef MEMO_WORKER_REFLECT_TASK_H
#define MEMO_WORKER_REFLECT_TASK_H

#include "base/arena.h"
#include "base/strbuf.h"
#include "worker/lm/lm.h"
#include "worker/reflect/answer.h"
#include "worker/reflect/draft.h"
#include "worker/reflect/generator.h"
#include "worker/reflect/reflect_config.h"

// What all tasks of a generator have in common.
struct reflect_setup {
    struct prompt_set prompts;
    struct reflect_config config;
    char *schemas[REQUEST_KINDS];
    unsigned steps; // bit 1u << enum reflection_step
};

struct written {
    const char *text; // a question, or a name; NUL-terminated
    struct written *next;
};

// A request and, one after the other, its repetitions and continuations. What it shows of pairs is
// fixed when it is planned: they may be rewritten before it is sent.
struct step_request {
    enum request_kind kind;
    uint32_t index;            // of its kind, in the order in which its phase planned them
    uint32_t span;             // indices from it on that are its own, for the parts of a split list
    uint32_t part;             // continuations so far
    uint32_t tries;            // unreadable answers so far
    struct draft *subject;     // the pair judged or rewritten, the anchor, or the entity (answer)
    struct draft *const *list; // the pairs that "from" numbers, from 1
    const struct draft *shown; // as the model sees them: their words when they were listed
    size_t list_count;
    struct lm_text list_text;
    struct written *written; // by the parts so far
    struct written **written_end;
    uint32_t items; // answered so far, kept or not
};
#define REQUEST_SPAN 256 // indices of one planned request

struct request_queue {
    struct step_request **items;
    size_t first;
    size_t count; // from items[first]
    size_t capacity;
};

struct reflect_task;

struct reflect_task_ops {
    // Begins the next phase, or sets task->finished.
    void (*advance)(struct reflect_task *task);
    // A usable item of an answer to a listing request; draft is made of it and nobody's yet.
    void (*take_draft)(struct reflect_task *task, struct step_request *request,
                       const struct answer_item *item, struct draft *draft);
    // A verdict, or an answer to a rewrite (draft NULL: none that can be used).
    void (*take_verdict)(struct reflect_task *task, struct step_request *request, bool good);
    void (*take_rewrite)(struct reflect_task *task, struct step_request *request,
                         const struct draft *draft);
};

struct reflect_task {
    const struct reflect_task_ops *ops;
    const struct reflect_setup *setup;
    struct generator_task work; // its members are NULL: they became drafts
    struct arena arena;         // lives as long as the task
    struct strbuf document;     // the document part; empty in a group's task
    struct strbuf item;         // the last part of the request rendered last
    struct request_queue queue; // not yet sent
    size_t in_flight;
    int phase;
    bool finished;
    const char *problem;        // why the task is set aside; NULL otherwise
    bool fatal;                 // it must not be tried again
    struct draft_list drafts;   // made by this task
    struct draft_list entities; // of a chunk: names in `answer`
    struct draft_list members;  // of a group: its chunks' pairs, with record ids
    struct tally tally;
    double started_seconds;
};

struct reflect_task *chunk_task_create(const struct reflect_setup *setup,
                                       const struct generator_task *work);
struct reflect_task *group_task_create(const struct reflect_setup *setup,
                                       const struct generator_task *work);
void reflect_task_destroy(struct reflect_task *task);

// The next request to send, NULL when there is none; it is in flight then.
struct step_request *reflect_task_next(struct reflect_task *task);

// What to send: everything but the id. Its texts are valid until the next call.
void reflect_task_render(struct reflect_task *task, const struct step_request *request,
                         struct lm_request *out);

void reflect_task_take(struct reflect_task *task, struct step_request *request,
                       const struct lm_result *result);

// What became of the finished task.
void reflect_task_result(struct reflect_task *task, struct generated *out);

// For chunk_task.c and group_task.c.
struct reflect_task *reflect_task_create(const struct reflect_task_ops *ops,
                                         const struct reflect_setup *setup,
                                         const struct generator_task *work);
const struct request_limits *step_request_limits(const struct reflect_task *task,
                                                 const struct step_request *request);
uint64_t step_request_seed(const struct reflect_task *task, const struct step_request *request);
struct step_request *reflect_task_plan(struct reflect_task *task, enum request_kind kind,
                                       uint32_t index);
// Lists the pairs, with the words that they have now. list stays the caller's, as long as the task.
void reflect_task_list(struct reflect_task *task, struct step_request *request,
                       struct draft *const *list, size_t count);
// The text of request->shown.
struct lm_text reflect_task_list_text(struct reflect_task *task,
                                      const struct step_request *request);
void reflect_task_settle(struct reflect_task *task); // phases follow while nothing is left to do
void reflect_task_set_aside(struct reflect_task *task, const char *problem);
bool reflect_task_has_step(const struct reflect_task *task, enum reflection_step step);
// Sets the draft's parents: what the item numbers of the request's list, behind `first` if that is
// not NULL.
void reflect_task_set_parents(struct reflect_task *task, const struct step_request *request,
                              const struct answer_item *item, struct draft *first,
                              struct draft *draft);

#endif
