// SPDX-License-Identifier: Apache-2.0
// Counting words, and the frame of training; bpe_merger.c chooses the merges.
#include "datasets/bpe_train.h"

#include "base/arena.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "datasets/bpe_merger.h"
#include "datasets/tokenizer_internal.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

// A run without spaces (a line of dashes, base64) is counted in parts of at most this many bytes,
// so that visiting a word costs little.
#define MAX_WORD_BYTES 256

struct bpe_trainer {
    struct splitter *splitter;
    struct splitter_scratch *split;
    struct nfc_scratch nfc;
    struct strbuf normalized;
    struct arena arena;
    struct bytes_map index; // bytes of a word -> its place in words
    struct bpe_word *words; // their bytes lie in the arena
    size_t word_count;
    size_t word_capacity;
};

struct bpe_trainer *bpe_trainer_create(void)
{
    struct bpe_trainer *trainer = mem_calloc(1, sizeof *trainer);
    struct error err;
    int rc = splitter_create(splitter_pattern_qwen2, strlen(splitter_pattern_qwen2),
                             &trainer->splitter, &err);
    assert(rc == 0);
    (void)rc;
    trainer->split = splitter_scratch_create(trainer->splitter);
    return trainer;
}

void bpe_trainer_destroy(struct bpe_trainer *trainer)
{
    if (trainer == NULL) {
        return;
    }
    splitter_scratch_destroy(trainer->split);
    splitter_destroy(trainer->splitter);
    nfc_scratch_release(&trainer->nfc);
    strbuf_release(&trainer->normalized);
    arena_release(&trainer->arena);
    bytes_map_release(&trainer->index);
    free(trainer->words);
    free(trainer);
}

static void count_word(struct bpe_trainer *trainer, const char *bytes, size_t length)
{
    int32_t known = bytes_map_get(&trainer->index, bytes, length);
    if (known >= 0) {
        trainer->words[known].count++;
        return;
    }
    if (trainer->word_count == trainer->word_capacity) {
        trainer->words = mem_grow(trainer->words, &trainer->word_capacity, trainer->word_count + 1,
                                  sizeof *trainer->words);
    }
    const char *kept = arena_strndup(&trainer->arena, bytes, length);
    bool added;
    bytes_map_insert(&trainer->index, kept, length, (int32_t)trainer->word_count, &added);
    trainer->words[trainer->word_count++] =
        (struct bpe_word){.bytes = kept, .length = (uint32_t)length, .count = 1};
}

// Splits a long word between characters.
static void count_piece(struct bpe_trainer *trainer, const char *bytes, size_t length)
{
    while (length > MAX_WORD_BYTES) {
        size_t part = MAX_WORD_BYTES;
        while (((unsigned char)bytes[part] & 0xC0) == 0x80) {
            part--;
        }
        count_word(trainer, bytes, part);
        bytes += part;
        length -= part;
    }
    count_word(trainer, bytes, length);
}

int bpe_trainer_add(struct bpe_trainer *trainer, const char *bytes, size_t length,
                    struct error *err)
{
    size_t valid = utf8_valid_prefix(bytes, length);
    if (valid < length) {
        return error_set(err, "the text is not valid UTF-8 at byte %zu", valid);
    }
    if (nfc_normalize(&trainer->nfc, bytes, length, &trainer->normalized)) {
        bytes = trainer->normalized.bytes;
        length = trainer->normalized.length;
    }
    size_t end;
    for (size_t begin = 0; begin < length; begin = end) {
        if (splitter_next(trainer->splitter, trainer->split, bytes, length, begin, &end, err) !=
            0) {
            return -1;
        }
        count_piece(trainer, bytes + begin, end - begin);
    }
    return 0;
}

static const char *const special_tokens[BPE_SPECIAL_TOKENS] = {"<|endoftext|>", "<|im_start|>",
                                                               "<|im_end|>"};

static int build(struct bpe_trainer *trainer, struct tokenizer *t, int32_t vocabulary_size,
                 struct error *err)
{
    t->nfc = true;
    if (splitter_create(splitter_pattern_qwen2, strlen(splitter_pattern_qwen2), &t->splitter,
                        err) != 0) {
        return -1;
    }
    for (int i = 0; i < 256; i++) {
        char byte = (char)byte_alphabet_nth(i);
        if (tokenizer_add_token(t, i, &byte, 1, TOKEN_ENCODED, err) != 0) {
            return -1;
        }
    }
    if (bpe_merge_words(trainer->words, trainer->word_count, t,
                        vocabulary_size - BPE_SPECIAL_TOKENS, err) != 0) {
        return -1;
    }
    for (int i = 0; i < BPE_SPECIAL_TOKENS; i++) {
        if (tokenizer_add_added(t, (int64_t)t->token_count, special_tokens[i],
                                strlen(special_tokens[i]), (struct added_rule){.special = true},
                                err) != 0) {
            return -1;
        }
    }
    if (tokenizer_finish(t, err) != 0 ||
        tokenizer_name_special(t, "pad_token", special_tokens[0], &t->pad_id, err) != 0 ||
        tokenizer_name_special(t, "eos_token", special_tokens[2], &t->eos_id, err) != 0) {
        return -1;
    }
    return 0;
}

int bpe_trainer_finish(struct bpe_trainer *trainer, int32_t vocabulary_size, struct tokenizer **out,
                       struct error *err)
{
    if (vocabulary_size < BPE_MIN_VOCABULARY || vocabulary_size > TOKENIZER_MAX_TOKENS) {
        return error_set(err, "a vocabulary of %d tokens cannot be trained; choose %d to %d",
                         (int)vocabulary_size, BPE_MIN_VOCABULARY, TOKENIZER_MAX_TOKENS);
    }
    struct tokenizer *t = tokenizer_create_empty();
    if (build(trainer, t, vocabulary_size, err) != 0) {
        tokenizer_destroy(t);
        return -1;
    }
    *out = t;
    return 0;
}
