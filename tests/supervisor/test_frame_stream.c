// SPDX-License-Identifier: Apache-2.0
#include "worker/supervisor/frame_stream.h"

#include "base/mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static void open_pair(struct frame_stream *a, int *other)
{
    struct error err;
    int ends[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    assert_int_equal(frame_stream_open(a, ends[0], &err), 0);
    *other = ends[1];
}

static void open_streams(struct frame_stream *a, struct frame_stream *b)
{
    struct error err;
    int other;
    open_pair(a, &other);
    assert_int_equal(frame_stream_open(b, other, &err), 0);
}

static void pump(struct frame_stream *stream)
{
    struct error err;
    if (frame_stream_pump(stream, &err))
        fail_msg("%s", err.text);
}

// The cancelled id, or UINT64_MAX when no message is whole.
static uint64_t next_cancel(struct frame_stream *stream)
{
    struct error err;
    struct engine_message message;
    const int rc = frame_stream_next(stream, &message, &err);
    if (rc < 0)
        fail_msg("%s", err.text);
    return rc > 0 ? message.cancel : UINT64_MAX;
}

static void a_frame_may_come_byte_by_byte(void **state)
{
    (void)state;
    struct frame_stream stream;
    struct strbuf bytes = {0};
    uint64_t seen = 0;
    int other;
    open_pair(&stream, &other);
    for (uint64_t id = 0; id < 3; id++)
        engine_message_encode(&(struct engine_message){.kind = ENGINE_CANCEL, .cancel = id},
                              &bytes);
    for (size_t i = 0; i < bytes.length; i++) {
        assert_int_equal(write(other, bytes.bytes + i, 1), 1);
        pump(&stream);
        const bool whole = (i + 1) % (bytes.length / 3) == 0;
        const uint64_t id = next_cancel(&stream);
        assert_true(whole ? id == seen++ : id == UINT64_MAX);
    }
    assert_int_equal(seen, 3);
    strbuf_release(&bytes);
    close(other);
    frame_stream_close(&stream);
}

static void a_long_frame_and_many_short_ones_pass(void **state)
{
    (void)state;
    struct frame_stream from, to;
    struct error err;
    struct engine_message message;
    const size_t bytes = 5 * STREAM_READ_LIMIT;
    char *text = mem_alloc(bytes);
    memset(text, 'x', bytes);
    open_streams(&from, &to);
    frame_stream_send(
        &from, &(struct engine_message){
                   .kind = ENGINE_ANSWER,
                   .answer = {.answer = {text, bytes}, .forced_from = SIZE_MAX, .problem = ""}});
    for (uint64_t id = 0; id < 1000; id++)
        frame_stream_send(&from, &(struct engine_message){.kind = ENGINE_CANCEL, .cancel = id});
    int rc = 0;
    while (rc == 0) {
        pump(&from);
        pump(&to);
        rc = frame_stream_next(&to, &message, &err);
    }
    assert_int_equal(rc, 1);
    assert_int_equal(message.answer.answer.bytes, bytes);
    assert_memory_equal(message.answer.answer.text, text, bytes);
    for (uint64_t id = 0; id < 1000;) {
        pump(&from);
        pump(&to);
        for (uint64_t got = next_cancel(&to); got != UINT64_MAX; got = next_cancel(&to))
            assert_true(got == id++);
    }
    assert_int_equal(frame_stream_unsent(&from), 0);
    free(text);
    frame_stream_close(&from);
    frame_stream_close(&to);
}

static void what_nobody_decodes_is_not_read_without_end(void **state)
{
    (void)state;
    struct frame_stream from, to;
    open_streams(&from, &to);
    for (uint64_t id = 0; id < 100000; id++)
        frame_stream_send(&from, &(struct engine_message){.kind = ENGINE_CANCEL, .cancel = id});
    const size_t all = frame_stream_unsent(&from);
    assert_true(all > 3 * STREAM_READ_LIMIT);
    for (int round = 0; round < 1000; round++) {
        pump(&from);
        pump(&to);
    }
    assert_true(to.in.length < STREAM_READ_LIMIT + (1 << 17));
    assert_true(frame_stream_unsent(&from) > all - 2 * STREAM_READ_LIMIT);
    frame_stream_close(&from);
    frame_stream_close(&to);
}

static void a_peer_that_is_gone_is_the_end_behind_what_it_said(void **state)
{
    (void)state;
    struct frame_stream from, to;
    open_streams(&from, &to);
    frame_stream_send(&from, &(struct engine_message){.kind = ENGINE_CANCEL, .cancel = 8});
    pump(&from);
    frame_stream_close(&from);
    frame_stream_send(&to, &(struct engine_message){.kind = ENGINE_ALIVE});
    pump(&to);
    assert_true(to.ended);
    assert_int_equal(next_cancel(&to), 8);
    assert_true(next_cancel(&to) == UINT64_MAX);
    frame_stream_close(&to);
    pump(&to);
    assert_true(next_cancel(&to) == UINT64_MAX);
}

static void garbage_is_an_error(void **state)
{
    (void)state;
    struct frame_stream stream;
    struct engine_message message;
    struct error err;
    int other;
    open_pair(&stream, &other);
    assert_int_equal(write(other, "Hello, world", 12), 12);
    pump(&stream);
    assert_int_equal(frame_stream_next(&stream, &message, &err), -1);
    assert_non_null(strstr(err.text, "not a message of an engine"));
    close(other);
    frame_stream_close(&stream);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_frame_may_come_byte_by_byte),
        cmocka_unit_test(a_long_frame_and_many_short_ones_pass),
        cmocka_unit_test(what_nobody_decodes_is_not_read_without_end),
        cmocka_unit_test(a_peer_that_is_gone_is_the_end_behind_what_it_said),
        cmocka_unit_test(garbage_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
