// SPDX-License-Identifier: Apache-2.0
// Whatever a client sends: a call that the engine can be given, or an error that says something.
#include "base/json.h"
#include "tests/fuzz/fuzz.h"
#include "worker/serve/chat_call.h"

#include <assert.h>
#include <string.h>

static void check(struct arena *arena, const struct chat_call *call)
{
    assert(call->message_count > 0 && call->message_count <= CHAT_MESSAGES_LIMIT);
    for (size_t i = 0; i < call->message_count; i++)
        assert(call->messages[i].role && call->messages[i].content);
    assert(!*sampling_problem(&call->sampling));
    assert(call->stop_count <= CHAT_STOPS_LIMIT);
    for (size_t i = 0; i < call->stop_count; i++)
        assert(call->stops[i][0]);
    if (call->schema) {
        const struct json *schema;
        struct error err;
        assert(json_parse(arena, call->schema, strlen(call->schema), &schema, &err) == 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct arena arena = {0};
    struct chat_call call;
    struct error err = {""};
    const char *param;
    if (chat_call_read(&arena, (const char *)data, size, &call, &param, &err) == 0)
        check(&arena, &call);
    else
        assert(param && err.text[0]);
    arena_release(&arena);
    return 0;
}
