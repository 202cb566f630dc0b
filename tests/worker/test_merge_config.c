// SPDX-License-Identifier: Apache-2.0
// mergekit configurations: what they mean for each model and tensor, and what is refused.
#include "base/mem.h"
#include "worker/merge/config.h"

#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

static struct merge_config parse(const char *text)
{
    struct merge_config config;
    struct error err;
    if (merge_config_parse(text, strlen(text), "/models", &config, &err))
        fail_msg("%s", err.text);
    return config;
}

struct resolved {
    double weight[3], density[3], gamma[3], epsilon[3];
    struct merge_parameters p;
};

static void resolve(const struct merge_config *config, const char *tensor, struct resolved *out)
{
    const struct merge_parameter_arrays arrays = {out->weight, out->density, out->gamma,
                                                  out->epsilon};
    assert_true(config->count <= 3);
    merge_recipe_resolve(&config->recipe, tensor, 5, config->count, &arrays, &out->p);
}

static bool near(double a, double b)
{
    return fabs(a - b) < 1e-12;
}

static void weights_filters_and_gradients_are_those_of_the_tensor(void **state)
{
    (void)state;
    struct merge_config config = parse("models:\n"
                                       "  - model: base   # listed only to be complete\n"
                                       "  - model: /elsewhere/a\n"
                                       "    parameters:\n"
                                       "      weight: 0.25\n"
                                       "      density: [0.1, 0.5, 1]\n"
                                       "  - model: b\n"
                                       "    parameters:\n"
                                       "      weight:\n"
                                       "        - filter: self_attn\n"
                                       "          value: [1, 2]\n"
                                       "        - value: 3\n"
                                       "      density:\n"
                                       "        - filter: mlp\n"
                                       "          value: 0.75\n"
                                       "merge_method: ties\n"
                                       "base_model: base\n"
                                       "parameters:\n"
                                       "  density: 5.0e-1\n"
                                       "  normalize: false\n"
                                       "  int8_mask: true\n"
                                       "  lambda: 0.8\n"
                                       "dtype: float32\n"
                                       "out_dtype: bfloat16\n");
    struct resolved r;
    assert_int_equal(config.count, 2);
    assert_string_equal(config.base, "/models/base");
    assert_string_equal(config.models[0], "/elsewhere/a");
    assert_string_equal(config.models[1], "/models/b");
    assert_int_equal(config.recipe.method, MERGE_TIES);
    assert_true(config.recipe.has_out_dtype && config.recipe.out_dtype == DTYPE_BF16);
    resolve(&config, "model.layers.1.self_attn.q_proj.weight", &r); // a quarter of the way
    assert_true(near(r.weight[0], 0.25) && near(r.density[0], 0.3));
    assert_true(near(r.weight[1], 1.25) && near(r.density[1], 0.5));
    assert_true(!r.p.normalize && near(r.p.lambda, 0.8));
    resolve(&config, "model.layers.4.mlp.up_proj.weight", &r);
    assert_true(near(r.density[0], 1) && near(r.weight[1], 3) && near(r.density[1], 0.75));
    resolve(&config, "model.embed_tokens.weight", &r); // in front of the layers
    assert_true(near(r.density[0], 0.1) && near(r.weight[1], 3));
    merge_config_release(&config);
}

static void slerp_goes_from_the_base_to_the_other(void **state)
{
    (void)state;
    struct merge_config config = parse("slices:\n"
                                       "  - sources:\n"
                                       "      - {model: a, layer_range: [0, 5]}\n"
                                       "      - {model: base, layer_range: [0, 5]}\n"
                                       "merge_method: slerp\n"
                                       "base_model: base\n"
                                       "parameters:\n"
                                       "  t:\n"
                                       "    - filter: mlp\n"
                                       "      value: [0, 0.5, 1]\n"
                                       "    - value: 0.25\n");
    struct resolved r;
    assert_null(config.base);
    assert_int_equal(config.count, 2);
    assert_string_equal(config.models[0], "/models/base");
    resolve(&config, "model.layers.1.mlp.down_proj.weight", &r);
    assert_true(near(r.weight[0], 0.75) && near(r.weight[1], 0.25));
    resolve(&config, "model.layers.3.mlp.down_proj.weight", &r);
    assert_true(near(r.weight[1], 0.75));
    resolve(&config, "model.norm.weight", &r);
    assert_true(near(r.weight[1], 0.25));
    merge_config_release(&config);
}

static void defaults_are_those_of_the_method(void **state)
{
    (void)state;
    struct merge_config config =
        parse("models: [{model: a}, {model: b}]\nmerge_method: nuslerp\n"
              "parameters: {nuslerp_flatten: false, nuslerp_row_wise: true}\n");
    struct resolved r;
    resolve(&config, "x", &r);
    assert_int_equal(r.p.groups, GROUP_COLUMN);
    assert_true(near(r.weight[0], 1) && near(r.p.lambda, 1));
    merge_config_release(&config);
    config = parse("models: [{model: a}, {model: b}]\nmerge_method: dare_ties\nbase_model: c\n");
    resolve(&config, "x", &r);
    assert_int_equal(r.p.rescale, RESCALE_DENSITY);
    assert_false(r.p.normalize);
    merge_config_release(&config);
    config = parse("models: [{model: a}, {model: b}]\nmerge_method: ties\nbase_model: c\n"
                   "parameters: {rescale: true}\n");
    resolve(&config, "x", &r);
    assert_int_equal(r.p.rescale, RESCALE_L1);
    assert_true(r.p.normalize);
    merge_config_release(&config);
}

static void wrong_configurations_say_what_and_where(void **state)
{
    (void)state;
    static const struct {
        const char *text, *says;
    } cases[] = {
        {"models: [{model: a}]\n", "no merge_method"},
        {"merge_method: tie\nmodels: [{model: a}]\n", "unknown merge method 'tie'"},
        {"merge_method: ties\n", "give either models or slices"},
        {"merge_method: ties\nmodels: []\n", "models is not a list of models"},
        {"merge_method: ties\nmodels: [{mdel: a}]\n", "unknown key 'mdel' in models"},
        {"merge_method: ties\nmodels: [{}]\n", "an entry of models has no model"},
        {"merge_method: ties\nmodels: [{model: a}]\nchat_template: auto\n",
         "unknown key 'chat_template' in the configuration"},
        {"merge_method: ties\nmodels: [{model: a}]\nparameters: {wieght: 1}\n",
         "unknown parameter 'wieght'"},
        {"merge_method: ties\nmodels: [{model: a}]\nparameters: {weight: heavy}\n",
         "parameter 'weight' is a string, not a number"},
        {"merge_method: ties\nmodels: [{model: a}]\nparameters: {weight: []}\n", "empty list"},
        {"merge_method: ties\nmodels: [{model: a}]\nparameters: {weight: [{filter: x}]}\n",
         "a condition of parameter 'weight' has no value"},
        {"merge_method: ties\nmodels: [{model: a}]\ndtype: int8\n", "dtype 'int8' is none of"},
        {"merge_method: ties\nmodels: [{model: a}]\ntokenizer_source: union\n",
         "tokenizer_source 'union'"},
        {"merge_method: ties\nmerge_method: dare\n", "line 2: the key 'merge_method' is repeated"},
        {"a: &x 1\nb: *x\n", "line 1: anchors, aliases and tags are not supported"},
        {"a: 1\n---\nb: 2\n", "more than one document"},
        {"a: [1\n", "line 2"},
        {"{a: 1", "line 2"},
        {"? [x]\n: 1\n", "line 1: a key is not a plain word"},
        {"", "the configuration is null, not a mapping"},
        {"merge_method: slerp\nslices: [{sources: [{model: a, layer_range: [0, 5]}, "
         "{model: b, layer_range: [1, 5]}]}]\n",
         "layer_range of source 2"},
        {"merge_method: slerp\nslices: [{sources: []}, {sources: []}]\n", "one slice"},
    };
    for (size_t c = 0; c < sizeof(cases) / sizeof(cases[0]); c++) {
        struct merge_config config;
        struct error err;
        assert_int_equal(
            merge_config_parse(cases[c].text, strlen(cases[c].text), ".", &config, &err), -1);
        if (!strstr(err.text, cases[c].says))
            fail_msg("'%s' does not say '%s'", err.text, cases[c].says);
    }
}

// Every prefix and every single changed byte of a real configuration: an error or a configuration,
// never a crash.
static void damaged_configurations_are_read_or_refused(void **state)
{
    (void)state;
    static const char whole[] =
        "models:\n  - model: a\n    parameters:\n      weight: [0.5, 1e-3]\n"
        "  - model: \"b\"\n    parameters: {density: [{filter: mlp, value: "
        "0.3}, {value: 1}]}\nmerge_method: ties\nbase_model: c\n";
    const size_t length = sizeof(whole) - 1;
    char text[sizeof(whole)];
    for (size_t i = 0; i < length; i++) {
        struct merge_config config;
        struct error err;
        if (merge_config_parse(whole, i, ".", &config, &err) == 0)
            merge_config_release(&config);
        for (int bit = 0; bit < 8; bit++) {
            memcpy(text, whole, length);
            text[i] ^= (char)(1 << bit);
            err.text[0] = '\0';
            if (merge_config_parse(text, length, ".", &config, &err) == 0)
                merge_config_release(&config);
            else
                assert_true(err.text[0] != '\0');
        }
    }
}

static void layers_are_read_from_names(void **state)
{
    (void)state;
    assert_int_equal(merge_layer_of("model.layers.12.mlp.up_proj.weight"), 12);
    assert_int_equal(merge_layer_of("layers.3.x"), 3);
    assert_int_equal(merge_layer_of("model.norm.weight"), -1);
    assert_int_equal(merge_layer_of("model.players.3.x"), -1);
    assert_int_equal(merge_layer_of("model.layers.x"), -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(weights_filters_and_gradients_are_those_of_the_tensor),
        cmocka_unit_test(slerp_goes_from_the_base_to_the_other),
        cmocka_unit_test(defaults_are_those_of_the_method),
        cmocka_unit_test(wrong_configurations_say_what_and_where),
        cmocka_unit_test(damaged_configurations_are_read_or_refused),
        cmocka_unit_test(layers_are_read_from_names),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
