// SPDX-License-Identifier: Apache-2.0
// Adapters of every family: their gradients, what they become when merged and saved, and that
// training them is the same however it is laid out and wherever it was interrupted.
#include "tests/base/temporary_directory.h"
#include "tests/worker/model_fixture.h"
#include "tests/worker/train_fixture.h"

#include "base/mem.h"
#include "base/random.h"
#include "datasets/safetensors.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { ALL_TARGETS = (1 << LORA_TARGETS) - 1, FAMILIES = 4 };

static const struct lora_options usual = {
    .r = 3, .alpha = 5, .dropout = 0.25, .targets = ALL_TARGETS, .seed = 4};

static struct model_config family(int number)
{
    switch (number) {
    case 0:
        return fixture_config();
    case 1:
        return fixture_config_untied();
    case 2:
        return fixture_config_gemma3();
    default:
        return fixture_config_lfm2();
    }
}

// With adapters that are not zero.
static struct model *adapted_model(struct device *device, const struct model_config *config,
                                   enum dtype dtype, const struct lora_options *options)
{
    struct error err;
    struct model *model = fixture_model(device, config, dtype, 3);
    if (model_add_lora(model, options, &err))
        fail_msg("%s", err.text);
    const uint64_t elements = model->lora->layout.elements;
    float *values = mem_alloc(elements * sizeof(*values));
    for (uint64_t i = 0; i < elements; i++)
        values[i] = (float)(0.2 * random_normal(11, 12, i));
    device_copy_in(device, model->lora->weights.data, values, elements * sizeof(*values));
    assert_int_equal(device_sync(device, &err), 0);
    free(values);
    return model;
}

static void some_batch(struct fixture_batch *batch, const struct model_config *config,
                       uint64_t *keys)
{
    fixture_batch_fill(batch, (const int[]){5, 1, 7, -1}, config->vocabulary, 8);
    for (size_t t = 0; t < batch->batch.tokens; t++)
        keys[t] = random_u64(1, 2, t);
    batch->batch.dropout_keys = keys;
}

static double loss_of(struct model *model, struct workspace *workspace, const struct batch *batch,
                      float *grads)
{
    struct error err;
    double loss;
    const struct gradients sums = {.sums = {grads, DTYPE_F32}};
    if (model_loss(model, workspace, batch, grads ? &sums : NULL, 1, &loss, &err))
        fail_msg("%s", err.text);
    return loss;
}

static double moved_loss(struct model *model, struct workspace *workspace,
                         const struct batch *batch, uint64_t element, float value)
{
    device_copy_in(model->device, (float *)model->lora->weights.data + element, &value,
                   sizeof(value));
    return loss_of(model, workspace, batch, NULL);
}

// A few elements of every adapter's matrix.
static void check_gradients(struct model *model, struct workspace *workspace,
                            const struct batch *batch)
{
    struct device *device = model->device;
    const struct layout *layout = &model->lora->layout;
    float *grads = fixture_floats(device, layout->elements);
    loss_of(model, workspace, batch, grads);
    float *gradient = fixture_copy_out(device, grads, layout->elements);
    float *weights = fixture_copy_out(device, model->lora->weights.data, layout->elements);
    for (size_t p = 0; p < layout->parameter_count; p++) {
        for (uint64_t k = 0; k < 4; k++) {
            const uint64_t i =
                layout->parameters[p].offset + random_u64(5, p, k) % layout->parameters[p].count;
            const float step = 0x1p-8f;
            const double more = moved_loss(model, workspace, batch, i, weights[i] + step);
            const double less = moved_loss(model, workspace, batch, i, weights[i] - step);
            const double expected = (more - less) / (2 * (double)step);
            moved_loss(model, workspace, batch, i, weights[i]);
            if (!(fabs((double)gradient[i] - expected) <= 4e-3 * (1 + fabs(expected))))
                fail_msg("%s: gradient %g, differences say %g", layout->parameters[p].name,
                         (double)gradient[i], expected);
        }
    }
    free(weights);
    free(gradient);
    device_free(device, grads);
}

static void gradients_agree_with_differences_of_the_loss(void **state)
{
    struct device *device = *state;
    for (int number = 0; number < FAMILIES; number++) {
        const struct model_config config = family(number);
        struct model *model = adapted_model(device, &config, DTYPE_F32, &usual);
        struct workspace *workspace;
        struct fixture_batch batch;
        uint64_t keys[256];
        struct error err;
        some_batch(&batch, &config, keys);
        assert_int_equal(workspace_create(model, 16, true, &workspace, &err), 0);
        check_gradients(model, workspace, &batch.batch);
        workspace_destroy(workspace);
        model_destroy(model);
    }
}

static void computing_layers_again_gives_the_same_gradients(void **state)
{
    struct device *device = *state;
    for (int number = 0; number < FAMILIES; number++) {
        const struct model_config config = family(number);
        struct model *model = adapted_model(device, &config, DTYPE_F32, &usual);
        struct workspace *workspaces[2];
        struct fixture_batch batch;
        uint64_t keys[256];
        struct error err;
        float *gradients[2];
        some_batch(&batch, &config, keys);
        assert_int_equal(workspace_create(model, 16, true, &workspaces[0], &err), 0);
        assert_int_equal(workspace_create_recomputing(model, 16, &workspaces[1], &err), 0);
        for (int i = 0; i < 2; i++) {
            float *grads = fixture_floats(device, model->lora->layout.elements);
            loss_of(model, workspaces[i], &batch.batch, grads);
            gradients[i] = fixture_copy_out(device, grads, model->lora->layout.elements);
            device_free(device, grads);
            workspace_destroy(workspaces[i]);
        }
        assert_memory_equal(gradients[0], gradients[1],
                            model->lora->layout.elements * sizeof(float));
        free(gradients[0]);
        free(gradients[1]);
        model_destroy(model);
    }
}

static float *logits_of(struct model *model, const struct batch *batch)
{
    const size_t count = batch->tokens * (size_t)model->config.vocabulary;
    float *logits = mem_alloc(count * sizeof(*logits));
    struct workspace *workspace;
    struct error err;
    assert_int_equal(workspace_create(model, batch->tokens, false, &workspace, &err), 0);
    assert_int_equal(model_logits(model, workspace, batch, logits, &err), 0);
    workspace_destroy(workspace);
    return logits;
}

static void a_merged_model_computes_what_the_adapters_did(void **state)
{
    struct device *device = *state;
    for (int number = 0; number < FAMILIES; number++) {
        const struct model_config config = family(number);
        struct model *model = adapted_model(device, &config, DTYPE_F32, &usual);
        struct fixture_batch batch;
        uint64_t keys[256];
        struct error err;
        double largest = 0, difference = 0;
        some_batch(&batch, &config, keys);
        batch.batch.dropout_keys = NULL;
        float *adapted = logits_of(model, &batch.batch);
        assert_int_equal(model_merge_lora(model, &err), 0);
        assert_null(model->lora);
        float *merged = logits_of(model, &batch.batch);
        for (size_t i = 0; i < batch.batch.tokens * (size_t)config.vocabulary; i++) {
            largest = fmax(largest, fabs((double)adapted[i]));
            difference = fmax(difference, fabs((double)adapted[i] - (double)merged[i]));
        }
        if (!(difference <= 1e-5 * largest))
            fail_msg("family %d: logits differ by %g of %g", number, difference, largest);
        free(adapted);
        free(merged);
        model_destroy(model);
    }
}

static void new_adapters_change_nothing(void **state)
{
    struct device *device = *state;
    const struct model_config config = fixture_config();
    struct model *model = fixture_model(device, &config, DTYPE_F32, 3);
    struct fixture_batch batch;
    uint64_t keys[256];
    struct error err;
    some_batch(&batch, &config, keys);
    float *before = logits_of(model, &batch.batch);
    assert_int_equal(model_add_lora(model, &usual, &err), 0);
    float *after = logits_of(model, &batch.batch);
    assert_memory_equal(before, after,
                        batch.batch.tokens * (size_t)config.vocabulary * sizeof(float));
    float *weights = fixture_copy_out(device, model->lora->weights.data,
                                      model->lora->layout.parameters[0].count);
    const double bound = 1 / sqrt((double)model->lora->layout.parameters[0].shape[1]);
    double largest = 0;
    for (uint64_t i = 0; i < model->lora->layout.parameters[0].count; i++)
        largest = fmax(largest, fabs((double)weights[i]));
    assert_true(largest <= bound && largest > bound / 2);
    free(weights);
    free(before);
    free(after);
    model_destroy(model);
}

static void targets_are_named_as_hugging_face_does(void **state)
{
    (void)state;
    struct error err;
    uint32_t targets;
    assert_int_equal(lora_targets_parse(LORA_TARGET_NAMES, &targets, &err), 0);
    assert_int_equal(targets, ALL_TARGETS);
    assert_int_equal(lora_targets_parse("down_proj,q_proj", &targets, &err), 0);
    assert_int_equal(targets, 1 << LORA_DOWN | 1 << LORA_Q);
    static const char *const wrong[] = {"", "q", "q_proj,", "q_proj,,k_proj", "lm_head", "q_projx"};
    for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
        assert_int_equal(lora_targets_parse(wrong[i], &targets, &err), -1);
        assert_non_null(strstr(err.text, "give some of q_proj"));
    }
}

static void the_saved_directory_has_the_adapters_and_no_more(void **state)
{
    struct device *device = *state;
    const struct model_config config = fixture_config();
    struct lora_options two = usual;
    two.targets = 1 << LORA_V | 1 << LORA_DOWN;
    struct model *model = adapted_model(device, &config, DTYPE_BF16, &two);
    const struct layout *layout = &model->lora->layout;
    void *directory;
    struct safetensors file;
    struct error err;
    assert_int_equal(temporary_directory_setup(&directory), 0);
    assert_int_equal(lora_save(model, fs_system(), directory, "models/base", &err), 0);
    char *path = fs_join(directory, "adapter_model.safetensors");
    assert_int_equal(safetensors_open(path, &file, &err), 0);
    assert_int_equal(file.count, 2 * 2 * (size_t)config.layers);
    float *weights = fixture_copy_out(device, model->lora->weights.data, layout->elements);
    for (size_t i = 0; i < layout->parameter_count; i++) {
        const struct parameter *p = &layout->parameters[i];
        const struct safetensors_entry *entry = safetensors_find(&file, p->name);
        assert_non_null(entry);
        assert_int_equal(entry->shape[0], p->shape[0]);
        assert_int_equal(entry->shape[1], p->shape[1]);
        assert_memory_equal(entry->data, weights + p->offset, entry->bytes);
    }
    assert_non_null(
        safetensors_find(&file, "base_model.model.model.layers.1.self_attn.v_proj.lora_B.weight"));
    assert_non_null(
        safetensors_find(&file, "base_model.model.model.layers.0.mlp.down_proj.lora_A.weight"));
    free(weights);
    free(path);
    safetensors_close(&file);
    temporary_directory_teardown(&directory);
    model_destroy(model);
}

static struct sequence_set set;

static struct training training_of(const struct lora_options *lora)
{
    struct training training = training_default(&set);
    training.lora = lora;
    training.stop_after = 20;
    return training;
}

static void ranks_change_dropout_not_at_all(void **state)
{
    (void)state;
    struct training one = training_of(&usual);
    training_run_well(&one);
    for (int ranks = 2; ranks <= 3; ranks++) {
        struct training many = training_of(&usual);
        many.ranks = ranks;
        many.options.zero = (enum zero_stage)(ranks - 1);
        many.options.micro_batch_tokens = 64;
        training_run_well(&many);
        assert_int_equal(many.steps, 20);
        assert_losses_near(&one, &many, 1e-5);
        training_release(&many);
    }
    training_release(&one);
}

static void exact_sums_give_the_same_bits_on_any_ranks(void **state)
{
    (void)state;
    struct training one = training_of(&usual), three = training_of(&usual);
    one.options.exact_sums = three.options.exact_sums = true;
    three.ranks = 3;
    three.options.zero = ZERO_2;
    training_run_well(&one);
    training_run_well(&three);
    assert_same_state(&one, &three);
    training_release(&one);
    training_release(&three);
}

static void dropout_and_its_seed_matter(void **state)
{
    (void)state;
    struct lora_options others[] = {usual, usual};
    others[0].dropout = 0;
    others[1].seed++;
    struct training first = training_of(&usual);
    training_run_well(&first);
    for (int i = 0; i < 2; i++) {
        struct training other = training_of(&others[i]);
        training_run_well(&other);
        assert_true(first.stats[0].loss == other.stats[0].loss); // B is zero
        assert_true(first.stats[9].loss != other.stats[9].loss);
        training_release(&other);
    }
    training_release(&first);
}

static void a_resumed_run_has_the_bits_of_an_uninterrupted_one(void **state)
{
    (void)state;
    void *directory;
    struct training whole = training_of(&usual), half = training_of(&usual);
    assert_int_equal(temporary_directory_setup(&directory), 0);
    training_run_well(&whole);
    half.checkpoints = directory;
    half.save_every = 5;
    half.stop_after = 7;
    training_run_well(&half);
    half.save_every = 0;
    half.ranks = 1;
    half.stop_after = 15;
    training_run_well(&half);
    assert_int_equal(half.loaded, 1);
    assert_int_equal(half.first_step, 5);
    assert_same_state(&whole, &half);
    training_release(&whole);
    training_release(&half);
    temporary_directory_teardown(&directory);
}

static void a_checkpoint_of_other_adapters_is_refused(void **state)
{
    (void)state;
    void *directory;
    struct lora_options other = usual;
    other.alpha++;
    struct training first = training_of(&usual);
    assert_int_equal(temporary_directory_setup(&directory), 0);
    first.checkpoints = directory;
    first.save_every = 2;
    first.stop_after = 2;
    training_run_well(&first);
    struct training second = first;
    second.state = NULL;
    second.lora = &other;
    assert_int_equal(training_run(&second), -1);
    assert_non_null(strstr(second.err.text, "other data, options or model"));
    training_release(&first);
    training_release(&second);
    temporary_directory_teardown(&directory);
}

// The weights lose 16 bits, which moves a loss of about 3.6 by some thousandths.
static void a_bfloat16_base_trains_alike(void **state)
{
    (void)state;
    struct training wide = training_of(&usual), narrow = training_of(&usual);
    narrow.dtype = DTYPE_BF16;
    training_run_well(&wide);
    training_run_well(&narrow);
    assert_losses_near(&wide, &narrow, 5e-3);
    assert_true(wide.stats[19].loss < wide.stats[0].loss);
    assert_int_equal(wide.elements, narrow.elements);
    training_release(&wide);
    training_release(&narrow);
}

static int set_up(void **state)
{
    fixture_set_fill(&set, 31, 9);
    *state = fixture_device();
    return 0;
}

static int tear_down(void **state)
{
    sequence_set_release(&set);
    device_destroy(*state);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gradients_agree_with_differences_of_the_loss),
        cmocka_unit_test(computing_layers_again_gives_the_same_gradients),
        cmocka_unit_test(a_merged_model_computes_what_the_adapters_did),
        cmocka_unit_test(new_adapters_change_nothing),
        cmocka_unit_test(targets_are_named_as_hugging_face_does),
        cmocka_unit_test(the_saved_directory_has_the_adapters_and_no_more),
        cmocka_unit_test(ranks_change_dropout_not_at_all),
        cmocka_unit_test(exact_sums_give_the_same_bits_on_any_ranks),
        cmocka_unit_test(dropout_and_its_seed_matter),
        cmocka_unit_test(a_resumed_run_has_the_bits_of_an_uninterrupted_one),
        cmocka_unit_test(a_checkpoint_of_other_adapters_is_refused),
        cmocka_unit_test(a_bfloat16_base_trains_alike),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
