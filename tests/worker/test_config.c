// SPDX-License-Identifier: Apache-2.0
#include "worker/model/config.h"

#include "base/mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

static const char minimal[] = "{\"model_type\": \"qwen2\", \"hidden_size\": 64,"
                              " \"num_hidden_layers\": 2, \"num_attention_heads\": 4,"
                              " \"intermediate_size\": 96, \"vocab_size\": 100}";

// The minimal config with more members in front.
static int parse_with(const char *members, struct model_config *config, struct error *err)
{
    char *text = mem_printf("{%s%s%s", members, members[0] ? ", " : "", minimal + 1);
    int rc = model_config_parse(text, strlen(text), config, err);
    free(text);
    return rc;
}

static struct model_config parsed(const char *members)
{
    struct model_config config;
    struct error err;
    if (parse_with(members, &config, &err))
        fail_msg("%s", err.text);
    return config;
}

static void absent_keys_get_the_defaults_of_transformers(void **state)
{
    (void)state;
    struct model_config config = parsed("");
    assert_int_equal(config.layers, 2);
    assert_int_equal(config.kv_heads, 4);
    assert_int_equal(config.head_width, 16);
    assert_int_equal(config.max_positions, 32768);
    assert_true(config.rope_theta == 10000.0);
    assert_true(config.rms_epsilon == 1e-6);
    assert_true(config.qkv_bias);
    assert_false(config.tied);
    assert_int_equal(config.dtype, DTYPE_F32);
}

static void old_and_new_layout_mean_the_same(void **state)
{
    (void)state;
    struct model_config old = parsed("\"torch_dtype\": \"bfloat16\", \"rope_theta\": 500.0,"
                                     " \"rope_scaling\": null, \"sliding_window\": 32768,"
                                     " \"use_sliding_window\": false");
    struct model_config new = parsed("\"dtype\": \"bfloat16\", \"rope_parameters\":"
                                     " {\"rope_theta\": 500.0, \"rope_type\": \"default\"},"
                                     " \"layer_types\": [\"full_attention\", \"full_attention\"],"
                                     " \"sliding_window\": null");
    assert_int_equal(old.dtype, DTYPE_BF16);
    assert_int_equal(new.dtype, DTYPE_BF16);
    assert_true(old.rope_theta == 500.0);
    assert_true(new.rope_theta == 500.0);
}

static void head_width_may_be_unrelated_to_hidden(void **state)
{
    (void)state;
    struct model_config config = parsed("\"head_dim\": 10, \"num_key_value_heads\": 1");
    assert_int_equal(config.head_width, 10);
    assert_int_equal(config.kv_heads, 1);
}

static void unsupported_features_are_errors_that_name_them(void **state)
{
    (void)state;
    static const struct {
        const char *members;
        const char *message;
    } cases[] = {
        {"\"use_sliding_window\": true", "'use_sliding_window' is true"},
        {"\"use_mrope\": true", "'use_mrope' is true"},
        {"\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 4.0}", "rope scaling 'yarn'"},
        {"\"rope_scaling\": {\"rope_type\": \"linear\"}", "rope scaling 'linear'"},
        {"\"rope_scaling\": {\"factor\": 4.0}", "has no 'rope_type'"},
        {"\"rope_scaling\": 4", "'rope_scaling' is not an object"},
        {"\"rope_parameters\": {\"rope_type\": \"yarn\"}", "rope scaling 'yarn'"},
        {"\"layer_types\": [\"full_attention\", \"sliding_attention\"]",
         "layer 1 is 'sliding_attention'"},
        {"\"layer_types\": [\"full_attention\"]", "has 1 entries for 2 layers"},
        {"\"layer_types\": [1, 2]", "entry 0 is not a string"},
        {"\"layer_types\": {}", "is not an array"},
        {"\"hidden_act\": \"gelu\"", "unsupported hidden_act 'gelu'"},
        {"\"dtype\": \"float8_e4m3fn\"", "unsupported dtype 'float8_e4m3fn'"},
        {"\"quantization_config\": {\"bits\": 4}", "'quantization_config' is set"},
        {"\"num_key_value_heads\": 3", "no multiple of num_key_value_heads 3"},
        {"\"head_dim\": 15", "head_dim is 15"},
        {"\"rope_theta\": 0.5", "rope_theta is 0.5"},
        {"\"rms_norm_eps\": 0", "rms_norm_eps is 0"},
        {"\"rms_norm_eps\": 2", "rms_norm_eps is 2"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct model_config config;
        struct error err = {{0}};
        assert_int_equal(parse_with(cases[i].members, &config, &err), -1);
        if (!strstr(err.text, cases[i].message))
            fail_msg("%s: '%s' does not say '%s'", cases[i].members, err.text, cases[i].message);
    }
}

static void other_architectures_are_named(void **state)
{
    (void)state;
    static const char text[] = "{\"model_type\": \"gemma3_text\", \"hidden_size\": 64}";
    struct model_config config;
    struct error err = {{0}};
    assert_int_equal(model_config_parse(text, sizeof text - 1, &config, &err), -1);
    assert_string_equal(err.text, "unsupported model_type 'gemma3_text'; supported: qwen2");
}

static void numbers_outside_their_range_are_rejected(void **state)
{
    (void)state;
    static const char *const keys[] = {
        "num_hidden_layers", "hidden_size", "num_attention_heads",     "num_key_value_heads",
        "intermediate_size", "vocab_size",  "max_position_embeddings", "head_dim"};
    static const char *const values[] = {"0", "-1", "1e99", "2.5", "\"4\"", "4611686018427387904"};
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++) {
        for (size_t j = 0; j < sizeof values / sizeof *values; j++) {
            struct model_config config;
            struct error err = {{0}};
            char *text = mem_printf("{\"model_type\": \"qwen2\", \"hidden_size\": 64,"
                                    " \"num_hidden_layers\": 2, \"num_attention_heads\": 4,"
                                    " \"intermediate_size\": 96, \"vocab_size\": 100}");
            char *key = mem_printf("\"%s\": ", keys[i]);
            char *at = strstr(text, key);
            char *changed = at ? mem_printf("%.*s%s%s%s", (int)(at - text), text, key, values[j],
                                            at + strlen(key) + strcspn(at + strlen(key), ",}"))
                               : mem_printf("{%s%s, %s", key, values[j], text + 1);
            if (model_config_parse(changed, strlen(changed), &config, &err) != -1)
                fail_msg("accepted %s", changed);
            assert_non_null(strstr(err.text, keys[i]));
            free(text);
            free(key);
            free(changed);
        }
    }
}

static void missing_keys_are_named(void **state)
{
    (void)state;
    struct model_config config;
    struct error err = {{0}};
    assert_int_equal(model_config_parse("{}", 2, &config, &err), -1);
    assert_non_null(strstr(err.text, "model_type"));
    static const char text[] = "{\"model_type\": \"qwen2\", \"num_hidden_layers\": null}";
    assert_int_equal(model_config_parse(text, sizeof text - 1, &config, &err), -1);
    assert_string_equal(err.text, "no 'num_hidden_layers'");
}

static void truncated_text_is_rejected(void **state)
{
    (void)state;
    struct model_config config;
    struct error err;
    for (size_t length = 0; length + 1 < sizeof minimal - 1; length++) {
        char *text = mem_dup(minimal, length + 1); // exact, so that a sanitizer sees overruns
        assert_int_equal(model_config_parse(text, length, &config, &err), -1);
        free(text);
    }
}

// Whatever one byte becomes, the result is an error or a config that passes its own checks.
static void damaged_text_never_gives_an_invalid_config(void **state)
{
    (void)state;
    static const char bytes[] = "0129-.eE\"{}[]:,x \\";
    size_t accepted = 0;
    for (size_t i = 0; i < sizeof minimal - 1; i++) {
        for (size_t j = 0; j < sizeof bytes; j++) { // the NUL too
            struct model_config config;
            struct error err;
            char *text = mem_dup(minimal, sizeof minimal - 1);
            text[i] = bytes[j];
            if (model_config_parse(text, sizeof minimal - 1, &config, &err) == 0) {
                assert_int_equal(model_config_validate(&config, &err), 0);
                accepted++;
            }
            free(text);
        }
    }
    assert_true(accepted > 0);
}

static void what_is_written_reads_back_equal(void **state)
{
    (void)state;
    for (size_t i = 0; model_shape_names[i]; i++) {
        struct model_config shape, back;
        struct error err;
        struct strbuf text = {0};
        assert_int_equal(model_config_shape(model_shape_names[i], &shape, &err), 0);
        model_config_write(&shape, &text);
        if (model_config_parse(text.bytes, text.length, &back, &err))
            fail_msg("%s: %s", model_shape_names[i], err.text);
        struct strbuf again = {0};
        model_config_write(&back, &again);
        assert_string_equal(text.bytes, again.bytes);
        strbuf_release(&text);
        strbuf_release(&again);
    }
}

static void unknown_shape_lists_the_known_ones(void **state)
{
    (void)state;
    struct model_config config;
    struct error err = {{0}};
    assert_int_equal(model_config_shape("qwen9", &config, &err), -1);
    assert_non_null(strstr(err.text, "unknown shape 'qwen9'; known: tiny, qwen2.5-0.5b"));
    assert_non_null(strstr(err.text, "qwen2.5-32b"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(absent_keys_get_the_defaults_of_transformers),
        cmocka_unit_test(old_and_new_layout_mean_the_same),
        cmocka_unit_test(head_width_may_be_unrelated_to_hidden),
        cmocka_unit_test(unsupported_features_are_errors_that_name_them),
        cmocka_unit_test(other_architectures_are_named),
        cmocka_unit_test(numbers_outside_their_range_are_rejected),
        cmocka_unit_test(missing_keys_are_named),
        cmocka_unit_test(truncated_text_is_rejected),
        cmocka_unit_test(damaged_text_never_gives_an_invalid_config),
        cmocka_unit_test(what_is_written_reads_back_equal),
        cmocka_unit_test(unknown_shape_lists_the_known_ones),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
