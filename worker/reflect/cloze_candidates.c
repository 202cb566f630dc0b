// SPDX-License-Identifier: Apache-2.0
#include "worker/reflect/cloze_candidates.h"

#include "base/mem.h"

#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define MAX_NAME_WORDS 4
#define MIN_NOUN_LETTERS 6
#define MAX_NOUN_COUNT 2

enum kind { KIND_DATE, KIND_NUMBER, KIND_NAME, KIND_NUMERAL, KIND_NOUN };
static const uint32_t base_score[] = {50, 40, 30, 15, 10};

static int compare_facts(const void *left, const void *right)
{
    const struct cloze_word_fact *a = left, *b = right;
    return (a->hash > b->hash) - (a->hash < b->hash);
}

void cloze_words_init(struct cloze_words *words, const char *text, size_t length)
{
    words->text = text;
    prose_scan(text, length, &words->prose);
    size_t count = words->prose.word_count, unique = 0;
    struct cloze_word_fact *table = mem_calloc(count + 1, sizeof *table);
    uint64_t *hashes = mem_calloc(count + 1, sizeof *hashes);
    for (size_t i = 0; i < count; i++) {
        const struct prose_word *word = &words->prose.words[i];
        hashes[i] = prose_word_hash(words->text, word);
        table[i] = (struct cloze_word_fact){
            hashes[i], 1, word->capital && !word->lead && !word->shouted, !word->capital};
    }
    qsort(table, count, sizeof *table, compare_facts);
    for (size_t i = 0; i < count; i++) {
        if (unique > 0 && table[unique - 1].hash == table[i].hash) {
            table[unique - 1].total += table[i].total;
            table[unique - 1].capital += table[i].capital;
            table[unique - 1].lower += table[i].lower;
        } else {
            table[unique++] = table[i];
        }
    }
    words->facts = mem_calloc(count + 1, sizeof *words->facts);
    for (size_t i = 0; i < count; i++) {
        words->facts[i] = bsearch(&(struct cloze_word_fact){.hash = hashes[i]}, table, unique,
                                  sizeof *table, compare_facts);
    }
    free(hashes);
    words->table = table;
}

void cloze_words_release(struct cloze_words *words)
{
    free(words->facts);
    free(words->table);
    prose_release(&words->prose);
}

static const struct prose_word *word_at(const struct cloze_words *words, size_t index)
{
    return &words->prose.words[index];
}

// The lists hold ASCII in lower case.
static bool is_one_of(const struct cloze_words *words, size_t index, const char *const *list,
                      size_t count)
{
    const struct prose_word *word = word_at(words, index);
    size_t length = word->end - word->begin;
    for (size_t i = 0; i < count; i++) {
        if (strlen(list[i]) == length &&
            strncasecmp(list[i], words->text + word->begin, length) == 0) {
            return true;
        }
    }
    return false;
}

#define IS_ONE_OF(words, index, list) is_one_of(words, index, list, sizeof(list) / sizeof *(list))

// Whether word index + 1 follows with one space or line end between, after a comma if that is
// allowed.
static bool is_adjacent(const struct cloze_words *words, size_t index, bool comma)
{
    const char *between = words->text + word_at(words, index)->end;
    size_t gap = word_at(words, index + 1)->begin - word_at(words, index)->end;
    if (comma && gap == 2 && *between == ',') {
        between++;
        gap--;
    }
    return gap == 1 && (*between == ' ' || *between == '\n');
}

static bool is_month(const struct cloze_words *words, size_t index)
{
    static const char *const months[] = {"january",   "february", "march",    "april",
                                         "may",       "june",     "july",     "august",
                                         "september", "october",  "november", "december"};
    return word_at(words, index)->capital && IS_ONE_OF(words, index, months);
}

static bool is_day(const struct cloze_words *words, size_t index)
{
    const struct prose_word *word = word_at(words, index);
    const char *text = words->text + word->begin;
    size_t length = word->end - word->begin, digits = 0;
    while (digits < length && text[digits] >= '0' && text[digits] <= '9') {
        digits++;
    }
    return digits >= 1 && digits <= 2 && (length == digits || length == digits + 2);
}

static bool is_year(const struct cloze_words *words, size_t index)
{
    const struct prose_word *word = word_at(words, index);
    const char *text = words->text + word->begin;
    return word->end - word->begin == 4 && (text[0] == '1' || text[0] == '2') && word->number &&
           text[1] >= '0' && text[1] <= '9' && text[2] >= '0' && text[2] <= '9' && text[3] >= '0' &&
           text[3] <= '9';
}

// How many words of a date begin at word i; 0 when none does.
static size_t match_date(const struct cloze_words *words, size_t i, size_t end)
{
    size_t at = i;
    bool day = is_day(words, at);
    if (day) {
        if (at + 1 >= end || !is_adjacent(words, at, false)) {
            return 0;
        }
        at++;
    }
    if (!is_month(words, at)) {
        return 0;
    }
    at++;
    if (!day && at < end && is_adjacent(words, at - 1, false) && is_day(words, at)) {
        day = true;
        at++;
    }
    bool year = at < end && is_adjacent(words, at - 1, true) && is_year(words, at);
    return day || year ? at + year - i : 0;
}

static bool is_name_word(const struct cloze_words *words, size_t index)
{
    const struct prose_word *word = word_at(words, index);
    const char *text = words->text + word->begin;
    size_t length = word->end - word->begin;
    bool contraction = text[0] == 'I' && // "I'm", "I’ll"
                       ((length > 1 && text[1] == '\'') ||
                        (length > 3 && memcmp(text + 1, "\xe2\x80\x99", 3) == 0));
    return word->capital && word->letters > 1 && !word->shouted && !contraction &&
           words->facts[index]->capital > words->facts[index]->lower;
}

static size_t match_name(const struct cloze_words *words, size_t i, size_t end)
{
    static const char *const forms_of_address[] = {"mr", "mrs", "ms",  "miss", "dr",
                                                   "st", "sir", "mme", "mlle", "madam"};
    size_t at = i;
    while (at < end && is_name_word(words, at) && (at == i || is_adjacent(words, at - 1, false))) {
        at++;
    }
    if (at == i || at - i > MAX_NAME_WORDS ||
        (at == i + 1 && IS_ONE_OF(words, i, forms_of_address))) {
        return 0;
    }
    return at - i;
}

static bool is_numeral(const struct cloze_words *words, size_t index)
{
    static const char *const numerals[] = {
        "two",      "three",   "four",    "five",      "six",      "seven",
        "eight",    "nine",    "ten",     "eleven",    "twelve",   "thirteen",
        "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
        "twenty",   "thirty",  "forty",   "fifty",     "sixty",    "seventy",
        "eighty",   "ninety",  "hundred", "thousand",  "million"};
    const struct prose_word *word = word_at(words, index);
    const char *text = words->text + word->begin;
    const char *hyphen = memchr(text, '-', word->end - word->begin);
    size_t length = hyphen ? (size_t)(hyphen - text) : word->end - word->begin;
    for (size_t i = 0; i < sizeof numerals / sizeof *numerals; i++) {
        if (strlen(numerals[i]) == length && strncasecmp(numerals[i], text, length) == 0) {
            return true;
        }
    }
    return false;
}

static bool ends_with(const struct cloze_words *words, size_t index, const char *ending)
{
    const struct prose_word *word = word_at(words, index);
    size_t length = strlen(ending);
    return word->end - word->begin > length &&
           memcmp(words->text + word->end - length, ending, length) == 0;
}

// "devilish" in "his devilish temper": a word follows that neither is short nor joins what comes
// next.
static bool is_before_noun(const struct cloze_words *words, size_t index, size_t end)
{
    static const char *const joints[] = {
        "that",  "with",   "from", "which", "were", "into",  "upon",  "when",  "where", "while",
        "have",  "been",   "than", "then",  "they", "would", "could", "will",  "whose", "until",
        "after", "before", "back", "down",  "over", "away",  "there", "again", "under"};
    return index + 1 < end && is_adjacent(words, index, false) &&
           word_at(words, index + 1)->letters > 3 && !IS_ONE_OF(words, index + 1, joints);
}

static bool is_rare_noun(const struct cloze_words *words, size_t index, size_t first, size_t end)
{
    static const char *const openers[] = {"a",  "an",   "the",  "his",   "her",  "its",   "their",
                                          "my", "our",  "your", "this",  "that", "these", "those",
                                          "no", "some", "any",  "every", "each", "of",    "with"};
    const struct prose_word *word = word_at(words, index);
    if (word->capital || word->number || word->letters < MIN_NOUN_LETTERS ||
        words->facts[index]->total > MAX_NOUN_COUNT || ends_with(words, index, "ly") ||
        ends_with(words, index, "ed") || ends_with(words, index, "ing")) {
        return false;
    }
    if (index == first || !is_adjacent(words, index - 1, false) ||
        is_before_noun(words, index, end)) {
        return false;
    }
    return IS_ONE_OF(words, index - 1, openers) ||
           (index > first + 1 && is_adjacent(words, index - 2, false) &&
            IS_ONE_OF(words, index - 2, openers));
}

static struct cloze_candidate score_candidate(const struct cloze_words *words, size_t first,
                                              size_t count, enum kind kind)
{
    uint32_t rarest = UINT32_MAX, characters = 0;
    for (size_t i = first; i < first + count; i++) {
        uint32_t total = words->facts[i]->total;
        rarest = total < rarest ? total : rarest;
        characters += word_at(words, i)->letters;
    }
    uint32_t length = characters < 16 ? characters : 16;
    return (struct cloze_candidate){first, first + count, base_score[kind] + 30 / rarest + length};
}

size_t cloze_candidates_find(const struct cloze_words *words, size_t first, size_t end,
                             struct cloze_candidate out[CLOZE_MAX_CANDIDATES])
{
    size_t count = 0;
    for (size_t i = first, next; i < end && count < CLOZE_MAX_CANDIDATES; i = next) {
        size_t length = match_date(words, i, end);
        enum kind kind = KIND_DATE;
        if (length == 0 && word_at(words, i)->number && i > first) {
            length = 1;
            kind = KIND_NUMBER;
        }
        if (length == 0) {
            length = match_name(words, i, end);
            kind = KIND_NAME;
        }
        if (length == 0 && is_numeral(words, i)) {
            length = 1;
            kind = KIND_NUMERAL;
        }
        if (length == 0 && is_rare_noun(words, i, first, end)) {
            length = 1;
            kind = KIND_NOUN;
        }
        if (length > 0) {
            out[count++] = score_candidate(words, i, length, kind);
        }
        next = i + (length > 0 ? length : 1);
        while (length == 0 && next < end && is_name_word(words, i) && is_name_word(words, next) &&
               is_adjacent(words, next - 1, false)) {
            next++; // a run too long to be a name is not entered half-way
        }
    }
    return count;
}
