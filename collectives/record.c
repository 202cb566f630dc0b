// SPDX-License-Identifier: Apache-2.0
// What the ranks of a group do when a call fails, so that people read one message that says who is
// missing. A directory that all ranks see is the only thing they still share:
//
//     1. The first rank whose wait ends creates DIRECTORY/failed (nobody can create it twice). It
//        speaks.
//     2. Every rank writes its flight record. Ranks that still wait look for `failed` now and then,
//        and end their waits too: a rank without a record soon after is not in any call.
//     3. The speaker waits until all records are there or RECORDS_SECONDS have passed, adds what
//        they say to its message, and writes it to DIRECTORY/message, where the others find it.
//     4. It prints the message and ends the job; the others wait for that end, silently.
//
// A rank that cannot use the directory speaks for itself: rather two messages than none.
#include "collectives/group_internal.h"

#include "base/clock.h"
#include "base/mem.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define LOOK_SECONDS 0.3    // between looks at the directory, one stat each
#define RECORDS_SECONDS 3.0 // for all records: ten looks, and a slow file server
#define WORDS_SECONDS 3.0   // more, for the message
#define LAST_SECONDS 5.0    // until the speaker must have ended the job
#define SUMMARY_SECONDS 0.5 // that a speaker other than rank 0 leaves it for the job's records

static volatile sig_atomic_t terminating;

void group_note_termination(void)
{
    terminating = 1;
}

// Of the group itself, or of the one that it stands beside.
static const char *directory_of(const struct group *group)
{
    return group->control ? group->control->record_directory : group->record_directory;
}

static void pause_briefly(void)
{
    struct timespec pause = {.tv_nsec = 20000000};
    nanosleep(&pause, NULL);
}

static bool has_file(const struct group *group, const char *name)
{
    char *path = fs_join(directory_of(group), name);
    const bool there = fs_exists(fs_system(), path);
    free(path);
    return there;
}

// Not once it was said who is missing: a rank that was stopped and goes on while the job is being
// ended would hide that it was the one.
static void write_record(const struct group *group, const char *reason)
{
    struct error ignored; // the failure that the record is about is worth more
    if (has_file(group, "message")) {
        return;
    }
    (void)flight_write(group->flight, fs_system(), directory_of(group), reason, &ignored);
}

static int clear_directory(const char *directory, struct error *err)
{
    static const char *const names[] = {"failed", "message"};
    struct fs *fs = fs_system();
    int rc = fs_make_directories(fs, directory, err) || flight_clear(fs, directory, err) ? -1 : 0;
    for (size_t i = 0; rc == 0 && i < sizeof(names) / sizeof(names[0]); i++) {
        char *path = fs_join(directory, names[i]);
        const int failed = fs->ops->remove(fs->state, path);
        if (failed < 0 && failed != -ENOENT) {
            rc = error_set_errno(err, -failed, "cannot remove '%s'", path);
        }
        free(path);
    }
    return rc;
}

int group_record(struct group *group, const char *directory, struct error *err)
{
    const int rc = group->rank == 0 ? clear_directory(directory, err) : 0;
    if (group_agree(group, rc, err) != 0) {
        return -1;
    }
    free(group->record_directory);
    group->record_directory = mem_strdup(directory);
    return 0;
}

bool group_speaks(const struct group *group)
{
    return group->broken && directory_of(group) ? !group->silent : group->rank == 0;
}

int group_keep_waiting(struct group *group, double waited_seconds, bool *told, struct error *err)
{
    *told = false;
    if (waited_seconds > group->deadline_seconds) {
        return -1;
    }
    if (waited_seconds < LOOK_SECONDS || directory_of(group) == NULL) {
        group->next_look = LOOK_SECONDS;
        return 0;
    }
    if (terminating && !group->wrote_on_signal) {
        group->wrote_on_signal = true;
        write_record(group, "the job was told to end while this rank waited");
    }
    if (waited_seconds < group->next_look) {
        return 0;
    }
    group->next_look = waited_seconds + LOOK_SECONDS;
    if (!has_file(group, "failed")) {
        return 0;
    }
    *told = true;
    return error_set(err, "another rank's call failed");
}

static bool create_mark(const struct group *group)
{
    struct fs *fs = fs_system();
    char *path = fs_join(directory_of(group), "failed");
    int handle = -1;
    const int rc = fs->ops->create(fs->state, path, true, &handle);
    if (rc == 0) {
        (void)fs->ops->close(fs->state, handle);
    }
    free(path);
    return rc != -EEXIST;
}

// Who set a short deadline is not made to wait for long.
static double records_seconds(const struct group *group)
{
    return 2 * group->deadline_seconds < RECORDS_SECONDS ? 2 * group->deadline_seconds
                                                         : RECORDS_SECONDS;
}

static void await_records(const struct group *group)
{
    const double begin = clock_seconds(), seconds = records_seconds(group);
    for (int r = 0; r < group->size; r++) {
        while (!flight_exists(fs_system(), directory_of(group), r) &&
               clock_seconds() - begin < seconds) {
            pause_briefly();
        }
    }
}

static void say(const struct group *group, struct error *err)
{
    struct error ignored;
    struct strbuf missing = {0};
    await_records(group);
    if (flight_survey(fs_system(), directory_of(group), &missing, &ignored) > 0) {
        for (size_t i = 0; i < missing.length; i++) {
            missing.bytes[i] = missing.bytes[i] == '\n' ? ' ' : missing.bytes[i];
        }
        error_set(err, "%s; %s", err->text, missing.bytes);
    }
    strbuf_release(&missing);
    char *path = fs_join(directory_of(group), "message");
    (void)fs_write_text(fs_system(), path, err->text, strlen(err->text), &ignored);
    free(path);
}

static void listen(const struct group *group, struct error *err)
{
    struct error ignored;
    struct strbuf text = {0};
    char *path = fs_join(directory_of(group), "message");
    const double begin = clock_seconds();
    while (!fs_exists(fs_system(), path) &&
           clock_seconds() - begin < records_seconds(group) + WORDS_SECONDS) {
        pause_briefly();
    }
    if (fs_read(fs_system(), path, &text, &ignored) == 0 && text.length > 0) {
        error_set(err, "%s", text.bytes);
    }
    free(path);
    strbuf_release(&text);
}

void group_record_failure(struct group *group, struct error *err)
{
    if (directory_of(group) == NULL) {
        return;
    }
    group->silent = !create_mark(group);
    write_record(group, err->text);
    if (group->silent) {
        listen(group, err);
    } else {
        say(group, err);
    }
}

void group_record_disagreement(struct group *group, const struct error *err)
{
    if (directory_of(group) != NULL) {
        write_record(group, err->text);
    }
}

void group_await_last_words(const struct group *group)
{
    const double seconds = group->silent ? LAST_SECONDS : group->rank != 0 ? SUMMARY_SECONDS : 0;
    const double begin = clock_seconds();
    while (clock_seconds() - begin < seconds) {
        pause_briefly();
    }
}
