// SPDX-License-Identifier: Apache-2.0
#include "jobs/training_set.h"

#include "base/log.h"
#include "base/mem.h"
#include "jobs/closed_book.h"
#include "jobs/training_data.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

// A file system that several hosts share may show a new file late.
enum { APPEARS_TRIES = 300, APPEARS_PAUSE_MS = 100 };

static char *cache_directory(const struct train_options *options)
{
    return options->token_cache ? mem_strdup(options->token_cache) : fs_join(options->out, "run");
}

static char *cache_path(const struct train_options *options, struct digest key)
{
    char *directory = cache_directory(options);
    char *path = token_cache_path(directory, key);
    free(directory);
    return path;
}

// Whether an earlier run left the tokens. Files that are no such thing are said and made again.
static bool find_cache(const struct train_options *options, struct training_set *set)
{
    struct error why;
    char *path = cache_path(options, set->key);
    set->found = false;
    if (fs_exists(fs_system(), path)) {
        set->found = token_cache_open(path, set->key, &set->cache, &why) == 0;
        if (!set->found)
            log_warn("%s: tokenizing again", why.text);
    }
    free(path);
    if (set->found) {
        set->sequences = set->cache.set;
        set->pairs = set->cache.pairs;
    }
    return set->found;
}

static int read_pairs(const struct train_options *options, const struct text_codec *codec,
                      struct training_set *set, struct error *err)
{
    const size_t max_tokens = (size_t)options->max_tokens;
    struct pair_list pairs;
    if (pair_list_open(fs_system(), options->data.items, options->data.count,
                       (size_t)options->sample, &pairs, err))
        return -1;
    set->pairs = pairs.count;
    set->key = training_data_pairs_key(codec, &pairs, max_tokens, options->loss_on_header);
    const int rc = find_cache(options, set)
                       ? 0
                       : training_data_from_pairs(codec, &pairs, max_tokens,
                                                  options->loss_on_header, &set->sequences, err);
    pair_list_close(&pairs);
    return rc;
}

static int read_text(const struct train_options *options, const struct text_codec *codec,
                     struct training_set *set, struct error *err)
{
    const size_t max_tokens = (size_t)options->max_tokens, sample = (size_t)options->sample;
    struct corpus_part part;
    struct corpus *corpus = NULL;
    if (options->data.count != 1)
        return error_set(err, "--objective text takes one corpus, not %zu", options->data.count);
    if (corpus_part_parse(options->part, &part, err) ||
        corpus_open(options->data.items[0], &corpus, err))
        return -1;
    set->key = training_data_corpus_key(codec, corpus, part, max_tokens, sample);
    const int rc = find_cache(options, set)
                       ? 0
                       : training_data_from_corpus(codec, corpus, part, max_tokens, sample,
                                                   &set->sequences, err);
    corpus_close(corpus);
    return rc;
}

static int check_counts(const struct train_options *options, const struct training_set *set,
                        struct error *err)
{
    const struct sequence_set *sequences = &set->sequences;
    if (sequences->too_long > 0)
        log_warn("%zu of %" PRIu64 " pairs are longer than --max-tokens %" PRId64
                 " (longest: %zu tokens) and were left out",
                 sequences->too_long, set->pairs, options->max_tokens, sequences->longest_refused);
    if (sequences->count == 0)
        return error_set(err, "nothing to train on: every sequence is longer than --max-tokens");
    if ((size_t)options->held_out >= sequences->count)
        return error_set(err, "--held-out %" PRId64 " of %zu sequences leaves nothing to train on",
                         options->held_out, sequences->count);
    return 0;
}

static int read_data(const struct train_options *options, const struct text_codec *codec,
                     struct training_set *set, struct error *err)
{
    const bool text = strcmp(options->objective, "text") == 0;
    return (text ? read_text(options, codec, set, err) : read_pairs(options, codec, set, err)) ||
                   check_counts(options, set, err)
               ? -1
               : 0;
}

// What ranks need to know before they see the sequences.
struct summary {
    struct digest key;
    uint64_t pairs, count, longest, longest_prompt;
};

size_t training_set_questions(const struct train_options *options)
{
    const bool asks = strcmp(options->objective, "qa") == 0;
    const int64_t most = options->eval_answers;
    return (size_t)(!asks ? 0 : most < options->held_out ? most : options->held_out);
}

// Questions are the first of the held-out sequences, and those are the last of all.
static size_t longest_prompt(const struct train_options *options, const struct sequence_set *set)
{
    const size_t questions = training_set_questions(options);
    const size_t begin = set->count - (size_t)options->held_out;
    size_t longest = 0;
    for (size_t s = begin; s < begin + questions; s++)
        longest = sequence_answer(set, s) > longest ? sequence_answer(set, s) : longest;
    return longest;
}

int training_set_prepare(const struct train_options *options, const struct text_codec *codec,
                         struct group *group, struct training_set *out, struct error *err)
{
    const bool reads = group_rank(group) == 0;
    *out = (struct training_set){0};
    const int rc = reads ? read_data(options, codec, out, err) : 0;
    struct summary summary = {out->key, out->pairs, out->sequences.count, out->sequences.longest,
                              reads && rc == 0 ? longest_prompt(options, &out->sequences) : 0};
    if (group_agree(group, rc, err) || group_broadcast(group, &summary, sizeof(summary), 0, err))
        return -1;
    out->longest_prompt = (size_t)summary.longest_prompt;
    if (!reads) {
        out->key = summary.key;
        out->pairs = summary.pairs;
        out->sequences.count = (size_t)summary.count;
        out->sequences.longest = (size_t)summary.longest;
    }
    return 0;
}

static int write_cache(const struct train_options *options, struct training_set *set,
                       struct error *err)
{
    char *directory = cache_directory(options);
    char *path = token_cache_path(directory, set->key);
    const int rc =
        fs_make_directories(fs_system(), directory, err) ||
                token_cache_write(&set->sequences, set->pairs, set->key, fs_system(), path, err)
            ? -1
            : 0;
    free(path);
    free(directory);
    return rc;
}

static int map_cache(const struct train_options *options, struct training_set *set,
                     struct error *err)
{
    char *path = cache_path(options, set->key);
    for (int i = 0; i < APPEARS_TRIES && !fs_exists(fs_system(), path); i++)
        nanosleep(&(struct timespec){.tv_nsec = APPEARS_PAUSE_MS * 1000000L}, NULL);
    sequence_set_release(&set->sequences);
    const int rc = token_cache_open(path, set->key, &set->cache, err);
    if (rc == 0)
        set->sequences = set->cache.set;
    free(path);
    return rc ? error_prefix(err, "tokens that every rank must see (--token-cache)") : 0;
}

int training_set_share(const struct train_options *options, struct group *group,
                       struct training_set *set, struct error *err)
{
    const bool reads = group_rank(group) == 0;
    int rc = reads && !set->found ? write_cache(options, set, err) : 0;
    if (group_agree(group, rc, err))
        return -1;
    rc = set->found ? 0 : map_cache(options, set, err);
    if (group_agree(group, rc, err))
        return -1;
    training_data_hold_out(&set->sequences, (size_t)options->held_out, &set->held_out);
    return 0;
}

void training_set_release(struct training_set *set)
{
    sequence_set_release(&set->held_out);
    sequence_set_release(&set->sequences);
    token_cache_close(&set->cache);
}
