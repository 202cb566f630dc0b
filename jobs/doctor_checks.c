// SPDX-License-Identifier: Apache-2.0
// What a run needs of its file system and of each machine.
#include "base/clock.h"
#include "base/fs.h"
#include "base/mem.h"
#include "datasets/reflections.h"
#include "jobs/compute.h"
#include "jobs/doctor.h"
#include "kernels/backend.h"
#include "kernels/device.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#define LEAST_BYTES 1e9 // below, a run of any size ends with a full disk
#define FEW_BYTES 20e9  // below, one checkpoint of a small model may be too much
#define LEAST_INODES 1000.0
#define FEW_INODES 100000.0
#define SKEW_SECONDS 2.0 // stale claims are told from live ones by the file server's clock
#define MOST_SKEW_SECONDS 30.0
#define SLOW_SYNC_SECONDS 0.5
#define FEW_FILES 1024 // descriptors
#define SEEN_SECONDS 30.0

static bool no_scratch(const struct doctor *doctor, struct doctor_result *out)
{
    if (doctor->scratch)
        return false;
    doctor_say(out, DOCTOR_FAIL, "cannot write to '%s'", doctor->directory);
    doctor_fix(out, "name a directory that you may write to and that is not full: --dir");
    return true;
}

static const char *type_name(long magic)
{
    static const struct {
        long magic;
        const char *name;
    } types[] = {{0xEF53, "ext"},         {0x58465342, "xfs"},    {0x01021994, "tmpfs"},
                 {0x6969, "nfs"},         {0x0BD00BD0, "lustre"}, {0x9123683E, "btrfs"},
                 {0x794c7630, "overlay"}, {0x47504653, "gpfs"},   {0x19830326, "beegfs"},
                 {0x00C36400, "ceph"},    {0x65735546, "fuse"},   {0x2FC12FC1, "zfs"}};
    for (size_t i = 0; i < sizeof(types) / sizeof(types[0]); i++) {
        if (types[i].magic == magic)
            return types[i].name;
    }
    return "another type";
}

static void check_type(struct doctor *doctor, struct doctor_result *out)
{
    struct statfs info;
    if (no_scratch(doctor, out))
        return;
    if (statfs(doctor->directory, &info) != 0) {
        doctor_say(out, DOCTOR_WARN, "its type is unknown: %s", strerror(errno));
        return;
    }
    const char *name = type_name((long)info.f_type);
    doctor_say(out, DOCTOR_OK, "'%s' is on %s", doctor->directory, name);
    if (strcmp(name, "tmpfs") == 0) {
        out->level = DOCTOR_WARN;
        doctor_fix(out, "it is memory: everything is lost with the machine; use a disk with --dir");
    }
}

static int create(const char *path, bool exclusive)
{
    struct fs *fs = fs_system();
    int handle;
    const int rc = fs->ops->create(fs->state, path, exclusive, &handle);
    return rc ? rc : fs->ops->close(fs->state, handle);
}

static void check_exclusive(struct doctor *doctor, struct doctor_result *out)
{
    if (no_scratch(doctor, out))
        return;
    char *path = fs_join(doctor->scratch, "exclusive");
    const int first = create(path, true), second = create(path, true);
    if (first != 0) {
        doctor_say(out, DOCTOR_FAIL, "cannot create a file: %s", strerror(-first));
        doctor_fix(out, "free space or inodes, or name another directory with --dir");
    } else if (second != -EEXIST) {
        doctor_say(out, DOCTOR_FAIL, "a file was created exclusively twice");
        doctor_fix(out, "jobs cannot share work there: use generate --claims off, or another file "
                        "system");
    } else {
        doctor_say(out, DOCTOR_OK, "exclusive creation works");
    }
    free(path);
}

// All ranks at once, one file: exactly one may win.
static void check_race(struct doctor *doctor, struct doctor_result *out)
{
    enum { ROUNDS = 5 };
    struct error err;
    int64_t wins[ROUNDS] = {0};
    if (group_size(doctor->group) == 1) {
        doctor_say(out, DOCTOR_OK, "one rank: start it with mpirun over several nodes to try them");
        return;
    }
    char token[32];
    snprintf(token, sizeof(token), "%d", (int)getpid());
    (void)group_broadcast(doctor->group, token, sizeof(token), 0, &err);
    for (int i = 0; i < ROUNDS; i++) {
        char *path = mem_printf("%s/.memo-doctor-race-%s-%d", doctor->directory, token, i);
        (void)group_barrier(doctor->group, &err);
        wins[i] = create(path, true) == 0;
        (void)group_barrier(doctor->group, &err);
        if (wins[i])
            unlink(path);
        free(path);
    }
    if (group_all_reduce_i64(doctor->group, wins, ROUNDS, &err)) {
        doctor_say(out, DOCTOR_FAIL, "%s", err.text);
        return;
    }
    for (int i = 0; i < ROUNDS; i++) {
        if (wins[i] != 1) {
            doctor_say(out, DOCTOR_FAIL, "%lld ranks created the same file", (long long)wins[i]);
            doctor_fix(out,
                       "all ranks must see one file system that honours O_EXCL: is '%s' local "
                       "to each node?",
                       doctor->directory);
            return;
        }
    }
    doctor_say(out, DOCTOR_OK, "of %d ranks one wins each time", group_size(doctor->group));
}

static void check_rename(struct doctor *doctor, struct doctor_result *out)
{
    struct fs *fs = fs_system();
    if (no_scratch(doctor, out))
        return;
    char *a = fs_join(doctor->scratch, "a"), *b = fs_join(doctor->scratch, "b");
    int rc = create(a, false);
    rc = rc ? rc : create(b, false);
    const int renamed = rc ? rc : fs->ops->rename(fs->state, a, b, false);
    if (renamed == -EEXIST) {
        doctor_say(out, DOCTOR_OK, "renaming without replacing works");
    } else {
        doctor_say(out, DOCTOR_FAIL,
                   "renaming onto a file that exists: %s, not refused as it should",
                   renamed ? strerror(-renamed) : "it was replaced");
        doctor_fix(out, "use a file system with RENAME_NOREPLACE or hard links");
    }
    free(a);
    free(b);
}

static void check_sync(struct doctor *doctor, struct doctor_result *out)
{
    struct error err;
    char bytes[4096];
    if (no_scratch(doctor, out))
        return;
    memset(bytes, 'x', sizeof(bytes));
    char *path = fs_join(doctor->scratch, "synced");
    const double begin = clock_seconds();
    const int rc = fs_write_text(fs_system(), path, bytes, sizeof(bytes), &err);
    const double seconds = clock_seconds() - begin;
    if (rc != 0) {
        doctor_say(out, DOCTOR_FAIL, "%s", err.text);
        doctor_fix(out, "nothing can be made durable there: free space, or use another --dir");
    } else if (seconds > SLOW_SYNC_SECONDS) {
        doctor_say(out, DOCTOR_WARN, "making one small file durable takes %.2f s", seconds);
        doctor_fix(out, "commit less often: generate --commit-seconds 300");
    } else {
        doctor_say(out, DOCTOR_OK, "a small file is durable after %.1f ms", seconds * 1e3);
    }
    free(path);
}

static int write_segment(const char *directory, struct error *err)
{
    struct segment segment;
    struct segment_writer *writer = segment_writer_create();
    const struct reflection_task row = {.outcome = TASK_EMPTY, .reason = ""};
    char *path = fs_join(directory, "segment.h5");
    int rc = segment_writer_add(writer, &row, NULL, 0, err) ||
                     segment_writer_commit(writer, fs_system(), directory, "segment", err) ||
                     segment_open(fs_system(), path, &segment, err)
                 ? -1
                 : 0;
    if (rc == 0)
        segment_close(&segment);
    segment_writer_destroy(writer);
    free(path);
    return rc;
}

static void check_hdf5(struct doctor *doctor, struct doctor_result *out)
{
    struct error err;
    if (no_scratch(doctor, out))
        return;
    if (write_segment(doctor->scratch, &err)) {
        doctor_say(out, DOCTOR_FAIL, "%s", err.text);
        doctor_fix(out, "a segment cannot be written and read back: look at the HDF5 library (ldd) "
                        "and the space");
        return;
    }
    doctor_say(out, DOCTOR_OK, "a segment is written, verified and read back");
}

static void check_space(struct doctor *doctor, struct doctor_result *out)
{
    struct statvfs disk;
    if (statvfs(doctor->directory, &disk) != 0) {
        doctor_say(out, DOCTOR_FAIL, "'%s': %s", doctor->directory, strerror(errno));
        doctor_fix(out, "name a directory that exists: --dir");
        return;
    }
    const double bytes = (double)disk.f_bavail * (double)disk.f_frsize;
    const enum doctor_level level = bytes < LEAST_BYTES ? DOCTOR_FAIL
                                    : bytes < FEW_BYTES ? DOCTOR_WARN
                                                        : DOCTOR_OK;
    doctor_say(out, level, "%.1f GB are free", bytes / 1e9);
    if (level != DOCTOR_OK)
        doctor_fix(out, "free some; memo plan says what a run takes (quota may be less: lfs quota, "
                        "quota -s)");
}

static void check_inodes(struct doctor *doctor, struct doctor_result *out)
{
    struct statvfs disk;
    if (statvfs(doctor->directory, &disk) != 0 || disk.f_files == 0) {
        doctor_say(out, DOCTOR_OK, "the file system does not count inodes");
        return;
    }
    const double inodes = (double)disk.f_favail;
    const enum doctor_level level = inodes < LEAST_INODES ? DOCTOR_FAIL
                                    : inodes < FEW_INODES ? DOCTOR_WARN
                                                          : DOCTOR_OK;
    doctor_say(out, level, "%.0f inodes are free", inodes);
    if (level != DOCTOR_OK)
        doctor_fix(out,
                   "remove small files; memo compact folds segments into few; commit less often");
}

static void check_clock(struct doctor *doctor, struct doctor_result *out)
{
    struct fs *fs = fs_system();
    struct fs_info info;
    struct timespec now;
    if (no_scratch(doctor, out))
        return;
    char *path = fs_join(doctor->scratch, "clock");
    int rc = create(path, false);
    clock_gettime(CLOCK_REALTIME, &now);
    rc = rc ? rc : fs->ops->stat(fs->state, path, &info);
    free(path);
    if (rc != 0) {
        doctor_say(out, DOCTOR_FAIL, "cannot create a file: %s", strerror(-rc));
        doctor_fix(out, "free space or inodes");
        return;
    }
    const double skew =
        (double)(info.modified_ns - (int64_t)now.tv_sec * 1000000000 - now.tv_nsec) * 1e-9;
    const enum doctor_level level = fabs(skew) > MOST_SKEW_SECONDS ? DOCTOR_FAIL
                                    : fabs(skew) > SKEW_SECONDS    ? DOCTOR_WARN
                                                                   : DOCTOR_OK;
    doctor_say(out, level, "the file server's clock differs by %.2f s", skew);
    if (level != DOCTOR_OK)
        doctor_fix(out, "let this machine follow the same time server (chronyc tracking)");
}

// What rank 0 writes, the others must see.
static void check_visible(struct doctor *doctor, struct doctor_result *out)
{
    struct error err;
    char path[512] = "";
    if (group_size(doctor->group) == 1) {
        doctor_say(out, DOCTOR_OK, "one rank: start it with mpirun over several nodes to try them");
        return;
    }
    if (group_rank(doctor->group) == 0 && doctor->scratch) {
        snprintf(path, sizeof(path), "%s/seen", doctor->scratch);
        (void)create(path, false);
    }
    (void)group_broadcast(doctor->group, path, sizeof(path), 0, &err);
    const double begin = clock_seconds();
    bool seen = false;
    while (!(seen = path[0] && fs_exists(fs_system(), path)) &&
           clock_seconds() - begin < SEEN_SECONDS)
        usleep(10000);
    const double seconds = clock_seconds() - begin;
    (void)group_barrier(doctor->group, &err);
    if (!seen) {
        doctor_say(out, DOCTOR_FAIL, "what rank 0 wrote in '%s' is not there after %.0f s",
                   doctor->directory, SEEN_SECONDS);
        doctor_fix(out,
                   "all ranks must see one shared file system: name a directory on it with --dir");
    } else if (seconds > SKEW_SECONDS) {
        doctor_say(out, DOCTOR_WARN, "what rank 0 writes is seen after %.1f s", seconds);
        doctor_fix(out,
                   "attributes are cached for long: mount with a smaller acdirmax, or expect group "
                   "tasks to wait");
    } else {
        doctor_say(out, DOCTOR_OK, "every rank sees what rank 0 writes");
    }
}

const struct doctor_check doctor_file_checks[] = {
    {"file system", check_type},
    {"O_EXCL", check_exclusive},
    {"O_EXCL among ranks", check_race},
    {"rename", check_rename},
    {"fsync", check_sync},
    {"HDF5", check_hdf5},
    {"disk space", check_space},
    {"inodes", check_inodes},
    {"clock", check_clock},
    {"shared view", check_visible},
    {NULL, NULL},
};

static void check_files_limit(struct doctor *doctor, struct doctor_result *out)
{
    struct rlimit limit = {0};
    (void)doctor;
    (void)getrlimit(RLIMIT_NOFILE, &limit);
    const bool few = limit.rlim_cur < FEW_FILES;
    doctor_say(out,
               !few                             ? DOCTOR_OK
               : limit.rlim_cur < FEW_FILES / 8 ? DOCTOR_FAIL
                                                : DOCTOR_WARN,
               "%llu open files are allowed", (unsigned long long)limit.rlim_cur);
    if (few)
        doctor_fix(out, "ulimit -n %d in the batch script%s", 4 * FEW_FILES,
                   limit.rlim_max < FEW_FILES ? "; the hard limit forbids it: ask the administrator"
                                              : "");
}

static void check_memory_limits(struct doctor *doctor, struct doctor_result *out)
{
    struct rlimit space = {0}, locked = {0}, stack = {0};
    (void)doctor;
    (void)getrlimit(RLIMIT_AS, &space);
    (void)getrlimit(RLIMIT_MEMLOCK, &locked);
    (void)getrlimit(RLIMIT_STACK, &stack);
    if (space.rlim_cur != RLIM_INFINITY) {
        doctor_say(out, DOCTOR_WARN, "the address space is limited to %.1f GB",
                   (double)space.rlim_cur / 1e9);
        doctor_fix(out, "ulimit -v unlimited: CUDA and mapped models reserve more than they use");
    } else if (stack.rlim_cur < (1u << 20)) {
        doctor_say(out, DOCTOR_WARN, "stacks are limited to %llu KiB",
                   (unsigned long long)stack.rlim_cur >> 10);
        doctor_fix(out, "ulimit -s 8192");
    } else if (access("/sys/class/infiniband", F_OK) == 0 && locked.rlim_cur < (1u << 30)) {
        doctor_say(out, DOCTOR_WARN,
                   "only %llu KiB of memory may be locked, and there is InfiniBand",
                   (unsigned long long)locked.rlim_cur >> 10);
        doctor_fix(out, "ulimit -l unlimited (LimitMEMLOCK of slurmd): RDMA needs it");
    } else {
        doctor_say(out, DOCTOR_OK, "address space, stack and locked memory are enough");
    }
}

static void check_processors(struct doctor *doctor, struct doctor_result *out)
{
    const int allowed = compute_processors();
    const long there = sysconf(_SC_NPROCESSORS_ONLN);
    const int ranks = group_local_size(doctor->group);
    const bool bound = allowed == 1 && there > ranks;
    doctor_say(out, bound ? DOCTOR_WARN : DOCTOR_OK,
               "%d of %ld processors for this process, %d ranks on its host", allowed, there,
               ranks);
    if (bound)
        doctor_fix(out, "a rank is bound to one processor: mpirun --bind-to none (or --map-by "
                        "numa:PE=N), srun --cpu-bind=none");
}

static void check_gpus(struct doctor *doctor, struct doctor_result *out)
{
    (void)doctor;
    const bool device = access("/dev/nvidia0", F_OK) == 0 || access("/dev/nvidiactl", F_OK) == 0;
    void *driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
    void *nccl = dlopen("libnccl.so.2", RTLD_LAZY | RTLD_LOCAL);
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    if (!device) {
        doctor_say(out, DOCTOR_OK, "no GPU is visible here: runs compute on the processors");
    } else if (!driver) {
        doctor_say(out, DOCTOR_FAIL, "there is a GPU, but no driver library libcuda.so.1");
        doctor_fix(out,
                   "install the driver, or load its module; in a container start it with --nv or "
                   "--gpus all");
    } else if (visible && !visible[0]) {
        doctor_say(out, DOCTOR_WARN, "CUDA_VISIBLE_DEVICES is empty: this process sees no GPU");
        doctor_fix(out, "ask Slurm for GPUs (--gpus-per-task or --gres), or unset it");
    } else if (!nccl) {
        doctor_say(out, DOCTOR_WARN,
                   "a GPU and its driver, but no libnccl.so.2: no training over "
                   "several GPUs");
        doctor_fix(out, "load a module of NCCL, or put it on LD_LIBRARY_PATH");
    } else {
        doctor_say(out, DOCTOR_OK, "a GPU, its driver and NCCL%s%s",
                   visible ? ", CUDA_VISIBLE_DEVICES=" : "", visible ? visible : "");
    }
    if (driver)
        dlclose(driver);
    if (nccl)
        dlclose(nccl);
}

const struct doctor_check doctor_machine_checks[] = {
    {"processors", check_processors},
    {"GPUs and NCCL", check_gpus},
    {"open files", check_files_limit},
    {"memory limits", check_memory_limits},
    {NULL, NULL},
};
