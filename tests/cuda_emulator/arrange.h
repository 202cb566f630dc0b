// SPDX-License-Identifier: Apache-2.0
// What tests arrange in the emulated runtime. Errors are numbered as CUDA's.
#ifndef MEMO_TESTS_CUDA_EMULATOR_ARRANGE_H
#define MEMO_TESTS_CUDA_EMULATOR_ARRANGE_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

// The next call of this function of the runtime fails so; NULL: none does. Faults (700 and above)
// stay until the error is taken.
void emulator_fail_next(const char *function, int error);
void emulator_fail_later(const char *function, int error, unsigned calls); // after so many calls
// What the properties of the device say, and how much cudaMalloc gives in all.
void emulator_set_device(int major, int minor, size_t memory_bytes);
void emulator_set_driver(int version); // 1000 major + 10 minor; 0: there is none
unsigned emulator_graph_launches(void);
// Of cuBLASLt, that multiplied last: 1 wants alignment to 16 bytes, 2 to four, 3 to an element's
// size. 0: none since the last question.
uint64_t emulator_last_algorithm(void);

// Kernels, products, copies and fills on the device since the count began, in graphs, too.
void emulator_count_launches(void);
unsigned emulator_launches(void);
void emulator_print_launches(void); // by name

#ifdef __cplusplus
}
#endif

#endif
