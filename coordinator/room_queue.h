// SPDX-License-Identifier: Apache-2.0
// Workers with room for another task, the best one first: those that answer before those that fell
// silent, then the one that holds fewest tasks, then the one whose turn is longest ago. Every call
// is O(log workers).
#ifndef MEMO_COORDINATOR_ROOM_QUEUE_H
#define MEMO_COORDINATOR_ROOM_QUEUE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct room_key {
    bool silent;
    uint32_t held;
    uint64_t turn;
};

struct room_queue;

struct room_queue *room_queue_create(size_t workers);
void room_queue_destroy(struct room_queue *queue);

void room_queue_set(struct room_queue *queue, int worker, struct room_key key); // adds or moves
void room_queue_remove(struct room_queue *queue, int worker); // nothing when it is not there
int room_queue_first(const struct room_queue *queue);         // -1 when empty
int room_queue_first_but(const struct room_queue *queue, int worker); // of the others

#endif
