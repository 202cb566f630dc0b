// SPDX-License-Identifier: Apache-2.0
// What can be kept of an answer in JSON: every complete item of one array, however the answer ends
// and whatever stands around it. A pure function of the bytes.
#ifndef MEMO_WORKER_SALVAGE_H
#define MEMO_WORKER_SALVAGE_H

#include "base/arena.h"
#include "base/json.h"

#include <stdbool.h>
#include <stddef.h>

struct salvage {
    const struct json **items; // [count], in the arena, in the order of the answer
    size_t count;
    bool found;       // the array begins somewhere
    bool whole;       // and its closing bracket is there, the model's own
    size_t cut;       // 1 when the answer ends inside an item, else 0
    size_t malformed; // stretches between items that are not JSON, and dropped
};

// The array is the value of `key` in the first object of the answer; or, where that is no JSON or
// lacks the key, behind the first "key": [ anywhere; or, where there is none, the answer itself. A
// leading <think>...</think>, text before the JSON and behind it, and fences of Markdown are passed
// over. Bytes from forced_from on are not the model's own and are left out; SIZE_MAX: all are its
// own.
//
// An item is complete when its last byte is there; a number or a word, when the byte behind it is
// there. Behind something malformed, reading goes on at the next item that begins with '{' or '[':
// that may be a part of a malformed one, so check what items hold.
//
// JSON of one answer nests at most JSON_MAX_DEPTH deep. Time is linear in length.
void salvage_items(struct arena *arena, const char *answer, size_t length, size_t forced_from,
                   const char *key, struct salvage *out);

#endif
