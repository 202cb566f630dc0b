// SPDX-License-Identifier: Apache-2.0
// Frames of engine_message.h over a non-blocking stream socket. Nothing here waits. What is read
// ahead is bounded: at most STREAM_READ_LIMIT bytes, or one frame that is longer. What is to be
// sent is kept until the peer takes it; who sends looks at frame_stream_unsent first.
#ifndef MEMO_WORKER_FRAME_STREAM_H
#define MEMO_WORKER_FRAME_STREAM_H

#include "base/error.h"
#include "base/strbuf.h"
#include "worker/supervisor/engine_message.h"

#include <stdbool.h>
#include <stddef.h>

#define STREAM_READ_LIMIT ((size_t)1 << 20)
#define STREAM_UNSENT_LIMIT ((size_t)1 << 20) // then a sender pauses

struct frame_stream {
    int fd;           // -1: closed
    bool ended;       // end of file; what was read before is still there
    struct strbuf in; // [taken, length) is not yet decoded
    size_t taken;
    struct strbuf out; // [sent, length) is not yet written
    size_t sent;
};

// fd becomes the stream's, and non-blocking.
int frame_stream_open(struct frame_stream *stream, int fd, struct error *err);
void frame_stream_close(struct frame_stream *stream);

void frame_stream_send(struct frame_stream *stream, const struct engine_message *message);
void frame_stream_send_frame(struct frame_stream *stream, const struct strbuf *frame);
size_t frame_stream_unsent(const struct frame_stream *stream);

// Writes and reads what can be without waiting. A peer that is gone is no error: stream->ended.
int frame_stream_pump(struct frame_stream *stream, struct error *err);

// 1: *out is the next message, valid until the next call of this or of pump; 0: none is whole yet.
int frame_stream_next(struct frame_stream *stream, struct engine_message *out, struct error *err);

#endif
