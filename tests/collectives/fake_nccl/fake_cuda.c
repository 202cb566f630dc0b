// SPDX-License-Identifier: Apache-2.0
// Streams and events in threads of the host. A stream is a queue and one thread that empties it; an
// event counts how often it was recorded and how often that point was reached.
//     FAKE_CUDA_FIRST  number of the machine's GPU that this process sees as ordinal 0
#include "base/mem.h"

#include <cuda_runtime.h>

#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

enum { TASK_CALL, TASK_RECORD, TASK_WAIT, TASK_END };

struct task {
    struct task *next;
    int kind;
    void (*function)(void *);
    void *argument;
    struct fake_event *event;
    unsigned count; // of the event's records
};

struct fake_event { // all under the mutex
    unsigned recorded, reached;
    unsigned pending; // tasks that still use it
    bool destroyed;
};

struct fake_stream {
    pthread_t thread;
    struct task *first, **last;
};

// One lock for all: tests have a handful of streams.
static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;
static int running; // threads of streams

static struct task *take(struct fake_stream *stream)
{
    while (stream->first == NULL) {
        pthread_cond_wait(&changed, &mutex);
    }
    struct task *task = stream->first;
    stream->first = task->next;
    if (stream->first == NULL) {
        stream->last = &stream->first;
    }
    return task;
}

static void event_release(struct fake_event *event)
{
    if (event->destroyed && event->pending == 0) {
        free(event);
    }
}

static void perform(struct task *task)
{
    if (task->kind == TASK_CALL) {
        pthread_mutex_unlock(&mutex);
        task->function(task->argument);
        pthread_mutex_lock(&mutex);
    }
    if (task->kind == TASK_RECORD && task->event->reached < task->count) {
        task->event->reached = task->count;
        pthread_cond_broadcast(&changed);
    }
    while (task->kind == TASK_WAIT && task->event->reached < task->count) {
        pthread_cond_wait(&changed, &mutex);
    }
    if (task->event != NULL) {
        task->event->pending--;
        event_release(task->event);
    }
}

static void *run(void *argument)
{
    struct fake_stream *stream = argument;
    bool end = false;
    pthread_mutex_lock(&mutex);
    while (!end) {
        struct task *task = take(stream);
        perform(task);
        end = task->kind == TASK_END;
        free(task);
    }
    running--;
    pthread_cond_broadcast(&changed);
    pthread_mutex_unlock(&mutex);
    free(stream);
    return NULL;
}

static void enqueue(struct fake_stream *stream, struct task task)
{
    if (task.event != NULL) {
        task.event->pending++;
    }
    struct task *copy = mem_dup(&task, sizeof(task));
    *stream->last = copy;
    stream->last = &copy->next;
    pthread_cond_broadcast(&changed);
}

const char *cudaGetErrorString(cudaError_t status)
{
    return status == cudaErrorNotReady ? "device not ready" : "fake error";
}

const char *cudaGetErrorName(cudaError_t status)
{
    return status == cudaErrorNotReady ? "cudaErrorNotReady" : "cudaErrorInvalidValue";
}

cudaError_t cudaSetDevice(int ordinal)
{
    return ordinal >= 0 ? cudaSuccess : cudaErrorInvalidValue;
}

static int gpu_number(int ordinal)
{
    const char *first = getenv("FAKE_CUDA_FIRST");
    return 1 + ordinal + (first ? atoi(first) : 0);
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *out, int ordinal)
{
    *out = (struct cudaDeviceProp){0};
    out->uuid.bytes[15] = (char)gpu_number(ordinal);
    return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char *out, int bytes, int ordinal)
{
    snprintf(out, (size_t)bytes, "0000:%02x:00.0", gpu_number(ordinal));
    return cudaSuccess;
}

cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest)
{
    *least = 0;
    *greatest = -5;
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t *out, unsigned flags, int priority)
{
    (void)flags, (void)priority;
    struct fake_stream *stream = mem_calloc(1, sizeof(*stream));
    stream->last = &stream->first;
    *out = stream;
    pthread_mutex_lock(&mutex);
    running++;
    pthread_mutex_unlock(&mutex);
    return pthread_create(&stream->thread, NULL, run, stream) == 0 ? cudaSuccess
                                                                   : cudaErrorInvalidValue;
}

void fake_cuda_await_end(void)
{
    pthread_mutex_lock(&mutex);
    while (running > 0) {
        pthread_cond_wait(&changed, &mutex);
    }
    pthread_mutex_unlock(&mutex);
}

// Returns at once; what is in the stream goes on.
cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    pthread_mutex_lock(&mutex);
    pthread_detach(stream->thread);
    enqueue(stream, (struct task){.kind = TASK_END});
    pthread_mutex_unlock(&mutex);
    return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags)
{
    (void)flags;
    pthread_mutex_lock(&mutex);
    enqueue(stream, (struct task){.kind = TASK_WAIT, .event = event, .count = event->recorded});
    pthread_mutex_unlock(&mutex);
    return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags)
{
    (void)flags;
    *event = mem_calloc(1, sizeof(**event));
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    pthread_mutex_lock(&mutex);
    event->destroyed = true;
    event_release(event);
    pthread_mutex_unlock(&mutex);
    return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    pthread_mutex_lock(&mutex);
    event->recorded++;
    enqueue(stream, (struct task){.kind = TASK_RECORD, .event = event, .count = event->recorded});
    pthread_mutex_unlock(&mutex);
    return cudaSuccess;
}

cudaError_t cudaEventQuery(cudaEvent_t event)
{
    pthread_mutex_lock(&mutex);
    const bool reached = event->reached >= event->recorded;
    pthread_mutex_unlock(&mutex);
    return reached ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, void (*function)(void *), void *argument)
{
    pthread_mutex_lock(&mutex);
    enqueue(stream, (struct task){.kind = TASK_CALL, .function = function, .argument = argument});
    pthread_mutex_unlock(&mutex);
    return cudaSuccess;
}
