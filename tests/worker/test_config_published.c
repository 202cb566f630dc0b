// SPDX-License-Identifier: Apache-2.0
// Published config.json files, which lie outside the repository: $MEMO_TEST_DATA/model-configs.
#include "tests/test_data.h"
#include "worker/model/config.h"

#include "base/fs.h"
#include "base/mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char *data_path(const char *name)
{
    char relative[128];
    snprintf(relative, sizeof relative, "model-configs/%s/config.json", name);
    return test_data_path(relative);
}

static void published_configs_have_the_shapes_of_the_table(void **state)
{
    (void)state;
    static const char *const pairs[][2] = {
        {"Qwen2.5-0.5B-Instruct", "qwen2.5-0.5b"}, {"Qwen2.5-1.5B-Instruct", "qwen2.5-1.5b"},
        {"Qwen2.5-3B-base", "qwen2.5-3b"},         {"Qwen2.5-7B-base", "qwen2.5-7b"},
        {"Qwen2.5-14B-base", "qwen2.5-14b"},       {"gemma-3-1b-it", "gemma3-1b"},
        {"LFM2-1.2B-transcribed", "lfm2-1.2b"},
    };
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        struct model_config file, shape;
        struct error err;
        struct strbuf text = {0};
        char *path = data_path(pairs[i][0]);
        if (fs_read(fs_system(), path, &text, &err))
            fail_msg("%s", err.text);
        if (model_config_parse(text.bytes, text.length, &file, &err))
            fail_msg("%s: %s", path, err.text);
        assert_int_equal(model_config_shape(pairs[i][1], &shape, &err), 0);
        file.dtype = shape.dtype; // some repositories hold converted weights
        struct strbuf expected = {0}, got = {0};
        model_config_write(&shape, &expected);
        model_config_write(&file, &got);
        assert_string_equal(got.bytes, expected.bytes);
        strbuf_release(&text);
        strbuf_release(&expected);
        strbuf_release(&got);
        free(path);
    }
}

static void a_smaller_lfm2_is_read_with_its_adjusted_width(void **state)
{
    (void)state;
    struct model_config config;
    struct error err;
    struct strbuf text = {0};
    char *path = data_path("LFM2-350M");
    if (fs_read(fs_system(), path, &text, &err) ||
        model_config_parse(text.bytes, text.length, &config, &err))
        fail_msg("%s", err.text);
    assert_int_equal(config.hidden, 1024);
    assert_int_equal(config.ffn, 4608);
    assert_int_equal(config.conv_taps, 3);
    for (int64_t i = 0; i < config.layers; i++)
        assert_int_equal(config.layer_kinds[i] == LAYER_FULL,
                         i == 2 || i == 5 || i == 8 || i == 10 || i == 12 || i == 14);
    strbuf_release(&text);
    free(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(published_configs_have_the_shapes_of_the_table),
        cmocka_unit_test(a_smaller_lfm2_is_read_with_its_adjusted_width),
    };
    char *path = data_path("gemma-3-1b-it");
    const bool present = path != NULL;
    free(path);
    return present ? cmocka_run_group_tests(tests, NULL, NULL) : SKIPPED;
}
