// SPDX-License-Identifier: Apache-2.0
#include "worker/http/request_list.h"

#include "base/mem.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static struct lm_text copy_parts(struct arena *arena, const struct lm_text *parts, size_t count)
{
    size_t bytes = 0, at = 0;
    for (size_t i = 0; i < count; i++)
        bytes += parts[i].bytes;
    char *text = arena_alloc(arena, bytes + 1);
    for (size_t i = 0; i < count; i++) {
        if (parts[i].bytes > 0)
            memcpy(text + at, parts[i].text, parts[i].bytes);
        at += parts[i].bytes;
    }
    return (struct lm_text){text, bytes};
}

struct http_request *http_request_create(struct lm_http *http, const struct lm_request *request)
{
    struct http_request *copy = mem_calloc(1, sizeof(*copy));
    assert(request->part_count <= LM_PARTS_LIMIT);
    copy->http = http;
    copy->prompt = (struct chat_prompt){
        .system = copy_parts(&copy->arena, &request->system, 1),
        .user = copy_parts(&copy->arena, request->parts, request->part_count),
        .sampling = request->sampling,
        .seed = request->seed,
        .max_tokens = request->max_tokens,
    };
    if (request->schema)
        copy->prompt.schema = arena_strndup(&copy->arena, request->schema, strlen(request->schema));
    copy->result.id = request->id;
    return copy;
}

void http_request_destroy(struct http_request *request)
{
    if (!request)
        return;
    arena_release(&request->arena);
    free(request);
}

void request_list_append(struct request_list *list, struct http_request *request)
{
    request->next = NULL;
    request->previous = list->last;
    if (list->last)
        list->last->next = request;
    else
        list->first = request;
    list->last = request;
    list->count++;
}

void request_list_prepend(struct request_list *list, struct http_request *request)
{
    request->previous = NULL;
    request->next = list->first;
    if (list->first)
        list->first->previous = request;
    else
        list->last = request;
    list->first = request;
    list->count++;
}

void request_list_remove(struct request_list *list, struct http_request *request)
{
    if (request->previous)
        request->previous->next = request->next;
    else
        list->first = request->next;
    if (request->next)
        request->next->previous = request->previous;
    else
        list->last = request->previous;
    request->previous = request->next = NULL;
    list->count--;
}

struct http_request *request_list_find(const struct request_list *list, uint64_t id)
{
    struct http_request *request = list->first;
    while (request && request->result.id != id)
        request = request->next;
    return request;
}

struct http_request *request_list_take(struct request_list *list)
{
    struct http_request *first = list->first;
    if (first)
        request_list_remove(list, first);
    return first;
}
