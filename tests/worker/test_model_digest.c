// SPDX-License-Identifier: Apache-2.0
#include "base/mem.h"
#include "tests/base/temporary_directory.h"
#include "worker/lm/model_digest.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

struct rig {
    const char *directory;
    struct fs *fs;
};

static void write_file(const struct rig *rig, const char *name, const char *text)
{
    struct error err;
    char *path = fs_join(rig->directory, name);
    assert_int_equal(fs_write_text(fs_system(), path, text, strlen(text), &err), 0);
    free(path);
}

static struct rig setup(void **state)
{
    const struct rig rig = {*state, fs_system()};
    write_file(&rig, "config.json", "{}");
    write_file(&rig, "model-1.safetensors", "first weights");
    write_file(&rig, "model-2.safetensors", "second weights");
    write_file(&rig, "notes.txt", "no content of the model");
    return rig;
}

static struct digest digest_of(const struct rig *rig)
{
    struct digest digest;
    struct error err;
    if (model_digest(rig->fs, rig->directory, &digest, &err))
        fail_msg("%s", err.text);
    return digest;
}

static bool is_stored(const struct rig *rig)
{
    char *path = fs_join(rig->directory, MODEL_DIGEST_FILE);
    const bool stored = fs_exists(fs_system(), path);
    free(path);
    return stored;
}

static void the_digest_is_that_of_config_and_weights(void **state)
{
    struct rig rig = setup(state);
    const struct digest first = digest_of(&rig);
    assert_true(is_stored(&rig));
    assert_true(digest_equal(first, digest_of(&rig)));
    write_file(&rig, "notes.txt", "changed");
    assert_true(digest_equal(first, digest_of(&rig)));
    write_file(&rig, "model-2.safetensors", "second weightz"); // the same size, a later time
    const struct digest second = digest_of(&rig);
    assert_false(digest_equal(first, second));
    write_file(&rig, "config.json", "{ }");
    assert_false(digest_equal(second, digest_of(&rig)));
}

static void what_is_stored_is_not_computed_again(void **state)
{
    struct rig rig = setup(state);
    char text[DIGEST_TEXT_BYTES];
    struct strbuf stored = {0};
    struct error err;
    struct digest other = digest_bytes("other", 5);
    char *path = fs_join(rig.directory, MODEL_DIGEST_FILE);
    digest_of(&rig);
    assert_int_equal(fs_read(fs_system(), path, &stored, &err), 0);
    digest_format(other, text);
    memcpy(stored.bytes + stored.length - 32, text, 32);
    write_file(&rig, MODEL_DIGEST_FILE, stored.bytes);
    assert_true(digest_equal(digest_of(&rig), other)); // it was believed
    strbuf_release(&stored);
    free(path);
}

static void a_damaged_store_is_written_anew(void **state)
{
    struct rig rig = setup(state);
    const struct digest digest = digest_of(&rig);
    static const char *const damages[] = {"", "config.json 2 0\n",
                                          "00000000000000000000000000000000", "no digest at all"};
    for (size_t i = 0; i < sizeof damages / sizeof *damages; i++) {
        write_file(&rig, MODEL_DIGEST_FILE, damages[i]);
        assert_true(digest_equal(digest_of(&rig), digest));
    }
}

static void a_directory_that_cannot_be_written_is_no_error(void **state)
{
    struct rig rig = setup(state);
    struct fs_fault fault = {.inner = fs_system(), .write_budget_bytes = 10};
    struct fs full = fs_with_faults(&fault);
    rig.fs = &full;
    const struct digest digest = digest_of(&rig);
    assert_false(is_stored(&rig));
    rig.fs = fs_system();
    assert_true(digest_equal(digest, digest_of(&rig)));
}

static void a_directory_without_a_model_is_an_error(void **state)
{
    struct digest digest;
    struct error err;
    assert_int_equal(model_digest(fs_system(), *state, &digest, &err), -1);
    assert_non_null(strstr(err.text, "neither config.json nor weights"));
    assert_int_equal(model_digest(fs_system(), "/tmp/memo-no-such-directory", &digest, &err), -1);
    assert_non_null(strstr(err.text, "memo-no-such-directory"));
}

#define IN_A_DIRECTORY(test)                                                                       \
    cmocka_unit_test_setup_teardown(test, temporary_directory_setup, temporary_directory_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        IN_A_DIRECTORY(the_digest_is_that_of_config_and_weights),
        IN_A_DIRECTORY(what_is_stored_is_not_computed_again),
        IN_A_DIRECTORY(a_damaged_store_is_written_anew),
        IN_A_DIRECTORY(a_directory_that_cannot_be_written_is_no_error),
        IN_A_DIRECTORY(a_directory_without_a_model_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
