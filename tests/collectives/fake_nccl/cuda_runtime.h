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

#define cudaStreamNonBlocking 1u
#define cudaEventDisableTiming 2u

const char *cudaGetErrorString(cudaError_t status);
const char *cudaGetErrorName(cudaError_t status);
cudaError_t cudaSetDevice(int ordinal);
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

#endif
