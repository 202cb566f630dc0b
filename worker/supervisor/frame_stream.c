// SPDX-License-Identifier: Apache-2.0
#include "worker/supervisor/frame_stream.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define READ_BYTES ((size_t)64 << 10) // of one system call

int frame_stream_open(struct frame_stream *stream, int fd, struct error *err)
{
    *stream = (struct frame_stream){.fd = fd};
    const int flags = fcntl(fd, F_GETFL);
    if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0)
        return error_set_errno(err, errno, "the engine's socket");
    return 0;
}

void frame_stream_close(struct frame_stream *stream)
{
    if (stream->fd >= 0)
        close(stream->fd);
    strbuf_release(&stream->in);
    strbuf_release(&stream->out);
    *stream = (struct frame_stream){.fd = -1, .ended = true};
}

void frame_stream_send(struct frame_stream *stream, const struct engine_message *message)
{
    engine_message_encode(message, &stream->out);
}

void frame_stream_send_frame(struct frame_stream *stream, const struct strbuf *frame)
{
    strbuf_add(&stream->out, frame->bytes, frame->length);
}

size_t frame_stream_unsent(const struct frame_stream *stream)
{
    return stream->out.length - stream->sent;
}

static bool peer_is_gone(int errno_value)
{
    return errno_value == EPIPE || errno_value == ECONNRESET;
}

static int write_some(struct frame_stream *stream, struct error *err)
{
    while (frame_stream_unsent(stream) > 0) {
        const ssize_t sent = send(stream->fd, stream->out.bytes + stream->sent,
                                  frame_stream_unsent(stream), MSG_NOSIGNAL);
        if (sent >= 0)
            stream->sent += (size_t)sent;
        else if (errno == EAGAIN || errno == EWOULDBLOCK || peer_is_gone(errno))
            return 0; // reading tells when it is gone
        else if (errno != EINTR)
            return error_set_errno(err, errno, "the engine's socket cannot be written");
    }
    strbuf_reset(&stream->out);
    stream->sent = 0;
    return 0;
}

// Bytes that may lie here unread.
static size_t read_limit(const struct frame_stream *stream)
{
    size_t frame_bytes = 0;
    const size_t there = stream->in.length - stream->taken;
    if (there == 0 ||
        engine_message_head(stream->in.bytes + stream->taken, there, &frame_bytes, NULL) <= 0)
        return STREAM_READ_LIMIT;
    return frame_bytes > STREAM_READ_LIMIT ? frame_bytes : STREAM_READ_LIMIT;
}

static void forget_taken(struct frame_stream *stream)
{
    const size_t left = stream->in.length - stream->taken;
    if (stream->taken == 0)
        return;
    memmove(stream->in.bytes, stream->in.bytes + stream->taken, left);
    stream->in.length = left;
    stream->taken = 0;
}

static int read_some(struct frame_stream *stream, struct error *err)
{
    forget_taken(stream);
    while (!stream->ended && stream->in.length < read_limit(stream)) {
        strbuf_reserve(&stream->in, READ_BYTES);
        const ssize_t got = recv(stream->fd, stream->in.bytes + stream->in.length, READ_BYTES, 0);
        if (got > 0)
            stream->in.length += (size_t)got;
        else if (got == 0 || peer_is_gone(errno))
            stream->ended = true;
        else if (errno == EAGAIN || errno == EWOULDBLOCK)
            return 0;
        else if (errno != EINTR)
            return error_set_errno(err, errno, "the engine's socket cannot be read");
    }
    return 0;
}

int frame_stream_pump(struct frame_stream *stream, struct error *err)
{
    if (stream->fd < 0)
        return 0;
    return write_some(stream, err) || read_some(stream, err) ? -1 : 0;
}

int frame_stream_next(struct frame_stream *stream, struct engine_message *out, struct error *err)
{
    const size_t there = stream->in.length - stream->taken;
    size_t frame_bytes = 0;
    if (there == 0)
        return 0;
    const char *begin = stream->in.bytes + stream->taken;
    const int rc = engine_message_head(begin, there, &frame_bytes, err);
    if (rc <= 0 || there < frame_bytes)
        return rc < 0 ? -1 : 0;
    stream->taken += frame_bytes;
    return engine_message_decode(begin, frame_bytes, out, err) ? -1 : 1;
}
