// SPDX-License-Identifier: Apache-2.0
#include "datasets/prompt_set.h"

#include "tests/base/temporary_directory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static void write_file(const char *directory, const char *name, const char *text, size_t bytes)
{
    struct error err = {""};
    char *path = fs_join(directory, name);
    assert_int_equal(fs_write_text(fs_system(), path, text, bytes, &err), 0);
    free(path);
}

static void built_in_prompts_are_the_files_of_the_source(void **state)
{
    (void)state;
    struct prompt_set set;
    struct error err = {""};
    assert_int_equal(prompt_set_open(fs_system(), NULL, &set, &err), 0);
    for (int i = 0; i < PROMPT_COUNT; i++) {
        struct strbuf file = {0};
        char *path = mem_printf("%s/datasets/prompts/%s.txt", MEMO_SOURCE_DIRECTORY,
                                prompt_name((enum prompt)i));
        assert_int_equal(fs_read(fs_system(), path, &file, &err), 0);
        assert_int_equal(set.texts[i].bytes, file.length);
        assert_string_equal(set.texts[i].text, file.bytes);
        free(path);
        strbuf_release(&file);
    }
    prompt_set_close(&set);
}

// Every instruction says in which form to answer.
static void instructions_name_the_key_of_the_answer(void **state)
{
    (void)state;
    struct prompt_set set;
    struct error err = {""};
    assert_int_equal(prompt_set_open(fs_system(), NULL, &set, &err), 0);
    for (int i = PROMPT_DIRECT; i <= PROMPT_CROSS; i++) {
        const char *key = i == PROMPT_JUDGE      ? "{\"self_contained\":true}"
                          : i == PROMPT_ENTITIES ? "{\"entities\":[]}"
                                                 : "{\"pairs\":[]}";
        assert_non_null(strstr(set.texts[i].text, key));
    }
    prompt_set_close(&set);
}

static void a_directory_replaces_what_it_has(void **state)
{
    struct prompt_set plain, mine;
    struct error err = {""};
    write_file(*state, "system.txt", "Be kind.", 8);
    write_file(*state, "README.md", "", 0);
    assert_int_equal(prompt_set_open(fs_system(), NULL, &plain, &err), 0);
    assert_int_equal(prompt_set_open(fs_system(), *state, &mine, &err), 0);
    assert_string_equal(mine.texts[PROMPT_SYSTEM].text, "Be kind.");
    assert_int_equal(mine.texts[PROMPT_SYSTEM].bytes, 8);
    assert_string_equal(mine.texts[PROMPT_JUDGE].text, plain.texts[PROMPT_JUDGE].text);
    assert_false(digest_equal(mine.digest, plain.digest));
    write_file(*state, "system.txt", plain.texts[PROMPT_SYSTEM].text,
               plain.texts[PROMPT_SYSTEM].bytes);
    prompt_set_close(&mine);
    assert_int_equal(prompt_set_open(fs_system(), *state, &mine, &err), 0);
    assert_true(digest_equal(mine.digest, plain.digest));
    prompt_set_close(&mine);
    prompt_set_close(&plain);
}

static void assert_refused(const char *directory, const char *why)
{
    struct prompt_set set;
    struct error err = {""};
    assert_int_equal(prompt_set_open(fs_system(), directory, &set, &err), -1);
    if (!strstr(err.text, why)) {
        fail_msg("'%s' does not say '%s'", err.text, why);
    }
}

static void bad_directories_are_refused(void **state)
{
    assert_refused("/nowhere/at/all", "/nowhere/at/all");
    assert_refused(*state, "no prompts in '");
    write_file(*state, "jugde.txt", "x", 1);
    assert_refused(*state, "unknown prompt 'jugde.txt'");
}

static void bad_files_are_refused(void **state)
{
    const struct {
        const char *name;
        const char *text;
        size_t bytes;
        const char *why;
    } cases[] = {
        {"judge.txt", "", 0, "judge.txt': the file is empty"},
        {"judge.txt", "ab\xFF", 3, "judge.txt': byte 2 is not UTF-8"},
        {"judge.txt", "a\0b", 3, "judge.txt': byte 1 is NUL"},
        {"document.txt", "{{title}}", 9, "document.txt': no place {{text}}"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_file(*state, "judge.txt", "Well?", 5);
        write_file(*state, cases[i].name, cases[i].text, cases[i].bytes);
        assert_refused(*state, cases[i].why);
    }
}

static void places_are_filled_once(void **state)
{
    struct prompt_set set;
    struct error err = {""};
    const char form[] = "{{title}} ({{date}}): {{text}}{{{text}}{ {{other}} {{";
    write_file(*state, "document.txt", form, strlen(form));
    assert_int_equal(prompt_set_open(fs_system(), *state, &set, &err), 0);
    struct strbuf out = {0};
    const struct prompt_document dated = {"{{date}}", "1871", "{{title}}\0{{text}}", 18};
    prompt_set_add_document(&set, &dated, &out);
    assert_memory_equal(out.bytes, "{{date}} (1871): {{title}}\0{{text}}", 35);
    strbuf_reset(&out);
    const struct prompt_document undated = {"T", "", "x", 1};
    prompt_set_add_document(&set, &undated, &out);
    assert_string_equal(out.bytes, "T (not given): x{x{ {{other}} {{");
    strbuf_release(&out);
    prompt_set_close(&set);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(built_in_prompts_are_the_files_of_the_source),
        cmocka_unit_test(instructions_name_the_key_of_the_answer),
        cmocka_unit_test_setup_teardown(a_directory_replaces_what_it_has, temporary_directory_setup,
                                        temporary_directory_teardown),
        cmocka_unit_test_setup_teardown(bad_directories_are_refused, temporary_directory_setup,
                                        temporary_directory_teardown),
        cmocka_unit_test_setup_teardown(bad_files_are_refused, temporary_directory_setup,
                                        temporary_directory_teardown),
        cmocka_unit_test_setup_teardown(places_are_filled_once, temporary_directory_setup,
                                        temporary_directory_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
