// SPDX-License-Identifier: Apache-2.0
// A file server in memory that keeps only what it promised to keep. What every process sees at once
// is the current state; what survives is the durable one: the content of a file when it was last
// synced, and the name of a file when its directory was last synced after the change.
//
// A crash of a client, or of everything, decides for each change that is not durable by itself
// whether it survives: so writes are reordered, a renamed file may stand under both names or under
// none, and content that was not synced is the old one, the new one, or torn.
#ifndef MEMO_TESTS_SIM_DISK_H
#define MEMO_TESTS_SIM_DISK_H

#include "base/fs.h"

struct sim_disk;

// What the disk asks of the story.
struct sim_disk_chance {
    void *state;
    double (*uniform)(void *state);      // [0, 1)
    int64_t (*server_time)(void *state); // nanoseconds
};

struct sim_disk *sim_disk_create(const struct sim_disk_chance *chance);
void sim_disk_destroy(struct sim_disk *disk);

// One process on one machine. Its fs may be used as long as the client stays where it is.
struct sim_client {
    struct sim_disk *disk;
    int machine; // at least 0
    void *state;
    // Before every operation; a negative errno makes it fail without effect, for a write after half
    // of the bytes. NULL: nothing happens.
    int (*before)(void *state, bool writes);
    bool skips_directory_sync; // planted bugs
    bool misreads_claims;      // nobody is named in them
    struct fs fs;
};
void sim_client_init(struct sim_client *client); // sets fs

#define SIM_ALL_MACHINES (-1)
void sim_disk_crash(struct sim_disk *disk, int machine);

size_t sim_disk_files(const struct sim_disk *disk);

#endif
