// SPDX-License-Identifier: Apache-2.0
#include "cuda_runtime.h"

#include <algorithm>
#include <functional>
#include <stdarg.h>
#include <stdio.h>
#include <sys/mman.h>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
static void fiber_leave(void **fake, const void *stack, size_t bytes)
{
    __sanitizer_start_switch_fiber(fake, stack, bytes);
}
static void fiber_arrive(void *fake, const void **stack, size_t *bytes)
{
    __sanitizer_finish_switch_fiber(fake, stack, bytes);
}
#else
static void fiber_leave(void **, const void *, size_t)
{
}
static void fiber_arrive(void *, const void **, size_t *)
{
}
#endif

enum {
    STACK_BYTES = 256 << 10,
    STACK_COLOURS = 61,
    STACK_COLOUR_BYTES = 832,
    EXCHANGE_BYTES = EMULATOR_EXCHANGE_BYTES,
    WARPS_LIMIT = EMULATOR_THREADS_LIMIT / 32
};

// Switches stacks: saves the registers that a call must preserve (System V ABI) on the present one,
// leaves its pointer in *from and goes on where `to` was left. A hundred times faster than
// swapcontext, which asks the kernel for the signal mask.
#if defined(__x86_64__)
asm(R"(
    .text
    .type emulator_switch, @function
emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size emulator_switch, . - emulator_switch
)");
enum { SAVED_REGISTERS = 6 };
#else
#error "the emulator switches stacks on x86-64 only"
#endif
extern "C" void emulator_switch(void **from, void *to);

enum wait { WAIT_NONE, WAIT_BLOCK, WAIT_WARP, WAIT_END };

struct fiber {
    struct emulated_thread thread;
    void *stack;
    void *top;  // where it was left
    void *fake; // of the sanitizer
    enum wait wait;
    unsigned warp_barriers;
    unsigned mask;    // of the warp operation it waits at
    const char *what; // its name
};

struct warp {
    bool met; // a lane has come to a warp operation since it was looked at
    // Two buffers: a lane may reach the next exchange while others still read this one.
    alignas(16) unsigned char exchanged[2][EMULATOR_WARP][EXCHANGE_BYTES];
};

struct shared_array {
    const char *name;
    struct emulator_shared shared;
};

struct emulated_block {
    struct fiber *fibers;
    unsigned count;
    unsigned barriers;
    unsigned waiting, ended; // at a barrier of the block; for good
    struct warp warps[WARPS_LIMIT];
    unsigned number; // of the launch, from 1
    std::vector<struct shared_array *> shared;
};

struct emulated_thread *emulator_current;
struct emulated_launch emulator_launched;
dim3 emulator_block_index;
const struct emulator_observer *emulator_observed;

static std::vector<struct fiber> fibers;
static std::vector<unsigned> ready; // fibers that can go on, in the order in which they do
static size_t ready_at;             // the one that runs
static std::vector<unsigned> met;   // warps with lanes that have come to a warp operation
static bool from_scheduler;         // whoever goes on now was switched to by it
static struct emulated_block block;
static void *scheduler_top;
static void *scheduler_fake;
static const void *scheduler_stack;
static size_t scheduler_stack_bytes;
static emulator_body launched_body;
static void *launched_arguments;
static char failure[512];
static bool failed;
static enum emulator_order thread_order = EMULATOR_ASCENDING;
static uint64_t random_state = 1;
static bool order_was_set;

void emulator_set_order(enum emulator_order order, uint64_t seed)
{
    thread_order = order;
    random_state = seed | 1;
    order_was_set = true;
}

static uint64_t random_next(void)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state;
}

// --- fibers ---

static struct fiber *current_fiber(void)
{
    return &fibers[emulator_current->number];
}

static void note_wait(struct fiber *fiber, enum wait wait)
{
    const unsigned warp = fiber->thread.number / EMULATOR_WARP;
    fiber->wait = wait;
    block.waiting += wait == WAIT_BLOCK;
    block.ended += wait == WAIT_END;
    if (wait == WAIT_WARP && !block.warps[warp].met) {
        block.warps[warp].met = true;
        met.push_back(warp);
    }
}

static void arrive(void *fake)
{
    const void *stack;
    size_t bytes;
    fiber_arrive(fake, &stack, &bytes);
    if (from_scheduler) {
        scheduler_stack = stack;
        scheduler_stack_bytes = bytes;
    }
}

// To the next fiber that can go on, or back to the scheduler.
static void leave(struct fiber *fiber, enum wait wait)
{
    struct fiber *next = NULL;
    note_wait(fiber, wait);
    if (!failed && ready_at + 1 < ready.size())
        next = &block.fibers[ready[++ready_at]];
    if (next)
        emulator_current = &next->thread;
    from_scheduler = false;
    fiber_leave(&fiber->fake, next ? next->stack : scheduler_stack,
                next ? (size_t)STACK_BYTES : scheduler_stack_bytes);
    emulator_switch(&fiber->top, next ? next->top : scheduler_top);
    arrive(fiber->fake);
}

void emulator_fail(const char *format, ...)
{
    char what[384];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(what, sizeof what, format, arguments);
    va_end(arguments);
    struct fiber *fiber = current_fiber();
    const dim3 at = fiber->thread.index;
    snprintf(failure, sizeof failure, "%s, block (%u, %u, %u), thread (%u, %u, %u): %s",
             emulator_launched.kernel, blockIdx.x, blockIdx.y, blockIdx.z, at.x, at.y, at.z, what);
    failed = true;
    for (;;)
        leave(fiber, WAIT_END);
}

static void fiber_main(void)
{
    arrive(NULL);
    launched_body(launched_arguments);
    for (;;)
        leave(current_fiber(), WAIT_END);
}

static void fiber_prepare(struct fiber *fiber, unsigned number)
{
    const dim3 size = emulator_launched.block;
    if (!fiber->stack)
        fiber->stack = mmap(NULL, STACK_BYTES, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
#if defined(__SANITIZE_ADDRESS__)
    // A launch that failed left its threads in the middle of their functions.
    __asan_unpoison_memory_region(fiber->stack, STACK_BYTES);
#endif
    fiber->thread.block = &block;
    fiber->thread.number = number;
    fiber->thread.index = dim3(number % size.x, number / size.x % size.y, number / size.x / size.y);
    fiber->wait = WAIT_NONE;
    fiber->fake = NULL;
    fiber->warp_barriers = 0;
    // As if fiber_main had been called from nowhere: saved registers, its address, no return.
    // Stacks begin at different distances from a page, or they would all want the same lines of the
    // cache.
    const size_t distance = number % STACK_COLOURS * STACK_COLOUR_BYTES;
    void **top = (void **)((char *)fiber->stack + STACK_BYTES - distance) - 2;
    top[0] = (void *)fiber_main;
    top[1] = NULL;
    fiber->top = top - SAVED_REGISTERS;
    memset(fiber->top, 0, SAVED_REGISTERS * sizeof(void *));
}

// Lets all that are ready go on once, each switching to the next.
static void run_ready(void)
{
    struct fiber *fiber = &block.fibers[ready[0]];
    ready_at = 0;
    emulator_current = &fiber->thread;
    from_scheduler = true;
    fiber_leave(&scheduler_fake, fiber->stack, STACK_BYTES);
    emulator_switch(&scheduler_top, fiber->top);
    fiber_arrive(scheduler_fake, NULL, NULL);
    ready.clear();
}

static void make_ready(struct fiber *fiber)
{
    fiber->wait = WAIT_NONE;
    ready.push_back(fiber->thread.number);
}

// --- meeting points ---

static void release_block(void)
{
    if (block.ended > 0) {
        snprintf(failure, sizeof failure,
                 "%s, block (%u, %u, %u): %u threads wait at __syncthreads, %u have returned",
                 emulator_launched.kernel, blockIdx.x, blockIdx.y, blockIdx.z, block.waiting,
                 block.ended);
        failed = true;
        return;
    }
    block.barriers++;
    block.waiting = 0;
    for (unsigned i = 0; i < block.count; i++)
        make_ready(&block.fibers[i]);
}

static bool same_operation(const struct fiber *a, const struct fiber *b)
{
    return b->wait == WAIT_WARP && a->mask == b->mask &&
           (a->what == b->what || strcmp(a->what, b->what) == 0);
}

// A warp operation happens once all lanes of the mask have come to the same one.
static void release_warp(unsigned warp)
{
    struct fiber *lanes = &block.fibers[warp * EMULATOR_WARP];
    const unsigned left = block.count - warp * EMULATOR_WARP;
    const unsigned count = left < EMULATOR_WARP ? left : (unsigned)EMULATOR_WARP;
    block.warps[warp].met = false;
    for (unsigned i = 0; i < count; i++) {
        if (lanes[i].wait != WAIT_WARP)
            continue;
        const unsigned mask = lanes[i].mask;
        bool all = true;
        for (unsigned j = 0; j < count && all; j++)
            all = !(mask >> j & 1) || same_operation(&lanes[i], &lanes[j]);
        for (unsigned j = 0; j < count && all; j++)
            if (mask >> j & 1) {
                lanes[j].warp_barriers++;
                make_ready(&lanes[j]);
            }
    }
}

static void release_warps(void)
{
    for (unsigned warp : met)
        release_warp(warp);
    met.clear();
}

void __syncthreads(void)
{
    leave(current_fiber(), WAIT_BLOCK);
}

static void meet_warp(unsigned mask, const char *what)
{
    struct fiber *fiber = current_fiber();
    if (!(mask >> fiber->thread.number % EMULATOR_WARP & 1))
        emulator_fail("%s with a mask %08x that leaves this lane out", what, mask);
    fiber->mask = mask;
    fiber->what = what;
    leave(fiber, WAIT_WARP);
}

void __syncwarp(unsigned mask)
{
    meet_warp(mask, "__syncwarp");
}

unsigned char (*emulator_slots(void))[EXCHANGE_BYTES]
{
    const struct fiber *fiber = current_fiber();
    struct warp *warp = &block.warps[fiber->thread.number / EMULATOR_WARP];
    return warp->exchanged[fiber->warp_barriers % 2];
}

void emulator_meet(unsigned mask, const char *what)
{
    meet_warp(mask, what);
}

const void *emulator_exchange(unsigned mask, const void *value, size_t bytes, const char *what)
{
    unsigned char(*slots)[EXCHANGE_BYTES] = emulator_slots();
    if (bytes > EXCHANGE_BYTES)
        emulator_fail("%s of %zu bytes", what, bytes);
    memcpy(slots[emulator_current->number % EMULATOR_WARP], value, bytes);
    meet_warp(mask, what);
    return slots;
}

const void *emulator_lane(const void *exchanged, unsigned lane)
{
    return (const unsigned char *)exchanged + lane * EXCHANGE_BYTES;
}

unsigned __ballot_sync(unsigned mask, int predicate)
{
    const void *all = emulator_exchange(mask, &predicate, sizeof predicate, "__ballot_sync");
    unsigned out = 0;
    for (unsigned lane = 0; lane < EMULATOR_WARP; lane++) {
        int value;
        memcpy(&value, emulator_lane(all, lane), sizeof value);
        out |= (mask >> lane & 1) && value ? 1u << lane : 0;
    }
    return out;
}

// --- shared memory ---

static struct shared_array *find_array(const char *name)
{
    for (struct shared_array *array : block.shared)
        if (array->name == name)
            return array;
    for (struct shared_array *array : block.shared)
        if (strcmp(array->name, name) == 0)
            return array;
    return NULL;
}

// Kept from block to block: what an element was in another one counts no more.
static struct shared_array *new_array(const char *name, size_t count, size_t element_bytes)
{
    struct shared_array *array = new shared_array();
    array->name = name;
    array->shared = {malloc(count * element_bytes + 1),
                     (struct emulator_element *)calloc(count + 1, sizeof(struct emulator_element)),
                     count, element_bytes, 0};
    block.shared.push_back(array);
    return array;
}

struct emulator_shared *emulator_shared_array(const char *name, size_t count, size_t element_bytes)
{
    struct shared_array *array = find_array(name);
    if (!array)
        array = new_array(name, count, element_bytes);
    struct emulator_shared *shared = &array->shared;
    if (shared->count != count || shared->element_bytes != element_bytes)
        emulator_fail("shared array '%s' of %zu elements has two shapes", name, count);
    if (shared->block != block.number) {
        shared->block = block.number;
        memset(shared->data, 0xff, count * element_bytes); // NaN
    }
    return shared;
}

static void free_shared(void)
{
    for (struct shared_array *array : block.shared) {
        free(array->shared.data);
        free(array->shared.elements);
        delete array;
    }
    block.shared.clear();
}

// True when a barrier lies between the touch and now, or both are the same thread's.
static bool ordered(const struct emulator_touch *touch)
{
    const struct fiber *fiber = current_fiber();
    const int number = (int)fiber->thread.number;
    if (touch->thread < 0 || touch->thread == number || touch->block_barriers != block.barriers)
        return true;
    return touch->thread / EMULATOR_WARP == number / EMULATOR_WARP &&
           touch->warp_barriers != fiber->warp_barriers;
}

static struct emulator_touch touch_now(void)
{
    return (struct emulator_touch){(int)emulator_current->number, block.barriers,
                                   current_fiber()->warp_barriers};
}

static struct emulator_element *find_element(struct emulator_shared *shared, ptrdiff_t i)
{
    if (i < 0 || (size_t)i >= shared->count)
        emulator_fail("element %td of a shared array of %zu", i, shared->count);
    struct emulator_element *element = &shared->elements[i];
    if (element->block != block.number) {
        *element = {};
        element->write.thread = element->read.thread = -1;
        element->block = block.number;
    }
    return element;
}

static void observe_shared(const void *at, const struct emulator_shared *shared, ptrdiff_t i,
                           bool write)
{
    if (emulator_observed)
        emulator_observed->shared(at, (size_t)i * shared->element_bytes, shared->element_bytes,
                                  write);
}

void emulator_shared_read(struct emulator_shared *shared, ptrdiff_t i)
{
    struct emulator_element *element = find_element(shared, i);
    if (element->write.thread < 0)
        emulator_fail("reads element %td of shared memory, which nobody wrote", i);
    if (!ordered(&element->write))
        emulator_fail("reads element %td of shared memory, which thread %d wrote since the last "
                      "barrier",
                      i, element->write.thread);
    const bool same_epoch =
        element->read.thread >= 0 && element->read.block_barriers == block.barriers;
    element->read_by_several =
        same_epoch &&
        (element->read_by_several || element->read.thread != (int)emulator_current->number);
    element->read = touch_now();
    observe_shared(__builtin_return_address(0), shared, i, false);
}

void emulator_shared_write(struct emulator_shared *shared, ptrdiff_t i)
{
    struct emulator_element *element = find_element(shared, i);
    if (!ordered(&element->write))
        emulator_fail("writes element %td of shared memory, which thread %d wrote since the last "
                      "barrier",
                      i, element->write.thread);
    if (!ordered(&element->read) ||
        (element->read_by_several && element->read.block_barriers == block.barriers &&
         element->read.warp_barriers == current_fiber()->warp_barriers))
        emulator_fail("writes element %td of shared memory, which thread %d read since the last "
                      "barrier",
                      i, element->read.thread);
    element->write = touch_now();
    element->atomic = false;
    observe_shared(__builtin_return_address(0), shared, i, true);
}

void emulator_shared_atomic(struct emulator_shared *shared, ptrdiff_t i)
{
    struct emulator_element *element = find_element(shared, i);
    if (element->write.thread < 0)
        emulator_fail("adds to element %td of shared memory, which nobody wrote", i);
    if (!element->atomic && !ordered(&element->write))
        emulator_fail("adds to element %td of shared memory, which thread %d wrote since the last "
                      "barrier",
                      i, element->write.thread);
    if (!ordered(&element->read))
        emulator_fail("adds to element %td of shared memory, which thread %d read since the last "
                      "barrier",
                      i, element->read.thread);
    element->write = touch_now();
    element->atomic = true;
    observe_shared(__builtin_return_address(0), shared, i, true);
}

// --- launches ---

static void order_ready(void)
{
    switch (thread_order) {
    case EMULATOR_ASCENDING:
        if (!std::is_sorted(ready.begin(), ready.end()))
            std::sort(ready.begin(), ready.end());
        return;
    case EMULATOR_DESCENDING:
        std::sort(ready.begin(), ready.end(), std::greater<unsigned>());
        return;
    case EMULATOR_RANDOM:
        for (size_t i = ready.size(); i > 1; i--)
            std::swap(ready[i - 1], ready[(size_t)((random_next() >> 32) * i >> 32)]);
    }
}

static bool anyone(enum wait wait)
{
    for (unsigned i = 0; i < block.count; i++)
        if (block.fibers[i].wait == wait)
            return true;
    return false;
}

static void prepare_block(void)
{
    block.number++;
    block.barriers = block.waiting = block.ended = 0;
    ready.clear();
    met.clear();
    emulator_forget_copies();
    for (unsigned i = 0; i < WARPS_LIMIT; i++)
        block.warps[i].met = false;
    for (unsigned i = 0; i < block.count; i++) {
        fiber_prepare(&block.fibers[i], i);
        ready.push_back(i);
    }
}

static void run_block(void)
{
    prepare_block();
    while (!failed) {
        if (!ready.empty()) {
            order_ready();
            run_ready();
            release_warps();
        } else if (anyone(WAIT_WARP)) {
            snprintf(failure, sizeof failure,
                     "%s, block (%u, %u, %u): threads wait at a warp operation that others of "
                     "their mask never reach",
                     emulator_launched.kernel, blockIdx.x, blockIdx.y, blockIdx.z);
            failed = true;
        } else if (block.waiting > 0) {
            release_block();
        } else {
            break;
        }
    }
}

// MEMO_EMULATOR_ORDER, unless the test chose.
static void find_order(void)
{
    const char *order = getenv("MEMO_EMULATOR_ORDER");
    if (order_was_set)
        return;
    if (order && strcmp(order, "descending") == 0)
        emulator_set_order(EMULATOR_DESCENDING, 0);
    else if (order && strcmp(order, "random") == 0)
        emulator_set_order(EMULATOR_RANDOM, 20260101);
    else
        emulator_set_order(EMULATOR_ASCENDING, 0);
}

void emulator_run(const char *kernel, dim3 grid, dim3 size, size_t shared_bytes, emulator_body body,
                  void *arguments)
{
    const size_t threads = (size_t)size.x * size.y * size.z;
    if (emulator_error() != cudaSuccess)
        return;
    emulator_note_launch(kernel);
    find_order();
    emulator_launched = (struct emulated_launch){kernel, grid, size, shared_bytes};
    if (threads == 0 || threads > EMULATOR_THREADS_LIMIT || grid.x == 0 || grid.y == 0 ||
        grid.z == 0 || grid.y > 65535 || grid.z > 65535) {
        snprintf(failure, sizeof failure, "%s: a launch of %ux%ux%u blocks of %zu threads", kernel,
                 grid.x, grid.y, grid.z, threads);
        emulator_set_error(cudaErrorLaunchFailure, failure);
        return;
    }
    if (fibers.size() < threads)
        fibers.resize(threads);
    block.fibers = fibers.data();
    block.count = (unsigned)threads;
    launched_body = body;
    launched_arguments = arguments;
    failed = false;
    emulator_open_memory();
    if (emulator_observed)
        emulator_observed->begin_launch(kernel, block.count);
    for (unsigned z = 0; z < grid.z && !failed; z++)
        for (unsigned y = 0; y < grid.y && !failed; y++)
            for (unsigned x = 0; x < grid.x && !failed; x++) {
                emulator_block_index = dim3(x, y, z);
                run_block();
                if (emulator_observed)
                    emulator_observed->end_block();
            }
    free_shared();
    if (emulator_observed)
        emulator_observed->end_launch();
    emulator_close_memory();
    if (failed)
        emulator_set_error(cudaErrorLaunchFailure, failure);
}
