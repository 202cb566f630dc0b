// SPDX-License-Identifier: Apache-2.0
// Starts several ranks on one machine: the caller forks and becomes rank 0.
//
// A rank that ends says so in the mapping; one that is killed cannot, so rank 0, the parent, asks
// the kernel whenever it has waited for a while.
// Children die with the parent (PR_SET_PDEATHSIG).
#include "base/clock.h"
#include "base/mem.h"
#include "collectives/shm_internal.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SHM_ALIGN 4096
#define SHM_SPINS 200       // some microseconds; longer takes the core from those we wait for
#define SHM_REAP_NS 1000000 // 1 ms: how often the parent, once done, asks after its children
#define SHM_END_SECONDS 5.0 // that children have to end once a rank failed: then they are killed

static void rank_end(struct shm_page *page, int rank, enum shm_end end)
{
    struct shm_rank *self = &page->ranks[rank];
    if (end == SHM_FAILED) {
        int nobody = 0;
        atomic_compare_exchange_strong(&page->first_failed, &nobody, rank + 1);
    }
    atomic_store(&self->end, end);
    shm_wake(&self->arrived);
}

int shm_reap(struct shm_state *state, int size)
{
    int running = 0;
    for (int r = 1; r < size; r++) {
        int status = 0;
        if (state->children[r] == 0) {
            continue;
        }
        if (waitpid(state->children[r], &status, WNOHANG) == 0) {
            running++;
            continue;
        }
        state->children[r] = 0;
        struct shm_rank *child = &state->page->ranks[r];
        if (atomic_load(&child->end) != SHM_RUNNING) {
            continue;
        }
        if (WIFSIGNALED(status)) {
            error_set(&child->failure, "the process was killed by signal %d (%s)", WTERMSIG(status),
                      strsignal(WTERMSIG(status)));
        } else {
            error_set(&child->failure,
                      "the process exited with status %d in the middle of its work",
                      WEXITSTATUS(status));
        }
        rank_end(state->page, r, SHM_FAILED);
    }
    return running;
}

static struct shm_page *page_map(int ranks, size_t *bytes, struct error *err)
{
    // The slots begin at a page of their own, so that a copy into them is aligned.
    size_t head = sizeof(struct shm_page) + (size_t)ranks * sizeof(struct shm_rank);
    head = (head + SHM_ALIGN - 1) / SHM_ALIGN * SHM_ALIGN;
    *bytes = head + (size_t)ranks * 2 * SHM_SLOT_BYTES;
    void *page = mmap(NULL, *bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED) {
        error_set_errno(err, errno, "cannot map %zu bytes of shared memory for %d ranks", *bytes,
                        ranks);
        return NULL;
    }
    return page;
}

// Runs body as one rank and leaves its result in the mapping.
static int rank_run(struct shm_state *state, int rank, int size,
                    int (*body)(struct group *, void *, struct error *), void *context)
{
    struct shm_rank *self = &state->page->ranks[rank];
    struct group *group = group_create(&shm_ops, state, rank, size);
    group->local_rank = rank;
    group->local_size = size;
    int rc = body(group, context, &self->failure);
    rank_end(state->page, rank, rc == 0 ? SHM_DONE : SHM_FAILED);
    group_close(group);
    return rc;
}

static _Noreturn void child_run(struct shm_state *state, int rank, int size, pid_t parent,
                                int (*body)(struct group *, void *, struct error *), void *context)
{
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) { // it died before the line above
        _exit(1);
    }
    int rc = rank_run(state, rank, size, body, context);
    fflush(NULL);
    _exit(rc == 0 ? 0 : 1); // not exit: what the parent registered with atexit is the parent's
}

// Returns 0 when all were started; otherwise the missing ranks are entered as failed, so that those
// which run do not wait for them.
static int children_start(struct shm_state *state, int size,
                          int (*body)(struct group *, void *, struct error *), void *context)
{
    pid_t parent = getpid();
    fflush(NULL); // or every child would print what is still buffered
    for (int r = 1; r < size; r++) {
        pid_t pid = fork();
        if (pid == 0) {
            child_run(state, r, size, parent, body, context);
        }
        if (pid < 0) {
            int cause = errno;
            for (int missing = r; missing < size; missing++) {
                error_set_errno(&state->page->ranks[missing].failure, cause,
                                "cannot start the process");
                rank_end(state->page, missing, SHM_FAILED);
            }
            return -1;
        }
        state->children[r] = pid;
    }
    return 0;
}

// A child that hangs or is stopped would keep the job for ever. Which rank failed first is entered
// already; that of a child which is killed here comes after it.
static void children_kill(const struct shm_state *state, int size)
{
    for (int r = 1; r < size; r++) {
        if (state->children[r] != 0) {
            kill(state->children[r], SIGKILL);
        }
    }
}

static void children_await(struct shm_state *state, int size)
{
    double failed_at = 0;
    while (shm_reap(state, size) > 0) {
        const double now = clock_seconds();
        if (atomic_load(&state->page->first_failed) != 0) {
            failed_at = failed_at == 0 ? now : failed_at;
            if (now - failed_at > SHM_END_SECONDS) {
                children_kill(state, size);
            }
        }
        struct timespec pause = {.tv_nsec = SHM_REAP_NS};
        nanosleep(&pause, NULL);
    }
}

static int result_collect(const struct shm_page *page, int size, struct error *err)
{
    for (int r = 0; r < size; r++) {
        if (atomic_load(&page->ranks[r].end) == SHM_FAILED) {
            *err = page->ranks[r].failure;
            if (r != 0) {
                error_prefix(err, "rank %d", r);
            }
            return -1;
        }
    }
    return 0;
}

int group_run_shm(int ranks, int (*body)(struct group *, void *, struct error *), void *context,
                  struct error *err)
{
    if (ranks < 1 || ranks > SHM_MAX_RANKS) {
        return error_set(err, "%d ranks in shared memory, but 1 to %d are possible", ranks,
                         SHM_MAX_RANKS);
    }
    struct shm_state state = {.children = mem_calloc((size_t)ranks, sizeof(pid_t))};
    int rc = -1;
    size_t bytes = 0;
    state.page = page_map(ranks, &bytes, err);
    if (state.page != NULL) {
        state.slots = (unsigned char *)state.page + bytes - (size_t)ranks * 2 * SHM_SLOT_BYTES;
        state.spins = ranks <= sysconf(_SC_NPROCESSORS_ONLN) ? SHM_SPINS : 0;
        if (children_start(&state, ranks, body, context) == 0) {
            rank_run(&state, 0, ranks, body, context);
        }
        children_await(&state, ranks);
        rc = result_collect(state.page, ranks, err);
        munmap(state.page, bytes);
    }
    free(state.children);
    return rc;
}
