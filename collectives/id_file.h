// SPDX-License-Identifier: Apache-2.0
// A few bytes from rank 0 to the other ranks of a job through a file that all of them see, for
// launches without MPI or PMIx. The file is DIRECTORY/id-JOB-ATTEMPT:
//
//     memo id 1\n
//     the bytes, hexadecimal\n
//     their digest (hash.h), hexadecimal\n
//
// Job and attempt are of the launcher, so that a job which is started again, or a second one on the
// same directory, never takes the id of another. It appears whole or not at all (written beside,
// synced, renamed); who can read the directory can read it.
#ifndef MEMO_COLLECTIVES_ID_FILE_H
#define MEMO_COLLECTIVES_ID_FILE_H

#include "base/fs.h"

#define ID_FILE_LIMIT 1024 // bytes

// "SLURM_JOB_ID.SLURM_STEP_ID-SLURM_RESTART_COUNT"; an error where no launcher names the job.
int id_file_path(const char *directory, char **path, struct error *err);

// Replaces what a process left there that died, or that ran under the same number.
int id_file_publish(struct fs *fs, const char *path, const void *bytes, size_t length,
                    struct error *err);
// A file that is not there, has other than `length` bytes, or is damaged, is an error.
int id_file_read(struct fs *fs, const char *path, void *bytes, size_t length, struct error *err);
void id_file_remove(struct fs *fs, const char *path); // by rank 0, once all have it

#endif
