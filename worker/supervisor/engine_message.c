// SPDX-License-Identifier: Apache-2.0
#include "worker/supervisor/engine_message.h"

#include <assert.h>
#include <inttypes.h>
#include <string.h>

#define MAGIC "ME\1"
#define MAGIC_BYTES 4 // with the NUL
#define NO_TEXT UINT32_MAX
#define TEXT_COST 5 // length and NUL
#define SUBMIT_FIXED (3 * 8 + 5 * 4 + 4)

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

static void put_f32(struct strbuf *out, float value)
{
    uint32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    put_u32(out, bits);
}

static void put_text(struct strbuf *out, struct lm_text text)
{
    put_u32(out, (uint32_t)text.bytes);
    strbuf_add(out, text.text, text.bytes);
    strbuf_addc(out, '\0');
}

static void put_string(struct strbuf *out, const char *text)
{
    if (text)
        put_text(out, (struct lm_text){text, strlen(text)});
    else
        put_u32(out, NO_TEXT);
}

static void put_open(struct strbuf *out, const struct lm_engine_options *open)
{
    put_string(out, open->model);
    put_string(out, open->chat_template);
    put_string(out, open->device.backend);
    put_string(out, open->device.isa);
    put_u32(out, (uint32_t)open->device.threads);
    put_u32(out, (uint32_t)open->device.products);
    put_u32(out, (uint32_t)open->dtype);
    put_u32(out, open->fp8);
    put_u64(out, open->slots);
    put_u64(out, open->context_tokens);
    put_u64(out, open->step_tokens);
    put_u64(out, open->cache_tokens);
}

static void put_submit(struct strbuf *out, const struct lm_request *request)
{
    assert(request->part_count <= LM_PARTS_LIMIT);
    put_u64(out, request->id);
    put_u64(out, request->seed);
    put_u64(out, request->max_tokens);
    put_f32(out, request->sampling.temperature);
    put_f32(out, request->sampling.top_p);
    put_f32(out, request->sampling.min_p);
    put_u32(out, (uint32_t)request->sampling.top_k);
    put_f32(out, request->sampling.repetition_penalty);
    put_string(out, request->schema);
    put_text(out, request->system);
    put_u32(out, (uint32_t)request->part_count);
    for (size_t i = 0; i < request->part_count; i++)
        put_text(out, request->parts[i]);
}

static void put_answer(struct strbuf *out, const struct lm_result *answer)
{
    put_u64(out, answer->id);
    put_u32(out, (uint32_t)answer->end);
    put_u32(out, answer->prompt_tokens);
    put_u32(out, answer->cached_tokens);
    put_u32(out, answer->output_tokens);
    put_u64(out, answer->forced_from == SIZE_MAX ? UINT64_MAX : answer->forced_from);
    put_text(out, answer->answer);
    put_string(out, answer->problem);
}

static void put_body(struct strbuf *out, const struct engine_message *message)
{
    switch (message->kind) {
    case ENGINE_OPEN:
        put_open(out, &message->open);
        break;
    case ENGINE_READY:
        strbuf_add(out, message->ready.digest.bytes, sizeof(message->ready.digest.bytes));
        put_u64(out, message->ready.capacity);
        put_u64(out, message->ready.context_tokens);
        break;
    case ENGINE_SUBMIT:
        put_submit(out, &message->submit);
        break;
    case ENGINE_CANCEL:
        put_u64(out, message->cancel);
        break;
    case ENGINE_ANSWER:
        put_answer(out, &message->answer);
        break;
    case ENGINE_ALIVE:
        break;
    case ENGINE_BROKEN:
        put_string(out, message->broken);
        break;
    }
}

size_t engine_submit_bytes(const struct lm_request *request)
{
    size_t bytes = SUBMIT_FIXED + TEXT_COST + request->system.bytes;
    bytes += request->schema ? TEXT_COST + strlen(request->schema) : 4;
    for (size_t i = 0; i < request->part_count; i++)
        bytes += TEXT_COST + request->parts[i].bytes;
    return bytes;
}

// Of the frame's kind, length and body.
static struct digest frame_digest(const uint8_t *frame, size_t body_bytes)
{
    struct digest_builder builder;
    digest_begin(&builder);
    digest_update(&builder, frame + MAGIC_BYTES, 8);
    digest_update(&builder, frame + ENGINE_HEAD_BYTES, body_bytes);
    return digest_end(&builder);
}

void engine_message_encode(const struct engine_message *message, struct strbuf *out)
{
    const struct digest none = {{0}};
    const size_t begin = out->length;
    struct strbuf head = {0};
    strbuf_add(&head, MAGIC, MAGIC_BYTES);
    put_u32(&head, (uint32_t)message->kind);
    strbuf_add(out, head.bytes, head.length);
    put_u32(out, 0);
    strbuf_add(out, none.bytes, sizeof(none.bytes));
    put_body(out, message);
    const size_t body_bytes = out->length - begin - ENGINE_HEAD_BYTES;
    assert(body_bytes <= ENGINE_BODY_LIMIT);
    put_u32(&head, (uint32_t)body_bytes);
    memcpy(out->bytes + begin, head.bytes, head.length);
    const struct digest digest = frame_digest((const uint8_t *)out->bytes + begin, body_bytes);
    memcpy(out->bytes + begin + head.length, digest.bytes, sizeof(digest.bytes));
    strbuf_release(&head);
}

// What is left of the body; a read past the end, or of what cannot be, sets malformed and gives
// zeros.
struct reader {
    const uint8_t *bytes;
    size_t length;
    bool malformed;
};

static const uint8_t *take(struct reader *reader, size_t length)
{
    static const uint8_t zeros[16];
    if (reader->length < length) {
        reader->malformed = true;
        reader->length = 0;
        return zeros;
    }
    const uint8_t *at = reader->bytes;
    reader->bytes += length;
    reader->length -= length;
    return at;
}

static uint32_t get_u32(const uint8_t *b)
{
    return (uint32_t)b[0] | (uint32_t)b[1] << 8 | (uint32_t)b[2] << 16 | (uint32_t)b[3] << 24;
}

static uint32_t take_u32(struct reader *reader)
{
    return get_u32(take(reader, 4));
}

static uint64_t take_u64(struct reader *reader)
{
    const uint64_t low = take_u32(reader);
    return low | (uint64_t)take_u32(reader) << 32;
}

static float take_f32(struct reader *reader)
{
    const uint32_t bits = take_u32(reader);
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

static struct lm_text take_bytes(struct reader *reader, size_t length)
{
    if (reader->malformed || length >= reader->length || reader->bytes[length] != '\0') {
        reader->malformed = true;
        return (struct lm_text){"", 0};
    }
    return (struct lm_text){(const char *)take(reader, length + 1), length};
}

static struct lm_text take_text(struct reader *reader)
{
    const uint32_t length = take_u32(reader);
    return take_bytes(reader, length);
}

static const char *take_string(struct reader *reader)
{
    const uint32_t length = take_u32(reader);
    if (length == NO_TEXT)
        return NULL;
    const struct lm_text text = take_bytes(reader, length);
    reader->malformed = reader->malformed || strlen(text.text) != text.bytes;
    return text.text;
}

// One that must be there.
static const char *take_needed(struct reader *reader)
{
    const char *text = take_string(reader);
    reader->malformed = reader->malformed || !text;
    return text ? text : "";
}

// One of `count` values of an enumeration that begins with 0.
static uint32_t take_choice(struct reader *reader, uint32_t count)
{
    const uint32_t value = take_u32(reader);
    reader->malformed = reader->malformed || value >= count;
    return value < count ? value : 0;
}

static void take_open(struct reader *reader, struct lm_engine_options *out)
{
    out->model = take_needed(reader);
    out->chat_template = take_string(reader);
    out->device.backend = take_string(reader);
    out->device.isa = take_string(reader);
    out->device.threads = (int)take_u32(reader);
    out->device.products = (enum products)take_choice(reader, PRODUCTS_LIBRARY + 1);
    out->dtype = (enum dtype)take_choice(reader, DTYPE_F16 + 1);
    out->fp8 = take_choice(reader, 2) == 1;
    out->slots = take_u64(reader);
    out->context_tokens = take_u64(reader);
    out->step_tokens = take_u64(reader);
    out->cache_tokens = take_u64(reader);
}

static void take_submit(struct reader *reader, struct lm_request *out)
{
    out->id = take_u64(reader);
    out->seed = take_u64(reader);
    out->max_tokens = take_u64(reader);
    out->sampling.temperature = take_f32(reader);
    out->sampling.top_p = take_f32(reader);
    out->sampling.min_p = take_f32(reader);
    out->sampling.top_k = (int32_t)take_u32(reader);
    out->sampling.repetition_penalty = take_f32(reader);
    out->schema = take_string(reader);
    out->system = take_text(reader);
    out->part_count = take_choice(reader, LM_PARTS_LIMIT + 1);
    for (size_t i = 0; i < out->part_count; i++)
        out->parts[i] = take_text(reader);
}

static void take_answer(struct reader *reader, struct lm_result *out)
{
    out->id = take_u64(reader);
    out->end = (enum lm_end)take_choice(reader, LM_FATAL + 1);
    out->prompt_tokens = take_u32(reader);
    out->cached_tokens = take_u32(reader);
    out->output_tokens = take_u32(reader);
    const uint64_t forced_from = take_u64(reader);
    out->answer = take_text(reader);
    out->problem = take_needed(reader);
    out->forced_from = forced_from == UINT64_MAX ? SIZE_MAX : (size_t)forced_from;
    reader->malformed =
        reader->malformed || (forced_from != UINT64_MAX && forced_from > out->answer.bytes);
}

int engine_message_head(const void *bytes, size_t length, size_t *frame_bytes, struct error *err)
{
    const uint8_t *head = bytes;
    const size_t compared = length < MAGIC_BYTES ? length : MAGIC_BYTES;
    if (memcmp(head, MAGIC, compared) != 0)
        return error_set(err, "not a message of an engine, or one of another version of memo");
    if (length < ENGINE_HEAD_BYTES)
        return 0;
    const size_t body_bytes = get_u32(head + MAGIC_BYTES + 4);
    if (body_bytes > ENGINE_BODY_LIMIT)
        return error_set(err, "a message of %zu bytes, more than %zu", body_bytes,
                         ENGINE_BODY_LIMIT);
    *frame_bytes = ENGINE_HEAD_BYTES + body_bytes;
    return 1;
}

static int take_body(struct reader *reader, struct engine_message *out, struct error *err)
{
    switch (out->kind) {
    case ENGINE_OPEN:
        take_open(reader, &out->open);
        return 0;
    case ENGINE_READY:
        memcpy(out->ready.digest.bytes, take(reader, 16), 16);
        out->ready.capacity = take_u64(reader);
        out->ready.context_tokens = take_u64(reader);
        reader->malformed = reader->malformed || out->ready.capacity == 0;
        return 0;
    case ENGINE_SUBMIT:
        take_submit(reader, &out->submit);
        return 0;
    case ENGINE_CANCEL:
        out->cancel = take_u64(reader);
        return 0;
    case ENGINE_ANSWER:
        take_answer(reader, &out->answer);
        return 0;
    case ENGINE_ALIVE:
        return 0;
    case ENGINE_BROKEN:
        out->broken = take_needed(reader);
        return 0;
    }
    return error_set(err, "a message of the unknown kind %d", (int)out->kind);
}

int engine_message_decode(const void *bytes, size_t length, struct engine_message *out,
                          struct error *err)
{
    const uint8_t *frame = bytes;
    size_t frame_bytes = 0;
    const int rc = engine_message_head(bytes, length, &frame_bytes, err);
    if (rc < 0)
        return -1;
    if (rc == 0 || frame_bytes != length)
        return error_set(err, "a message of %zu bytes that is cut off", length);
    const size_t body_bytes = length - ENGINE_HEAD_BYTES;
    const struct digest digest = frame_digest(frame, body_bytes);
    if (memcmp(digest.bytes, frame + MAGIC_BYTES + 8, sizeof(digest.bytes)) != 0)
        return error_set(err, "a message of %zu bytes whose digest does not fit", length);
    struct reader reader = {.bytes = frame + ENGINE_HEAD_BYTES, .length = body_bytes};
    *out = (struct engine_message){.kind = (enum engine_message_kind)get_u32(frame + MAGIC_BYTES)};
    if (take_body(&reader, out, err))
        return -1;
    if (reader.malformed || reader.length != 0)
        return error_set(err, "a malformed message of kind %d, %zu bytes", (int)out->kind, length);
    return 0;
}
