// SPDX-License-Identifier: Apache-2.0
// The few functions of the CUDA runtime that collectives/nccl.c calls, for tests on machines
// without GPU or toolkit: this directory stands in front of the include path. Device memory is the
// host's; a stream is a thread that does one thing after the other (fake_cuda.c).
#ifndef MEMO_TESTS_FAKE_CUDA_RUNTIME_H
#define MEMO_TESTS_FAKE_CUDA_RUNTIME_H

typedef enum {
    cudaSuccess = 0,
    cudaErrorInvalidValue = 1,
    cudaErrorNotReady = 600,
} cudaError_t;

typedef struct fake_stream *cudaStream_t;
typedef struct fake_event *cudaEvent_t;

struct cudaDeviceProp {
    struct {
        char bytes[16];
    } uuid;
};

#define cudaStreamNonBlocking 1u
#define cudaEventDisableTiming 2u

// Other symbols than the real ones, which a build with CUDA links too.
#define cudaGetErrorString fake_cudaGetErrorString
#define cudaGetErrorName fake_cudaGetErrorName
#define cudaSetDevice fake_cudaSetDevice
#define cudaGetDeviceProperties fake_cudaGetDeviceProperties
#define cudaDeviceGetPCIBusId fake_cudaDeviceGetPCIBusId
#define cudaDeviceGetStreamPriorityRange fake_cudaDeviceGetStreamPriorityRange
#define cudaStreamCreateWithPriority fake_cudaStreamCreateWithPriority
#define cudaStreamDestroy fake_cudaStreamDestroy
#define cudaStreamWaitEvent fake_cudaStreamWaitEvent
#define cudaEventCreateWithFlags fake_cudaEventCreateWithFlags
#define cudaEventDestroy fake_cudaEventDestroy
#define cudaEventRecord fake_cudaEventRecord
#define cudaEventQuery fake_cudaEventQuery
#define cudaLaunchHostFunc fake_cudaLaunchHostFunc

const char *cudaGetErrorString(cudaError_t status);
const char *cudaGetErrorName(cudaError_t status);
cudaError_t cudaSetDevice(int ordinal);
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *out, int ordinal);
cudaError_t cudaDeviceGetPCIBusId(char *out, int bytes, int ordinal);
cudaError_t cudaDeviceGetStreamPriorityRange(int *least, int *greatest);
cudaError_t cudaStreamCreateWithPriority(cudaStream_t *stream, unsigned flags, int priority);
cudaError_t cudaStreamDestroy(cudaStream_t stream);
cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned flags);
cudaError_t cudaEventCreateWithFlags(cudaEvent_t *event, unsigned flags);
cudaError_t cudaEventDestroy(cudaEvent_t event);
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream);
cudaError_t cudaEventQuery(cudaEvent_t event);
cudaError_t cudaLaunchHostFunc(cudaStream_t stream, void (*function)(void *), void *argument);

// Until the threads of all streams that were destroyed have ended: a process may fork again.
void fake_cuda_await_end(void);

#endif
