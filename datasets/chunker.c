// SPDX-License-Identifier: Apache-2.0
// The text becomes pieces: sentences with the white space behind them, halved as long as one alone
// is too large. Chunks are runs of whole pieces: as many as fit, but rather up to the last end of a
// paragraph when that keeps half of the room used. The next chunk repeats the last pieces that fit
// into the overlap, as far as there is still room for one new piece. Every piece is counted once,
// every chunk once more.
#include "datasets/chunker.h"

#include "base/mem.h"
#include "datasets/prose.h"

#include <assert.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

struct piece {
    size_t begin;
    size_t end;
    size_t tokens;
    bool paragraph; // ends one
};

struct cutter {
    const char *text;
    const struct chunker_options *options;
    struct piece *pieces;
    size_t piece_count;
    size_t piece_capacity;
};

static size_t count(const struct chunker_options *options, const char *bytes, size_t length)
{
    return options->counter.count_tokens(options->counter.context, bytes, length);
}

static bool is_space(char c)
{
    return c == ' ' || (c >= '\t' && c <= '\r');
}

static bool is_continuation(char c)
{
    return ((uint8_t)c & 0xc0) == 0x80;
}

// Where to halve begin..end: behind the white space nearest to the middle within the middle half,
// else between the two characters at the middle; `end` when there is but one character.
static size_t find_middle(const char *text, size_t begin, size_t end)
{
    size_t middle = begin + (end - begin) / 2;
    size_t reach = (end - begin) / 4;
    for (size_t d = 0; d < reach; d++) {
        if (is_space(text[middle + d]) && !is_space(text[middle + d + 1])) {
            return middle + d + 1;
        }
        if (is_space(text[middle - d - 1]) && !is_space(text[middle - d])) {
            return middle - d;
        }
    }
    while (middle > begin && is_continuation(text[middle])) {
        middle--;
    }
    if (middle > begin) {
        return middle;
    }
    for (middle = begin + 1; middle < end && is_continuation(text[middle]);) {
        middle++;
    }
    return middle;
}

static void add_piece(struct cutter *cutter, size_t begin, size_t end, bool paragraph)
{
    size_t tokens = count(cutter->options, cutter->text + begin, end - begin);
    if (tokens > cutter->options->chunk_tokens) {
        size_t middle = find_middle(cutter->text, begin, end);
        if (middle < end) {
            add_piece(cutter, begin, middle, false);
            add_piece(cutter, middle, end, paragraph);
            return;
        }
    }
    cutter->pieces = mem_grow(cutter->pieces, &cutter->piece_capacity, cutter->piece_count + 1,
                              sizeof *cutter->pieces);
    cutter->pieces[cutter->piece_count++] = (struct piece){begin, end, tokens, paragraph};
}

static void cut_pieces(struct cutter *cutter, size_t length)
{
    struct prose prose;
    prose_scan(cutter->text, length, &prose);
    size_t begin = 0;
    for (size_t i = 0; i < prose.sentence_count; i++) {
        add_piece(cutter, begin, prose.sentences[i].next, prose.sentences[i].paragraph);
        begin = prose.sentences[i].next;
    }
    if (begin < length) { // nothing but white space
        add_piece(cutter, begin, length, true);
    }
    prose_release(&prose);
}

// One past the last piece of the chunk that begins with piece `first` and must go beyond `reached`.
static size_t find_end(const struct cutter *cutter, size_t first, size_t reached)
{
    size_t limit = cutter->options->chunk_tokens;
    size_t last = first, tokens = 0, paragraph = 0;
    while (last < cutter->piece_count && tokens + cutter->pieces[last].tokens <= limit) {
        tokens += cutter->pieces[last].tokens;
        last++;
        if (cutter->pieces[last - 1].paragraph && last > reached && tokens >= limit / 2) {
            paragraph = last;
        }
    }
    if (last == cutter->piece_count) {
        return last;
    }
    if (last <= reached) { // one character of more tokens than fit
        return reached + 1;
    }
    return paragraph ? paragraph : last;
}

// The piece that the chunk after one of pieces first..end begins with.
static size_t find_next(const struct cutter *cutter, size_t first, size_t end)
{
    const struct chunker_options *options = cutter->options;
    size_t room = options->chunk_tokens;
    room = room > cutter->pieces[end].tokens ? room - cutter->pieces[end].tokens : 0;
    room = room < options->overlap_tokens ? room : options->overlap_tokens;
    size_t next = end, tokens = 0;
    while (next > first + 1 && tokens + cutter->pieces[next - 1].tokens <= room) {
        tokens += cutter->pieces[next - 1].tokens;
        next--;
    }
    return next;
}

int chunker_cut(const char *text, size_t length, const struct chunker_options *options,
                struct chunk_span **out, size_t *span_count, struct error *err)
{
    assert(length > 0 && options->counter.count_tokens);
    *out = NULL;
    *span_count = 0;
    if (options->chunk_tokens < 1 || options->overlap_tokens > options->chunk_tokens / 2) {
        return error_set(err,
                         "chunks of %zu tokens cannot overlap by %zu: at least 1 token, "
                         "and at most half of it as overlap",
                         options->chunk_tokens, options->overlap_tokens);
    }
    struct cutter cutter = {.text = text, .options = options};
    cut_pieces(&cutter, length);
    struct chunk_span *spans = NULL;
    size_t capacity = 0, first = 0, reached = 0;
    while (reached < cutter.piece_count) {
        size_t end = find_end(&cutter, first, reached);
        size_t begin_byte = cutter.pieces[first].begin, end_byte = cutter.pieces[end - 1].end;
        spans = mem_grow(spans, &capacity, *span_count + 1, sizeof *spans);
        spans[(*span_count)++] = (struct chunk_span){
            begin_byte, end_byte, count(options, text + begin_byte, end_byte - begin_byte)};
        reached = end;
        if (end < cutter.piece_count) {
            first = find_next(&cutter, first, end);
        }
    }
    free(cutter.pieces);
    *out = spans;
    return 0;
}
