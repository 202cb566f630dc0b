// SPDX-License-Identifier: Apache-2.0
// Each usable sentence gives its best candidates (cloze_candidates.h), at most
// max_gaps_per_sentence, each for a question of its own; ties go to the earlier place. Afterwards
// questions that came twice are looked through.
#include "worker/reflect/cloze_pairs.h"

#include "base/mem.h"
#include "base/strbuf.h"
#include "datasets/prose.h"
#include "worker/reflect/cloze_candidates.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define GAP "____"
#define MAX_SENTENCE_BYTES 600 // forty words of a language with long ones
#define MAX_ANSWER_BYTES 60

struct maker {
    const char *title;
    const struct cloze_options *options;
    struct cloze_words words;
    struct cloze_pairs *out;
    size_t capacity;
};

static const struct prose_word *word_at(const struct maker *maker, size_t index)
{
    return &maker->words.prose.words[index];
}

static int compare_candidates(const void *left, const void *right)
{
    const struct cloze_candidate *a = left, *b = right;
    if (a->score != b->score) {
        return a->score < b->score ? 1 : -1;
    }
    return (a->first > b->first) - (a->first < b->first);
}

// On one line, single spaces, without the marks that plain text uses for emphasis.
static void add_plain(struct strbuf *out, const char *text, size_t length)
{
    for (size_t i = 0; i < length; i++) {
        bool space = text[i] == ' ' || (text[i] >= '\t' && text[i] <= '\r');
        if (space ? out->length > 0 && out->bytes[out->length - 1] != ' '
                  : text[i] != '_' && text[i] != '*') {
            strbuf_addc(out, space ? ' ' : text[i]);
        }
    }
}

static bool is_word_byte(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
           (uint8_t)c >= 0x80;
}

static bool contains_words(const char *text, const char *words)
{
    size_t length = strlen(words);
    for (const char *at = text; (at = strcasestr(at, words)); at++) {
        if ((at == text || !is_word_byte(at[-1])) && !is_word_byte(at[length])) {
            return true;
        }
    }
    return false;
}

static void add_question(const struct maker *maker, const struct prose_sentence *sentence,
                         const struct cloze_candidate *gap, struct strbuf *out)
{
    size_t left = gap->first - sentence->first_word;
    size_t right = sentence->first_word + sentence->word_count - gap->end;
    size_t half = maker->options->window_words / 2, window = 2 * half;
    size_t show_left = left < half ? left : right < half ? window - right : half;
    size_t show_right = right < half ? right : left < half ? window - left : half;
    size_t begin =
        show_left >= left ? sentence->begin : word_at(maker, gap->first - show_left)->begin;
    size_t end =
        show_right >= right ? sentence->end : word_at(maker, gap->end + show_right - 1)->end;
    size_t gap_begin = word_at(maker, gap->first)->begin;
    size_t gap_end = word_at(maker, gap->end - 1)->end;
    strbuf_addf(out, "In \"%s\": ", maker->title);
    add_plain(out, maker->words.text + begin, gap_begin - begin);
    strbuf_adds(out, GAP);
    add_plain(out, maker->words.text + gap_end, end - gap_end);
}

static void make_pair(struct maker *maker, const struct prose_sentence *sentence,
                      const struct cloze_candidate *gap)
{
    struct strbuf question = {0}, answer = {0};
    size_t begin = word_at(maker, gap->first)->begin;
    size_t end = word_at(maker, gap->end - 1)->end;
    add_plain(&answer, maker->words.text + begin, end - begin);
    add_question(maker, sentence, gap, &question);
    if (answer.length > 0 && answer.length <= MAX_ANSWER_BYTES &&
        !contains_words(question.bytes, answer.bytes)) {
        struct cloze_pairs *out = maker->out;
        out->pairs = mem_grow(out->pairs, &maker->capacity, out->count + 1, sizeof *out->pairs);
        out->pairs[out->count++] =
            (struct cloze_pair){arena_strndup(&out->arena, question.bytes, question.length),
                                arena_strndup(&out->arena, answer.bytes, answer.length),
                                sentence->begin, sentence->end};
    }
    strbuf_release(&question);
    strbuf_release(&answer);
}

static bool is_usable(const struct maker *maker, const struct prose_sentence *sentence)
{
    if (!sentence->terminated || sentence->word_count < maker->options->min_words ||
        sentence->word_count > maker->options->max_words ||
        sentence->end - sentence->begin > MAX_SENTENCE_BYTES ||
        memchr(maker->words.text + sentence->begin, '\0', sentence->end - sentence->begin)) {
        return false;
    }
    const struct prose_word *first = word_at(maker, sentence->first_word);
    return first->capital || first->number;
}

static int compare_gaps(const void *left, const void *right)
{
    const struct cloze_candidate *a = left, *b = right;
    return (a->first > b->first) - (a->first < b->first);
}

static void use_sentence(struct maker *maker, const struct prose_sentence *sentence)
{
    struct cloze_candidate candidates[CLOZE_MAX_CANDIDATES];
    size_t first = sentence->first_word, end = first + sentence->word_count;
    size_t count = cloze_candidates_find(&maker->words, first, end, candidates);
    qsort(candidates, count, sizeof *candidates, compare_candidates);
    size_t gaps = maker->options->max_gaps_per_sentence;
    gaps = gaps < count ? gaps : count;
    qsort(candidates, gaps, sizeof *candidates, compare_gaps); // in the order of the text
    for (size_t i = 0; i < gaps; i++) {
        make_pair(maker, sentence, &candidates[i]);
    }
}

static int compare_questions(const void *left, const void *right)
{
    const struct cloze_pair *a = *(const struct cloze_pair *const *)left;
    const struct cloze_pair *b = *(const struct cloze_pair *const *)right;
    int order = strcmp(a->question, b->question);
    return order ? order : (a > b) - (a < b); // by place: they are of one array
}

// Of pairs with the same question the first stays when all agree on the answer, none otherwise.
static void drop_ambiguous(struct cloze_pairs *all)
{
    struct cloze_pair **order = mem_calloc(all->count + 1, sizeof *order);
    for (size_t i = 0; i < all->count; i++) {
        order[i] = &all->pairs[i];
    }
    qsort(order, all->count, sizeof *order, compare_questions);
    for (size_t first = 0, end; first < all->count; first = end) {
        bool agree = true;
        for (end = first + 1;
             end < all->count && strcmp(order[first]->question, order[end]->question) == 0; end++) {
            agree = agree && strcmp(order[first]->answer, order[end]->answer) == 0;
        }
        const char *question = order[first]->question;
        for (size_t i = first; i < end && end > first + 1; i++) {
            order[i]->question = i == first && agree ? question : NULL;
        }
    }
    free(order);
    size_t kept = 0;
    for (size_t i = 0; i < all->count; i++) {
        if (all->pairs[i].question) {
            all->pairs[kept++] = all->pairs[i];
        }
    }
    all->ambiguous = all->count - kept;
    all->count = kept;
}

void cloze_pairs_make(const char *text, size_t length, const char *title,
                      const struct cloze_options *options, struct cloze_pairs *out)
{
    memset(out, 0, sizeof *out);
    struct maker maker = {.title = title, .options = options, .out = out};
    cloze_words_init(&maker.words, text, length);
    for (size_t i = 0; i < maker.words.prose.sentence_count; i++) {
        if (is_usable(&maker, &maker.words.prose.sentences[i])) {
            use_sentence(&maker, &maker.words.prose.sentences[i]);
        }
    }
    drop_ambiguous(out);
    cloze_words_release(&maker.words);
}

void cloze_pairs_release(struct cloze_pairs *pairs)
{
    free(pairs->pairs);
    arena_release(&pairs->arena);
    memset(pairs, 0, sizeof *pairs);
}
