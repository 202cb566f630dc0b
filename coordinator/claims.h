// SPDX-License-Identifier: Apache-2.0
// Who works on which block of tasks, when several jobs share one run directory on a file server.
//
//     DIR/owners/NAME        one file for each job (NAME is never used twice): its heartbeat
//     DIR/blocks/BLOCK.G     generation G of the claim on a block: names the owner, never changes
//
// Files are only ever added, so nothing that somebody has seen can come to mean something else.
//
//   Claim     BLOCK.1 is made with its content and without replacing (fs_write_atomic): of any
//             number of jobs one succeeds. The highest generation counts.
//   Beat      the owner writes into its own file and syncs it, every beat_seconds; the file server
//             sets the time of modification.
//   Over      one byte of the owner's file says whether it still counts. It is set by the owner
//             when it leaves, or by somebody who found it dead, synced, and never set back.
//   Takeover  a block of an owner that is over is claimed as generation G + 1, again without
//             replacing. What a claim's owner is over for, it is over for all of its blocks.
//   Backup    the right to compute a task a second time, while its block's owner lives, is claimed
//   as
//             a block is: under the number of blocks + task. It changes nothing for the owner, and
//             nothing depends on it: of two results readers take one, whole. It keeps a task from
//             being computed by more than two jobs.
//   Fence     whoever commits for an owner looks first whether it is over, and then commits
//             nothing. Whoever took over looks at what is committed after the takeover, not before.
//   Removal   when everything is done, nothing is claimed any more; who leaves and then finds that
//             no owner counts removes all files. A job that begins meanwhile makes its own file in
//             a directory that it makes again, looks, and finds everything done.
//
// An owner is found dead when all of this holds:
//   - its file is older than stale_seconds, both times being the file server's: that of the owner's
//     file, and that of the looker's own file just beaten. No clock of a host enters.
//   - it has not changed while the looker itself made CLAIMS_MISSED_BEATS beats on time. So nobody
//     dies of a file server that was away or whose clock jumped, or of a looker that was paused.
// or when is_gone says that its process has ended, which needs no waiting.
//
// What can go wrong, and what happens then:
//   - Two takers at once: one makes G + 1, the other is refused. A taker that is paused before it
//     makes G + 1 finds it taken, or takes it: the owner of G is over and stays so.
//   - An owner that was paused wakes up: its next beat or commit finds that it is over; it commits
//     nothing more and its job ends with "run the same command again". Paused between looking and
//     committing it may still store a task that the taker stores too: readers take the earlier
//     attempt, whole.
//   - The disk loses what was not synced: a claim that was acknowledged was synced with its
//     directory. One that is lost before leaves the block unclaimed.
#ifndef MEMO_COORDINATOR_CLAIMS_H
#define MEMO_COORDINATOR_CLAIMS_H

#include "base/error.h"
#include "base/fs.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CLAIMS_MISSED_BEATS 3
#define CLAIMS_NAME_BYTES 64     // of an owner, with the NUL
#define CLAIMS_PROCESS_BYTES 512 // of the description of its process, with the NUL

struct claims_options {
    struct fs *fs;
    const char *directory; // made when it is missing
    const char *owner;     // letters, digits and '-'
    const char *process;   // one line for is_gone
    uint32_t blocks;       // that can be claimed, backups among them
    double beat_seconds;
    double stale_seconds;
    bool (*is_gone)(const char *process); // true only when it is certain; NULL: never
};

struct claims;

// Makes the owner's file. What options point to outlives the claims.
int claims_open(const struct claims_options *options, double now_seconds, struct claims **out,
                struct error *err);
void claims_close(struct claims *claims); // memory only; accepts NULL

// Gives everything back: this owner is over, others need not wait for its death.
int claims_leave(struct claims *claims, struct error *err);

// After leaving, and only when all is done: removes what is on disk, unless another owner counts.
int claims_remove(struct claims *claims, struct error *err);

// Beats and looks after the other owners when that is due; does nothing in between. Call it every
// second or so. now_seconds is any clock of this process that never goes back.
int claims_step(struct claims *claims, double now_seconds, struct error *err);

// Somebody found this owner dead, or it has left.
bool claims_are_over(const struct claims *claims);

enum claim { CLAIM_REFUSED = 0, CLAIM_WON = 1, CLAIM_TAKEN_OVER = 2 };

// Tries to claim a block that is not this owner's already: an enum claim, or -1.
int claims_take(struct claims *claims, uint32_t block, struct error *err);

size_t claims_owners(const struct claims *claims); // that are not over, this one among them

// By this process's clock: when an owner was last seen to be over. Its claims may be taken over
// since, and what it committed is to be seen by whoever looks later. -INFINITY: never.
double claims_last_over_seconds(const struct claims *claims);

char *claims_owner_path(const char *directory, const char *owner); // caller frees

// The fence, for every process of a job: 1 when the owner with this file is over, 0 when not. No
// file, or one that nobody can read, is over as well.
int claims_owner_is_over(struct fs *fs, const char *owner_path, struct error *err);

#endif
