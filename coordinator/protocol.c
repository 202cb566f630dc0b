// SPDX-License-Identifier: Apache-2.0
#include "coordinator/protocol.h"

#include "base/mem.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

static void put_u32(struct strbuf *out, uint32_t value)
{
    for (int i = 0; i < 4; i++)
        strbuf_addc(out, (char)(value >> (8 * i)));
}

static void put_u64(struct strbuf *out, uint64_t value)
{
    put_u32(out, (uint32_t)value);
    put_u32(out, (uint32_t)(value >> 32));
}

static void put_tasks(struct strbuf *out, const struct message *message)
{
    assert(message->count <= PROTOCOL_MAX_TASKS);
    put_u32(out, (uint32_t)message->count);
    for (size_t i = 0; i < message->count; i++)
        put_u32(out, message->tasks[i]);
}

void message_encode(const struct message *message, struct strbuf *out)
{
    strbuf_addc(out, (char)message->kind);
    switch (message->kind) {
    case MESSAGE_HELLO:
        put_u32(out, PROTOCOL_VERSION);
        strbuf_add(out, message->plan.bytes, sizeof(message->plan.bytes));
        put_u32(out, message->window);
        break;
    case MESSAGE_LEASE:
    case MESSAGE_DROP:
        put_tasks(out, message);
        break;
    case MESSAGE_COMMITTED:
        put_tasks(out, message);
        put_u64(out, message->pairs);
        put_u64(out, message->tokens);
        strbuf_adds(out, message->text);
        break;
    case MESSAGE_FAILED:
        put_u32(out, message->tasks[0]);
        strbuf_adds(out, message->text);
        break;
    case MESSAGE_STOP:
        break;
    case MESSAGE_BYE:
        strbuf_addc(out, message->failed ? 1 : 0);
        strbuf_adds(out, message->text);
        break;
    }
}

// What is left of the message; a read past the end sets short_read and gives zeros.
struct reader {
    const uint8_t *bytes;
    size_t length;
    bool short_read;
};

static void take(struct reader *reader, void *out, size_t length)
{
    if (reader->length < length) {
        reader->short_read = true;
        reader->length = 0;
        memset(out, 0, length);
        return;
    }
    memcpy(out, reader->bytes, length);
    reader->bytes += length;
    reader->length -= length;
}

static uint32_t take_u32(struct reader *reader)
{
    uint8_t b[4];
    take(reader, b, sizeof(b));
    return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

static uint64_t take_u64(struct reader *reader)
{
    const uint64_t low = take_u32(reader);
    return low | (uint64_t)take_u32(reader) << 32;
}

static void take_tasks(struct reader *reader, struct message *out)
{
    const size_t count = take_u32(reader);
    if (count > PROTOCOL_MAX_TASKS || reader->length < 4 * count) {
        reader->short_read = true;
        return;
    }
    out->tasks = mem_calloc(count + 1, sizeof(*out->tasks));
    out->count = count;
    for (size_t i = 0; i < count; i++)
        out->tasks[i] = take_u32(reader);
}

static void take_text(struct reader *reader, struct message *out)
{
    const size_t room = sizeof(out->text) - 1;
    const size_t length = reader->length < room ? reader->length : room;
    take(reader, out->text, length);
    out->text[length] = '\0';
    reader->length = 0;
}

// The version comes first, so that a build with another message layout is named as such.
static int take_hello(struct reader *reader, struct message *out, struct error *err)
{
    const uint32_t version = take_u32(reader);
    if (!reader->short_read && version != PROTOCOL_VERSION)
        return error_set(err, "protocol version %u, expected %u: all ranks must run the same build",
                         version, PROTOCOL_VERSION);
    take(reader, out->plan.bytes, sizeof(out->plan.bytes));
    out->window = take_u32(reader);
    if (!reader->short_read && out->window == 0)
        return error_set(err, "a worker that wants no tasks: its window is 0");
    return 0;
}

int message_decode(const void *bytes, size_t length, struct message *out, struct error *err)
{
    struct reader reader = {.bytes = bytes, .length = length};
    uint8_t kind, failed;
    memset(out, 0, sizeof(*out));
    if (length == 0)
        return error_set(err, "empty message");
    take(&reader, &kind, 1);
    out->kind = (enum message_kind)kind;
    switch (out->kind) {
    case MESSAGE_HELLO:
        if (take_hello(&reader, out, err))
            return -1;
        break;
    case MESSAGE_LEASE:
    case MESSAGE_DROP:
        take_tasks(&reader, out);
        break;
    case MESSAGE_COMMITTED:
        take_tasks(&reader, out);
        out->pairs = take_u64(&reader);
        out->tokens = take_u64(&reader);
        take_text(&reader, out);
        break;
    case MESSAGE_FAILED:
        out->tasks = mem_calloc(1, sizeof(*out->tasks));
        out->count = 1;
        out->tasks[0] = take_u32(&reader);
        take_text(&reader, out);
        break;
    case MESSAGE_STOP:
        break;
    case MESSAGE_BYE:
        take(&reader, &failed, 1);
        out->failed = failed != 0;
        take_text(&reader, out);
        break;
    default:
        return error_set(err, "unknown message kind %d", kind);
    }
    if (reader.short_read || reader.length != 0) {
        message_release(out);
        return error_set(err, "malformed message of kind %d, %zu bytes", kind, length);
    }
    return 0;
}

void message_release(struct message *message)
{
    free(message->tasks);
    message->tasks = NULL;
    message->count = 0;
}
