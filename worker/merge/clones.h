// SPDX-License-Identifier: Apache-2.0
// Functions marked MERGE_CLONES are compiled for several instruction sets and chosen when the
// program starts. They contain no contraction and no reordering, so that every clone gives the same
// bits.
#ifndef MEMO_WORKER_MERGE_CLONES_H
#define MEMO_WORKER_MERGE_CLONES_H

#if defined(__x86_64__) && defined(__gnu_linux__) && !defined(__SANITIZE_ADDRESS__)
#define MERGE_CLONES __attribute__((target_clones("arch=x86-64-v4", "arch=x86-64-v3", "default")))
#else
#define MERGE_CLONES
#endif

// Parts of such a function: compiled with it, for its instruction set.
#define MERGE_INLINE __attribute__((always_inline)) static inline

#endif
