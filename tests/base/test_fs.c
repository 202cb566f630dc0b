// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/fs.h"
#include "temporary_directory.h"

#include <pthread.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

// Fails the test unless the file holds exactly this text.
static void assert_content(const char *path, const char *text)
{
    struct strbuf content = {0};
    struct error err = {""};
    assert_int_equal(fs_read(fs_system(), path, &content, &err), 0);
    assert_int_equal(content.length, strlen(text));
    assert_string_equal(content.bytes, text);
    strbuf_release(&content);
}

static size_t count_entries(const char *directory)
{
    struct fs_names names;
    struct error err = {""};
    assert_int_equal(fs_list(fs_system(), directory, &names, &err), 0);
    size_t count = names.count;
    fs_names_release(&names);
    return count;
}

static void atomic_write_joins_its_parts(void **state)
{
    struct error err = {""};
    char *path = fs_join(*state, "file");
    struct fs_part parts[] = {{"ab", 2}, {NULL, 0}, {"c\0d", 3}};
    assert_int_equal(fs_write_atomic(fs_system(), path, parts, 3, false, &err), 0);
    struct strbuf content = {0};
    strbuf_adds(&content, "before:");
    assert_int_equal(fs_read(fs_system(), path, &content, &err), 0); // appends
    assert_int_equal(content.length, 12);
    assert_memory_equal(content.bytes, "before:abc\0d", 13);
    assert_int_equal(count_entries(*state), 1);
    strbuf_release(&content);
    free(path);
}

static void atomic_write_replaces_only_when_told(void **state)
{
    struct error err = {""};
    char *path = fs_join(*state, "file");
    struct fs_part part = {"new", 3};
    assert_int_equal(fs_write_text(fs_system(), path, "old", 3, &err), 0);
    assert_int_equal(fs_write_atomic(fs_system(), path, &part, 1, false, &err), -1);
    assert_non_null(strstr(err.text, "cannot write '"));
    assert_non_null(strstr(err.text, "': file exists"));
    assert_content(path, "old");
    assert_int_equal(fs_write_atomic(fs_system(), path, &part, 1, true, &err), 0);
    assert_content(path, "new");
    assert_int_equal(count_entries(*state), 1);
    free(path);
}

static void atomic_write_makes_empty_and_large_files(void **state)
{
    struct error err = {""};
    char *path = fs_join(*state, "file");
    size_t length = 5 << 20;
    char *bytes = malloc(length);
    for (size_t i = 0; i < length; i++)
        bytes[i] = (char)(i * 31 % 251);
    assert_int_equal(fs_write_atomic(fs_system(), path, NULL, 0, false, &err), 0);
    assert_content(path, "");
    assert_int_equal(fs_write_text(fs_system(), path, bytes, length, &err), 0);
    struct fs_map map;
    assert_int_equal(fs_map_open(path, &map, &err), 0);
    assert_int_equal(map.length, length);
    assert_memory_equal(map.bytes, bytes, length);
    fs_map_close(&map);
    free(bytes);
    free(path);
}

static void atomic_write_into_a_missing_directory_fails(void **state)
{
    struct error err = {""};
    char *path = fs_join(*state, "absent/file");
    assert_int_equal(fs_write_text(fs_system(), path, "x", 1, &err), -1);
    assert_non_null(strstr(err.text, "absent/file': no such file or directory"));
    free(path);
}

static void atomic_write_works_without_a_directory_in_the_path(void **state)
{
    struct error err = {""};
    char *before = getcwd(NULL, 0);
    assert_int_equal(chdir(*state), 0);
    assert_int_equal(fs_write_text(fs_system(), "file", "x", 1, &err), 0);
    assert_content("file", "x");
    assert_int_equal(chdir(before), 0);
    free(before);
}

// A temporary file left by a killed process with our id must neither be overwritten nor stop us.
static void stale_temporary_files_are_stepped_over(void **state)
{
    struct error err = {""};
    char *path = fs_join(*state, "file");
    for (int i = 0; i < 200; i++) {
        char *stale = mem_printf("%s.tmp-%ld-%d", path, (long)getpid(), i);
        fclose(fopen(stale, "w"));
        free(stale);
    }
    assert_int_equal(fs_write_text(fs_system(), path, "x", 1, &err), 0);
    assert_content(path, "x");
    assert_int_equal(count_entries(*state), 201);
    free(path);
}

struct racer {
    const char *path;
    char text[2];
    int won;
};

static void *race(void *argument)
{
    struct racer *racer = argument;
    struct fs_part part = {racer->text, 1};
    struct error err = {""};
    racer->won = fs_write_atomic(fs_system(), racer->path, &part, 1, false, &err) == 0;
    return NULL;
}

static void one_of_many_writers_without_replacing_wins(void **state)
{
    char *path = fs_join(*state, "file");
    struct racer racers[8];
    pthread_t threads[8];
    for (int i = 0; i < 8; i++) {
        racers[i] = (struct racer){.path = path, .text = {(char)('a' + i), '\0'}};
        assert_int_equal(pthread_create(&threads[i], NULL, race, &racers[i]), 0);
    }
    int winner = -1, winners = 0;
    for (int i = 0; i < 8; i++) {
        pthread_join(threads[i], NULL);
        winners += racers[i].won;
        if (racers[i].won)
            winner = i;
    }
    assert_int_equal(winners, 1);
    assert_content(path, racers[winner].text);
    assert_int_equal(count_entries(*state), 1);
    free(path);
}

static void directories_are_made_with_their_parents(void **state)
{
    struct error err = {""};
    char *path = fs_join(*state, "a//b/c/");
    assert_int_equal(fs_make_directories(fs_system(), path, &err), 0);
    assert_int_equal(fs_make_directories(fs_system(), path, &err), 0);
    assert_true(fs_exists(fs_system(), path));
    assert_int_equal(fs_make_directories(fs_system(), "/", &err), 0);
    free(path);
}

static void directories_cannot_go_through_a_file(void **state)
{
    struct error err = {""};
    char *file = fs_join(*state, "file");
    char *below = fs_join(*state, "file/below");
    assert_int_equal(fs_write_text(fs_system(), file, "x", 1, &err), 0);
    assert_int_equal(fs_make_directories(fs_system(), file, &err), -1);
    assert_non_null(strstr(err.text, "file': not a directory"));
    assert_int_equal(fs_make_directories(fs_system(), below, &err), -1);
    assert_non_null(strstr(err.text, "not a directory"));
    assert_int_equal(fs_make_directories(fs_system(), "", &err), -1);
    free(file);
    free(below);
}

static void list_is_sorted_by_bytes(void **state)
{
    struct error err = {""};
    static const char *const made[] = {"b", "a", "B", "a.b", "\xC3\xA9", "a10", "a9", ".hidden"};
    static const char *const sorted[] = {".hidden", "B", "a", "a.b", "a10", "a9", "b", "\xC3\xA9"};
    struct fs_names names;
    assert_int_equal(fs_list(fs_system(), *state, &names, &err), 0);
    assert_int_equal(names.count, 0);
    fs_names_release(&names);
    for (size_t i = 0; i < 8; i++) {
        char *path = fs_join(*state, made[i]);
        assert_int_equal(fs_write_text(fs_system(), path, "", 0, &err), 0);
        free(path);
    }
    assert_int_equal(fs_list(fs_system(), *state, &names, &err), 0);
    assert_int_equal(names.count, 8);
    for (size_t i = 0; i < 8; i++)
        assert_string_equal(names.names[i], sorted[i]);
    fs_names_release(&names);
    assert_int_equal(fs_list(fs_system(), "/absent/directory", &names, &err), -1);
    assert_string_equal(err.text, "cannot list '/absent/directory': no such file or directory");
    assert_null(names.names);
}

static void stat_tells_size_kind_and_time(void **state)
{
    struct error err = {""};
    char *path = fs_join(*state, "file");
    struct fs *fs = fs_system();
    struct fs_info info;
    assert_int_equal(fs_write_text(fs, path, "12345", 5, &err), 0);
    assert_int_equal(fs->ops->stat(fs->state, path, &info), 0);
    assert_int_equal(info.size_bytes, 5);
    assert_false(info.is_directory);
    int64_t age_seconds = (int64_t)time(NULL) - info.modified_ns / 1000000000;
    assert_true(age_seconds >= -1 && age_seconds < 60);
    assert_int_equal(fs->ops->stat(fs->state, *state, &info), 0);
    assert_true(info.is_directory);
    assert_int_equal(fs->ops->remove(fs->state, path), 0);
    assert_false(fs_exists(fs, path));
    free(path);
}

static void unreadable_paths_are_errors_and_add_nothing(void **state)
{
    struct error err = {""};
    struct strbuf out = {0};
    strbuf_adds(&out, "kept");
    char *absent = fs_join(*state, "absent");
    assert_int_equal(fs_read(fs_system(), absent, &out, &err), -1);
    assert_non_null(strstr(err.text, "absent': no such file or directory"));
    assert_int_equal(fs_read(fs_system(), *state, &out, &err), -1);
    assert_non_null(strstr(err.text, "is a directory"));
    assert_string_equal(out.bytes, "kept");
    assert_int_equal(out.length, 4);
    strbuf_release(&out);
    free(absent);
}

static void map_refuses_what_is_not_a_file(void **state)
{
    struct error err = {""};
    struct fs_map map;
    char *empty = fs_join(*state, "empty");
    assert_int_equal(fs_write_text(fs_system(), empty, "", 0, &err), 0);
    assert_int_equal(fs_map_open(empty, &map, &err), 0);
    assert_null(map.bytes);
    assert_int_equal(map.length, 0);
    fs_map_close(&map);
    assert_int_equal(fs_map_open(*state, &map, &err), -1);
    assert_non_null(strstr(err.text, "not a regular file"));
    assert_int_equal(fs_map_open("/absent/file", &map, &err), -1);
    assert_string_equal(err.text, "cannot open '/absent/file': no such file or directory");
    fs_map_close(&map);
    free(empty);
}

static void join_places_one_slash(void **state)
{
    (void)state;
    static const char *const cases[][3] = {
        {"a", "b", "a/b"}, {"a/", "b", "a/b"}, {"/", "b", "/b"}, {"", "b", "b"}, {".", "b", "./b"}};
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char *joined = fs_join(cases[i][0], cases[i][1]);
        assert_string_equal(joined, cases[i][2]);
        free(joined);
    }
}

#define TEST(name)                                                                                 \
    cmocka_unit_test_setup_teardown(name, temporary_directory_setup, temporary_directory_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(stale_temporary_files_are_stepped_over), // first: the names count up from 0
        TEST(atomic_write_joins_its_parts),
        TEST(atomic_write_replaces_only_when_told),
        TEST(atomic_write_makes_empty_and_large_files),
        TEST(atomic_write_into_a_missing_directory_fails),
        TEST(atomic_write_works_without_a_directory_in_the_path),
        TEST(one_of_many_writers_without_replacing_wins),
        TEST(directories_are_made_with_their_parents),
        TEST(directories_cannot_go_through_a_file),
        TEST(list_is_sorted_by_bytes),
        TEST(stat_tells_size_kind_and_time),
        TEST(unreadable_paths_are_errors_and_add_nothing),
        TEST(map_refuses_what_is_not_a_file),
        cmocka_unit_test(join_places_one_slash),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
