// SPDX-License-Identifier: Apache-2.0
// Counts what kernels ask of memory while the emulator runs them. The kernels are compiled with
// -fsanitize=thread, whose callbacks (__tsan_read4 and so on) tell address, size and instruction of
// every access; traffic.cpp supplies them. What is not memory of cudaMalloc (stacks, arguments) is
// left out.
//
// What the hardware does, as far as it is counted (CUDA C++ Best Practices Guide, "Coalesced Access
// to Global Memory" and "Shared Memory and Memory Banks"; CUDA C++ Programming Guide, "Compute
// Capability 9.0"; Nsight Compute's documentation, "Memory Tables"):
//   - the lanes of a warp that execute one instruction make one request;
//   - a request to global memory moves the sectors, 32 bytes each and aligned, that its lanes
//     touch, each once; four sectors are a line of 128 bytes;
//   - shared memory has 32 banks of 4 bytes; a request takes as many wavefronts as the most
//   different
//     words that one bank must give. Accesses of 8 bytes are served by half warps, of 16 bytes by
//     quarters; ldmatrix gives each of its four matrices, eight rows of 16 bytes, one wavefront at
//     best;
//   - cp.async reads global memory and writes shared memory, 16 bytes a lane.
//
// A request is put together from the k-th execution of an instruction by each lane of a warp. Where
// lanes disagree on whether to execute it, that may join what the hardware would not, or part what
// it would join: count kernels whose lanes go together.
//
// The cache: memory behind one of `cache_bytes` that forgets what was used longest ago, blocks run
// one after another. On the device they run at the same time and share the L2 cache: `cache_bytes`
// is the share of one block.
#ifndef MEMO_TESTS_CUDA_EMULATOR_TRAFFIC_H
#define MEMO_TESTS_CUDA_EMULATOR_TRAFFIC_H

#include <stddef.h>
#include <stdint.h>

#include <map>
#include <string>

// Of a kernel, or of one instruction of it.
struct traffic_count {
    uint64_t requests; // to global memory
    uint64_t lanes;    // that took part
    uint64_t asked;    // bytes, of each lane
    uint64_t useful;   // bytes, different ones of a request
    uint64_t sectors;
    uint64_t shared_requests;
    uint64_t wavefronts, wavefronts_at_best;
};

struct traffic_kernel {
    struct traffic_count all;
    std::map<uintptr_t, struct traffic_count> instructions;
    uint64_t launches, blocks, threads;
    uint64_t floor;       // bytes: different ones read, and different ones written, of each launch
    uint64_t moved;       // bytes between cache and memory
    uint64_t from_memory; // of them read
};

typedef std::map<std::string, struct traffic_kernel> traffic_table;

enum { TRAFFIC_SECTOR = 32, TRAFFIC_BANKS = 32, TRAFFIC_BANK_BYTES = 4 };

void traffic_begin(size_t cache_bytes);
traffic_table traffic_end(void); // by kernel, as CUDA_LAUNCH names it

double traffic_efficiency(const struct traffic_count *count); // useful bytes / bytes of the sectors
double traffic_lane_bytes(const struct traffic_count *count); // that a lane asks for at once
double traffic_conflicts(const struct traffic_count *count);  // wavefronts / wavefronts at best

// The source lines that waste most sectors or wavefronts, to stdout.
void traffic_print_worst(const struct traffic_kernel *kernel, size_t limit);

#endif
