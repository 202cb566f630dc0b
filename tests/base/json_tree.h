// SPDX-License-Identifier: Apache-2.0
// Whole JSON trees compared. For tests only.
#ifndef MEMO_TESTS_BASE_JSON_TREE_H
#define MEMO_TESTS_BASE_JSON_TREE_H

#include "base/json.h"

#include <string.h>

static inline bool json_tree_equal(const struct json *a, const struct json *b)
{
    if (a->type != b->type || a->length != b->length)
        return false;
    if (a->type == JSON_BOOL)
        return a->boolean == b->boolean;
    if (a->type == JSON_NUMBER)
        return memcmp(&a->number, &b->number, sizeof(a->number)) == 0 &&
               (!a->is_integer || !b->is_integer || a->integer == b->integer);
    if (a->type == JSON_STRING)
        return memcmp(a->string, b->string, a->length + 1) == 0;
    for (size_t i = 0; i < a->length; i++) {
        if (a->type == JSON_OBJECT && (a->key_lengths[i] != b->key_lengths[i] ||
                                       memcmp(a->keys[i], b->keys[i], a->key_lengths[i]) != 0))
            return false;
        if (!json_tree_equal(&a->items[i], &b->items[i]))
            return false;
    }
    return true;
}

#endif
