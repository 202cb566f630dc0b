// SPDX-License-Identifier: Apache-2.0
// Runs alone over the transport of one rank, and under mpirun with any number of ranks.
#include "base/clock.h"
#include "base/mem.h"
#include "collectives/transport.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define MESSAGES 10000  // small ones, of all ranks together
#define WAIT_SECONDS 60 // for a message that must come

static struct group *group;

// Waits for one message; the payload of these tests is never empty where this asserts it.
static struct transport_message receive(struct transport *transport)
{
    struct transport_message message = {.peer = -1};
    struct error err = {{0}};
    double begin = clock_seconds();
    int rc = 0;
    while ((rc = transport_poll(transport, &message, &err)) == 0) {
        if (clock_seconds() - begin > WAIT_SECONDS) {
            fail_msg("rank %d: no message within %d s", group_rank(group), WAIT_SECONDS);
        }
    }
    assert_int_equal(rc, 1);
    return message;
}

static void post(struct transport *transport, int peer, const void *bytes, size_t length)
{
    struct error err = {{0}};
    if (transport_post(transport, peer, bytes, length, &err) != 0) {
        fail_msg("%s", err.text);
    }
}

// Polls until all posts have left; nothing may arrive meanwhile.
static void drain(struct transport *transport)
{
    double begin = clock_seconds();
    while (!transport_idle(transport)) {
        struct transport_message message;
        struct error err = {{0}};
        assert_int_equal(transport_poll(transport, &message, &err), 0);
        assert_true(clock_seconds() - begin < WAIT_SECONDS);
    }
}

static int transport_setup(void **state)
{
    struct error err = {{0}};
    struct transport *transport = NULL;
    if (transport_open(group, &transport, &err) != 0) {
        print_error("%s\n", err.text);
        return -1;
    }
    *state = transport;
    return 0;
}

static int transport_teardown(void **state)
{
    transport_close(*state);
    return 0;
}

static void message_to_oneself_comes_back(void **state)
{
    struct transport *transport = *state;
    int rank = group_rank(group);
    post(transport, rank, "hello", 5);
    post(transport, rank, "", 0);
    post(transport, rank, "a\0b", 3);
    struct transport_message message = receive(transport);
    assert_int_equal(message.peer, rank);
    assert_int_equal(message.length, 5);
    assert_memory_equal(message.bytes, "hello", 6); // and a NUL
    free(message.bytes);
    message = receive(transport);
    assert_int_equal(message.length, 0);
    free(message.bytes);
    message = receive(transport);
    assert_int_equal(message.length, 3);
    assert_memory_equal(message.bytes, "a\0b", 3);
    free(message.bytes);
    drain(transport);
}

static void empty_box_gives_nothing(void **state)
{
    struct transport_message message;
    struct error err = {{0}};
    assert_int_equal(transport_poll(*state, &message, &err), 0);
    assert_true(transport_idle(*state));
}

static void posted_bytes_are_copied(void **state)
{
    char text[] = "first";
    post(*state, group_rank(group), text, 5);
    memcpy(text, "xxxxx", 5);
    struct transport_message message = receive(*state);
    assert_memory_equal(message.bytes, "first", 5);
    free(message.bytes);
    drain(*state);
}

struct numbered {
    int64_t number;
    int64_t sender;
};

// Rank 0 sends every number back; each sender must get its own in order.
static void small_messages_to_one_and_back_keep_their_order(void **state)
{
    struct transport *transport = *state;
    int size = group_size(group);
    int rank = group_rank(group);
    int64_t each = MESSAGES / size;
    int64_t *next = mem_calloc((size_t)size, sizeof(*next)); // expected of each sender
    int64_t echoes = 0;
    int64_t served = 0;
    for (int64_t i = 0; i < each; i++) {
        struct numbered mine = {i, rank};
        post(transport, 0, &mine, sizeof(mine));
    }
    while (echoes < each || (rank == 0 && served < each * size)) {
        struct transport_message message = receive(transport);
        struct numbered got;
        assert_int_equal(message.length, sizeof(got));
        memcpy(&got, message.bytes, sizeof(got));
        free(message.bytes);
        if (got.sender == rank && message.peer == 0 && (rank != 0 || got.number < 0)) {
            assert_int_equal(-1 - got.number, echoes);
            echoes++;
            continue;
        }
        assert_int_equal(rank, 0);
        assert_int_equal(got.sender, message.peer);
        assert_int_equal(got.number, next[message.peer]);
        next[message.peer]++;
        served++;
        got.number = -1 - got.number;
        post(transport, message.peer, &got, sizeof(got));
    }
    free(next);
    drain(transport);
}

static char *pattern(int rank, size_t length)
{
    char *bytes = mem_alloc(length + 1);
    for (size_t i = 0; i < length; i++) {
        bytes[i] = (char)(i * 13 + i / 4093 + (size_t)rank);
    }
    return bytes;
}

// Every rank to every rank, a large message between two small ones: no overtaking.
static void largest_message_keeps_its_place(void **state)
{
    struct transport *transport = *state;
    int size = group_size(group);
    int rank = group_rank(group);
    char *mine = pattern(rank, TRANSPORT_MAX_BYTES);
    int *seen = mem_calloc((size_t)size, sizeof(*seen));
    for (int peer = 0; peer < size; peer++) {
        post(transport, peer, "<", 1);
        post(transport, peer, mine, TRANSPORT_MAX_BYTES);
        post(transport, peer, ">", 1);
    }
    memset(mine, 0, TRANSPORT_MAX_BYTES);
    for (int i = 0; i < 3 * size; i++) {
        struct transport_message message = receive(transport);
        int place = seen[message.peer]++;
        if (place == 1) {
            char *want = pattern(message.peer, TRANSPORT_MAX_BYTES);
            assert_int_equal(message.length, TRANSPORT_MAX_BYTES);
            assert_memory_equal(message.bytes, want, TRANSPORT_MAX_BYTES);
            free(want);
        } else {
            assert_int_equal(message.length, 1);
            assert_int_equal(message.bytes[0], place == 0 ? '<' : '>');
        }
        free(message.bytes);
    }
    free(seen);
    free(mine);
    drain(transport);
}

static void impossible_messages_are_refused(void **state)
{
    struct error err = {{0}};
    char *large = mem_calloc(TRANSPORT_MAX_BYTES + 1, 1);
    assert_int_equal(transport_post(*state, 0, large, TRANSPORT_MAX_BYTES + 1, &err), -1);
    assert_string_equal(err.text, "message of 1048577 bytes to rank 0, but at most 1048576 fit; "
                                  "larger data goes through files");
    assert_int_equal(transport_post(*state, -1, large, 1, &err), -1);
    assert_int_equal(transport_post(*state, group_size(group), large, 1, &err), -1);
    assert_non_null(strstr(err.text, "but there are"));
    assert_true(transport_idle(*state));
    free(large);
}

// Both kinds of messages in flight when every rank closes: no hang, no leak.
static void undelivered_messages_are_dropped_at_close(void **state)
{
    char *large = pattern(0, TRANSPORT_MAX_BYTES);
    double begin = clock_seconds();
    for (int peer = 0; peer < group_size(group); peer++) {
        for (int i = 0; i < 20; i++) {
            post(*state, peer, "bye", 3);
            post(*state, peer, large, TRANSPORT_MAX_BYTES);
        }
    }
    free(large);
    transport_close(*state);
    assert_true(clock_seconds() - begin < TRANSPORT_CLOSE_SECONDS);
    assert_int_equal(transport_setup(state), 0); // for the teardown; opens again
}

static void close_accepts_null(void **state)
{
    (void)state;
    transport_close(NULL);
}

#define WITH_TRANSPORT(test)                                                                       \
    cmocka_unit_test_setup_teardown(test, transport_setup, transport_teardown)

int main(void)
{
    struct error err = {{0}};
    if (group_open(&group, &err) != 0) {
        print_error("%s\n", err.text);
        return 1;
    }
    const struct CMUnitTest tests[] = {
        WITH_TRANSPORT(empty_box_gives_nothing),
        WITH_TRANSPORT(message_to_oneself_comes_back),
        WITH_TRANSPORT(posted_bytes_are_copied),
        WITH_TRANSPORT(small_messages_to_one_and_back_keep_their_order),
        WITH_TRANSPORT(largest_message_keeps_its_place),
        WITH_TRANSPORT(impossible_messages_are_refused),
        WITH_TRANSPORT(undelivered_messages_are_dropped_at_close),
        cmocka_unit_test(close_accepts_null),
    };
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    group_close(group);
    return failed;
}
