// SPDX-License-Identifier: Apache-2.0
#include "base/fs.h"
#include "base/json.h"
#include "collectives/flight.h"
#include "tests/base/temporary_directory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void write_file(const char *directory, const char *name, const char *text)
{
    struct error err = {{0}};
    char *path = fs_join(directory, name);
    if (fs_write_text(fs_system(), path, text, strlen(text), &err) != 0) {
        fail_msg("%s", err.text);
    }
    free(path);
}

static const struct json *read_record(struct arena *arena, const char *directory, const char *name)
{
    struct error err = {{0}};
    struct strbuf text = {0};
    const struct json *root = NULL;
    char *path = fs_join(directory, name);
    if (fs_read(fs_system(), path, &text, &err) != 0 ||
        json_parse(arena, text.bytes, text.length, &root, &err) != 0) {
        fail_msg("%s", err.text);
    }
    free(path);
    strbuf_release(&text);
    return root;
}

static int64_t integer(const struct json *object, const char *key)
{
    const struct json *value = json_get(object, key);
    assert_non_null(value);
    assert_true(value->is_integer);
    return value->integer;
}

static void written_record_holds_the_last_calls(void **state)
{
    struct error err = {{0}};
    struct arena arena = {0};
    struct flight *flight = flight_create(2, 3);
    for (uint64_t n = 1; n <= FLIGHT_CALLS + 5; n++) {
        flight_set_step(flight, n / 10);
        const uint64_t entry = flight_enter(flight, "mpi", "barrier", n, 8 * n);
        if (n != FLIGHT_CALLS + 5) {
            flight_leave(flight, entry);
        }
    }
    assert_int_equal(flight_write(flight, fs_system(), *state, "a reason with \xff in it", &err),
                     0);
    assert_true(flight_exists(fs_system(), *state, 2));
    const struct json *root = read_record(&arena, *state, "rank-0002.json");
    const struct json *calls = json_get(root, "calls");
    assert_int_equal(integer(root, "rank"), 2);
    assert_int_equal(integer(root, "ranks"), 3);
    assert_int_equal(integer(root, "step"), (FLIGHT_CALLS + 5) / 10);
    assert_string_equal(json_get(root, "reason")->string, "a reason with ");
    assert_int_equal(calls->length, FLIGHT_CALLS);
    assert_int_equal(integer(&calls->items[0], "number"), 6);
    const struct json *last = &calls->items[FLIGHT_CALLS - 1];
    assert_int_equal(integer(last, "number"), FLIGHT_CALLS + 5);
    assert_int_equal(integer(last, "bytes"), 8 * (FLIGHT_CALLS + 5));
    assert_int_equal(json_get(last, "leave")->type, JSON_NULL);
    assert_true(json_get(&calls->items[0], "leave")->number >=
                json_get(&calls->items[0], "enter")->number);
    assert_true(json_get(last, "enter")->number > 1.7e9); // since 1970
    flight_destroy(flight);
    arena_release(&arena);
}

static void step_is_null_before_the_first(void **state)
{
    struct error err = {{0}};
    struct arena arena = {0};
    uint64_t step;
    struct flight *flight = flight_create(0, 1);
    assert_false(flight_step(flight, &step));
    assert_int_equal(flight_write(flight, fs_system(), *state, "", &err), 0);
    assert_int_equal(json_get(read_record(&arena, *state, "rank-0000.json"), "step")->type,
                     JSON_NULL);
    flight_destroy(flight);
    arena_release(&arena);
}

#define RECORD(rank, calls)                                                                        \
    "{\"format\":1,\"rank\":" #rank ",\"ranks\":4,\"written\":100.5,\"calls\":[" calls "]}"
#define CALL(transport, call, number, leave)                                                       \
    "{\"transport\":\"" transport "\",\"call\":\"" call "\",\"number\":" #number                   \
    ",\"bytes\":16,\"step\":7,\"enter\":90,\"leave\":" leave "}"

static void assert_survey(const char *directory, int missing, const char *want)
{
    struct error err = {{0}};
    struct strbuf text = {0};
    assert_int_equal(flight_survey(fs_system(), directory, &text, &err), missing);
    assert_string_equal(text.bytes ? text.bytes : "", want);
    strbuf_release(&text);
}

static void survey_names_who_is_missing_and_where_it_was_last(void **state)
{
    write_file(*state, "rank-0000.json",
               RECORD(0, CALL("mpi", "barrier", 4, "91") "," CALL("mpi", "all-gather", 5, "null")));
    write_file(*state, "rank-0001.json", RECORD(1, CALL("mpi", "barrier", 4, "91.5")));
    write_file(*state, "rank-0003.json", RECORD(3, CALL("mpi", "all-gather", 5, "null")));
    assert_survey(
        *state, 2,
        "rank 1 has not entered all-gather number 5 at step 7 (mpi, 16 bytes), in which ranks 0, 3 "
        "wait; its last was barrier number 4 at step 7\n"
        "rank 2 has not entered all-gather number 5 at step 7 (mpi, 16 bytes), in which ranks 0, 3 "
        "wait; it left no record: it hangs, was stopped or killed, or its host is gone");
}

static void survey_names_a_rank_that_is_in_another_call(void **state)
{
    write_file(*state, "rank-0000.json", RECORD(0, CALL("shm", "barrier", 5, "null")));
    write_file(*state, "rank-0001.json", RECORD(1, CALL("shm", "broadcast", 5, "null")));
    write_file(*state, "rank-0002.json", RECORD(2, CALL("shm", "barrier", 5, "null")));
    write_file(*state, "rank-0003.json", RECORD(3, CALL("shm", "barrier", 5, "null")));
    assert_survey(*state, 1,
                  "rank 1 has not entered barrier number 5 at step 7 (shm, 16 bytes), in which "
                  "ranks 0, 2, 3 wait; it is in broadcast number 5 at step 7");
}

static void survey_looks_at_each_transport_apart(void **state)
{
    write_file(
        *state, "rank-0000.json",
        RECORD(0, CALL("nccl", "all-reduce f32", 9, "null") "," CALL("mpi", "barrier", 3, "95")));
    write_file(
        *state, "rank-0001.json",
        RECORD(1, CALL("nccl", "all-reduce f32", 8, "94") "," CALL("mpi", "barrier", 4, "null")));
    write_file(
        *state, "rank-0002.json",
        RECORD(2, CALL("nccl", "all-reduce f32", 9, "null") "," CALL("mpi", "barrier", 4, "null")));
    write_file(
        *state, "rank-0003.json",
        RECORD(3, CALL("nccl", "all-reduce f32", 9, "null") "," CALL("mpi", "barrier", 4, "null")));
    assert_survey(
        *state, 2,
        "rank 1 has not entered all-reduce f32 number 9 at step 7 (nccl, 16 bytes), in which ranks "
        "0, 2, 3 wait; its last was all-reduce f32 number 8 at step 7\n"
        "rank 0 has not entered barrier number 4 at step 7 (mpi, 16 bytes), in which ranks 1, 2, 3 "
        "wait; its last was barrier number 3 at step 7");
}

static void survey_says_nothing_when_nobody_waits(void **state)
{
    assert_survey("/nonexistent/flight", 0, "");
    assert_survey(*state, 0, "");
    write_file(*state, "rank-0000.json", RECORD(0, CALL("mpi", "barrier", 4, "91")));
    write_file(*state, "rank-0001.json", RECORD(1, CALL("mpi", "barrier", 5, "92")));
    write_file(*state, "failed", "");
    assert_survey(*state, 0, "");
}

static void survey_refuses_what_is_not_a_record(void **state)
{
    static const char *const bad[] = {
        "",
        "{",
        "[]",
        "{\"format\":2,\"rank\":0,\"ranks\":1,\"calls\":[]}",
        "{\"format\":1,\"rank\":1,\"ranks\":1,\"calls\":[]}",
        "{\"format\":1,\"rank\":0,\"ranks\":99999999,\"calls\":[]}",
        "{\"format\":1,\"rank\":0,\"ranks\":1}",
        "{\"format\":1,\"rank\":0,\"ranks\":1,\"calls\":[{\"number\":\"x\"}]}",
        "{\"format\":1,\"rank\":0,\"ranks\":1,\"calls\":[7,",
    };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        struct error err = {{0}};
        struct strbuf text = {0};
        write_file(*state, "rank-0000.json", bad[i]);
        assert_int_equal(flight_survey(fs_system(), *state, &text, &err), -1);
        assert_non_null(strstr(err.text, "rank-0000.json"));
        strbuf_release(&text);
    }
}

static void clear_removes_records_alone(void **state)
{
    struct error err = {{0}};
    write_file(*state, "rank-0000.json", "{}");
    write_file(*state, "rank-12345.json", "{}");
    write_file(*state, "rank-0000.json.bak", "{}");
    assert_int_equal(flight_clear(fs_system(), *state, &err), 0);
    assert_false(flight_exists(fs_system(), *state, 0));
    assert_false(flight_exists(fs_system(), *state, 12345));
    char *path = fs_join(*state, "rank-0000.json.bak");
    assert_true(fs_exists(fs_system(), path));
    free(path);
}

#define IN_DIRECTORY(test)                                                                         \
    cmocka_unit_test_setup_teardown(test, temporary_directory_setup, temporary_directory_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_DIRECTORY(written_record_holds_the_last_calls),
        IN_DIRECTORY(step_is_null_before_the_first),
        IN_DIRECTORY(survey_names_who_is_missing_and_where_it_was_last),
        IN_DIRECTORY(survey_names_a_rank_that_is_in_another_call),
        IN_DIRECTORY(survey_looks_at_each_transport_apart),
        IN_DIRECTORY(survey_says_nothing_when_nobody_waits),
        IN_DIRECTORY(survey_refuses_what_is_not_a_record),
        IN_DIRECTORY(clear_removes_records_alone),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
