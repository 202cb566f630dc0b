// SPDX-License-Identifier: Apache-2.0
// A fuzz target is one function over bytes, in a file of its own. With Clang's -fsanitize=fuzzer it
// can be linked as it is; here fuzz_main.c feeds it seeded mutations of sample files, under
// whatever sanitizers the build has.
#ifndef MEMO_TESTS_FUZZ_FUZZ_H
#define MEMO_TESTS_FUZZ_FUZZ_H

#include <stddef.h>
#include <stdint.h>

// Returns 0. Whatever the bytes are, it neither crashes nor leaks; a target asserts what must hold
// when they parse.
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#endif
