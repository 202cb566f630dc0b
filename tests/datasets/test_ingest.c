// SPDX-License-Identifier: Apache-2.0
#include "datasets/ingest.h"

#include "base/mem.h"
#include "tests/base/temporary_directory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

// Files under a directory of one test.
struct place {
    char *directory;
    struct ingest_options options;
    struct ingest *ingest;
    struct corpus *corpus;
    struct ingest_report report;
    struct error err;
};

static int setup(void **state)
{
    void *directory = NULL;
    if (temporary_directory_setup(&directory)) {
        return -1;
    }
    struct place *place = mem_calloc(1, sizeof *place);
    place->directory = directory;
    place->options = ingest_options_default();
    *state = place;
    return 0;
}

static void forget(struct place *place)
{
    corpus_close(place->corpus);
    ingest_destroy(place->ingest);
    place->corpus = NULL;
    place->ingest = NULL;
}

static int teardown(void **state)
{
    struct place *place = *state;
    void *directory = place->directory;
    forget(place);
    free(place);
    return temporary_directory_teardown(&directory);
}

static void put_bytes(struct place *place, const char *name, const char *bytes, size_t length)
{
    char *path = fs_join(place->directory, name);
    char *slash = strrchr(path, '/');
    *slash = '\0';
    assert_int_equal(fs_make_directories(fs_system(), path, &place->err), 0);
    *slash = '/';
    FILE *file = fopen(path, "wb");
    assert_non_null(file);
    assert_int_equal(fwrite(bytes, 1, length, file), length);
    assert_int_equal(fclose(file), 0);
    free(path);
}

static void put(struct place *place, const char *name, const char *text)
{
    put_bytes(place, name, text, strlen(text));
}

// Ingests "NAME" below the directory, "" for all of it. The result of the first call that fails, or
// of the last.
static int read_name(struct place *place, const char *name)
{
    forget(place);
    memset(&place->report, 0, sizeof place->report);
    char *path = *name ? fs_join(place->directory, name) : mem_strdup(place->directory);
    int rc = ingest_create(fs_system(), &place->options, &place->ingest, &place->err);
    rc = rc ? rc : ingest_add_path(place->ingest, path, &place->err);
    rc = rc ? rc : ingest_finish(place->ingest, &place->corpus, &place->report, &place->err);
    free(path);
    if (place->corpus) {
        struct error err = {""};
        assert_int_equal(corpus_check(place->corpus, &err), 0);
    }
    return rc;
}

static const char *text_of(const struct place *place, size_t document)
{
    static char text[256];
    const struct corpus_document *d = &place->corpus->documents[document];
    size_t length = d->end - d->begin < sizeof text - 1 ? d->end - d->begin : sizeof text - 1;
    memcpy(text, place->corpus->text + d->begin, length);
    text[length] = '\0';
    return text;
}

static void directories_are_read_in_order_whatever_the_endings(void **state)
{
    struct place *place = *state;
    put(place, "b.txt", "Bravo bravo bravo.");
    put(place, "a.md", "# Heading\r\n\r\nAlpha.\r\n");
    put(place, "sub/d.dat", "Delta delta delta.");
    put(place, "c.content",
        "\xef\xbb\xbf"
        "Charlie\rcharlie.");
    put(place, ".hidden.txt", "Hidden.");
    put_bytes(place, "z.bin", "a\0b", 3);
    put(place, "y.bin", "\xff\xfe");
    assert_int_equal(read_name(place, ""), 0);
    assert_int_equal(place->corpus->document_count, 4);
    assert_string_equal(text_of(place, 0), "# Heading\n\nAlpha.");
    assert_string_equal(text_of(place, 1), "Bravo bravo bravo.");
    assert_string_equal(text_of(place, 2), "Charlie\ncharlie.");
    assert_string_equal(text_of(place, 3), "Delta delta delta.");
    assert_string_equal(place->corpus->documents[0].title, "Heading");
    assert_string_equal(place->corpus->documents[1].title, "b");
    assert_string_equal(place->corpus->documents[2].title, "Charlie");
    assert_non_null(strstr(place->corpus->documents[3].source, "/sub/d.dat"));
    assert_string_equal(place->corpus->documents[3].id, place->corpus->documents[3].source);
    assert_int_equal(place->report.skipped.count, 2);
    assert_non_null(strstr(place->report.skipped.items[0], "y.bin"));
    assert_int_equal(place->report.files, 4);
}

static void globs_choose_the_files_of_a_directory(void **state)
{
    struct place *place = *state;
    put(place, "a.txt", "Alpha alpha.");
    put(place, "b.story", "Bravo bravo.");
    put(place, "sub/c.story", "Charlie charlie.");
    place->options.globs = (const char *const[]){"*.story"};
    place->options.glob_count = 1;
    assert_int_equal(read_name(place, ""), 0);
    assert_int_equal(place->corpus->document_count, 2);
    assert_int_equal(read_name(place, "a.txt"), 0); // named explicitly
    place->options.globs = (const char *const[]){"*/sub/*"};
    assert_int_equal(read_name(place, ""), 0);
    assert_int_equal(place->corpus->document_count, 1);
    put(place, "bad.story", "ok \xc3(");
    place->options.globs = (const char *const[]){"*.story"};
    assert_int_equal(read_name(place, ""), -1); // what matches is claimed to be text
}

static void bad_files_are_errors_that_name_file_and_place(void **state)
{
    struct place *place = *state;
    put(place, "bad.dat", "valid \xe2\x82 not");
    assert_int_equal(read_name(place, "bad.dat"), -1);
    assert_non_null(strstr(place->err.text, "bad.dat' is not UTF-8: invalid at byte 6"));
    put_bytes(place, "nul.txt", "a\0b\0", 4); // UTF-16
    assert_int_equal(read_name(place, "nul.txt"), -1);
    assert_non_null(strstr(place->err.text, "nul.txt' is not UTF-8: 2 of its 4 bytes are NUL"));
    assert_int_equal(read_name(place, "missing.txt"), -1);
    assert_non_null(strstr(place->err.text, "missing.txt"));
    put(place, "deep/e.txt", "Echo.");
    assert_int_equal(read_name(place, "deep"), 0);
    put_bytes(place, "deep/f.txt", "Fox\xff", 4);
    assert_int_equal(read_name(place, "deep"), -1); // .txt claims to be text
    assert_non_null(strstr(place->err.text, "f.txt"));
}

// A directory where a file was, a link to nothing, a loop of links, a failing read.
static void unreadable_input_is_an_error(void **state)
{
    struct place *place = *state;
    put(place, "text.txt/inner.txt", "Inner text."); // a directory named like a file is a directory
    assert_int_equal(read_name(place, ""), 0);
    char *link = fs_join(place->directory, "dangling.txt");
    assert_int_equal(symlink("nowhere", link), 0);
    assert_int_equal(read_name(place, ""), -1);
    assert_non_null(strstr(place->err.text, "dangling.txt"));
    assert_int_equal(unlink(link), 0);
    free(link);
    link = fs_join(place->directory, "loop");
    assert_int_equal(symlink(".", link), 0);
    assert_int_equal(read_name(place, ""), -1);
    assert_int_equal(unlink(link), 0);
    free(link);
    for (int64_t n = 1; n <= 4; n++) {
        struct fs_fault fault = {
            .inner = fs_system(), .write_budget_bytes = UINT64_MAX, .fail_operation = n};
        struct fs fs = fs_with_faults(&fault);
        struct ingest *ingest = NULL;
        assert_int_equal(ingest_create(&fs, &place->options, &ingest, &place->err), 0);
        assert_int_equal(ingest_add_path(ingest, place->directory, &place->err), -1);
        assert_non_null(strstr(place->err.text, place->directory));
        ingest_destroy(ingest);
    }
}

// One bad file among many does not stop a night that allows it.
static void bad_files_can_be_left_out(void **state)
{
    struct place *place = *state;
    char *link = fs_join(place->directory, "dangling.txt");
    put(place, "a.txt", "Alpha alpha.");
    put_bytes(place, "b.txt",
              "\xff\xfe"
              "b\0",
              4);
    put_bytes(place, "c.txt", "Fox\xff", 4);
    char *pipe = fs_join(place->directory, "pipe.txt");
    assert_int_equal(mkfifo(pipe, 0600), 0); // reading it would wait for ever
    free(pipe);
    assert_int_equal(symlink("nowhere", link), 0);
    assert_int_equal(read_name(place, ""), -1);
    assert_non_null(strstr(place->err.text, "b.txt' is UTF-16"));
    place->options.skips_bad_files = true;
    assert_int_equal(read_name(place, ""), 0);
    assert_int_equal(place->corpus->document_count, 1);
    assert_int_equal(place->report.skipped.count, 1);
    assert_non_null(strstr(place->report.skipped.items[0], "pipe.txt"));
    assert_int_equal(place->report.bad.count, 3);
    assert_non_null(strstr(place->report.bad.items[0], "b.txt' is UTF-16"));
    assert_non_null(strstr(place->report.bad.items[1], "c.txt' is not UTF-8: invalid at byte 3"));
    assert_non_null(strstr(place->report.bad.items[2], "dangling.txt'"));
    free(link);
}

// A corpus holds text alone, and names of files are bytes.
static void a_name_that_is_no_text_is_escaped(void **state)
{
    struct place *place = *state;
    put(place, "caf\xe9.txt", "Alpha alpha.");
    put(place, "z\xff.txt", "Alpha alpha."); // set aside, by its name
    assert_int_equal(read_name(place, ""), 0);
    assert_non_null(strstr(place->corpus->documents[0].source, "/caf\\xe9.txt"));
    assert_string_equal(place->corpus->documents[0].title, "caf\\xe9");
    assert_int_equal(place->corpus->set_aside_count, 1);
    assert_non_null(strstr(place->corpus->set_aside[0].source, "/z\\xff.txt"));
    assert_int_equal(corpus_check(place->corpus, &place->err), 0);
}

static void json_lines_give_one_document_each(void **state)
{
    struct place *place = *state;
    put(place, "many.jsonl",
        "\xef\xbb\xbf{\"id\":\"one\",\"text\":\"First\\r\\ntext.\",\"date\":\"1871\"}\r\n"
        "\n"
        "{\"text\":\"Second text of all.\",\"title\":\"  The\\nsecond \",\"id\":7}\n"
        "{\"text\":\"Third text, which is the last.\",\"id\":null}");
    assert_int_equal(read_name(place, "many.jsonl"), 0);
    const struct corpus_document *documents = place->corpus->documents;
    assert_int_equal(place->corpus->document_count, 3);
    assert_string_equal(text_of(place, 0), "First\ntext.");
    assert_string_equal(documents[0].id, "one");
    assert_string_equal(documents[0].date, "1871");
    assert_string_equal(documents[0].title, "First");
    assert_string_equal(documents[1].title, "The second");
    assert_string_equal(documents[1].id, "7");
    assert_non_null(strstr(documents[2].source, "many.jsonl:4"));
    assert_string_equal(documents[2].title, "many.jsonl:4");
    place->options.text_key = "body";
    assert_int_equal(read_name(place, "many.jsonl"), -1);
    assert_non_null(strstr(place->err.text, "many.jsonl:1"));
    assert_non_null(strstr(place->err.text, "no 'body'"));
}

static void bad_json_lines_name_the_line(void **state)
{
    struct place *place = *state;
    static const char *const bad[] = {"[1]",
                                      "{\"text\":",
                                      "{\"text\":5}",
                                      "{\"text\":\"a\",\"id\":\"a\\u0000b\"}",
                                      "{\"text\":\"a\",\"id\":[]}",
                                      "{\"text\":\"a\"} x"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char *text = mem_printf("{\"text\":\"fine\"}\n%s\n", bad[i]);
        put(place, "bad.jsonl", text);
        free(text);
        assert_int_equal(read_name(place, "bad.jsonl"), -1);
        assert_non_null(strstr(place->err.text, "bad.jsonl:2"));
    }
    put(place, "bad.jsonl",
        "{\"text\":\"one one\",\"id\":\"a\"}\n{\"text\":\"two\",\"id\":\"a\"}\n");
    assert_int_equal(read_name(place, "bad.jsonl"), -1);
    assert_non_null(strstr(place->err.text, "two documents have the id 'a'"));
}

static void empty_corpora_are_an_error(void **state)
{
    struct place *place = *state;
    assert_int_equal(read_name(place, ""), -1); // an empty directory
    assert_non_null(strstr(place->err.text, "corpus is empty"));
    put(place, "empty.txt", "");
    put(place, "white.txt", " \r\n\t\n");
    assert_int_equal(read_name(place, ""), -1);
    assert_non_null(strstr(place->err.text, "2 files read, 2 without text"));
    put(place, "some.txt", "Some text.");
    assert_int_equal(read_name(place, ""), 0);
    assert_int_equal(place->report.empty, 2);
    assert_int_equal(place->corpus->set_aside_count, 2);
    assert_int_equal(place->corpus->set_aside[0].reason, CORPUS_EMPTY);
}

#define LONG_TEXT                                                                                  \
    "The ferry left the harbour at dawn with twelve passengers, a cow and the mail of three "      \
    "weeks, and nobody on board had slept, because the cow had opinions about the tide and said "  \
    "so until the lighthouse was behind them and the captain gave her his own breakfast."

static void duplicates_are_set_aside_and_listed(void **state)
{
    struct place *place = *state;
    put(place, "a.txt", LONG_TEXT);
    put(place, "b.txt", LONG_TEXT "\r\n");
    put(place, "c.txt", LONG_TEXT " Amen.");
    put(place, "d.txt", "Something else altogether happened on the other side of the island.");
    assert_int_equal(read_name(place, ""), 0);
    assert_int_equal(place->corpus->document_count, 2);
    assert_int_equal(place->report.exact_duplicates, 1);
    assert_int_equal(place->report.near_duplicates, 1);
    assert_non_null(strstr(place->corpus->documents[0].source, "c.txt")); // the longer one
    const struct corpus_set_aside *aside = place->corpus->set_aside;
    assert_int_equal(place->corpus->set_aside_count, 2);
    assert_non_null(strstr(aside[0].source, "a.txt"));
    assert_int_equal(aside[0].reason, CORPUS_NEAR_DUPLICATE);
    assert_non_null(strstr(aside[0].of, "c.txt"));
    assert_non_null(strstr(aside[1].source, "b.txt"));
    assert_int_equal(aside[1].reason, CORPUS_EXACT_DUPLICATE);
    assert_non_null(strstr(aside[1].of, "a.txt"));
    place->options.near_duplicate_threshold = 2;
    assert_int_equal(read_name(place, ""), 0);
    assert_int_equal(place->corpus->document_count, 3);
}

static void only_what_is_new_is_kept_beside_known_corpora(void **state)
{
    struct place *place = *state;
    char *known = mem_printf("%s.h5", place->directory);
    put(place, "stays.txt", "This one stays as it is.");
    put(place, "changes.txt", "This one will be another.");
    put(place, "goes.txt", "This one will go away.");
    put(place, "moves.txt", "This one gets another name.");
    assert_int_equal(read_name(place, ""), 0);
    assert_int_equal(corpus_write(fs_system(), known, place->corpus, &place->err), 0);
    place->options.known = (const char *const[]){known};
    place->options.known_count = 1;
    assert_int_equal(read_name(place, ""), INGEST_NOTHING_NEW);
    assert_null(place->corpus);
    assert_int_equal(place->report.known, 4);
    assert_int_equal(place->report.vanished.count, 0);

    char *goes = fs_join(place->directory, "goes.txt");
    char *moves = fs_join(place->directory, "moves.txt");
    char *moved = fs_join(place->directory, "moved.txt");
    assert_int_equal(remove(goes), 0);
    assert_int_equal(rename(moves, moved), 0);
    put(place, "changes.txt", "This one has become another.");
    put(place, "new.txt", "This one nobody knew.");
    assert_int_equal(read_name(place, ""), 0);
    assert_int_equal(place->corpus->document_count, 2);
    assert_string_equal(text_of(place, 0), "This one has become another.");
    assert_string_equal(text_of(place, 1), "This one nobody knew.");
    assert_int_equal(place->report.known, 2);
    assert_int_equal(place->report.changed.count, 1);
    assert_non_null(strstr(place->report.changed.items[0], "changes.txt"));
    assert_int_equal(place->report.vanished.count, 1);
    assert_string_equal(place->report.vanished.items[0], goes);

    put(place, "goes.txt", "x");
    place->options.known = (const char *const[]){goes};
    assert_int_equal(read_name(place, ""), -1); // not a corpus
    assert_int_equal(unlink(known), 0);
    free(goes);
    free(moves);
    free(moved);
    free(known);
}

static void odd_texts_survive(void **state)
{
    struct place *place = *state;
    size_t length = 1 << 20;
    char *line = mem_alloc(length + 1);
    for (size_t i = 0; i < length; i++) {
        line[i] = i % 6 == 5 ? ' ' : (char)('a' + i * i % 23);
    }
    line[length] = '\0';
    put(place, "one-line.txt", line);
    put(place, "right-to-left.txt", "שלום עולם\n\nזהו טקסט. مرحبا بالعالم!\n");
    assert_int_equal(read_name(place, ""), 0);
    assert_int_equal(place->corpus->document_count, 2);
    assert_string_equal(place->corpus->documents[0].title, "one-line");
    assert_string_equal(place->corpus->documents[1].title, "שלום עולם");
    assert_true(place->corpus->chunk_count > 100);
    char *path = mem_printf("%s.h5", place->directory);
    struct corpus *read = NULL;
    assert_int_equal(corpus_write(fs_system(), path, place->corpus, &place->err), 0);
    assert_int_equal(corpus_open(path, &read, &place->err), 0);
    assert_true(digest_equal(read->digest, place->corpus->digest));
    corpus_close(read);
    assert_int_equal(unlink(path), 0);
    free(path);
    free(line);
}

static void the_same_input_gives_the_same_corpus(void **state)
{
    struct place *place = *state;
    put(place, "a.txt", LONG_TEXT "\n\nMore was said of Edith Wharton.");
    put(place, "b.txt", "Here we speak of Edith Wharton too, but not of the cow.");
    place->options.chunker.chunk_tokens = 30;
    place->options.chunker.overlap_tokens = 10;
    assert_int_equal(read_name(place, ""), 0);
    struct digest digest = place->corpus->digest;
    assert_int_equal(place->corpus->group_count, 1);
    assert_int_equal(read_name(place, ""), 0);
    assert_true(digest_equal(place->corpus->digest, digest));
    place->options.chunker.chunk_tokens = 20;
    assert_int_equal(read_name(place, ""), 0);
    assert_false(digest_equal(place->corpus->digest, digest));
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

static void a_few_nuls_are_text(void **state)
{
    struct place *place = *state;
    put_bytes(place, "zeros.txt", "Zeros\0of old\n\nHalf of this\0file is kept.\n", 42);
    put(place, "lines.jsonl", "{\"text\": \"Some\\u0000where else.\", \"title\": \"Where\"}\n");
    assert_int_equal(read_name(place, "zeros.txt"), 0);
    const struct corpus_document *document = &place->corpus->documents[0];
    assert_string_equal(document->title, "Zeros of old");
    assert_memory_equal(place->corpus->text + document->begin, "Zeros\0of old\n", 13);
    assert_int_equal(read_name(place, "lines.jsonl"), 0);
    document = &place->corpus->documents[0];
    assert_int_equal(document->end - document->begin, strlen("Some where else."));
    assert_memory_equal(place->corpus->text + document->begin, "Some\0where", 10);
    put(place, "lines.jsonl", "{\"text\": \"x\", \"id\": \"a\\u0000b\"}\n");
    assert_int_equal(read_name(place, "lines.jsonl"), -1);
    assert_non_null(strstr(place->err.text, "'id' contains a NUL"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(directories_are_read_in_order_whatever_the_endings),
        TEST(globs_choose_the_files_of_a_directory),
        TEST(bad_files_are_errors_that_name_file_and_place),
        TEST(a_few_nuls_are_text),
        TEST(unreadable_input_is_an_error),
        TEST(bad_files_can_be_left_out),
        TEST(a_name_that_is_no_text_is_escaped),
        TEST(json_lines_give_one_document_each),
        TEST(bad_json_lines_name_the_line),
        TEST(empty_corpora_are_an_error),
        TEST(duplicates_are_set_aside_and_listed),
        TEST(only_what_is_new_is_kept_beside_known_corpora),
        TEST(odd_texts_survive),
        TEST(the_same_input_gives_the_same_corpus),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
