// SPDX-License-Identifier: Apache-2.0
// A damaged checkpoint is an error that names the file; never other numbers, never a crash.
#include "tests/base/temporary_directory.h"
#include "tests/worker/train_fixture.h"

#include "worker/train/checkpoint_manifest.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

struct damage {
    char *directory; // of the checkpoints
    struct sequence_set set;
    struct training saved; // after two steps, by two ranks
    struct training reader;
    char *manifest;
    char *parts[2];
};

static int damage_setup(void **state)
{
    struct damage *damage = mem_calloc(1, sizeof(*damage));
    if (temporary_directory_setup((void **)&damage->directory))
        return -1;
    fixture_set_fill(&damage->set, 31, 9);
    damage->saved = training_default(&damage->set);
    damage->saved.checkpoints = damage->directory;
    damage->reader = damage->saved;
    damage->saved.ranks = 2;
    damage->saved.stop_after = damage->saved.save_every = 2;
    training_run_well(&damage->saved);
    damage->reader.load_only = true;
    damage->manifest = mem_printf("%s/step-00000002/manifest.json", damage->directory);
    for (int i = 0; i < 2; i++)
        damage->parts[i] = mem_printf("%s/step-00000002/part-%05d.bin", damage->directory, i);
    *state = damage;
    return 0;
}

static int damage_teardown(void **state)
{
    struct damage *damage = *state;
    training_release(&damage->saved);
    training_release(&damage->reader);
    sequence_set_release(&damage->set);
    free(damage->manifest);
    free(damage->parts[0]);
    free(damage->parts[1]);
    const int rc = temporary_directory_teardown((void **)&damage->directory);
    free(damage);
    return rc;
}

static void read_file(const char *path, struct strbuf *out)
{
    struct error err;
    if (fs_read(fs_system(), path, out, &err))
        fail_msg("%s", err.text);
}

static void write_file(const char *path, const char *bytes, size_t length)
{
    struct error err;
    if (fs_write_text(fs_system(), path, bytes, length, &err))
        fail_msg("%s", err.text);
}

static void assert_refused(struct damage *damage, const char *file, const char *why)
{
    assert_int_equal(training_run(&damage->reader), -1);
    assert_int_equal(damage->reader.loaded, -1);
    if (!strstr(damage->reader.err.text, file))
        fail_msg("'%s' does not name '%s'", damage->reader.err.text, file);
    if (!strstr(damage->reader.err.text, why))
        fail_msg("'%s' does not say '%s'", damage->reader.err.text, why);
}

static void assert_loads(struct damage *damage)
{
    training_run_well(&damage->reader);
    assert_int_equal(damage->reader.loaded, 1);
    assert_same_state(&damage->saved, &damage->reader);
}

static void an_undamaged_checkpoint_loads(void **state)
{
    assert_loads(*state);
}

static void truncated_parts_are_refused(void **state)
{
    struct damage *damage = *state;
    for (int i = 0; i < 2; i++) {
        struct strbuf file = {0};
        read_file(damage->parts[i], &file);
        for (size_t length = 0; length < file.length;
             length += length < 70 ? 1 : file.length / 37 + 1) {
            write_file(damage->parts[i], file.bytes, length);
            assert_refused(damage, damage->parts[i], "bytes, expected");
        }
        write_file(damage->parts[i], file.bytes, file.length - 1);
        assert_refused(damage, damage->parts[i], "bytes, expected");
        strbuf_addc(&file, 'x');
        write_file(damage->parts[i], file.bytes, file.length);
        assert_refused(damage, damage->parts[i], "bytes, expected");
        write_file(damage->parts[i], file.bytes, file.length - 1);
        strbuf_release(&file);
    }
    assert_loads(damage);
}

static void a_flipped_bit_is_refused(void **state)
{
    struct damage *damage = *state;
    for (int i = 0; i < 2; i++) {
        struct strbuf file = {0};
        read_file(damage->parts[i], &file);
        for (size_t at = 0; at < file.length; at += at < 70 ? 1 : file.length / 37 + 1) {
            file.bytes[at] ^= (char)(1 << (at % 8));
            write_file(damage->parts[i], file.bytes, file.length);
            assert_refused(damage, damage->parts[i], "does not match its digest");
            file.bytes[at] ^= (char)(1 << (at % 8));
        }
        write_file(damage->parts[i], file.bytes, file.length);
        strbuf_release(&file);
    }
    assert_loads(damage);
}

static void missing_parts_are_refused(void **state)
{
    struct damage *damage = *state;
    for (int i = 0; i < 2; i++) {
        struct strbuf file = {0};
        read_file(damage->parts[i], &file);
        assert_int_equal(remove(damage->parts[i]), 0);
        assert_refused(damage, damage->parts[i], "no such file");
        write_file(damage->parts[i], file.bytes, file.length);
        strbuf_release(&file);
    }
}

// All ranks fail together when one of them cannot read.
static void several_ranks_refuse_together(void **state)
{
    struct damage *damage = *state;
    write_file(damage->parts[1], "x", 1);
    damage->reader.ranks = 3;
    assert_refused(damage, damage->parts[1], "1 bytes, expected");
}

static void exchanged_parts_are_refused(void **state)
{
    struct damage *damage = *state;
    struct strbuf first = {0};
    read_file(damage->parts[0], &first);
    write_file(damage->parts[1], first.bytes, first.length);
    assert_refused(damage, damage->parts[1], "");
    strbuf_release(&first);
}

// A part that is whole, but of another step: its digest is entered as if it belonged there.
static void a_part_of_another_step_is_refused(void **state)
{
    struct damage *damage = *state;
    struct manifest manifest;
    struct error err;
    struct strbuf part = {0};
    char *path = fs_join(damage->directory, "step-00000002");
    assert_int_equal(manifest_read(fs_system(), path, &manifest, &err), 0);
    read_file(damage->parts[0], &part);
    part.bytes[32]++; // the step in the header
    write_file(damage->parts[0], part.bytes, part.length);
    manifest.parts[0] = digest_bytes(part.bytes, part.length);
    assert_int_equal(manifest_write(&manifest, fs_system(), path, &err), 0);
    assert_refused(damage, damage->parts[0], "header does not match");
    manifest_release(&manifest);
    strbuf_release(&part);
    free(path);
}

static void truncated_manifests_are_refused(void **state)
{
    struct damage *damage = *state;
    struct strbuf file = {0};
    read_file(damage->manifest, &file);
    for (size_t length = 0; length < file.length; length++) {
        write_file(damage->manifest, file.bytes, length);
        assert_refused(damage, damage->manifest, "");
    }
    strbuf_release(&file);
}

// A flip may also hit white space, which changes nothing.
static void flipped_manifests_are_refused_or_equal(void **state)
{
    struct damage *damage = *state;
    struct strbuf file = {0};
    size_t refused = 0;
    read_file(damage->manifest, &file);
    for (size_t at = 0; at < file.length; at++) {
        const char kept = file.bytes[at];
        file.bytes[at] ^= (char)(1 << (at % 7));
        write_file(damage->manifest, file.bytes, file.length);
        if (training_run(&damage->reader)) {
            assert_non_null(strstr(damage->reader.err.text, "step-00000002"));
            refused++;
        } else {
            assert_int_equal(damage->reader.loaded, 1);
            assert_same_state(&damage->saved, &damage->reader);
        }
        file.bytes[at] = kept;
    }
    assert_true(refused > file.length / 2);
    strbuf_release(&file);
}

#define CONSUMED ",\"tokens\":9,\"consumed\":\"00000000000000000000000000000000\""
#define FORM CONSUMED ",\"weights\":\"f32\",\"moments\":\"f32\""

static void manifests_that_say_something_else_are_refused(void **state)
{
    static const char zero[] = "00000000000000000000000000000000";
    struct damage *damage = *state;
    struct manifest m;
    struct error err;
    char identity[DIGEST_TEXT_BYTES];
    char *path = fs_join(damage->directory, "step-00000002");
    assert_int_equal(manifest_read(fs_system(), path, &m, &err), 0);
    digest_format(m.identity, identity);
    const struct {
        const char *head; // before the identity
        const char *tail;
        const char *why;
    } cases[] = {
        {"{\"version\":1,\"step\":2", "}", "version 1, this program reads version 3"},
        {"{\"step\":2", "}", "'version' is missing"},
        {"{\"version\":3", "}", "'step' is missing"},
        {"{\"version\":3,\"step\":-2", "}", "'step'"},
        {"{\"version\":3,\"step\":2.5", "}", "'step'"},
        {"{\"version\":3,\"step\":2" FORM, "}", "'elements' is missing"},
        {"{\"version\":3,\"step\":2" FORM, ",\"elements\":0}", "'elements'"},
        {"{\"version\":3,\"step\":2" FORM, ",\"elements\":9360}", "'part_elements' is missing"},
        {"{\"version\":3,\"step\":2" FORM, ",\"elements\":9360,\"part_elements\":0}",
         "'part_elements'"},
        {"{\"version\":3,\"step\":2" FORM, ",\"elements\":9360,\"part_elements\":4096}",
         "not a list"},
        {"{\"version\":3,\"step\":2" FORM,
         ",\"elements\":9360,\"part_elements\":4096,\"parts\":{}}", "not a list"},
        {"{\"version\":3,\"step\":2" FORM,
         ",\"elements\":9360,\"part_elements\":4096,\"parts\":[1]}", "1 parts, expected 3"},
        {"{\"version\":3,\"step\":2" FORM,
         ",\"elements\":9223372036854775807,\"part_elements\":1,\"parts\":[]}",
         "0 parts, expected"},
        {"{\"version\":3,\"step\":2" FORM,
         ",\"elements\":9360,\"part_elements\":9223372036854775807,\"parts\":[\"q\"]}",
         "not a digest"},
        {"{\"version\":3,\"step\":2" FORM, ",\"elements\":7,\"part_elements\":9,\"parts\":[\"@\"]}",
         "other data, options or model"},
        {"{\"version\":3,\"step\":3" FORM,
         ",\"elements\":9360,\"part_elements\":9360,\"parts\":[\"@\"]}", "says step 3"},
        {"{\"version\":3,\"step\":2" CONSUMED ",\"environment\":{\"ranks\":2}", "}",
         "'environment'"},
        {"{\"version\":3,\"step\":2" CONSUMED ",\"rounded\":2", "}", "'rounded'"},
        {"{\"version\":3,\"step\":2" CONSUMED ",\"score\":{\"name\":\"loss\"}", "}",
         "no name or no value"},
        {"{\"version\":3,\"step\":2" CONSUMED
         ",\"score\":{\"name\":\"0123456789abcdef\",\"value\":1}",
         "}", "no name or no value"},
        {"{\"version\":3,\"step\":2" CONSUMED ",\"score\":{\"value\":\"1\"}", "}", "'score'"},
        {"{\"version\":3,\"step\":2" CONSUMED, ",\"weights\":\"f16\",\"moments\":\"f32\"}",
         "weights in 'f16' and moments in 'f32'"},
        {"{\"version\":3,\"step\":2" CONSUMED ",\"weights\":\"bf16\",\"moments\":\"f32\"",
         ",\"elements\":9360,\"part_elements\":9360,\"parts\":[\"@\"]}",
         "says bf16 weights and f32 moments"},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        struct strbuf text = {0};
        strbuf_addf(&text, "%s,\"identity\":\"%s\"", cases[i].head, identity);
        for (const char *c = cases[i].tail; *c; c++) {
            if (*c == '@')
                strbuf_adds(&text, zero);
            else
                strbuf_addc(&text, *c);
        }
        write_file(damage->manifest, text.bytes, text.length);
        assert_refused(damage, "step-00000002", cases[i].why);
        strbuf_release(&text);
    }
    static const char *const garbage[] = {"", "[]", "null", "\"\"", "{", "{}", "\xff\xfe"};
    for (size_t i = 0; i < sizeof(garbage) / sizeof(*garbage); i++) {
        write_file(damage->manifest, garbage[i], strlen(garbage[i]));
        assert_refused(damage, damage->manifest, "");
    }
    manifest_release(&m);
    free(path);
}

static void a_renamed_checkpoint_is_refused(void **state)
{
    struct damage *damage = *state;
    char *from = fs_join(damage->directory, "step-00000002");
    char *to = fs_join(damage->directory, "step-00000003");
    assert_int_equal(rename(from, to), 0);
    assert_refused(damage, "step-00000003", "says step 2");
    free(from);
    free(to);
}

int main(void)
{
#define WITH_DAMAGE(test) cmocka_unit_test_setup_teardown(test, damage_setup, damage_teardown)
    const struct CMUnitTest tests[] = {
        WITH_DAMAGE(an_undamaged_checkpoint_loads),
        WITH_DAMAGE(truncated_parts_are_refused),
        WITH_DAMAGE(a_flipped_bit_is_refused),
        WITH_DAMAGE(missing_parts_are_refused),
        WITH_DAMAGE(several_ranks_refuse_together),
        WITH_DAMAGE(exchanged_parts_are_refused),
        WITH_DAMAGE(a_part_of_another_step_is_refused),
        WITH_DAMAGE(truncated_manifests_are_refused),
        WITH_DAMAGE(flipped_manifests_are_refused_or_equal),
        WITH_DAMAGE(manifests_that_say_something_else_are_refused),
        WITH_DAMAGE(a_renamed_checkpoint_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
