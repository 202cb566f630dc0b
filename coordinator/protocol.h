// SPDX-License-Identifier: Apache-2.0
// Messages between coordinator and agents. One byte of kind, then fields in little-endian order:
//
//     HELLO     u32 version, 16 bytes plan digest,
//               u32 window (at least 1)                           agent -> coordinator
//     LEASE     u32 count, u32 task x count                       coordinator -> agent
//     COMMITTED u32 count, u32 task x count, u64 pairs,
//               u64 tokens, text figures to the end               agent -> coordinator
//     FAILED    u32 task, text reason to the end                  agent -> coordinator
//     DROP      u32 count, u32 task x count                       coordinator -> agent
//     STOP      nothing                                           coordinator -> agent
//     BYE       u8 failed, text reason to the end                 agent -> coordinator
//
// DROP: somebody else's result counts; what is not committed yet need not be.
// COMMITTED is sent only after the segment with these tasks is durable. After STOP an agent commits
// what it has, reports it, says BYE, and sends nothing more.
#ifndef MEMO_COORDINATOR_PROTOCOL_H
#define MEMO_COORDINATOR_PROTOCOL_H

#include "base/error.h"
#include "base/hash.h"
#include "base/strbuf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PROTOCOL_VERSION 2
#define PROTOCOL_MAX_TASKS 65536 // in one message; 256 KiB, well below the transport's limit
#define PROTOCOL_MAX_TEXT 4096

enum message_kind {
    MESSAGE_HELLO = 1,
    MESSAGE_LEASE,
    MESSAGE_COMMITTED,
    MESSAGE_FAILED,
    MESSAGE_STOP,
    MESSAGE_BYE,
    MESSAGE_DROP,
};

struct message {
    enum message_kind kind;
    struct digest plan;
    uint32_t window;
    uint32_t *tasks; // LEASE, COMMITTED, DROP: [count], owned; FAILED: one
    size_t count;
    uint64_t pairs;
    uint64_t tokens;
    bool failed;
    char text[PROTOCOL_MAX_TEXT];
};

void message_encode(const struct message *message, struct strbuf *out); // text is cut to the limit
// On failure there is nothing to release.
int message_decode(const void *bytes, size_t length, struct message *out, struct error *err);
void message_release(struct message *message);

#endif
