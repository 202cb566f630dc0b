// SPDX-License-Identifier: Apache-2.0
#include "base/mem.h"
#include "base/random.h"
#include "datasets/bpe_merger.h"
#include "datasets/bpe_train.h"
#include "tokenizer_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct tokenizer *train(const struct strbuf *texts, size_t count, int32_t size)
{
    struct error err = {""};
    struct tokenizer *out = NULL;
    struct bpe_trainer *trainer = bpe_trainer_create();
    for (size_t i = 0; i < count; i++) {
        assert_int_equal(bpe_trainer_add(trainer, texts[i].bytes, texts[i].length, &err), 0);
    }
    assert_int_equal(bpe_trainer_finish(trainer, size, &out, &err), 0);
    bpe_trainer_destroy(trainer);
    return out;
}

static void the_order_of_texts_does_not_matter(void **state)
{
    (void)state;
    struct strbuf forward[3] = {0};
    struct strbuf backward[3];
    for (int i = 0; i < 3; i++) {
        fixture_text(20 + (uint64_t)i, 30000, &forward[i]);
        backward[2 - i] = forward[i];
    }
    struct tokenizer *a = train(forward, 3, 700);
    struct tokenizer *b = train(backward, 3, 700);
    assert_true(digest_equal(tokenizer_digest(a), tokenizer_digest(b)));
    tokenizer_destroy(a);
    tokenizer_destroy(b);
    for (int i = 0; i < 3; i++) {
        strbuf_release(&forward[i]);
    }
}

// The rule itself: count all pairs anew before every merge.
struct plain_word {
    int32_t ids[64];
    size_t length;
    int64_t count;
};

static bool best_pair(const struct plain_word *words, size_t count, int32_t tokens, int32_t *left,
                      int32_t *right)
{
    int64_t *counts = mem_calloc((size_t)tokens * (size_t)tokens, sizeof *counts);
    int64_t best = 1;
    for (size_t w = 0; w < count; w++) {
        for (size_t i = 0; i + 1 < words[w].length; i++) {
            counts[words[w].ids[i] * tokens + words[w].ids[i + 1]] += words[w].count;
        }
    }
    for (int32_t l = 0; l < tokens; l++) {
        for (int32_t r = 0; r < tokens; r++) {
            if (counts[l * tokens + r] > best) {
                best = counts[l * tokens + r];
                *left = l;
                *right = r;
            }
        }
    }
    free(counts);
    return best > 1;
}

static void apply_plainly(struct plain_word *word, int32_t left, int32_t right, int32_t result)
{
    size_t written = 0;
    for (size_t i = 0; i < word->length; i++) {
        bool here = i + 1 < word->length && word->ids[i] == left && word->ids[i + 1] == right;
        word->ids[written++] = here ? result : word->ids[i];
        i += here;
    }
    word->length = written;
}

static struct tokenizer *bytes_only(void)
{
    struct error err;
    struct tokenizer *t = tokenizer_create_empty();
    for (int i = 0; i < 256; i++) {
        char byte = (char)byte_alphabet_nth(i);
        assert_int_equal(tokenizer_add_token(t, i, &byte, 1, TOKEN_ENCODED, &err), 0);
    }
    return t;
}

#define WORDS 60

// Few letters, so that counts tie, pairs overlap ("aaa") and different merges make equal bytes.
static void merges_agree_with_counting_anew_each_time(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 8; seed++) {
        char bytes[WORDS][24];
        struct bpe_word words[WORDS];
        static struct plain_word plain[WORDS];
        struct tokenizer *t = bytes_only();
        struct error err = {""};
        for (size_t w = 0; w < WORDS; w++) {
            size_t length = 1 + random_u64(seed, w, 0) % 20;
            int64_t count = 1 + (int64_t)(random_u64(seed, w, 1) % 4);
            for (size_t i = 0; i < length; i++) {
                bytes[w][i] = (char)('a' + random_u64(seed, w, 2 + i) % (2 + seed % 3));
                plain[w].ids[i] = bytes[w][i] - '!'; // the alphabet begins with '!'
            }
            words[w] = (struct bpe_word){bytes[w], (uint32_t)length, count};
            plain[w].length = length;
            plain[w].count = count;
        }
        assert_int_equal(bpe_merge_words(words, WORDS, t, 356, &err), 0);
        assert_true(t->merge_count > 50);
        for (size_t rank = 0; rank < t->merge_count; rank++) {
            int32_t left = -1;
            int32_t right = -1;
            assert_true(best_pair(plain, WORDS, 356, &left, &right));
            assert_int_equal(t->merges[rank].left, left);
            assert_int_equal(t->merges[rank].right, right);
            for (size_t w = 0; w < WORDS; w++) {
                apply_plainly(&plain[w], left, right, t->merges[rank].result);
            }
        }
        tokenizer_destroy(t);
    }
}

static void special_tokens_come_last(void **state)
{
    (void)state;
    struct tokenizer *t = fixture_tokenizer(500);
    assert_int_equal(tokenizer_vocabulary_size(t), 500);
    assert_int_equal(tokenizer_token_id(t, "<|endoftext|>", 13), 497);
    assert_int_equal(tokenizer_token_id(t, "<|im_start|>", 12), 498);
    assert_int_equal(tokenizer_token_id(t, "<|im_end|>", 10), 499);
    assert_int_equal(tokenizer_pad_id(t), 497);
    assert_int_equal(tokenizer_eos_id(t), 499);
    assert_int_equal(tokenizer_bos_id(t), -1);
    tokenizer_destroy(t);
}

static void little_text_gives_a_smaller_vocabulary(void **state)
{
    (void)state;
    const char *texts[] = {"", "a", "ab ab ab"};
    const int32_t sizes[] = {BPE_MIN_VOCABULARY, BPE_MIN_VOCABULARY, BPE_MIN_VOCABULARY + 2};
    for (int i = 0; i < 3; i++) {
        struct strbuf text = {0};
        strbuf_adds(&text, texts[i]);
        struct tokenizer *t = train(&text, 1, 1000);
        assert_int_equal(tokenizer_vocabulary_size(t), sizes[i]);
        tokenizer_destroy(t);
        strbuf_release(&text);
    }
}

static void impossible_sizes_and_invalid_text_are_errors(void **state)
{
    (void)state;
    struct error err = {""};
    struct tokenizer *t = NULL;
    struct bpe_trainer *trainer = bpe_trainer_create();
    assert_int_equal(bpe_trainer_finish(trainer, BPE_MIN_VOCABULARY - 1, &t, &err), -1);
    assert_int_equal(bpe_trainer_finish(trainer, INT32_MAX, &t, &err), -1);
    assert_int_equal(bpe_trainer_add(trainer, "ok \xFF", 4, &err), -1);
    assert_non_null(strstr(err.text, "byte 3"));
    bpe_trainer_destroy(trainer);
}

static void a_long_run_of_one_letter_is_trained_on(void **state)
{
    (void)state;
    struct strbuf text = {0};
    for (int i = 0; i < 1000000; i++) {
        strbuf_addc(&text, 'a');
    }
    struct tokenizer *t = train(&text, 1, 1000);
    assert_true(tokenizer_token_id(t, "aaaaaaaa", 8) > 0);
    tokenizer_destroy(t);
    strbuf_release(&text);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_order_of_texts_does_not_matter),
        cmocka_unit_test(merges_agree_with_counting_anew_each_time),
        cmocka_unit_test(special_tokens_come_last),
        cmocka_unit_test(little_text_gives_a_smaller_vocabulary),
        cmocka_unit_test(impossible_sizes_and_invalid_text_are_errors),
        cmocka_unit_test(a_long_run_of_one_letter_is_trained_on),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
