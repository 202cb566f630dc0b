// SPDX-License-Identifier: Apache-2.0
// Messages: what is written is read back, and hostile bytes are errors.
#include "base/mem.h"
#include "base/random.h"
#include "coordinator/protocol.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MUTATIONS 20000
#define EXAMPLES 9

static uint32_t some_tasks[1000];

// One message of every kind and the sizes that matter.
static struct message example(int i)
{
    static const size_t counts[] = {0, 1, 31, 1000};
    for (uint32_t t = 0; t < 1000; t++)
        some_tasks[t] = t * 4000037u;
    struct message m = {.tasks = some_tasks, .pairs = UINT64_MAX - 5, .tokens = 1ull << 40};
    memset(m.plan.bytes, 0xa5, sizeof(m.plan.bytes));
    strcpy(m.text, "the text, \xc3\xa9t\xc3\xa9");
    if (i < 4)
        m.kind = i % 2 ? MESSAGE_LEASE : MESSAGE_COMMITTED, m.count = counts[i];
    else
        m.count = 1;
    if (i == 4)
        m.kind = MESSAGE_HELLO, m.window = UINT32_MAX;
    if (i == 5)
        m.kind = MESSAGE_FAILED;
    if (i == 6)
        m.kind = MESSAGE_STOP;
    if (i == 7)
        m.kind = MESSAGE_BYE, m.failed = true;
    if (i == 8)
        m.kind = MESSAGE_BYE, m.text[0] = '\0';
    return m;
}

static void assert_same(const struct message *a, const struct message *b)
{
    assert_int_equal(a->kind, b->kind);
    if (a->kind == MESSAGE_HELLO) {
        assert_true(digest_equal(a->plan, b->plan));
        assert_int_equal(a->window, b->window);
    }
    if (a->kind == MESSAGE_LEASE || a->kind == MESSAGE_COMMITTED || a->kind == MESSAGE_FAILED) {
        assert_int_equal(a->count, b->count);
        if (a->count > 0)
            assert_memory_equal(a->tasks, b->tasks, a->count * sizeof(*a->tasks));
    }
    if (a->kind == MESSAGE_COMMITTED) {
        assert_true(a->pairs == b->pairs);
        assert_true(a->tokens == b->tokens);
    }
    if (a->kind == MESSAGE_COMMITTED || a->kind == MESSAGE_FAILED || a->kind == MESSAGE_BYE)
        assert_string_equal(a->text, b->text);
    if (a->kind == MESSAGE_BYE)
        assert_int_equal(a->failed, b->failed);
}

static void every_message_is_read_back(void **state)
{
    (void)state;
    for (int i = 0; i < EXAMPLES; i++) {
        const struct message m = example(i);
        struct strbuf bytes = {0};
        struct message read;
        struct error err;
        message_encode(&m, &bytes);
        assert_int_equal(message_decode(bytes.bytes, bytes.length, &read, &err), 0);
        assert_same(&m, &read);
        message_release(&read);
        strbuf_release(&bytes);
    }
}

// The layout is a contract between builds: these bytes never change within a version.
static void layout_is_little_endian(void **state)
{
    (void)state;
    uint32_t tasks[] = {0x01020304};
    const struct message m = {
        .kind = MESSAGE_COMMITTED, .tasks = tasks, .count = 1, .pairs = 5, .tokens = 0x0102};
    static const uint8_t expected[] = {3, 1, 0, 0, 0, 4, 3, 2, 1, 5, 0, 0, 0,
                                       0, 0, 0, 0, 2, 1, 0, 0, 0, 0, 0, 0};
    struct strbuf bytes = {0};
    message_encode(&m, &bytes);
    assert_int_equal(bytes.length, sizeof(expected));
    assert_memory_equal(bytes.bytes, expected, sizeof(expected));
    strbuf_release(&bytes);
}

static bool ends_in_text(const struct message *m)
{
    return m->kind == MESSAGE_COMMITTED || m->kind == MESSAGE_FAILED || m->kind == MESSAGE_BYE;
}

// A heap copy of exactly this length, so that AddressSanitizer sees a read past the end.
static int decode_copy(const char *bytes, size_t length, struct message *out, struct error *err)
{
    char *copy = mem_dup(bytes, length);
    const int rc = message_decode(copy, length, out, err);
    free(copy);
    return rc;
}

static void truncation_at_every_length_is_an_error(void **state)
{
    (void)state;
    for (int i = 0; i < EXAMPLES; i++) {
        const struct message m = example(i);
        struct strbuf bytes = {0};
        message_encode(&m, &bytes);
        const size_t text = ends_in_text(&m) ? strlen(m.text) : 0;
        for (size_t length = 0; length < bytes.length; length++) {
            struct message read;
            struct error err;
            const int rc = decode_copy(bytes.bytes, length, &read, &err);
            // a text ends where the message ends, so that a cut one is a shorter text
            assert_int_equal(rc, length < bytes.length - text ? -1 : 0);
            if (rc == 0)
                message_release(&read);
        }
        strbuf_release(&bytes);
    }
}

static void trailing_bytes_are_an_error(void **state)
{
    (void)state;
    for (int i = 0; i < EXAMPLES; i++) {
        const struct message m = example(i);
        struct strbuf bytes = {0};
        struct message read;
        struct error err;
        message_encode(&m, &bytes);
        strbuf_addc(&bytes, 'x');
        const int rc = decode_copy(bytes.bytes, bytes.length, &read, &err);
        assert_int_equal(rc, ends_in_text(&m) ? 0 : -1);
        if (rc == 0)
            message_release(&read);
        strbuf_release(&bytes);
    }
}

static void mutate(struct strbuf *bytes, uint64_t seed)
{
    const uint64_t changes = 1 + random_u64(seed, 0, 0) % 4;
    for (uint64_t k = 1; k <= changes && bytes->length > 0; k++) {
        const uint64_t r = random_u64(seed, 1, k);
        const size_t place = (size_t)(r >> 32) % bytes->length;
        switch (r % 4) {
        case 0:
            bytes->bytes[place] = (char)(bytes->bytes[place] ^ (1 << (r >> 8 & 7)));
            break;
        case 1:
            bytes->bytes[place] = (char)(r >> 16);
            break;
        case 2:
            bytes->length = place;
            break;
        default:
            strbuf_add(bytes, "\xff\xff\xff\xff", 1 + (r >> 8 & 3));
            break;
        }
    }
}

static void mutations_are_errors_or_valid_messages(void **state)
{
    (void)state;
    size_t accepted = 0;
    for (uint64_t seed = 0; seed < MUTATIONS; seed++) {
        const struct message m = example((int)(seed % EXAMPLES));
        struct strbuf bytes = {0}, again = {0};
        struct message read, twice;
        struct error err;
        message_encode(&m, &bytes);
        mutate(&bytes, seed);
        if (decode_copy(bytes.bytes, bytes.length, &read, &err) == 0) {
            accepted++;
            message_encode(&read, &again);
            assert_int_equal(message_decode(again.bytes, again.length, &twice, &err), 0);
            assert_same(&read, &twice);
            message_release(&read);
            message_release(&twice);
        } else {
            assert_true(strlen(err.text) > 0);
        }
        strbuf_release(&bytes);
        strbuf_release(&again);
    }
    assert_true(accepted > MUTATIONS / 100 && accepted < MUTATIONS);
}

static void assert_refused(const void *bytes, size_t length, const char *text)
{
    struct message read;
    struct error err;
    assert_int_equal(decode_copy(bytes, length, &read, &err), -1);
    if (!strstr(err.text, text))
        fail_msg("'%s' does not say '%s'", err.text, text);
}

static void errors_say_what_is_wrong(void **state)
{
    (void)state;
    assert_refused("", 0, "empty message");
    assert_refused("\x2a", 1, "unknown message kind 42");
    assert_refused("\x05zz", 3, "malformed message of kind 5, 3 bytes");
}

// A later version may have a longer HELLO; the message must still be about the version.
static void another_version_is_named_whatever_its_length(void **state)
{
    (void)state;
    static const uint8_t hello[60] = {MESSAGE_HELLO, PROTOCOL_VERSION + 1};
    for (size_t length = 5; length <= sizeof(hello); length++)
        assert_refused(hello, length, "all ranks must run the same build");
    assert_refused(hello, 4, "malformed");
}

static void a_worker_that_wants_nothing_is_refused(void **state)
{
    (void)state;
    struct strbuf bytes = {0};
    message_encode(&(struct message){.kind = MESSAGE_HELLO, .window = 0}, &bytes);
    assert_refused(bytes.bytes, bytes.length, "its window is 0");
    strbuf_release(&bytes);
}

static void a_count_beyond_the_limit_is_refused_before_memory_is_taken(void **state)
{
    (void)state;
    assert_refused("\x02\xff\xff\xff\xff", 5, "malformed");
    const size_t length = 5 + 4 * ((size_t)PROTOCOL_MAX_TASKS + 1);
    uint8_t *bytes = mem_calloc(1, length);
    bytes[0] = MESSAGE_LEASE;
    bytes[1] = 1;
    bytes[3] = 1; // 65537
    assert_refused(bytes, length, "malformed");
    free(bytes);
}

static void a_long_text_is_cut_to_the_limit(void **state)
{
    (void)state;
    char bytes[2 * PROTOCOL_MAX_TEXT];
    struct message read;
    struct error err;
    memset(bytes, 'x', sizeof(bytes));
    bytes[0] = MESSAGE_BYE;
    assert_int_equal(decode_copy(bytes, sizeof(bytes), &read, &err), 0);
    assert_int_equal(strlen(read.text), PROTOCOL_MAX_TEXT - 1);
    message_release(&read);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_message_is_read_back),
        cmocka_unit_test(layout_is_little_endian),
        cmocka_unit_test(truncation_at_every_length_is_an_error),
        cmocka_unit_test(trailing_bytes_are_an_error),
        cmocka_unit_test(mutations_are_errors_or_valid_messages),
        cmocka_unit_test(errors_say_what_is_wrong),
        cmocka_unit_test(another_version_is_named_whatever_its_length),
        cmocka_unit_test(a_worker_that_wants_nothing_is_refused),
        cmocka_unit_test(a_count_beyond_the_limit_is_refused_before_memory_is_taken),
        cmocka_unit_test(a_long_text_is_cut_to_the_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
