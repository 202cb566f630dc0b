// SPDX-License-Identifier: Apache-2.0
// Requests that have no answer yet, kept so that another engine can be asked when one dies, and who
// is to blame when engines die again and again.
//
// Most deaths have nothing to do with what was being computed (memory ran out, a GPU failed), so
// after the first all that the engine had is asked again, together. A request that two engines in a
// row died with is a suspect: from then on suspects are asked alone, one after the other, those
// that have not died alone yet first, until none is left. Only a death alone counts against a
// request, since any other might be its neighbour's; with the third it is a culprit: it and all
// requests of its task end with LM_FATAL, now and whenever they come again, and the others are
// cleared.
#ifndef MEMO_WORKER_FLIGHTS_H
#define MEMO_WORKER_FLIGHTS_H

#include "base/strbuf.h"
#include "worker/lm/lm.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DEATHS_OF_SUSPECT 2
#define LONE_DEATHS_OF_CULPRIT 3

struct flight {
    uint64_t sequence; // what the engine calls it; never used twice
    uint64_t id;       // what the caller calls it
    uint64_t task;     // see lm_request
    struct strbuf frame;
    bool sent;            // to the engine that runs now
    unsigned deaths;      // of engines, one after the other, that had it
    unsigned lone_deaths; // of these, of engines that had nothing else
    char *problem;        // it has ended without the engine; NULL otherwise
    enum lm_end end;      // then
};

struct culprit {
    uint64_t task;
    char *problem;
};

struct flights {
    struct flight *items; // [count], in the order of submission
    size_t count;
    size_t capacity;
    size_t sent;
    uint64_t next_sequence;
    struct culprit *culprits; // tasks, [culprit_count]
    size_t culprit_count;
    size_t culprit_capacity;
};

void flights_release(struct flights *flights);

// Copies the request.
void flights_add(struct flights *flights, const struct lm_request *request);
void flights_remove(struct flights *flights, size_t at);

// Places in items, SIZE_MAX when there is none.
size_t flights_find(const struct flights *flights, uint64_t sequence);
size_t flights_ended(const struct flights *flights); // the first that has a problem

// The next to be sent to an engine that works on `window` at once.
size_t flights_next(const struct flights *flights, size_t window);
void flights_mark_sent(struct flights *flights, size_t at);

// The engine died, `how` says in what way ("was killed by signal 11 (Segmentation fault)"). True: a
// culprit was found.
bool flights_engine_died(struct flights *flights, const char *how);

#endif
