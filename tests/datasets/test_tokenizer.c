// SPDX-License-Identifier: Apache-2.0
#include "base/clock.h"
#include "base/mem.h"
#include "base/random.h"
#include "base/utf8.h"
#include "datasets/tokenizer_internal.h"
#include "tokenizer_fixture.h"

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static struct tokenizer *tokenizer;
static struct tokenizer_scratch *scratch;

static int set_up(void **state)
{
    (void)state;
    tokenizer = fixture_tokenizer(600);
    scratch = tokenizer_scratch_create(tokenizer);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    tokenizer_scratch_destroy(scratch);
    tokenizer_destroy(tokenizer);
    return 0;
}

static void encode(const char *bytes, size_t length, bool allow_special, struct token_list *out)
{
    struct error err = {""};
    if (tokenizer_encode(tokenizer, scratch, bytes, length, allow_special, out, &err) != 0) {
        fail_msg("%s", err.text);
    }
}

// The definition of BPE, word by word: merge the pair of lowest rank, leftmost first, one at a
// time.
static void encode_word_plainly(const char *word, size_t length, struct token_list *out)
{
    int32_t *ids = mem_alloc((length + 1) * sizeof *ids);
    for (size_t i = 0; i < length; i++) {
        ids[i] = tokenizer_token_id(tokenizer, word + i, 1);
    }
    for (;;) {
        size_t best = SIZE_MAX;
        size_t best_at = 0;
        int32_t result = -1;
        for (size_t rank = 0; rank < tokenizer->merge_count && best == SIZE_MAX; rank++) {
            const struct merge *merge = &tokenizer->merges[rank];
            for (size_t i = 0; i + 1 < length && best == SIZE_MAX; i++) {
                if (ids[i] == merge->left && ids[i + 1] == merge->right) {
                    best = rank;
                    best_at = i;
                    result = merge->result;
                }
            }
        }
        if (best == SIZE_MAX) {
            break;
        }
        ids[best_at] = result;
        memmove(ids + best_at + 1, ids + best_at + 2, (length - best_at - 2) * sizeof *ids);
        length--;
    }
    for (size_t i = 0; i < length; i++) {
        token_list_add(out, ids[i]);
    }
    free(ids);
}

static void merging_agrees_with_its_definition(void **state)
{
    (void)state;
    static const char letters[] = "aehilnorst";
    const size_t lengths[] = {1, 2, 3, 31, 33, 200, 1000};
    for (uint64_t seed = 0; seed < 40; seed++) {
        char word[1000];
        size_t length = lengths[seed % (sizeof lengths / sizeof *lengths)];
        for (size_t i = 0; i < length; i++) {
            uint64_t drawn = random_u64(seed, 4, i);
            word[i] = letters[drawn % (seed % 2 == 0 ? sizeof letters - 1 : 3)];
        }
        struct token_list expected = {0};
        struct token_list got = {0};
        encode_word_plainly(word, length, &expected);
        encode(word, length, false, &got);
        fixture_assert_ids("word", &got, expected.ids, expected.count);
        token_list_release(&expected);
        token_list_release(&got);
    }
}

static void assert_round_trip(const char *bytes, size_t length)
{
    struct error err = {""};
    struct token_list ids = {0};
    struct strbuf decoded = {0};
    encode(bytes, length, false, &ids);
    assert_int_equal(tokenizer_decode(tokenizer, ids.ids, ids.count, &decoded, &err), 0);
    assert_int_equal(decoded.length, length);
    assert_true(length == 0 || memcmp(decoded.bytes, bytes, length) == 0);
    token_list_release(&ids);
    strbuf_release(&decoded);
}

static void decoding_gives_back_normalized_text(void **state)
{
    (void)state;
    struct strbuf text = {0};
    assert_round_trip("", 0);
    fixture_text(7, 20000, &text);
    assert_round_trip(text.bytes, text.length);
    for (uint64_t seed = 0; seed < 200; seed++) {
        struct nfc_scratch nfc = {0};
        struct strbuf normalized = {0};
        strbuf_reset(&text);
        fixture_unicode(seed, (size_t)(seed % 67), &text);
        bool changed = nfc_normalize(&nfc, text.bytes, text.length, &normalized);
        const struct strbuf *source = changed ? &normalized : &text;
        assert_round_trip(source->bytes, source->length);
        strbuf_release(&normalized);
        nfc_scratch_release(&nfc);
    }
    strbuf_release(&text);
}

static void specials_are_text_unless_asked_for(void **state)
{
    (void)state;
    static const char text[] = "one<|im_end|>two";
    struct token_list plain = {0};
    struct token_list parsed = {0};
    int32_t im_end = tokenizer_token_id(tokenizer, "<|im_end|>", 10);
    assert_true(im_end >= 0);
    assert_true(tokenizer_token_is_special(tokenizer, im_end));
    encode(text, strlen(text), false, &plain);
    encode(text, strlen(text), true, &parsed);
    size_t found = 0;
    for (size_t i = 0; i < plain.count; i++) {
        assert_int_not_equal(plain.ids[i], im_end);
    }
    for (size_t i = 0; i < parsed.count; i++) {
        found += parsed.ids[i] == im_end;
    }
    assert_int_equal(found, 1);
    assert_round_trip(text, strlen(text));
    token_list_release(&plain);
    token_list_release(&parsed);
}

static void invalid_utf8_is_an_error_that_names_the_byte(void **state)
{
    (void)state;
    struct error err = {""};
    struct token_list ids = {0};
    token_list_add(&ids, 5);
    assert_int_equal(tokenizer_encode(tokenizer, scratch, "abc\xC3(", 5, false, &ids, &err), -1);
    assert_string_equal(err.text, "the text is not valid UTF-8 at byte 3");
    assert_int_equal(ids.count, 1);
    token_list_release(&ids);
}

static void ids_outside_the_vocabulary_are_errors(void **state)
{
    (void)state;
    struct error err = {""};
    struct strbuf out = {0};
    const int32_t wrong[] = {-1, tokenizer_vocabulary_size(tokenizer), INT32_MAX};
    strbuf_adds(&out, "kept");
    for (size_t i = 0; i < 3; i++) {
        int32_t ids[2] = {0, wrong[i]};
        struct tokenizer_stream stream = {0};
        assert_int_equal(tokenizer_decode(tokenizer, ids, 2, &out, &err), -1);
        assert_string_equal(out.bytes, "kept");
        assert_int_equal(tokenizer_stream_add(&stream, tokenizer, wrong[i], &out, &err), -1);
        assert_false(tokenizer_token_is_special(tokenizer, wrong[i]));
    }
    strbuf_release(&out);
}

// Any ids, so also bytes that form no character.
static void streaming_equals_decoding_and_never_splits_a_character(void **state)
{
    (void)state;
    struct error err = {""};
    for (uint64_t seed = 0; seed < 300; seed++) {
        struct token_list ids = {0};
        struct strbuf whole = {0};
        struct strbuf streamed = {0};
        struct tokenizer_stream stream = {0};
        if (seed % 2 == 0) {
            struct strbuf text = {0};
            fixture_unicode(seed, 100, &text);
            encode(text.bytes, text.length, false, &ids);
            strbuf_release(&text);
        } else {
            for (uint64_t i = 0; i < 100; i++) {
                token_list_add(&ids, (int32_t)(random_u64(seed, 5, i) % 600));
            }
        }
        assert_int_equal(tokenizer_decode(tokenizer, ids.ids, ids.count, &whole, &err), 0);
        for (size_t i = 0; i < ids.count; i++) {
            assert_int_equal(tokenizer_stream_add(&stream, tokenizer, ids.ids[i], &streamed, &err),
                             0);
            size_t valid = utf8_valid_prefix(streamed.bytes, streamed.length);
            assert_true(seed % 2 == 1 || valid == streamed.length);
        }
        tokenizer_stream_end(&stream, &streamed);
        assert_int_equal(streamed.length, whole.length);
        assert_memory_equal(streamed.bytes, whole.bytes, whole.length);
        token_list_release(&ids);
        strbuf_release(&whole);
        strbuf_release(&streamed);
    }
}

static double seconds_to_encode(const struct strbuf *text)
{
    struct token_list ids = {0};
    double begin = clock_seconds();
    encode(text->bytes, text->length, false, &ids);
    double seconds = clock_seconds() - begin;
    token_list_release(&ids);
    return seconds;
}

// Quadratic work would take minutes to hours; the bound leaves room for sanitizers and slow hosts.
static void a_megabyte_of_anything_repeated_is_quick(void **state)
{
    (void)state;
    static const char *const units[] = {
        "a", " ",   "\n", "the",         "\xCC\x81", "\xCC\x81\xCC\xA3", "1",
        "!", " \n", "<|", "<|im_start|", "ㅏ",       "\xE1\x85\xA1"};
    for (size_t u = 0; u < sizeof units / sizeof *units; u++) {
        struct strbuf text = {0};
        while (text.length < 1000000) {
            strbuf_adds(&text, units[u]);
        }
        double seconds = seconds_to_encode(&text);
        if (seconds > 20) {
            fail_msg("a megabyte of '%s' takes %.1f s", units[u], seconds);
        }
        strbuf_release(&text);
    }
}

struct thread_work {
    const struct strbuf *text;
    struct token_list ids;
    int rc;
};

static void *encode_in_thread(void *argument)
{
    struct thread_work *work = argument;
    struct error err;
    struct tokenizer_scratch *own = tokenizer_scratch_create(tokenizer);
    work->rc = tokenizer_encode(tokenizer, own, work->text->bytes, work->text->length, false,
                                &work->ids, &err);
    tokenizer_scratch_destroy(own);
    return NULL;
}

static void threads_with_their_own_scratch_get_the_same_ids(void **state)
{
    (void)state;
    struct strbuf text = {0};
    struct token_list expected = {0};
    struct thread_work work[4] = {0};
    pthread_t threads[4];
    fixture_text(11, 50000, &text);
    encode(text.bytes, text.length, false, &expected);
    for (int i = 0; i < 4; i++) {
        work[i].text = &text;
        assert_int_equal(pthread_create(&threads[i], NULL, encode_in_thread, &work[i]), 0);
    }
    for (int i = 0; i < 4; i++) {
        pthread_join(threads[i], NULL);
        assert_int_equal(work[i].rc, 0);
        fixture_assert_ids("thread", &work[i].ids, expected.ids, expected.count);
        token_list_release(&work[i].ids);
    }
    token_list_release(&expected);
    strbuf_release(&text);
}

static void a_call_without_scratch_gives_the_same_ids(void **state)
{
    (void)state;
    struct error err = {""};
    struct token_list expected = {0};
    struct token_list got = {0};
    encode("the keeper wrote", 16, false, &expected);
    assert_int_equal(tokenizer_encode(tokenizer, NULL, "the keeper wrote", 16, false, &got, &err),
                     0);
    fixture_assert_ids("no scratch", &got, expected.ids, expected.count);
    token_list_release(&expected);
    token_list_release(&got);
}

static void every_token_is_found_by_its_bytes(void **state)
{
    (void)state;
    for (int32_t id = 0; id < tokenizer_vocabulary_size(tokenizer); id++) {
        size_t length;
        const char *bytes = tokenizer_token_bytes(tokenizer, id, &length);
        assert_non_null(bytes);
        assert_int_equal(tokenizer_token_id(tokenizer, bytes, length), id);
    }
    assert_int_equal(tokenizer_token_id(tokenizer, "no such token", 13), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(merging_agrees_with_its_definition),
        cmocka_unit_test(decoding_gives_back_normalized_text),
        cmocka_unit_test(specials_are_text_unless_asked_for),
        cmocka_unit_test(invalid_utf8_is_an_error_that_names_the_byte),
        cmocka_unit_test(ids_outside_the_vocabulary_are_errors),
        cmocka_unit_test(streaming_equals_decoding_and_never_splits_a_character),
        cmocka_unit_test(a_megabyte_of_anything_repeated_is_quick),
        cmocka_unit_test(threads_with_their_own_scratch_get_the_same_ids),
        cmocka_unit_test(a_call_without_scratch_gives_the_same_ids),
        cmocka_unit_test(every_token_is_found_by_its_bytes),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
