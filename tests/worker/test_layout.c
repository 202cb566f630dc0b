// SPDX-License-Identifier: Apache-2.0
#include "tests/worker/model_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

static void layout_has_no_gaps_and_no_name_twice(void **state)
{
    (void)state;
    struct model_config config = fixture_config_untied();
    struct layout layout;
    layout_create(&config, &layout);
    uint64_t next = 0;
    for (size_t i = 0; i < layout.parameter_count; i++) {
        const struct parameter *p = &layout.parameters[i];
        assert_true(p->offset == next);
        assert_true(p->count == p->shape[0] * p->shape[1]);
        next += p->count;
        for (size_t j = 0; j < i; j++)
            assert_true(strcmp(p->name, layout.parameters[j].name) != 0);
        assert_true(layout_find(&layout, p->kind, p->layer) == p);
    }
    assert_true(layout.elements == next);
    layout_release(&layout);
}

static void expect_adjacent(const struct layout *layout, int64_t layer, enum parameter_kind first,
                            enum parameter_kind second)
{
    const struct parameter *a = layout_find(layout, first, layer);
    const struct parameter *b = layout_find(layout, second, layer);
    assert_non_null(a);
    assert_non_null(b);
    assert_true(a->offset + a->count == b->offset);
}

static void fused_matrices_are_neighbours(void **state)
{
    (void)state;
    struct model_config config = fixture_config();
    struct layout layout;
    layout_create(&config, &layout);
    for (int64_t layer = 0; layer < config.layers; layer++) {
        expect_adjacent(&layout, layer, PARAM_Q, PARAM_K);
        expect_adjacent(&layout, layer, PARAM_K, PARAM_V);
        expect_adjacent(&layout, layer, PARAM_Q_BIAS, PARAM_K_BIAS);
        expect_adjacent(&layout, layer, PARAM_K_BIAS, PARAM_V_BIAS);
        expect_adjacent(&layout, layer, PARAM_GATE, PARAM_UP);
    }
    layout_release(&layout);
}

static void tied_model_has_no_head_and_biases_are_optional(void **state)
{
    (void)state;
    struct model_config config = fixture_config();
    struct layout layout;
    config.qkv_bias = false;
    layout_create(&config, &layout);
    assert_null(layout_find(&layout, PARAM_HEAD, -1));
    assert_null(layout_find(&layout, PARAM_Q_BIAS, 0));
    assert_null(layout_find(&layout, PARAM_Q, 2));
    layout_release(&layout);
}

static void matrices_decay_norms_and_biases_do_not(void **state)
{
    (void)state;
    struct model_config config = fixture_config_untied();
    struct layout layout;
    layout_create(&config, &layout);
    for (size_t i = 0; i < layout.parameter_count; i++)
        assert_int_equal(layout.parameters[i].decays, layout.parameters[i].rank == 2);
    layout_release(&layout);
}

static void shapes_have_their_published_number_of_parameters(void **state)
{
    (void)state;
    static const struct {
        const char *name;
        uint64_t elements;
    } cases[] = {
        {"tiny", 4198656},
        {"qwen2.5-0.5b", 494032768},
        {"qwen2.5-1.5b", 1543714304},
        {"qwen2.5-3b", 3085938688},
        {"qwen2.5-7b", 7615616512},
        {"qwen2.5-14b", 14770033664},
        {"qwen2.5-32b", 32763876352},
        {"qwen3-0.6b", 596049920},
        {"llama3.2-1b", 1235814400},
        {"gemma3-1b", 999885952},
        {"lfm2-1.2b", 1170340608},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct model_config config;
        struct error err;
        struct layout layout;
        assert_int_equal(model_config_shape(cases[i].name, &config, &err), 0);
        layout_create(&config, &layout);
        assert_true(layout.elements == cases[i].elements);
        layout_release(&layout);
    }
}

static void names_are_those_of_hugging_face(void **state)
{
    (void)state;
    struct model_config config = fixture_config_untied();
    struct layout layout;
    layout_create(&config, &layout);
    assert_string_equal(layout.parameters[0].name, "model.embed_tokens.weight");
    assert_string_equal(layout_find(&layout, PARAM_K_BIAS, 0)->name,
                        "model.layers.0.self_attn.k_proj.bias");
    assert_string_equal(layout_find(&layout, PARAM_HEAD, -1)->name, "lm_head.weight");
    layout_release(&layout);
}

static void families_have_names_of_their_own(void **state)
{
    (void)state;
    static const struct {
        const char *shape;
        enum parameter_kind kind;
        int64_t layer;
        const char *name;
    } cases[] = {
        {"qwen3-0.6b", PARAM_Q_NORM, 1, "model.layers.1.self_attn.q_norm.weight"},
        {"gemma3-1b", PARAM_ATTENTION_OUT_NORM, 0,
         "model.layers.0.post_attention_layernorm.weight"},
        {"gemma3-1b", PARAM_POST_NORM, 0, "model.layers.0.pre_feedforward_layernorm.weight"},
        {"gemma3-1b", PARAM_FFN_OUT_NORM, 25, "model.layers.25.post_feedforward_layernorm.weight"},
        {"lfm2-1.2b", PARAM_CONV, 0, "model.layers.0.conv.conv.weight"},
        {"lfm2-1.2b", PARAM_O, 2, "model.layers.2.self_attn.out_proj.weight"},
        {"lfm2-1.2b", PARAM_DOWN, 15, "model.layers.15.feed_forward.w2.weight"},
        {"lfm2-1.2b", PARAM_FINAL_NORM, -1, "model.embedding_norm.weight"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        struct model_config config;
        struct error err;
        struct layout layout;
        assert_int_equal(model_config_shape(cases[i].shape, &config, &err), 0);
        layout_create(&config, &layout);
        assert_string_equal(layout_find(&layout, cases[i].kind, cases[i].layer)->name,
                            cases[i].name);
        layout_release(&layout);
    }
}

static void a_layer_convolves_or_attends(void **state)
{
    (void)state;
    struct model_config config;
    struct error err;
    struct layout layout;
    assert_int_equal(model_config_shape("lfm2-1.2b", &config, &err), 0);
    layout_create(&config, &layout);
    assert_null(layout_find(&layout, PARAM_Q, 0));
    assert_null(layout_find(&layout, PARAM_Q_NORM, 0));
    assert_null(layout_find(&layout, PARAM_CONV, 2));
    const struct parameter *conv = layout_find(&layout, PARAM_CONV, 0);
    assert_int_equal(conv->rank, 3);
    assert_true(conv->shape[0] == 2048 && conv->shape[1] == 1 && conv->shape[2] == 3);
    layout_release(&layout);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(layout_has_no_gaps_and_no_name_twice),
        cmocka_unit_test(fused_matrices_are_neighbours),
        cmocka_unit_test(tied_model_has_no_head_and_biases_are_optional),
        cmocka_unit_test(matrices_decay_norms_and_biases_do_not),
        cmocka_unit_test(shapes_have_their_published_number_of_parameters),
        cmocka_unit_test(names_are_those_of_hugging_face),
        cmocka_unit_test(families_have_names_of_their_own),
        cmocka_unit_test(a_layer_convolves_or_attends),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
