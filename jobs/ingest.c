// SPDX-License-Identifier: Apache-2.0
// memo ingest: files into corpus.h5.
#include "datasets/ingest.h"
#include "base/json.h"
#include "base/log.h"
#include "datasets/corpus.h"
#include "datasets/tokenizer.h"
#include "jobs/run_directory.h"
#include "jobs/verbs.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define MAX_LISTED 10 // names of one kind in the log; all of them stand in corpus.h5

struct ingest_job_options {
    const char *out;
    int64_t chunk_tokens;
    int64_t overlap;
    const char *tokenizer;
    struct option_list globs;
    struct option_list known;
    const char *id_key, *text_key, *date_key, *title_key;
    double near_duplicates;
    const char *bad_files;
    const char *report;
};

#define OPTION_AT(field) offsetof(struct ingest_job_options, field)

static const struct option ingest_option_table[] = {
    {"out", OPTION_STRING, OPTION_AT(out), "FILE", NULL, 0, 0, NULL, "corpus to write", true},
    {"chunk-tokens", OPTION_INT, OPTION_AT(chunk_tokens), "N", "5000", 16, 1 << 20, NULL,
     "most tokens of a chunk", false},
    {"overlap", OPTION_INT, OPTION_AT(overlap), "N", "500", 0, 1 << 19, NULL,
     "tokens that a chunk repeats of the one before", false},
    {"tokenizer", OPTION_STRING, OPTION_AT(tokenizer), "DIR", NULL, 0, 0, NULL,
     "count with the tokenizer of this model directory (default: words, numbers and punctuation "
     "marks)",
     false},
    {"glob", OPTION_LIST, OPTION_AT(globs), "PATTERN...", NULL, 0, 0, NULL,
     "of directories, read the files that match, whatever their ending", false},
    {"known", OPTION_LIST, OPTION_AT(known), "FILE...", NULL, 0, 0, NULL,
     "earlier corpora: only documents whose text is in none of them are written", false},
    {"id-key", OPTION_STRING, OPTION_AT(id_key), "KEY", "id", 0, 0, NULL, "of JSON Lines", false},
    {"text-key", OPTION_STRING, OPTION_AT(text_key), "KEY", "text", 0, 0, NULL, "of JSON Lines",
     false},
    {"date-key", OPTION_STRING, OPTION_AT(date_key), "KEY", "date", 0, 0, NULL, "of JSON Lines",
     false},
    {"title-key", OPTION_STRING, OPTION_AT(title_key), "KEY", "title", 0, 0, NULL, "of JSON Lines",
     false},
    {"near-duplicates", OPTION_NUMBER, OPTION_AT(near_duplicates), "X", "0.8", 0.5, 2, NULL,
     "set aside a document whose words overlap an earlier one's by this share; above 1: only exact "
     "duplicates",
     false},
    {"bad-files", OPTION_CHOICE, OPTION_AT(bad_files), "WHAT", "fail", 0, 0, "fail|skip",
     "a file that cannot be read or is not UTF-8 ends the job, or is left out and listed", false},
    {"report", OPTION_STRING, OPTION_AT(report), "FILE", NULL, 0, 0, NULL,
     "write as JSON what was found: counts, and the sources that changed or vanished since the known "
     "corpora, were skipped or are bad",
     false},
    {0},
};

// Counts tokens for the chunker; an encoding error was excluded when the text was read.
struct counting {
    struct tokenizer *tokenizer;
    struct tokenizer_scratch *scratch;
    struct token_list ids;
};

static size_t count_tokens(void *context, const char *bytes, size_t length)
{
    struct counting *counting = context;
    struct error err;
    counting->ids.count = 0;
    if (tokenizer_encode(counting->tokenizer, counting->scratch, bytes, length, false,
                         &counting->ids, &err))
        return length;
    return counting->ids.count;
}

static void counting_release(struct counting *counting)
{
    tokenizer_scratch_destroy(counting->scratch);
    tokenizer_destroy(counting->tokenizer);
    token_list_release(&counting->ids);
}

static int resolve(const struct ingest_job_options *options, struct counting *counting,
                   struct ingest_options *out, struct error *err)
{
    *out = ingest_options_default();
    out->chunker.chunk_tokens = (size_t)options->chunk_tokens;
    out->chunker.overlap_tokens = (size_t)options->overlap;
    out->globs = options->globs.items;
    out->glob_count = options->globs.count;
    out->known = options->known.items;
    out->known_count = options->known.count;
    out->id_key = options->id_key;
    out->text_key = options->text_key;
    out->date_key = options->date_key;
    out->title_key = options->title_key;
    out->near_duplicate_threshold = options->near_duplicates;
    out->skips_bad_files = strcmp(options->bad_files, "skip") == 0;
    if (!options->tokenizer)
        return 0;
    if (tokenizer_load(options->tokenizer, &counting->tokenizer, err))
        return -1;
    counting->scratch = tokenizer_scratch_create(counting->tokenizer);
    out->chunker.counter = (struct token_counter){count_tokens, counting};
    return 0;
}

static void list_names(const char *what, const struct ingest_names *names)
{
    for (size_t i = 0; i < names->count && i < MAX_LISTED; i++)
        log_info("%s: %s", what, names->items[i]);
    if (names->count > MAX_LISTED)
        log_info("%s: and %zu more", what, names->count - MAX_LISTED);
}

static void say_what_was_found(const struct ingest_report *report, struct run_directory *run)
{
    list_names("skipped, not text", &report->skipped);
    for (size_t i = 0; i < report->bad.count && i < MAX_LISTED; i++)
        log_warn("left out: %s", report->bad.items[i]);
    if (report->bad.count > 0)
        log_warn("%zu files are left out, which are no text or cannot be read", report->bad.count);
    list_names("changed since the known corpus", &report->changed);
    list_names("vanished since the known corpus", &report->vanished);
    log_info(
        "%zu files: %zu documents, %zu chunks, %zu groups, %.1f k tokens; set aside: %zu exact "
        "and %zu near duplicates, %zu empty, %zu known",
        report->files, report->documents, report->chunks, report->groups,
        (double)report->tokens / 1e3, report->exact_duplicates, report->near_duplicates,
        report->empty, report->known);
    run_directory_int(run, "documents", (int64_t)report->documents);
    run_directory_int(run, "chunks", (int64_t)report->chunks);
    run_directory_int(run, "groups", (int64_t)report->groups);
    run_directory_int(run, "tokens", (int64_t)report->tokens);
    run_directory_int(run, "duplicates",
                      (int64_t)(report->exact_duplicates + report->near_duplicates));
}

static void report_names(struct json_writer *w, const char *key, const struct ingest_names *names)
{
    json_key(w, key);
    json_begin_array(w);
    for (size_t i = 0; i < names->count; i++)
        json_text_repaired(w, names->items[i]);
    json_end_array(w);
}

static int write_report(const struct ingest_report *report, const char *path, struct error *err)
{
    struct strbuf text = {0};
    struct json_writer w = {.out = &text};
    const struct {
        const char *key;
        size_t value;
    } figures[] = {
        {"files", report->files},
        {"documents", report->documents},
        {"chunks", report->chunks},
        {"groups", report->groups},
        {"tokens", (size_t)report->tokens},
        {"exact_duplicates", report->exact_duplicates},
        {"near_duplicates", report->near_duplicates},
        {"empty", report->empty},
        {"known", report->known},
    };
    json_begin_object(&w);
    for (size_t i = 0; i < sizeof(figures) / sizeof(figures[0]); i++) {
        json_key(&w, figures[i].key);
        json_int(&w, (int64_t)figures[i].value);
    }
    report_names(&w, "changed", &report->changed);
    report_names(&w, "vanished", &report->vanished);
    report_names(&w, "skipped", &report->skipped);
    report_names(&w, "bad", &report->bad);
    json_end_object(&w);
    strbuf_addc(&text, '\n');
    const int rc = fs_write_text(fs_system(), path, text.bytes, text.length, err);
    strbuf_release(&text);
    return rc;
}

static int ingest(const struct ingest_job_options *options, const struct option_list *paths,
                  struct run_directory *run, struct error *err)
{
    struct counting counting = {0};
    struct ingest_options resolved;
    struct ingest_report report = {0};
    struct ingest *ingest = NULL;
    struct corpus *corpus = NULL;
    int rc = resolve(options, &counting, &resolved, err) ||
                     ingest_create(fs_system(), &resolved, &ingest, err)
                 ? -1
                 : 0;
    for (size_t i = 0; rc == 0 && i < paths->count; i++)
        rc = ingest_add_path(ingest, paths->items[i], err);
    if (rc == 0)
        rc = ingest_finish(ingest, &corpus, &report, err);
    if (rc >= 0)
        say_what_was_found(&report, run);
    if (rc == INGEST_NOTHING_NEW)
        log_info("nothing new: '%s' was not written", options->out);
    if (rc == 0)
        rc = corpus_write(fs_system(), options->out, corpus, err);
    if (rc >= 0 && options->report && write_report(&report, options->report, err))
        rc = -1;
    corpus_close(corpus);
    ingest_destroy(ingest);
    counting_release(&counting);
    return rc < 0 ? EXIT_FAILED : EXIT_DONE;
}

static int run_ingest(const void *parsed, const struct option_list *paths, struct error *err)
{
    const struct ingest_job_options *options = parsed;
    struct run_directory run = {0};
    if (paths->count == 0) {
        error_set(err, "no input: name files or directories of text");
        return EXIT_USAGE;
    }
    if (run_directory_open(&run, options->out, false, &verb_ingest, options, err))
        return EXIT_FAILED;
    return run_directory_close(&run, ingest(options, paths, &run, err), err);
}

const struct verb verb_ingest = {
    .name = "ingest",
    .summary = "read text files into a corpus of documents and chunks",
    .positional = "PATH...",
    .examples = "  memo ingest books/ notes.md --out corpus.h5\n"
                "  memo ingest texts/ --out corpus.h5 --bad-files skip\n"
                "  memo ingest news.jsonl --text-key body --out today.h5 --known yesterday.h5\n",
    .options = ingest_option_table,
    .options_bytes = sizeof(struct ingest_job_options),
    .run = run_ingest,
};
