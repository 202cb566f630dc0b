// SPDX-License-Identifier: Apache-2.0
// Standard error is exchanged for a pipe, a file or a terminal, and what arrives there is compared.
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/clock.h"
#include "base/log.h"
#include "base/strbuf.h"
#include "temporary_directory.h"

#include <ctype.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

// Runs work in a child whose standard error is fd, closes fd here and waits.
static void run_with_stderr(int fd, void (*work)(void))
{
    pid_t child = fork();
    if (child == 0) {
        dup2(fd, STDERR_FILENO);
        work();
        _exit(0);
    }
    int status;
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    close(fd);
}

static void read_to_end(int fd, struct strbuf *out)
{
    char bytes[4096];
    for (ssize_t got; (got = read(fd, bytes, sizeof(bytes))) > 0;)
        strbuf_add(out, bytes, (size_t)got);
    close(fd);
    strbuf_reserve(out, 0);
}

// What work writes to standard error when that is a pipe.
static char *capture(void (*work)(void))
{
    int ends[2];
    struct strbuf out = {0};
    assert_int_equal(pipe(ends), 0);
    run_with_stderr(ends[1], work);
    read_to_end(ends[0], &out);
    return strbuf_detach(&out);
}

// "12:03:44 text" -> "text"; fails when the time is malformed.
static const char *behind_time(const char *line)
{
    static const char shape[] = "00:00:00 ";
    for (size_t i = 0; shape[i]; i++)
        assert_true(shape[i] == '0' ? isdigit((unsigned char)line[i]) : line[i] == shape[i]);
    return line + strlen(shape);
}

static void write_each_level(void)
{
    log_debug("debug %d", 1);
    log_info("info %d", 2);
    log_warn("warn %d", 3);
    log_line(LOG_ERROR, "error %d", 4);
}

static void lines_carry_time_and_level(void **state)
{
    (void)state;
    char *text = capture(write_each_level);
    char *second = strchr(text, '\n') + 1;
    char *third = strchr(second, '\n') + 1;
    second[-1] = third[-1] = '\0';
    assert_string_equal(behind_time(text), "info 2");
    assert_string_equal(behind_time(second), "warning: warn 3");
    assert_string_equal(behind_time(third), "error: error 4\n");
    free(text);
}

static void write_with_prefix(void)
{
    log_configure(LOG_WARN, "rank 2");
    write_each_level();
}

static void level_drops_lines_and_prefix_names_the_process(void **state)
{
    (void)state;
    char *text = capture(write_with_prefix);
    char *second = strchr(text, '\n') + 1;
    second[-1] = '\0';
    assert_string_equal(behind_time(text), "rank 2: warning: warn 3");
    assert_string_equal(behind_time(second), "rank 2: error: error 4\n");
    free(text);
}

static const char *tee_path;

static void write_to_tee(void)
{
    int fd = open(tee_path, O_WRONLY | O_CREAT | O_APPEND, 0666);
    log_tee(fd);
    log_info("both");
    log_tee(-1);
    log_info("stderr only");
    close(fd);
}

static void tee_receives_the_same_lines(void **state)
{
    char *path = mem_printf("%s/log", (char *)*state);
    tee_path = path;
    char *text = capture(write_to_tee);
    struct strbuf teed = {0};
    read_to_end(open(path, O_RDONLY), &teed);
    assert_string_equal(behind_time(teed.bytes), "both\n");
    assert_memory_equal(text, teed.bytes, teed.length);
    assert_string_equal(behind_time(text + teed.length), "stderr only\n");
    strbuf_release(&teed);
    free(text);
    free(path);
}

static void write_long_line(void)
{
    log_info("%*d", 100000, 7);
}

static void long_lines_are_whole(void **state)
{
    char *path = mem_printf("%s/log", (char *)*state); // longer than a pipe holds
    run_with_stderr(open(path, O_WRONLY | O_CREAT, 0666), write_long_line);
    struct strbuf text = {0};
    read_to_end(open(path, O_RDONLY), &text);
    assert_int_equal(text.length, 9 + 100000 + 1);
    assert_int_equal(text.bytes[text.length - 2], '7');
    strbuf_release(&text);
    free(path);
}

static void *write_many(void *argument)
{
    for (int i = 0; i < 200; i++)
        log_info("%s", (const char *)argument);
    return NULL;
}

static void write_from_processes_and_threads(void)
{
    pid_t child = fork();
    char *text = mem_printf("%0100d", child ? 1 : 2);
    pthread_t thread;
    pthread_create(&thread, NULL, write_many, text);
    write_many(text);
    pthread_join(thread, NULL);
    free(text);
    if (child == 0)
        _exit(0);
    waitpid(child, NULL, 0);
}

static void lines_of_processes_and_threads_do_not_mix(void **state)
{
    char *path = mem_printf("%s/log", (char *)*state);
    run_with_stderr(open(path, O_WRONLY | O_CREAT | O_APPEND, 0666),
                    write_from_processes_and_threads);
    struct strbuf text = {0};
    read_to_end(open(path, O_RDONLY), &text);
    assert_int_equal(text.length, 800 * 110);
    for (size_t at = 0; at < text.length; at += 110) {
        assert_true(text.bytes[at + 108] == '1' || text.bytes[at + 108] == '2');
        assert_int_equal(text.bytes[at + 109], '\n');
    }
    strbuf_release(&text);
    free(path);
}

static void make_progress(void)
{
    for (int i = 1; i <= 1000; i++)
        log_progress("%d of 1000", i);
    log_info("between");
    log_progress_end();
    log_progress_end(); // nothing is left to finish
    log_configure(LOG_WARN, NULL);
    log_progress("not wanted");
    log_progress_end();
}

static void progress_elsewhere_is_the_first_and_the_last_line(void **state)
{
    (void)state;
    char *text = capture(make_progress);
    char *second = strchr(text, '\n') + 1;
    char *third = strchr(second, '\n') + 1;
    second[-1] = third[-1] = '\0';
    assert_string_equal(behind_time(text), "1 of 1000");
    assert_string_equal(behind_time(second), "between");
    assert_string_equal(behind_time(third), "1000 of 1000\n");
    free(text);
}

// Both ends of a pseudo-terminal; false where there is none.
static bool open_terminal(int *master, int *slave)
{
    *master = posix_openpt(O_RDWR | O_NOCTTY);
    if (*master < 0 || grantpt(*master) || unlockpt(*master))
        return false;
    *slave = open(ptsname(*master), O_RDWR | O_NOCTTY);
    assert_true(*slave >= 0);
    struct termios raw;
    tcgetattr(*slave, &raw);
    cfmakeraw(&raw); // or the terminal turns "\n" into "\r\n"
    tcsetattr(*slave, TCSANOW, &raw);
    return true;
}

static void make_teed_progress(void)
{
    log_tee(open(tee_path, O_WRONLY | O_CREAT | O_APPEND, 0666));
    make_progress();
}

static void progress_on_a_terminal_replaces_itself(void **state)
{
    int master = -1, slave = -1;
    if (!open_terminal(&master, &slave))
        skip();
    char *path = mem_printf("%s/log", (char *)*state);
    tee_path = path;
    double start = clock_seconds();
    run_with_stderr(slave, make_teed_progress);
    bool was_quick = clock_seconds() - start < 0.1; // else more lines than two were drawn
    struct strbuf text = {0}, teed = {0};
    read_to_end(master, &text);
    read_to_end(open(path, O_RDONLY), &teed);

    static const char first[] = "\r\033[K1 of 1000";
    static const char last[] = "between\n\r\033[K1000 of 1000\n";
    assert_true(text.length > sizeof(first) + sizeof(last));
    assert_memory_equal(text.bytes, first, sizeof(first) - 1);
    assert_memory_equal(text.bytes + text.length - strlen(last), last, strlen(last));
    if (was_quick)
        assert_int_equal(text.length, strlen(first) + strlen("\r\033[K00:00:00 ") + strlen(last));
    assert_null(strchr(teed.bytes, '\033')); // the log file holds plain lines
    assert_string_equal(behind_time(strrchr(teed.bytes, ':') - 5), "1000 of 1000\n");
    strbuf_release(&teed);
    strbuf_release(&text);
    free(path);
}

#define TEST(name)                                                                                 \
    cmocka_unit_test_setup_teardown(name, temporary_directory_setup, temporary_directory_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(lines_carry_time_and_level),
        cmocka_unit_test(level_drops_lines_and_prefix_names_the_process),
        TEST(tee_receives_the_same_lines),
        TEST(long_lines_are_whole),
        TEST(lines_of_processes_and_threads_do_not_mix),
        cmocka_unit_test(progress_elsewhere_is_the_first_and_the_last_line),
        TEST(progress_on_a_terminal_replaces_itself),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
