// SPDX-License-Identifier: Apache-2.0
#include "tests/sim/disk.h"

#include "base/mem.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define NO_INODE (-1)
#define NO_ENTRY SIZE_MAX
#define MAX_OPEN 8
#define MINIMUM_SLOTS 64

struct inode {
    bool is_directory;
    struct strbuf content;
    struct strbuf synced;
    bool dirty;
    int machine; // that wrote last
    int64_t modified_ns;
};

// A name that was used at some time.
struct entry {
    char *path;
    size_t parent_length;
    int inode;   // NO_INODE: not there
    int durable; // what a crash leaves
    int machine; // that changed it last
};

struct open_file {
    int inode; // NO_INODE: free
};

struct sim_disk {
    struct sim_disk_chance chance;
    struct inode *inodes;
    size_t inode_count;
    size_t inode_capacity;
    struct entry *entries;
    size_t entry_count;
    size_t entry_capacity;
    size_t *slots; // hash table of paths
    size_t slot_count;
    struct open_file open[MAX_OPEN];
};

struct sim_disk *sim_disk_create(const struct sim_disk_chance *chance)
{
    struct sim_disk *disk = mem_calloc(1, sizeof(*disk));
    disk->chance = *chance;
    disk->slot_count = MINIMUM_SLOTS;
    disk->slots = mem_calloc(disk->slot_count, sizeof(*disk->slots));
    for (size_t i = 0; i < disk->slot_count; i++)
        disk->slots[i] = NO_ENTRY;
    for (int i = 0; i < MAX_OPEN; i++)
        disk->open[i].inode = NO_INODE;
    return disk;
}

void sim_disk_destroy(struct sim_disk *disk)
{
    if (!disk)
        return;
    for (size_t i = 0; i < disk->inode_count; i++) {
        strbuf_release(&disk->inodes[i].content);
        strbuf_release(&disk->inodes[i].synced);
    }
    for (size_t i = 0; i < disk->entry_count; i++)
        free(disk->entries[i].path);
    free(disk->inodes);
    free(disk->entries);
    free(disk->slots);
    free(disk);
}

static size_t find_slot(const struct sim_disk *disk, const char *path)
{
    uint64_t hash = 14695981039346656037u; // FNV-1a
    for (const char *c = path; *c; c++)
        hash = (hash ^ (unsigned char)*c) * 1099511628211u;
    size_t slot = (size_t)(hash ^ hash >> 32) & (disk->slot_count - 1);
    while (disk->slots[slot] != NO_ENTRY &&
           strcmp(disk->entries[disk->slots[slot]].path, path) != 0)
        slot = (slot + 1) & (disk->slot_count - 1);
    return slot;
}

static void grow_slots(struct sim_disk *disk)
{
    disk->slot_count *= 2;
    disk->slots = mem_realloc(disk->slots, disk->slot_count * sizeof(*disk->slots));
    for (size_t i = 0; i < disk->slot_count; i++)
        disk->slots[i] = NO_ENTRY;
    for (size_t i = 0; i < disk->entry_count; i++)
        disk->slots[find_slot(disk, disk->entries[i].path)] = i;
}

static struct entry *find_entry(const struct sim_disk *disk, const char *path)
{
    const size_t number = disk->slots[find_slot(disk, path)];
    return number == NO_ENTRY ? NULL : &disk->entries[number];
}

static size_t parent_length(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? (size_t)(slash - path) : 0;
}

static struct entry *get_entry(struct sim_disk *disk, const char *path)
{
    struct entry *entry = find_entry(disk, path);
    if (entry)
        return entry;
    disk->entries = mem_grow(disk->entries, &disk->entry_capacity, disk->entry_count + 1,
                             sizeof(*disk->entries));
    entry = &disk->entries[disk->entry_count];
    *entry = (struct entry){.path = mem_strdup(path),
                            .parent_length = parent_length(path),
                            .inode = NO_INODE,
                            .durable = NO_INODE};
    disk->slots[find_slot(disk, path)] = disk->entry_count++;
    if (2 * disk->entry_count > disk->slot_count)
        grow_slots(disk);
    return entry;
}

static bool is_in(const struct entry *entry, const char *directory, size_t length)
{
    return entry->parent_length == length && memcmp(entry->path, directory, length) == 0;
}

static struct inode *lookup(const struct sim_disk *disk, const char *path)
{
    const struct entry *entry = find_entry(disk, path);
    return entry && entry->inode != NO_INODE ? &disk->inodes[entry->inode] : NULL;
}

static bool has_parent(const struct sim_disk *disk, const char *path)
{
    char parent[512];
    const size_t length = parent_length(path);
    if (length == 0)
        return true;
    assert(length < sizeof(parent));
    memcpy(parent, path, length);
    parent[length] = '\0';
    const struct inode *inode = lookup(disk, parent);
    return inode && inode->is_directory;
}

static int64_t touch(struct sim_disk *disk)
{
    return disk->chance.server_time(disk->chance.state);
}

static int add_inode(struct sim_client *client, const char *path, bool is_directory)
{
    struct sim_disk *disk = client->disk;
    disk->inodes =
        mem_grow(disk->inodes, &disk->inode_capacity, disk->inode_count + 1, sizeof(*disk->inodes));
    disk->inodes[disk->inode_count] = (struct inode){
        .is_directory = is_directory, .machine = client->machine, .modified_ns = touch(disk)};
    struct entry *entry = get_entry(disk, path);
    entry->inode = (int)disk->inode_count++;
    entry->machine = client->machine;
    return entry->inode;
}

static int before(const struct sim_client *client, bool writes)
{
    return client->before ? client->before(client->state, writes) : 0;
}

static int open_handle(struct sim_disk *disk, int inode, int *handle)
{
    *handle = 0;
    while (*handle < MAX_OPEN && disk->open[*handle].inode != NO_INODE)
        (*handle)++;
    assert(*handle < MAX_OPEN);
    disk->open[*handle].inode = inode;
    return 0;
}

static int disk_create(void *state, const char *path, bool exclusive, int *handle)
{
    struct sim_client *client = state;
    const int rc = before(client, false);
    if (rc)
        return rc;
    if (!has_parent(client->disk, path))
        return -ENOENT;
    if (lookup(client->disk, path)) {
        if (exclusive)
            return -EEXIST;
        strbuf_reset(&lookup(client->disk, path)->content);
        return open_handle(client->disk, find_entry(client->disk, path)->inode, handle);
    }
    return open_handle(client->disk, add_inode(client, path, false), handle);
}

static int disk_open_update(void *state, const char *path, int *handle)
{
    struct sim_client *client = state;
    const int rc = before(client, false);
    if (rc)
        return rc;
    if (!has_parent(client->disk, path))
        return -ENOENT;
    const struct entry *entry = find_entry(client->disk, path);
    const bool there = entry && entry->inode != NO_INODE;
    return open_handle(client->disk, there ? entry->inode : add_inode(client, path, false), handle);
}

static void put(struct sim_client *client, struct inode *inode, uint64_t offset, const void *bytes,
                size_t length)
{
    while (inode->content.length < offset + length)
        strbuf_addc(&inode->content, '\0');
    if (length > 0)
        memcpy(inode->content.bytes + offset, bytes, length);
    inode->dirty = true;
    inode->machine = client->machine;
    inode->modified_ns = touch(client->disk);
}

static int disk_write_at(void *state, int handle, uint64_t offset, const void *bytes, size_t length)
{
    struct sim_client *client = state;
    const int rc = before(client, true);
    struct inode *inode = &client->disk->inodes[client->disk->open[handle].inode];
    put(client, inode, offset, bytes, rc == 0 ? length : rc == -ENOSPC ? length / 2 : 0);
    return rc;
}

static int disk_write(void *state, int handle, const void *bytes, size_t length)
{
    const struct sim_client *client = state;
    const struct inode *inode = &client->disk->inodes[client->disk->open[handle].inode];
    return disk_write_at(state, handle, inode->content.length, bytes, length);
}

static int disk_sync(void *state, int handle)
{
    struct sim_client *client = state;
    const int rc = before(client, false);
    if (rc)
        return rc;
    struct inode *inode = &client->disk->inodes[client->disk->open[handle].inode];
    strbuf_reset(&inode->synced);
    strbuf_add(&inode->synced, inode->content.bytes, inode->content.length);
    inode->dirty = false;
    return 0;
}

static int disk_close(void *state, int handle)
{
    struct sim_client *client = state;
    const int rc = before(client, false);
    client->disk->open[handle].inode = NO_INODE;
    return rc;
}

static int disk_rename(void *state, const char *from, const char *to, bool replace)
{
    struct sim_client *client = state;
    const int rc = before(client, false);
    if (rc)
        return rc;
    if (!lookup(client->disk, from) || !has_parent(client->disk, to))
        return -ENOENT;
    if (!replace && lookup(client->disk, to))
        return -EEXIST;
    struct entry *target = get_entry(client->disk, to); // may move the entries
    struct entry *source = find_entry(client->disk, from);
    target->inode = source->inode;
    source->inode = NO_INODE;
    target->machine = source->machine = client->machine;
    return 0;
}

static int disk_sync_directory(void *state, const char *path)
{
    struct sim_client *client = state;
    struct sim_disk *disk = client->disk;
    const int rc = before(client, false);
    const size_t length = strcmp(path, ".") == 0 ? 0 : strlen(path);
    if (rc || client->skips_directory_sync)
        return rc;
    for (size_t i = 0; i < disk->entry_count; i++) {
        if (disk->entries[i].inode != disk->entries[i].durable &&
            is_in(&disk->entries[i], path, length))
            disk->entries[i].durable = disk->entries[i].inode;
    }
    return 0;
}

static int disk_remove(void *state, const char *path)
{
    struct sim_client *client = state;
    const int rc = before(client, false);
    if (rc)
        return rc;
    if (!lookup(client->disk, path))
        return -ENOENT;
    struct entry *entry = find_entry(client->disk, path);
    entry->inode = NO_INODE;
    entry->machine = client->machine;
    return 0;
}

static int disk_make_directory(void *state, const char *path)
{
    struct sim_client *client = state;
    const int rc = before(client, false);
    if (rc)
        return rc;
    if (lookup(client->disk, path))
        return -EEXIST;
    if (!has_parent(client->disk, path))
        return -ENOENT;
    (void)add_inode(client, path, true);
    return 0;
}

static int disk_read(void *state, const char *path, struct strbuf *out)
{
    struct sim_client *client = state;
    const int rc = before(client, false);
    if (rc)
        return rc;
    const struct inode *inode = lookup(client->disk, path);
    if (!inode)
        return -ENOENT;
    if (client->misreads_claims && strstr(path, "/blocks/"))
        strbuf_addc(out, '?');
    else if (inode->content.length > 0)
        strbuf_add(out, inode->content.bytes, inode->content.length);
    return 0;
}

static int disk_stat(void *state, const char *path, struct fs_info *out)
{
    struct sim_client *client = state;
    const int rc = before(client, false);
    if (rc)
        return rc;
    const struct inode *inode = lookup(client->disk, path);
    if (!inode)
        return -ENOENT;
    *out = (struct fs_info){.size_bytes = inode->content.length,
                            .modified_ns = inode->modified_ns,
                            .is_directory = inode->is_directory};
    return 0;
}

static int disk_list(void *state, const char *path, int (*visit)(void *context, const char *name),
                     void *context)
{
    struct sim_client *client = state;
    const struct sim_disk *disk = client->disk;
    int rc = before(client, false);
    if (rc)
        return rc;
    if (!lookup(disk, path))
        return -ENOENT;
    const size_t length = strlen(path);
    for (size_t i = 0; i < disk->entry_count && rc == 0; i++) {
        if (disk->entries[i].inode != NO_INODE && is_in(&disk->entries[i], path, length))
            rc = visit(context, disk->entries[i].path + length + 1);
    }
    return rc;
}

void sim_client_init(struct sim_client *client)
{
    static const struct fs_ops ops = {.create = disk_create,
                                      .write = disk_write,
                                      .open_update = disk_open_update,
                                      .write_at = disk_write_at,
                                      .sync = disk_sync,
                                      .close = disk_close,
                                      .rename = disk_rename,
                                      .sync_directory = disk_sync_directory,
                                      .remove = disk_remove,
                                      .make_directory = disk_make_directory,
                                      .read = disk_read,
                                      .stat = disk_stat,
                                      .list = disk_list};
    client->fs = (struct fs){.ops = &ops, .state = client};
}

static bool survives(struct sim_disk *disk)
{
    return disk->chance.uniform(disk->chance.state) < 0.5;
}

static bool concerns(int changed_by, int machine)
{
    return machine == SIM_ALL_MACHINES || changed_by == machine;
}

static void lose_content(struct sim_disk *disk, struct inode *inode)
{
    const double fate = disk->chance.uniform(disk->chance.state);
    if (fate < 0.3) { // the old content
        strbuf_reset(&inode->content);
        if (inode->synced.length > 0)
            strbuf_add(&inode->content, inode->synced.bytes, inode->synced.length);
    } else if (fate < 0.7 && inode->content.length > 0) { // torn: the rest was never written
        const size_t kept =
            (size_t)(disk->chance.uniform(disk->chance.state) * (double)inode->content.length);
        memset(inode->content.bytes + kept, 0, inode->content.length - kept);
        if (survives(disk))
            inode->content.length = kept;
    }
    strbuf_reset(&inode->synced);
    if (inode->content.length > 0)
        strbuf_add(&inode->synced, inode->content.bytes, inode->content.length);
    inode->dirty = false;
}

// A directory that never became durable takes with it what is in it.
static void lose_children(struct sim_disk *disk, const char *path)
{
    const size_t length = strlen(path);
    for (size_t i = 0; i < disk->entry_count; i++) {
        struct entry *entry = &disk->entries[i];
        if (strncmp(entry->path, path, length) == 0 && entry->path[length] == '/')
            entry->inode = entry->durable = NO_INODE;
    }
}

void sim_disk_crash(struct sim_disk *disk, int machine)
{
    for (size_t i = 0; i < disk->inode_count; i++) {
        if (disk->inodes[i].dirty && concerns(disk->inodes[i].machine, machine))
            lose_content(disk, &disk->inodes[i]);
    }
    for (size_t i = 0; i < disk->entry_count; i++) {
        struct entry *entry = &disk->entries[i];
        if (entry->inode == entry->durable || !concerns(entry->machine, machine))
            continue;
        if (survives(disk))
            entry->durable = entry->inode;
        else
            entry->inode = entry->durable;
        if (entry->inode == NO_INODE)
            lose_children(disk, entry->path);
    }
}

size_t sim_disk_files(const struct sim_disk *disk)
{
    size_t count = 0;
    for (size_t i = 0; i < disk->entry_count; i++)
        count += disk->entries[i].inode != NO_INODE;
    return count;
}
