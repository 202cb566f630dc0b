// SPDX-License-Identifier: Apache-2.0
#include "worker/reflect/draft.h"

#include "base/mem.h"
#include "base/utf8.h"
#include "datasets/text_key.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>
#include <utf8proc.h>

void draft_list_add(struct draft_list *list, struct draft *draft)
{
    list->items = mem_grow(list->items, &list->capacity, list->count + 1, sizeof *list->items);
    list->items[list->count++] = draft;
}

void draft_list_release(struct draft_list *list)
{
    free(list->items);
    *list = (struct draft_list){0};
}

static int compare_origins(const struct draft_origin *a, const struct draft_origin *b)
{
    if (a->step != b->step) {
        return a->step < b->step ? -1 : 1;
    }
    if (a->request != b->request) {
        return a->request < b->request ? -1 : 1;
    }
    return (a->item > b->item) - (a->item < b->item);
}

static int compare_drafts(const void *left, const void *right)
{
    const struct draft *a = *(struct draft *const *)left, *b = *(struct draft *const *)right;
    if (a->step != b->step) {
        return a->step < b->step ? -1 : 1;
    }
    return compare_origins(&a->origin, &b->origin);
}

void draft_list_sort(struct draft_list *list)
{
    if (list->count > 0) {
        qsort(list->items, list->count, sizeof(struct draft *), compare_drafts);
    }
}

void draft_drop(struct draft *draft, const char *reason, struct tally *tally)
{
    assert(!draft->dropped);
    draft->dropped = reason;
    tally_drop(tally, draft->step, reason, 1);
}

struct asked {
    struct digest question; // digest of its key
    bool known;
    struct draft *draft;
};

// Known questions come first, so that they are what is repeated.
static int compare_asked(const void *left, const void *right)
{
    const struct asked *a = left, *b = right;
    const int order = digest_compare(a->question, b->question);
    if (order != 0) {
        return order;
    }
    if (a->known != b->known) {
        return a->known ? -1 : 1;
    }
    return compare_origins(&a->draft->origin, &b->draft->origin);
}

static size_t add_asked(const struct draft_list *list, bool known, struct asked *out)
{
    struct strbuf key = {0};
    size_t count = 0;
    for (size_t i = 0; list && i < list->count; i++) {
        struct draft *draft = list->items[i];
        if (draft->dropped) {
            continue;
        }
        strbuf_reset(&key);
        text_key_add(draft->question, draft->question_bytes, &key);
        out[count++] = (struct asked){digest_bytes(key.bytes, key.length), known, draft};
    }
    strbuf_release(&key);
    return count;
}

void draft_list_drop_repeated(const struct draft_list *list, const struct draft_list *known,
                              struct tally *tally)
{
    const size_t most = list->count + (known ? known->count : 0);
    struct asked *asked = mem_calloc(most + 1, sizeof *asked);
    size_t count = add_asked(known, true, asked);
    count += add_asked(list, false, asked + count);
    qsort(asked, count, sizeof *asked, compare_asked);
    for (size_t i = 1; i < count; i++) {
        if (!asked[i].known && digest_equal(asked[i].question, asked[i - 1].question)) {
            draft_drop(asked[i].draft, DROP_REPEATED, tally);
        }
    }
    free(asked);
}

static bool is_space(uint32_t point)
{
    switch (utf8proc_category((utf8proc_int32_t)point)) {
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_CC:
        return true;
    default:
        return false;
    }
}

const char *draft_clean_text(const char *text, size_t bytes, struct arena *arena, size_t *out_bytes)
{
    char *out = arena_alloc(arena, bytes + 1);
    size_t length = 0;
    bool space = false;
    for (size_t at = 0; at < bytes;) {
        uint32_t point;
        const int size = utf8_decode(text + at, bytes - at, &point);
        assert(size > 0);
        if (is_space(point)) {
            space = true;
        } else {
            if (space && length > 0) {
                out[length++] = ' ';
            }
            space = false;
            memcpy(out + length, text + at, (size_t)size);
            length += (size_t)size;
        }
        at += (size_t)size;
    }
    out[length] = '\0';
    *out_bytes = length;
    return out;
}

char *draft_key(const struct draft *draft)
{
    struct strbuf text = {0}, key = {0};
    strbuf_add(&text, draft->question, draft->question_bytes);
    strbuf_addc(&text, ' ');
    strbuf_add(&text, draft->answer, draft->answer_bytes);
    text_key_add(text.bytes, text.length, &key);
    strbuf_release(&text);
    return strbuf_detach(&key);
}

bool draft_tells_answer(const struct draft *draft)
{
    struct strbuf question = {0}, answer = {0};
    text_key_add(draft->question, draft->question_bytes, &question);
    text_key_add(draft->answer, draft->answer_bytes, &answer);
    const bool tells = text_key_contains(question.bytes, answer.bytes);
    strbuf_release(&question);
    strbuf_release(&answer);
    return tells;
}
