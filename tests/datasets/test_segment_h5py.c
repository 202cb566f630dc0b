// SPDX-License-Identifier: Apache-2.0
// Another program reads our segments: Python with h5py, which knows nothing of memo.
#include "base/json.h"
#include "tests/datasets/reflections_helper.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

static void read_output(const char *command, struct strbuf *out)
{
    char buffer[4096];
    size_t got;
    FILE *pipe = popen(command, "r");
    assert_non_null(pipe);
    while ((got = fread(buffer, 1, sizeof(buffer), pipe)) > 0)
        strbuf_add(out, buffer, got);
    assert_int_equal(pclose(pipe), 0);
}

static void h5py_reads_the_same_pairs(void **state)
{
    const uint32_t sizes[] = {0, 1, 31, 33, 1000};
    for (size_t s = 0; s < sizeof(sizes) / sizeof(sizes[0]); s++) {
        struct error err;
        struct segment segment;
        struct strbuf output = {0}, expected = {0};
        char name[16];
        snprintf(name, sizeof(name), "s%u", sizes[s]);
        assert_int_equal(example_commit(*state, name, 0, sizes[s], 0, &err), 0);
        char *path = mem_printf("%s/%s.h5", (char *)*state, name);
        char *command = mem_printf("python3 '%s' '%s'", READ_SEGMENT_SCRIPT, path);
        read_output(command, &output);
        assert_int_equal(segment_open(fs_system(), path, &segment, &err), 0);
        for (size_t i = 0; i < segment.pair_count; i++) {
            struct json_writer w = {.out = &expected};
            json_begin_array(&w);
            json_text(&w, segment.pairs[i].question);
            json_text(&w, segment.pairs[i].answer);
            json_end_array(&w);
            strbuf_addc(&expected, '\n');
        }
        assert_int_equal(output.length, expected.length);
        if (expected.length > 0)
            assert_memory_equal(output.bytes, expected.bytes, expected.length);
        segment_close(&segment);
        strbuf_release(&output);
        strbuf_release(&expected);
        free(command);
        free(path);
    }
}

int main(void)
{
    setenv("PYTHONIOENCODING", "utf-8", 1);
    if (system("python3 -c 'import h5py' > /dev/null 2>&1") != 0) {
        printf("skipped: python3 with h5py is not installed\n");
        return 77;
    }
    const struct CMUnitTest tests[] = {
        WITH_SCRATCH(h5py_reads_the_same_pairs),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
