// SPDX-License-Identifier: Apache-2.0
// An owner's file, OWNER_HEADER bytes and then the description of its process:
//
//     0   20 digits, the beats so far; written by the owner
//     20  '\n'
//     21  'a', or 'o' when it is over: the only byte that others write, and never torn
//     22  '\n'
#include "coordinator/claims.h"

#include "base/mem.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define OWNER_COUNT_BYTES 20
#define OWNER_MARK_AT 21
#define OWNER_HEADER 23
#define ON_TIME_BEATS 2 // a beat later than so many periods after the last one is not on time
#define OPEN_TRIES 3
#define NOBODY UINT32_MAX
#define SELF (UINT32_MAX - 1)

struct owner {
    char name[CLAIMS_NAME_BYTES];
    bool over;
    int64_t beaten_ns; // when its file was last seen to change, by the file server
    uint64_t missed;   // beats of this job since
};

struct block_claim {
    uint32_t generation; // the highest seen, 0: none
    uint32_t owner;      // of it, or SELF, or NOBODY: not read yet
};

struct claims {
    struct claims_options options;
    char *owners_directory;
    char *blocks_directory;
    char *own_path;
    uint64_t beats;
    int64_t beaten_ns;     // of this job's last beat, by the file server
    double beaten_seconds; // by this job's clock
    double next_beat_seconds;
    double last_over_seconds;
    bool over;
    struct owner *owners; // the others, in the order in which they were seen
    size_t owner_count;
    size_t owner_capacity;
    struct block_claim *blocks;
};

static int check(int rc, const char *what, const char *path, struct error *err)
{
    return rc ? error_set_errno(err, -rc, "cannot %s '%s'", what, path) : 0;
}

static int write_synced(struct fs *fs, const char *path, uint64_t offset, const void *bytes,
                        size_t length, struct error *err)
{
    int handle;
    int rc = fs->ops->open_update(fs->state, path, &handle);
    if (rc)
        return check(rc, "open", path, err);
    rc = fs->ops->write_at(fs->state, handle, offset, bytes, length);
    if (rc == 0)
        rc = fs->ops->sync(fs->state, handle);
    const int closed = fs->ops->close(fs->state, handle);
    return check(rc ? rc : closed, "write", path, err);
}

int claims_owner_is_over(struct fs *fs, const char *owner_path, struct error *err)
{
    struct strbuf text = {0};
    const int rc = fs->ops->read(fs->state, owner_path, &text);
    const bool counts = rc == 0 && text.length >= OWNER_HEADER && text.bytes[OWNER_MARK_AT] == 'a';
    strbuf_release(&text);
    return rc && rc != -ENOENT ? check(rc, "read", owner_path, err) : !counts;
}

static int mark_over(struct fs *fs, const char *path, struct error *err)
{
    return write_synced(fs, path, OWNER_MARK_AT, "o", 1, err);
}

char *claims_owner_path(const char *directory, const char *owner)
{
    return mem_printf("%s/owners/%s", directory, owner);
}

double claims_last_over_seconds(const struct claims *claims)
{
    return claims->last_over_seconds;
}

static int make_own_file(struct claims *claims, struct error *err)
{
    struct strbuf text = {0};
    strbuf_addf(&text, "%0*d\na\n%s\n", OWNER_COUNT_BYTES, 0, claims->options.process);
    const struct fs_part part = {text.bytes, text.length};
    const int rc = fs_write_atomic(claims->options.fs, claims->own_path, &part, 1, false, err);
    strbuf_release(&text);
    return rc;
}

// The first line after the header. out: [CLAIMS_PROCESS_BYTES]
static void take_process(const struct strbuf *text, char *out)
{
    size_t length = 0;
    const char *line = text->bytes + OWNER_HEADER;
    while (OWNER_HEADER + length < text->length && length + 1 < CLAIMS_PROCESS_BYTES &&
           line[length] != '\n')
        length++;
    memcpy(out, line, length);
    out[length] = '\0';
}

static bool is_found_dead(const struct claims *claims, const struct owner *owner,
                          const struct strbuf *text)
{
    char process[CLAIMS_PROCESS_BYTES];
    const double age = (double)(claims->beaten_ns - owner->beaten_ns) * 1e-9;
    take_process(text, process);
    return (claims->options.is_gone && claims->options.is_gone(process)) ||
           (age > claims->options.stale_seconds && owner->missed >= CLAIMS_MISSED_BEATS);
}

// Looks once after an owner that was not over. An owner whose file vanished, or was torn before it
// claimed anything, is over.
static int look_after(struct claims *claims, struct owner *owner, double now_seconds,
                      struct error *err)
{
    struct fs *fs = claims->options.fs;
    struct strbuf text = {0};
    struct fs_info info = {0};
    char *path = claims_owner_path(claims->options.directory, owner->name);
    int rc = fs->ops->stat(fs->state, path, &info);
    if (rc == 0)
        rc = fs->ops->read(fs->state, path, &text);
    owner->missed = info.modified_ns == owner->beaten_ns ? owner->missed + 1 : 0;
    owner->beaten_ns = info.modified_ns;
    owner->over = rc == -ENOENT ||
                  (rc == 0 && (text.length < OWNER_HEADER || text.bytes[OWNER_MARK_AT] != 'a'));
    rc = rc == -ENOENT ? 0 : check(rc, "look at", path, err);
    if (rc == 0 && !owner->over && is_found_dead(claims, owner, &text)) {
        rc = mark_over(fs, path, err);
        owner->over = rc == 0;
    }
    if (owner->over)
        claims->last_over_seconds = now_seconds;
    strbuf_release(&text);
    free(path);
    return rc;
}

static uint32_t find_owner(const struct claims *claims, const char *name)
{
    uint32_t number = 0;
    while (number < claims->owner_count && strcmp(claims->owners[number].name, name) != 0)
        number++;
    return number < claims->owner_count ? number : NOBODY;
}

static uint32_t add_owner(struct claims *claims, const char *name)
{
    claims->owners = mem_grow(claims->owners, &claims->owner_capacity, claims->owner_count + 1,
                              sizeof(*claims->owners));
    struct owner *owner = &claims->owners[claims->owner_count];
    *owner = (struct owner){.beaten_ns = INT64_MIN};
    snprintf(owner->name, sizeof(owner->name), "%s", name);
    return (uint32_t)claims->owner_count++;
}

static bool is_owner_name(const char *name)
{
    const size_t length = strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
                                       "0123456789-");
    return length > 0 && length < CLAIMS_NAME_BYTES && name[length] == '\0';
}

static int look_after_owners(struct claims *claims, double now_seconds, struct error *err)
{
    struct fs_names names;
    int rc = fs_list(claims->options.fs, claims->owners_directory, &names, err);
    if (rc != 0)
        return -1;
    for (size_t i = 0; i < names.count; i++) {
        const char *name = names.names[i];
        if (is_owner_name(name) && strcmp(name, claims->options.owner) != 0 &&
            find_owner(claims, name) == NOBODY)
            (void)add_owner(claims, name);
    }
    fs_names_release(&names);
    for (size_t i = 0; i < claims->owner_count && rc == 0; i++) {
        if (!claims->owners[i].over)
            rc = look_after(claims, &claims->owners[i], now_seconds, err);
    }
    return rc;
}

// A beat that comes too late says nothing about the others: they may have been paused as well, or
// the file server was away.
static void judge_own_punctuality(struct claims *claims, double now_seconds)
{
    if (now_seconds - claims->beaten_seconds <= ON_TIME_BEATS * claims->options.beat_seconds)
        return;
    for (size_t i = 0; i < claims->owner_count; i++)
        claims->owners[i].missed = 0;
}

static int beat(struct claims *claims, double now_seconds, struct error *err)
{
    struct fs *fs = claims->options.fs;
    char count[OWNER_COUNT_BYTES + 1];
    struct fs_info info;
    const int over = claims_owner_is_over(fs, claims->own_path, err);
    if (over != 0) {
        claims->over = claims->over || over > 0;
        return over < 0 ? -1 : 0;
    }
    snprintf(count, sizeof(count), "%0*llu", OWNER_COUNT_BYTES,
             (unsigned long long)++claims->beats);
    if (write_synced(fs, claims->own_path, 0, count, OWNER_COUNT_BYTES, err) ||
        check(fs->ops->stat(fs->state, claims->own_path, &info), "look at", claims->own_path, err))
        return -1;
    judge_own_punctuality(claims, now_seconds);
    claims->beaten_ns = info.modified_ns;
    claims->beaten_seconds = now_seconds;
    return 0;
}

int claims_step(struct claims *claims, double now_seconds, struct error *err)
{
    if (claims->over || now_seconds < claims->next_beat_seconds)
        return 0;
    claims->next_beat_seconds = now_seconds + claims->options.beat_seconds;
    if (beat(claims, now_seconds, err))
        return -1;
    return claims->over ? 0 : look_after_owners(claims, now_seconds, err);
}

// Who removes the files of a finished job may take a directory away that was just made.
static int make_files(struct claims *claims, struct error *err)
{
    struct fs *fs = claims->options.fs;
    for (int tries = 0; tries < OPEN_TRIES; tries++) {
        if (fs_make_directories(fs, claims->owners_directory, err) == 0 &&
            fs_make_directories(fs, claims->blocks_directory, err) == 0 &&
            make_own_file(claims, err) == 0)
            return 0;
        if (fs_exists(fs, claims->owners_directory) && fs_exists(fs, claims->blocks_directory))
            break;
    }
    return -1;
}

int claims_open(const struct claims_options *options, double now_seconds, struct claims **out,
                struct error *err)
{
    assert(options->beat_seconds > 0 && options->stale_seconds > options->beat_seconds);
    assert(is_owner_name(options->owner));
    struct claims *claims = mem_calloc(1, sizeof(*claims));
    claims->options = *options;
    claims->owners_directory = fs_join(options->directory, "owners");
    claims->blocks_directory = fs_join(options->directory, "blocks");
    claims->own_path = claims_owner_path(options->directory, options->owner);
    claims->beaten_seconds = claims->next_beat_seconds = now_seconds;
    claims->last_over_seconds = -INFINITY;
    claims->blocks = mem_calloc((size_t)options->blocks + 1, sizeof(*claims->blocks));
    for (uint32_t b = 0; b < options->blocks; b++)
        claims->blocks[b].owner = NOBODY;
    if (make_files(claims, err) || claims_step(claims, now_seconds, err)) {
        claims_close(claims);
        return error_prefix(err, "claims on tasks");
    }
    claims->next_beat_seconds = now_seconds; // what comes before the first step may take long
    *out = claims;
    return 0;
}

void claims_close(struct claims *claims)
{
    if (!claims)
        return;
    free(claims->owners_directory);
    free(claims->blocks_directory);
    free(claims->own_path);
    free(claims->owners);
    free(claims->blocks);
    free(claims);
}

int claims_leave(struct claims *claims, struct error *err)
{
    if (claims->over)
        return 0;
    claims->over = true;
    return mark_over(claims->options.fs, claims->own_path, err);
}

// What is gone already was removed by another job at the same time.
static int remove_files_in(struct claims *claims, const char *directory, struct error *err)
{
    struct fs *fs = claims->options.fs;
    struct fs_names names = {0};
    int rc = 0;
    if (!fs_exists(fs, directory))
        return 0;
    if (fs_list(fs, directory, &names, err))
        return fs_exists(fs, directory) ? -1 : 0;
    for (size_t i = 0; i < names.count && rc == 0; i++) {
        char *path = fs_join(directory, names.names[i]);
        const int removed = fs->ops->remove(fs->state, path);
        rc = removed == -ENOENT ? 0 : check(removed, "remove", path, err);
        free(path);
    }
    fs_names_release(&names);
    return rc;
}

static int remove_owners(struct claims *claims, struct error *err)
{
    struct fs *fs = claims->options.fs;
    int rc = 0;
    for (size_t i = 0; i <= claims->owner_count && rc == 0; i++) {
        char *path = claims_owner_path(claims->options.directory, i < claims->owner_count
                                                                      ? claims->owners[i].name
                                                                      : claims->options.owner);
        const int removed = fs->ops->remove(fs->state, path);
        rc = removed == -ENOENT ? 0 : check(removed, "remove", path, err);
        free(path);
    }
    return rc;
}

int claims_remove(struct claims *claims, struct error *err)
{
    struct fs *fs = claims->options.fs;
    assert(claims->over);
    if (!fs_exists(fs, claims->owners_directory))
        return 0;
    if (look_after_owners(claims, claims->beaten_seconds, err))
        return -1;
    if (claims_owners(claims) > 0)
        return 0;
    if (remove_files_in(claims, claims->blocks_directory, err) || remove_owners(claims, err))
        return -1;
    // Not empty: a job has begun meanwhile, and will do this at its end.
    (void)fs->ops->remove(fs->state, claims->blocks_directory);
    (void)fs->ops->remove(fs->state, claims->owners_directory);
    (void)fs->ops->remove(fs->state, claims->options.directory);
    return 0;
}

bool claims_are_over(const struct claims *claims)
{
    return claims->over;
}

size_t claims_owners(const struct claims *claims)
{
    size_t count = !claims->over;
    for (size_t i = 0; i < claims->owner_count; i++)
        count += !claims->owners[i].over;
    return count;
}

static char *claim_path(const struct claims *claims, uint32_t block, uint32_t generation)
{
    return mem_printf("%s/%08u.%u", claims->blocks_directory, block, generation);
}

// 1: made, 0: somebody else was first.
static int make_claim(struct claims *claims, uint32_t block, uint32_t generation, struct error *err)
{
    const char *owner = claims->options.owner;
    const struct fs_part part = {owner, strlen(owner)};
    char *path = claim_path(claims, block, generation);
    int rc = fs_write_atomic(claims->options.fs, path, &part, 1, false, err) == 0 ? 1 : -1;
    if (rc < 0 && fs_exists(claims->options.fs, path))
        rc = 0;
    free(path);
    return rc;
}

// The owner of the highest generation becomes known. A claim is read once: it never changes. An
// owner that was not seen before counts until somebody has looked after it.
static int read_claim(struct claims *claims, uint32_t block, struct error *err)
{
    struct block_claim *claim = &claims->blocks[block];
    struct strbuf text = {0};
    char *path = claim_path(claims, block, claim->generation);
    const int rc = fs_read(claims->options.fs, path, &text, err);
    if (rc == 0) {
        strbuf_addc(&text, '\0');
        claim->owner =
            strcmp(text.bytes, claims->options.owner) == 0 ? SELF : find_owner(claims, text.bytes);
        if (claim->owner == NOBODY && is_owner_name(text.bytes))
            claim->owner = add_owner(claims, text.bytes);
    }
    strbuf_release(&text);
    free(path);
    return rc;
}

// Moves on to the highest generation there is.
static void find_generation(struct claims *claims, uint32_t block)
{
    struct block_claim *claim = &claims->blocks[block];
    for (bool more = true; more;) {
        char *next = claim_path(claims, block, claim->generation + 1);
        more = fs_exists(claims->options.fs, next);
        free(next);
        if (more)
            *claim = (struct block_claim){claim->generation + 1, NOBODY};
    }
}

// Looks who holds the block and, when that is nobody who counts, tries to become the next.
static int try_block(struct claims *claims, uint32_t block, struct error *err)
{
    struct block_claim *claim = &claims->blocks[block];
    find_generation(claims, block);
    if (claim->generation > 0 && claim->owner == NOBODY && read_claim(claims, block, err))
        return -1;
    if (claim->owner == SELF) // it was made, though making it seemed to fail
        return CLAIM_TAKEN_OVER;
    if (claim->owner != NOBODY && !claims->owners[claim->owner].over)
        return CLAIM_REFUSED;
    const int made = make_claim(claims, block, claim->generation + 1, err);
    if (made < 0)
        return -1;
    *claim = (struct block_claim){claim->generation + 1, NOBODY};
    if (made == 0)
        return CLAIM_REFUSED;
    return claim->generation == 1 ? CLAIM_WON : CLAIM_TAKEN_OVER;
}

int claims_take(struct claims *claims, uint32_t block, struct error *err)
{
    assert(block < claims->options.blocks);
    if (claims->over)
        return CLAIM_REFUSED;
    const int rc = try_block(claims, block, err);
    return rc < 0 ? error_prefix(err, "claims on tasks") : rc;
}
