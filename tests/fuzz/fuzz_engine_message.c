// SPDX-License-Identifier: Apache-2.0
// Whatever a peer of an engine sends: what decodes lies within the frame and is encoded again to
// the same bytes. The input is taken as a frame, and again as kind and body under a head that fits.
#include "base/mem.h"
#include "tests/fuzz/fuzz.h"
#include "worker/supervisor/engine_message.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static void check_decoded(const char *frame, size_t length)
{
    struct engine_message message;
    struct error err;
    struct strbuf again = {0};
    if (engine_message_decode(frame, length, &message, &err)) {
        assert(err.text[0] != '\0');
        return;
    }
    engine_message_encode(&message, &again);
    assert(again.length == length && memcmp(again.bytes, frame, length) == 0);
    strbuf_release(&again);
}

static void put_u32(char *out, size_t value)
{
    for (int i = 0; i < 4; i++)
        out[i] = (char)(value >> (8 * i));
}

static void check_body(uint8_t kind, const uint8_t *body, size_t length)
{
    struct strbuf frame = {0};
    struct digest_builder builder;
    engine_message_encode(&(struct engine_message){.kind = ENGINE_ALIVE}, &frame);
    strbuf_add(&frame, body, length);
    put_u32(frame.bytes + 4, kind);
    put_u32(frame.bytes + 8, length);
    digest_begin(&builder);
    digest_update(&builder, frame.bytes + 4, 8);
    digest_update(&builder, frame.bytes + ENGINE_HEAD_BYTES, length);
    const struct digest digest = digest_end(&builder);
    memcpy(frame.bytes + 12, digest.bytes, sizeof(digest.bytes));
    char *exact = mem_dup(frame.bytes, frame.length); // a read behind the end is seen
    check_decoded(exact, frame.length);
    free(exact);
    strbuf_release(&frame);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    check_decoded((const char *)data, size);
    if (size > 0)
        check_body(data[0], data + 1, size - 1);
    return 0;
}
