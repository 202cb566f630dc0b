// SPDX-License-Identifier: Apache-2.0
// Whatever a server sends: an answer is UTF-8, a problem is one short line without the key.
#include "base/utf8.h"
#include "tests/fuzz/fuzz.h"
#include "worker/http/chat_request.h"
#include "worker/http/chat_response.h"
#include "worker/http/retry.h"

#include <assert.h>
#include <string.h>

#define SECRET "choices" // occurs in the samples

static void check_line(const char *line, size_t limit)
{
    const size_t length = strlen(line);
    assert(length <= limit && utf8_valid_prefix(line, length) == length);
    for (size_t i = 0; i < length; i++)
        assert((uint8_t)line[i] >= 0x20 && line[i] != 0x7f);
}

static void check(const struct chat_reply *reply, const struct chat_response *response)
{
    check_line(response->problem, CHAT_PROBLEM_BYTES);
    check_line(response->complaint, CHAT_COMPLAINT_BYTES);
    if (response->verdict == CHAT_ANSWERED) {
        const struct lm_text *answer = &response->answer;
        assert(utf8_valid_prefix(answer->text, answer->bytes) == answer->bytes);
        assert(reply->status == 200 && response->problem[0] == '\0');
        assert(response->cached_tokens <= response->prompt_tokens);
    } else {
        assert(response->problem[0] != '\0');
        if (reply->status != 200) // the other lines say "choices" themselves
            assert(!strstr(response->problem, SECRET) && !strstr(response->complaint, SECRET));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const int statuses[] = {200, 400, 429, 500};
    struct arena arena = {0};
    for (size_t i = 0; i < 8; i++) {
        const struct chat_reply reply = {
            statuses[i / 2], "application/json", (const char *)data, size, i % 2, SECRET};
        struct chat_response response;
        struct dialect dialect = {0};
        chat_response_read(&arena, &reply, &response);
        check(&reply, &response);
        dialect_narrow(&dialect, response.complaint);
    }
    assert(retry_after_parse((const char *)data, size, 0) >= RETRY_AFTER_NONE);
    arena_release(&arena);
    return 0;
}
