// SPDX-License-Identifier: Apache-2.0
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "base/fs.h"
#include "base/options.h"
#include "temporary_directory.h"

#include <math.h>
#include <string.h>

struct train_options {
    const char *base;
    int64_t epochs;
    int64_t limit;
    double rate;
    bool stream;
    bool resume;
    const char *method;
    const char *out;
    struct option_list vectors;
};

#define AT(member) offsetof(struct train_options, member)

static const struct option table[] = {
    {.name = "base",
     .type = OPTION_STRING,
     .offset = AT(base),
     .argument = "DIR",
     .help = "the model that training starts from",
     .required = true},
    {.name = "epochs",
     .type = OPTION_INT,
     .offset = AT(epochs),
     .argument = "N",
     .fallback = "3",
     .minimum = 1,
     .maximum = 100,
     .help = "passes over the data"},
    {.name = "limit",
     .type = OPTION_INT,
     .offset = AT(limit),
     .argument = "N",
     .minimum = 1,
     .maximum = INFINITY,
     .help = "stop after N pairs"},
    {.name = "lr",
     .type = OPTION_NUMBER,
     .offset = AT(rate),
     .argument = "X",
     .fallback = "2e-5",
     .minimum = 0,
     .maximum = 1,
     .help = "peak learning rate"},
    {.name = "stream",
     .type = OPTION_FLAG,
     .offset = AT(stream),
     .fallback = "true",
     .help = "read shards while training"},
    {.name = "resume", .type = OPTION_FLAG, .offset = AT(resume), .help = "continue"},
    {.name = "method",
     .type = OPTION_CHOICE,
     .offset = AT(method),
     .fallback = "linear",
     .choices = "linear|ties",
     .help = "how vectors are merged"},
    {.name = "out", .type = OPTION_STRING, .offset = AT(out), .argument = "DIR", .help = "result"},
    {.name = "vectors",
     .type = OPTION_LIST,
     .offset = AT(vectors),
     .argument = "FILE",
     .help = "task vectors"},
    {.name = NULL},
};

static const struct verb verb = {
    .name = "train",
    .summary = "Trains a memory model.",
    .positional = "PATH...",
    .examples = "  memo train --base tiny a.jsonl\n",
    .options = table,
    .options_bytes = sizeof(struct train_options),
};

struct parsed {
    struct train_options options;
    struct option_list positional;
    struct error err;
    enum options_result result;
};

#define MAX_WORDS 16

// Parses words separated by one space; "" stands for no words.
static void parse_verb(struct parsed *p, const struct verb *of, const char *line)
{
    static char words[1024]; // what positional arguments point into
    char *argv[MAX_WORDS + 1];
    int argc = 0;
    snprintf(words, sizeof(words), "%s", line);
    for (char *word = strtok(words, " "); word; word = strtok(NULL, " ")) {
        assert_true(argc < MAX_WORDS);
        argv[argc++] = word;
    }
    argv[argc] = NULL;
    memset(p, 0x5A, sizeof(*p)); // the callee zeroes what it needs
    p->err.text[0] = '\0';
    p->result = options_parse(of, argc, argv, &p->options, &p->positional, &p->err);
}

static void parse(struct parsed *p, const char *line)
{
    parse_verb(p, &verb, line);
}

static void release(struct parsed *p)
{
    options_release(&verb, &p->options, &p->positional);
}

static void assert_refused(const char *line, const char *text)
{
    struct parsed p;
    parse(&p, line);
    assert_int_equal(p.result, OPTIONS_ERROR);
    assert_string_equal(p.err.text, text);
}

static void defaults_are_set(void **state)
{
    (void)state;
    struct parsed p;
    parse(&p, "--base tiny");
    assert_int_equal(p.result, OPTIONS_OK);
    assert_string_equal(p.options.base, "tiny");
    assert_int_equal(p.options.epochs, 3);
    assert_int_equal(p.options.limit, 0);
    assert_true(p.options.rate == 2e-5 && p.options.stream && !p.options.resume);
    assert_string_equal(p.options.method, "linear");
    assert_null(p.options.out);
    assert_int_equal(p.options.vectors.count, 0);
    assert_int_equal(p.positional.count, 0);
    release(&p);
}

static void values_follow_a_space_or_an_equals_sign(void **state)
{
    (void)state;
    struct parsed p;
    parse(&p, "--base=a=b --epochs 7 --lr=0.5 --no-stream --resume --method ties --out --x");
    assert_int_equal(p.result, OPTIONS_ERROR); // "--x" is no value of --out
    assert_string_equal(p.err.text, "option '--out' needs a value (DIR)");
    parse(&p, "--base=a=b --epochs 7 --lr=0.5 --no-stream --resume --method ties --out=--x");
    assert_int_equal(p.result, OPTIONS_OK);
    assert_string_equal(p.options.base, "a=b");
    assert_int_equal(p.options.epochs, 7);
    assert_true(p.options.rate == 0.5 && !p.options.stream && p.options.resume);
    assert_string_equal(p.options.method, "ties");
    assert_string_equal(p.options.out, "--x");
    release(&p);
}

static void the_last_of_repeated_options_counts(void **state)
{
    (void)state;
    struct parsed p;
    parse(&p, "--base a --base b --epochs 1 --epochs 2 --resume --no-resume");
    assert_int_equal(p.result, OPTIONS_OK);
    assert_string_equal(p.options.base, "b");
    assert_int_equal(p.options.epochs, 2);
    assert_false(p.options.resume);
    release(&p);
}

static void lists_take_words_up_to_the_next_option(void **state)
{
    (void)state;
    struct parsed p;
    parse(&p, "--vectors a -1 --base tiny --vectors=c --vectors d -- e");
    assert_int_equal(p.result, OPTIONS_OK);
    assert_int_equal(p.options.vectors.count, 4);
    assert_string_equal(p.options.vectors.items[0], "a");
    assert_string_equal(p.options.vectors.items[1], "-1");
    assert_string_equal(p.options.vectors.items[2], "c");
    assert_string_equal(p.options.vectors.items[3], "d");
    assert_int_equal(p.positional.count, 1);
    assert_string_equal(p.positional.items[0], "e");
    release(&p);
    assert_refused("--base x --vectors --resume", "option '--vectors' needs a value (FILE)");
}

static void positional_words_keep_their_order(void **state)
{
    (void)state;
    struct parsed p;
    parse(&p, "a --base tiny b - -- --epochs -x");
    assert_int_equal(p.result, OPTIONS_OK);
    static const char *const wanted[] = {"a", "b", "-", "--epochs", "-x"};
    assert_int_equal(p.positional.count, 5);
    for (size_t i = 0; i < 5; i++)
        assert_string_equal(p.positional.items[i], wanted[i]);
    release(&p);
}

static void unexpected_positional_words_are_errors(void **state)
{
    (void)state;
    struct verb strict = verb;
    strict.positional = NULL;
    struct parsed p;
    parse_verb(&p, &strict, "--base tiny stray");
    assert_int_equal(p.result, OPTIONS_ERROR);
    assert_string_equal(p.err.text, "unexpected argument 'stray'; see 'memo train --help'");
}

static void unknown_options_name_the_nearest(void **state)
{
    (void)state;
    assert_refused("--epoch 3", "unknown option '--epoch'; did you mean '--epochs'?");
    assert_refused("--vector=3", "unknown option '--vector'; did you mean '--vectors'?");
    assert_refused("--Lr 3", "unknown option '--Lr'; did you mean '--lr'?");
    assert_refused("--no-steam", "unknown option '--no-steam'; did you mean '--no-stream'?");
    assert_refused("--no-epochs", "unknown option '--no-epochs'; did you mean '--epochs'?");
    assert_refused("--temperature 1", "unknown option '--temperature'; see 'memo train --help'");
    assert_refused("--= 1", "unknown option '--'; see 'memo train --help'");
    assert_refused("-x", "unknown option '-x'; see 'memo train --help'");
}

static void bad_values_name_option_value_and_range(void **state)
{
    (void)state;
    assert_refused("--epochs 0", "option '--epochs' is 0, outside its range (1 to 100)");
    assert_refused("--epochs=101", "option '--epochs' is 101, outside its range (1 to 100)");
    assert_refused("--limit -3", "option '--limit' is -3, outside its range (at least 1)");
    assert_refused("--lr 1.5", "option '--lr' is 1.5, outside its range (0 to 1)");
    assert_refused("--epochs 3x", "option '--epochs' is '3x', must be a whole number");
    assert_refused("--epochs 3.0", "option '--epochs' is '3.0', must be a whole number");
    assert_refused("--epochs=", "option '--epochs' is '', must be a whole number");
    assert_refused("--limit 9223372036854775808",
                   "option '--limit' is 9223372036854775808, beyond 64 bits");
    assert_refused("--lr fast", "option '--lr' is 'fast', must be a number");
    assert_refused("--lr nan", "option '--lr' is 'nan', must be a number");
    assert_refused("--method tie", "option '--method' is 'tie', must be one of linear|ties");
    assert_refused("--method linear|ties",
                   "option '--method' is 'linear|ties', must be one of linear|ties");
    assert_refused("--method=", "option '--method' is '', must be one of linear|ties");
    assert_refused("--resume=yes", "option '--resume' takes no value, but got 'yes'");
    assert_refused("--epochs", "option '--epochs' needs a value (N)");
    assert_refused("--method", "option '--method' needs a value (linear|ties)");
    assert_refused("--out=\xFF", "option '--out' is '\xFF', not valid UTF-8");
}

static void missing_required_options_are_errors(void **state)
{
    (void)state;
    assert_refused("", "option '--base' is required; see 'memo train --help'");
}

static void help_wins_over_errors(void **state)
{
    (void)state;
    static const char *const lines[] = {"--help", "-h", "--nonsense --help", "x --epochs 0 -h"};
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++) {
        struct parsed p;
        parse(&p, lines[i]);
        assert_int_equal(p.result, OPTIONS_HELP);
    }
    struct parsed p;
    parse(&p, "--base tiny -- -h"); // behind "--" it is a word
    assert_int_equal(p.result, OPTIONS_OK);
    release(&p);
}

static char *write_file(const char *directory, const char *text)
{
    struct error err = {""};
    char *path = fs_join(directory, "options.json");
    assert_int_equal(fs_write_text(fs_system(), path, text, strlen(text), &err), 0);
    return path;
}

static void file_stands_between_defaults_and_command_line(void **state)
{
    char *path = write_file(*state, "{\"base\": \"file\", \"epochs\": 5, \"lr\": 1, \"stream\": "
                                    "false, \"vectors\": [\"x\", \"y\"], \"method\": \"ties\", "
                                    "\"out\": null}");
    char *line = mem_printf("--epochs 6 --options %s", path);
    struct parsed p;
    parse(&p, line);
    assert_int_equal(p.result, OPTIONS_OK);
    assert_string_equal(p.options.base, "file");
    assert_int_equal(p.options.epochs, 6); // the command line wins, whatever the order
    assert_true(p.options.rate == 1 && !p.options.stream);
    assert_string_equal(p.options.method, "ties");
    assert_null(p.options.out);
    assert_int_equal(p.options.vectors.count, 2);
    assert_string_equal(p.options.vectors.items[1], "y");
    release(&p);
    free(line);

    line = mem_printf("--options=%s --vectors z --stream", path);
    parse(&p, line);
    assert_int_equal(p.result, OPTIONS_OK);
    assert_true(p.options.stream);
    assert_int_equal(p.options.vectors.count, 1); // replaced, not joined
    assert_string_equal(p.options.vectors.items[0], "z");
    release(&p);
    free(line);
    free(path);
}

static void bad_files_are_errors_that_name_them(void **state)
{
    static const struct {
        const char *json;
        const char *text;
    } cases[] = {
        {"{\"epoch\": 1}", "unknown option 'epoch'; did you mean 'epochs'?"},
        {"{\"epochs\": 0}", "option '--epochs' is 0, outside its range (1 to 100)"},
        {"{\"epochs\": \"3\"}", "option 'epochs' is a string, must be a whole number"},
        {"{\"epochs\": 1.5}", "option 'epochs' is a number, must be a whole number"},
        {"{\"lr\": true}", "option 'lr' is a boolean, must be a number"},
        {"{\"stream\": 1}", "option 'stream' is a number, must be true or false"},
        {"{\"base\": [\"a\"]}", "option 'base' is an array, must be a string"},
        {"{\"base\": \"a\\u0000b\"}", "option 'base' contains a NUL character"},
        {"{\"vectors\": \"a\"}", "option 'vectors' is a string, must be an array of strings"},
        {"{\"vectors\": [\"a\", 1]}", "option 'vectors' is a number, must be an array of strings"},
        {"{\"method\": \"x\"}", "option '--method' is 'x', must be one of linear|ties"},
        {"[]", "holds an array, must be an object"},
        {"{", "not valid JSON at byte 1 (line 1): expected a key in quotes"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        char *path = write_file(*state, cases[i].json);
        char *line = mem_printf("--base x --options %s", path);
        char *text = mem_printf("options file '%s': %s", path, cases[i].text);
        assert_refused(line, text);
        free(text);
        free(line);
        free(path);
    }
    assert_refused("--options /absent", "cannot read '/absent': no such file or directory");
    assert_refused("--options", "option '--options' needs a value (FILE)");
    assert_refused("--options --resume", "option '--options' needs a value (FILE)");
}

static void echo_can_be_read_back(void **state)
{
    static const char *const lines[] = {
        "--base tiny",
        "--base \"\xC3\xA9\\ --epochs 7 --lr 0.1 --no-stream --resume --method ties --out=--x "
        "--limit 9007199254740993 --vectors a b"};
    for (size_t i = 0; i < 2; i++) {
        struct parsed p, again;
        struct strbuf first = {0}, second = {0};
        parse(&p, lines[i]);
        assert_int_equal(p.result, OPTIONS_OK);
        options_echo(&verb, &p.options, &first);
        char *path = write_file(*state, first.bytes);
        char *line = mem_printf("--options %s", path);
        parse(&again, line);
        assert_string_equal(again.err.text, "");
        assert_int_equal(again.result, OPTIONS_OK);
        options_echo(&verb, &again.options, &second);
        assert_string_equal(second.bytes, first.bytes);
        assert_int_equal(again.options.limit, p.options.limit);
        assert_string_equal(again.options.base, p.options.base);
        assert_true(again.options.rate == p.options.rate);
        strbuf_release(&first);
        strbuf_release(&second);
        release(&p);
        release(&again);
        free(line);
        free(path);
    }
}

static void help_shows_defaults_ranges_and_examples(void **state)
{
    (void)state;
    struct strbuf out = {0};
    options_help(&verb, &out);
    assert_string_equal(
        out.bytes,
        "usage: memo train [options] PATH...\n"
        "\n"
        "Trains a memory model.\n"
        "\n"
        "options:\n"
        "  --base DIR            the model that training starts from (required)\n"
        "  --epochs N            passes over the data (default 3; 1 to 100)\n"
        "  --limit N             stop after N pairs (at least 1)\n"
        "  --lr X                peak learning rate (default 2e-5; 0 to 1)\n"
        "  --[no-]stream         read shards while training (default on)\n"
        "  --[no-]resume         continue\n"
        "  --method linear|ties  how vectors are merged (default linear)\n"
        "  --out DIR             result\n"
        "  --vectors FILE ...    task vectors\n"
        "  --options FILE        read options from a JSON object; the command line wins\n"
        "  -h, --help            print this\n"
        "\n"
        "examples:\n"
        "  memo train --base tiny a.jsonl\n");
    strbuf_release(&out);
}

static void help_wraps_long_texts(void **state)
{
    (void)state;
    static const struct option long_table[] = {
        {.name = "a-name-that-leaves-no-room-beside-it",
         .type = OPTION_STRING,
         .argument = "FILE",
         .help = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
                 "fifteen sixteen seventeen"},
        {.name = NULL},
    };
    struct verb wide = verb;
    wide.options = long_table;
    wide.positional = wide.examples = NULL;
    struct strbuf out = {0};
    options_help(&wide, &out);
    const char *at = strstr(out.bytes, "  --a-name");
    assert_non_null(at);
    assert_memory_equal(at,
                        "  --a-name-that-leaves-no-room-beside-it FILE\n"
                        "                  one two three",
                        76);
    for (const char *line = out.bytes; *line; line += strcspn(line, "\n") + 1)
        assert_true(strcspn(line, "\n") <= 96);
    strbuf_release(&out);
}

#define IN_DIRECTORY(name)                                                                         \
    cmocka_unit_test_setup_teardown(name, temporary_directory_setup, temporary_directory_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(defaults_are_set),
        cmocka_unit_test(values_follow_a_space_or_an_equals_sign),
        cmocka_unit_test(the_last_of_repeated_options_counts),
        cmocka_unit_test(lists_take_words_up_to_the_next_option),
        cmocka_unit_test(positional_words_keep_their_order),
        cmocka_unit_test(unexpected_positional_words_are_errors),
        cmocka_unit_test(unknown_options_name_the_nearest),
        cmocka_unit_test(bad_values_name_option_value_and_range),
        cmocka_unit_test(missing_required_options_are_errors),
        cmocka_unit_test(help_wins_over_errors),
        IN_DIRECTORY(file_stands_between_defaults_and_command_line),
        IN_DIRECTORY(bad_files_are_errors_that_name_them),
        IN_DIRECTORY(echo_can_be_read_back),
        cmocka_unit_test(help_shows_defaults_ranges_and_examples),
        cmocka_unit_test(help_wraps_long_texts),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
