// SPDX-License-Identifier: Apache-2.0
// From files to a corpus: reads text, Markdown and JSON Lines, cleans and names documents, sets
// duplicates aside, cuts chunks and finds groups.
#ifndef MEMO_DATASETS_INGEST_H
#define MEMO_DATASETS_INGEST_H

#include "base/error.h"
#include "base/fs.h"
#include "datasets/chunker.h"
#include "datasets/corpus.h"
#include "datasets/groups.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ingest_options {
    struct chunker_options chunker; // without a counter: prose_count_tokens
    // Shell patterns. When there are any, a directory gives only the files that match one: by name,
    // or by path when the pattern has a slash.
    const char *const *globs;
    size_t glob_count;
    const char *const *known; // corpus files whose documents are left out
    size_t known_count;
    const char *id_key; // of JSON Lines
    const char *text_key;
    const char *date_key;
    const char *title_key;
    double near_duplicate_threshold; // above 1: only exact duplicates are found
    bool skips_bad_files;            // those that cannot be read or are no text; an error otherwise
    struct groups_options groups;
};
struct ingest_options ingest_options_default(void);

struct ingest_names {
    const char **items;
    size_t count;
};

// The names live as long as the ingest.
struct ingest_report {
    size_t files; // read
    size_t documents;
    size_t chunks;
    size_t groups;
    uint64_t text_bytes;
    uint64_t tokens; // of all chunks, overlaps counted twice
    size_t exact_duplicates;
    size_t near_duplicates;
    size_t empty;
    size_t known;
    struct ingest_names skipped;  // files of directories that are not text
    struct ingest_names bad;      // "'PATH' is ...", with skips_bad_files
    struct ingest_names changed;  // sources known with another text
    struct ingest_names vanished; // known sources that are gone, as is their text
};

struct ingest;

// fs is used for all reading of input. options is copied, what it points to is not.
int ingest_create(struct fs *fs, const struct ingest_options *options, struct ingest **out,
                  struct error *err);
void ingest_destroy(struct ingest *ingest);

// A file, or a directory with all below it in the order of names; names that begin with a point are
// passed over. A file named here is read whatever its ending, one ending in .jsonl as JSON Lines;
// what is wrong with it is an error, as it is for .txt, .md, .jsonl and whatever matches a glob;
// with skips_bad_files one that cannot be read or is no text is left out and reported. A few NULs
// are text like all else. Of a name that is not UTF-8 the source has \xNN for each wrong byte.
// Any other file of a directory is read when it is UTF-8 without NULs and skipped otherwise, as are
// pipes, sockets and devices. After
// an error the ingest can only be destroyed.
int ingest_add_path(struct ingest *ingest, const char *path, struct error *err);

#define INGEST_NOTHING_NEW 1 // every document is known: no corpus, but a report

// Once. No document at all is an error. *out is closed by the caller and outlives the ingest.
int ingest_finish(struct ingest *ingest, struct corpus **out, struct ingest_report *report,
                  struct error *err);

#endif
