// SPDX-License-Identifier: Apache-2.0
// The texts of prompts/, compiled in; a NUL follows each.
#ifndef MEMO_WORKER_EXECUTIVE_PROMPTS_H
#define MEMO_WORKER_EXECUTIVE_PROMPTS_H

#include <stddef.h>

extern const char executive_system[], executive_ground[], executive_identify[], executive_seek[],
    executive_conclude[];
extern const size_t executive_system_bytes, executive_ground_bytes, executive_identify_bytes,
    executive_seek_bytes, executive_conclude_bytes;

#endif
