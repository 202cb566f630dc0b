// SPDX-License-Identifier: Apache-2.0
#include "worker/model/config.h"

#include "base/mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
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
        {"\"attention_bias\": true", "'attention_bias' is true"},
        {"\"use_sliding_window\": 1", "'use_sliding_window'"},
        {"\"use_sliding_window\": true, \"sliding_window\": 0", "sliding_window"},
        {"\"use_mrope\": true", "'use_mrope' is true"},
        {"\"rope_scaling\": {\"type\": \"dynamic\", \"factor\": 4.0}", "rope scaling 'dynamic'"},
        {"\"rope_scaling\": {\"rope_type\": \"linear\"}", "'rope_scaling': no 'factor'"},
        {"\"rope_scaling\": {\"factor\": 4.0}", "'rope_scaling': no 'rope_type'"},
        {"\"rope_scaling\": 4", "'rope_scaling' is not an object"},
        {"\"rope_parameters\": {\"rope_type\": \"longrope\"}", "rope scaling 'longrope'"},
        {"\"rope_parameters\": {\"rope_type\": \"yarn\", \"factor\": 0.5}", "factor is 0.5"},
        {"\"rope_parameters\": {\"rope_type\": \"yarn\", \"factor\": \"4\"}", "factor"},
        {"\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 4, \"beta_fast\": 0.5}",
         "beta_fast 0.5"},
        {"\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 4, \"attention_factor\": -1}",
         "attention_factor is -1"},
        {"\"rope_scaling\": {\"type\": \"llama3\", \"factor\": 8}", "no 'low_freq_factor'"},
        {"\"rope_scaling\": {\"type\": \"llama3\", \"factor\": 8, \"low_freq_factor\": 4,"
         " \"high_freq_factor\": 1}",
         "low_freq_factor 4 is not below high_freq_factor 1"},
        {"\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 4,"
         " \"original_max_position_embeddings\": 0}",
         "original_max_position_embeddings"},
        {"\"partial_rotary_factor\": 0.5", "'partial_rotary_factor' is 0.5"},
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

// A minimal config of another architecture with more members in front.
static int parse_as(const char *type, const char *members, struct model_config *config,
                    struct error *err)
{
    char *text = mem_printf("{%s%s\"model_type\": \"%s\"%s", members, members[0] ? ", " : "", type,
                            strchr(minimal, ','));
    int rc = model_config_parse(text, strlen(text), config, err);
    free(text);
    return rc;
}

static struct model_config parsed_as(const char *type, const char *members)
{
    struct model_config config;
    struct error err;
    if (parse_as(type, members, &config, &err))
        fail_msg("%s: %s", type, err.text);
    return config;
}

static void unknown_architectures_are_named(void **state)
{
    (void)state;
    struct model_config config;
    struct error err = {{0}};
    assert_int_equal(parse_as("gemma3", "", &config, &err), -1);
    assert_string_equal(err.text,
                        "unsupported model_type 'gemma3'; supported: qwen2, qwen3, llama, "
                        "mistral, gemma3_text, lfm2");
}

static void architectures_have_their_own_defaults(void **state)
{
    (void)state;
    struct model_config qwen3 = parsed_as("qwen3", ""), llama = parsed_as("llama", "");
    struct model_config mistral = parsed_as("mistral", "\"num_key_value_heads\": null");
    struct model_config gemma = parsed_as("gemma3_text", "");
    struct model_config lfm2 = parsed_as("lfm2", "\"num_key_value_heads\": 2");
    assert_true(qwen3.head_norms && !qwen3.qkv_bias);
    assert_int_equal(qwen3.head_width, 128);
    assert_true(!llama.head_norms && !llama.qkv_bias);
    assert_int_equal(llama.max_positions, 2048);
    assert_int_equal(mistral.window, 4096);
    assert_int_equal(mistral.layer_kinds[1], LAYER_SLIDING);
    assert_true(gemma.tied && gemma.offset_norms && gemma.block_norms && gemma.scaled_embedding);
    assert_int_equal(gemma.activation, ACTIVATION_GELU_TANH);
    assert_true(gemma.rope_theta == 1e6 && gemma.local_rope_theta == 1e4);
    assert_true(lfm2.tied && lfm2.head_norms && lfm2.rope_theta == 1e6);
    assert_int_equal(lfm2.layer_kinds[0], LAYER_FULL);
    assert_int_equal(lfm2.ffn, 256); // two thirds of 96, rounded up to a multiple of 256
}

static void sliding_layers_are_read_in_every_way_they_are_written(void **state)
{
    (void)state;
    struct model_config qwen = parsed("\"use_sliding_window\": true, \"sliding_window\": 8,"
                                      " \"max_window_layers\": 1");
    assert_int_equal(qwen.window, 8);
    assert_int_equal(qwen.layer_kinds[0], LAYER_FULL);
    assert_int_equal(qwen.layer_kinds[1], LAYER_SLIDING);
    struct model_config none = parsed("\"use_sliding_window\": true, \"sliding_window\": 8");
    assert_int_equal(none.window, 0); // max_window_layers is 28
    struct model_config mistral =
        parsed_as("mistral", "\"num_key_value_heads\": 2, \"sliding_window\": null");
    assert_int_equal(mistral.window, 0);
    assert_int_equal(mistral.layer_kinds[0], LAYER_FULL);
    struct model_config old = parsed_as("gemma3_text", "\"sliding_window_pattern\": 2");
    struct model_config new =
        parsed_as("gemma3_text", "\"layer_types\": [\"sliding_attention\", \"full_attention\"]");
    assert_memory_equal(old.layer_kinds, new.layer_kinds, sizeof old.layer_kinds);
    assert_int_equal(old.layer_kinds[0], LAYER_SLIDING);
    assert_int_equal(old.layer_kinds[1], LAYER_FULL);
}

static void rope_of_gemma_has_two_layouts(void **state)
{
    (void)state;
    struct model_config old =
        parsed_as("gemma3_text", "\"rope_theta\": 5000, \"rope_local_base_freq\": 700,"
                                 " \"rope_scaling\": {\"rope_type\": \"linear\", \"factor\": 8}");
    struct model_config new = parsed_as(
        "gemma3_text", "\"rope_parameters\": {\"full_attention\": {\"rope_theta\": 5000,"
                       " \"rope_type\": \"linear\", \"factor\": 8}, \"sliding_attention\":"
                       " {\"rope_theta\": 700, \"rope_type\": \"default\"}}");
    float full[128], full_new[128], local[128], local_new[128];
    model_config_frequencies(&old, LAYER_FULL, full);
    model_config_frequencies(&new, LAYER_FULL, full_new);
    model_config_frequencies(&old, LAYER_SLIDING, local);
    model_config_frequencies(&new, LAYER_SLIDING, local_new);
    assert_memory_equal(full, full_new, sizeof full);
    assert_memory_equal(local, local_new, sizeof local);
    assert_true(full[0] == 0.125f && local[0] == 1.0f);
    assert_true(fabsf(local[64] - 1 / sqrtf(700)) < 1e-8f);
}

static void errors_of_other_architectures_name_the_key(void **state)
{
    (void)state;
    static const struct {
        const char *type, *members, *message;
    } cases[] = {
        {"llama", "\"mlp_bias\": true", "'mlp_bias' is true"},
        {"llama", "\"layer_types\": [\"full_attention\", \"sliding_attention\"]",
         "layer 1 is 'sliding_attention'"},
        {"mistral", "\"sliding_window\": -1", "sliding_window"},
        {"qwen3", "\"head_dim\": 7", "head_dim is 7"},
        {"gemma3_text", "\"final_logit_softcapping\": 30.0", "'final_logit_softcapping' is set"},
        {"gemma3_text", "\"attn_logit_softcapping\": 50.0", "'attn_logit_softcapping' is set"},
        {"gemma3_text", "\"use_bidirectional_attention\": true", "'use_bidirectional_attention'"},
        {"gemma3_text", "\"query_pre_attn_scalar\": 0", "query_pre_attn_scalar is 0"},
        {"gemma3_text", "\"sliding_window\": null", "there is no 'sliding_window'"},
        {"gemma3_text", "\"sliding_window_pattern\": 0", "sliding_window_pattern"},
        {"gemma3_text", "\"rope_local_base_freq\": 0.1", "rope_local_base_freq is 0.1"},
        {"gemma3_text", "\"hidden_activation\": \"gelu\"", "unsupported hidden_activation 'gelu'"},
        {"gemma3_text", "\"layer_types\": [\"conv\", \"conv\"]", "layer 0 is 'conv'"},
        {"gemma3_text", "\"rope_parameters\": {\"sliding_attention\": {\"rope_type\": \"yarn\"}}",
         "'rope_parameters': 'sliding_attention': rope scaling 'yarn'"},
        {"lfm2", "\"conv_bias\": true", "'conv_bias' is true"},
        {"lfm2", "\"conv_L_cache\": 0", "conv_L_cache"},
        {"lfm2", "\"conv_L_cache\": 9", "conv_L_cache"},
        {"lfm2", "\"full_attn_idxs\": [2]", "'full_attn_idxs' entry 0"},
        {"lfm2", "\"full_attn_idxs\": [0, -1]", "'full_attn_idxs' entry 1"},
        {"lfm2", "\"full_attn_idxs\": 0", "'full_attn_idxs' is not an array"},
        {"lfm2", "\"layer_types\": [\"conv\", \"sliding_attention\"]", "layer 1 is 'sliding"},
        {"lfm2", "\"block_ffn_dim_multiplier\": -1", "block_ffn_dim_multiplier is -1"},
        {"lfm2", "\"block_ffn_dim_multiplier\": 1e-9", "intermediate_size is 0"},
        {"lfm2", "\"block_ff_dim\": 0", "block_ff_dim"},
        {"lfm2", "\"norm_eps\": 0", "norm_eps is 0"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct model_config config;
        struct error err = {{0}};
        char *members = mem_printf("\"num_key_value_heads\": 2, %s", cases[i].members);
        if (parse_as(cases[i].type, members, &config, &err) != -1)
            fail_msg("%s: accepted %s", cases[i].type, members);
        if (!strstr(err.text, cases[i].message))
            fail_msg("%s: '%s' does not say '%s'", members, err.text, cases[i].message);
        free(members);
    }
}

// Expected values: modeling_rope_utils of transformers 5.23.
static void scaled_frequencies_are_those_of_transformers(void **state)
{
    (void)state;
    static const struct {
        const char *type, *members;
        int index[6];
        float expected[6];
    } cases[] = {
        {"qwen2",
         "\"rope_theta\": 1e6, \"rope_scaling\": {\"type\": \"yarn\", \"factor\": 4.0,"
         " \"original_max_position_embeddings\": 32768}",
         {0, 10, 14, 20, 31, 31},
         {1, 0.0133352149f, 0.00177853031f, 4.44569851e-05f, 3.84981632e-07f, 3.84981632e-07f}},
        {"llama",
         "\"rope_theta\": 5e5, \"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 32.0,"
         " \"original_max_position_embeddings\": 8192, \"low_freq_factor\": 1.0,"
         " \"high_freq_factor\": 4.0}",
         {0, 10, 14, 16, 20, 31},
         {1, 0.0165604409f, 0.00321144611f, 0.000429556705f, 8.57025589e-06f, 9.41830649e-08f}},
        {"qwen2",
         "\"rope_theta\": 1e6, \"rope_scaling\": {\"rope_type\": \"linear\", \"factor\": 8.0}",
         {0, 10, 31, 31, 31, 31},
         {0.125f, 0.00166690187f, 1.92490816e-07f, 1.92490816e-07f, 1.92490816e-07f,
          1.92490816e-07f}},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *members = mem_printf("\"head_dim\": 64, %s", cases[i].members);
        struct model_config config = parsed_as(cases[i].type, members);
        float got[32];
        model_config_frequencies(&config, LAYER_FULL, got);
        for (size_t j = 0; j < 6; j++) {
            float expected = cases[i].expected[j];
            if (!(fabsf(got[cases[i].index[j]] - expected) <= 1e-6f * expected))
                fail_msg("%s: frequency %d is %.9g instead of %.9g", members, cases[i].index[j],
                         (double)got[cases[i].index[j]], (double)expected);
        }
        free(members);
    }
}

static void yarn_extends_the_positions_and_has_a_magnitude(void **state)
{
    (void)state;
    struct model_config config = parsed("\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 4.0,"
                                        " \"original_max_position_embeddings\": 32768}");
    assert_int_equal(config.max_positions, 32768);
    assert_int_equal(model_config_positions(&config), 131072);
    assert_true(fabs(config.rope_scaling.attention_factor - 1.1386294361119891) < 1e-12);
    struct model_config both =
        parsed("\"rope_scaling\": {\"type\": \"yarn\", \"factor\": 4.0, \"mscale\": 1.0,"
               " \"mscale_all_dim\": 1.0}");
    assert_true(both.rope_scaling.attention_factor == 1.0);
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

static size_t count_accepted_damage(const char *original)
{
    static const char bytes[] = "0129-.eE\"{}[]:,x \\";
    size_t accepted = 0, length = strlen(original);
    for (size_t i = 0; i < length; i++) {
        for (size_t j = 0; j < sizeof bytes; j++) { // the NUL too
            struct model_config config;
            struct error err;
            char *text = mem_dup(original, length);
            text[i] = bytes[j];
            if (model_config_parse(text, length, &config, &err) == 0) {
                assert_int_equal(model_config_validate(&config, &err), 0);
                accepted++;
            }
            free(text);
        }
    }
    return accepted;
}

// Whatever one byte becomes, the result is an error or a config that passes its own checks.
static void damaged_text_never_gives_an_invalid_config(void **state)
{
    (void)state;
    assert_true(count_accepted_damage(minimal) > 0);
    static const char *const names[] = {"qwen3-0.6b", "llama3.2-1b", "gemma3-1b", "lfm2-1.2b"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        struct model_config config;
        struct error err;
        struct strbuf text = {0};
        assert_int_equal(model_config_shape(names[i], &config, &err), 0);
        model_config_write(&config, &text);
        assert_true(count_accepted_damage(text.bytes) > 0);
        strbuf_release(&text);
    }
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
    assert_non_null(strstr(err.text, "unknown shape 'qwen9'; known: tiny, micro, qwen2.5-0.5b"));
    assert_non_null(strstr(err.text, "qwen2.5-32b"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(absent_keys_get_the_defaults_of_transformers),
        cmocka_unit_test(old_and_new_layout_mean_the_same),
        cmocka_unit_test(head_width_may_be_unrelated_to_hidden),
        cmocka_unit_test(unsupported_features_are_errors_that_name_them),
        cmocka_unit_test(unknown_architectures_are_named),
        cmocka_unit_test(architectures_have_their_own_defaults),
        cmocka_unit_test(sliding_layers_are_read_in_every_way_they_are_written),
        cmocka_unit_test(rope_of_gemma_has_two_layouts),
        cmocka_unit_test(errors_of_other_architectures_name_the_key),
        cmocka_unit_test(scaled_frequencies_are_those_of_transformers),
        cmocka_unit_test(yarn_extends_the_positions_and_has_a_magnitude),
        cmocka_unit_test(numbers_outside_their_range_are_rejected),
        cmocka_unit_test(missing_keys_are_named),
        cmocka_unit_test(truncated_text_is_rejected),
        cmocka_unit_test(damaged_text_never_gives_an_invalid_config),
        cmocka_unit_test(what_is_written_reads_back_equal),
        cmocka_unit_test(unknown_shape_lists_the_known_ones),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
