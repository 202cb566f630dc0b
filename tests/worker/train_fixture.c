// SPDX-License-Identifier: Apache-2.0
#include "tests/worker/train_fixture.h"

#include "tests/worker/model_fixture.h"

#include "base/mem.h"
#include "base/random.h"
#include "datasets/safetensors.h"
#include "worker/train/checkpoint.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct training training_default(const struct sequence_set *set)
{
    return (struct training){
        .ranks = 1,
        .set = set,
        .keep = 2,
        .options =
            {.plan = {.seed = 3, .per_step = 8, .epochs = 6},
             .schedule = {.kind = SCHEDULE_CONSTANT, .peak = 1e-2},
             .warmup_fraction = 0.1,
             .micro_batch_tokens = 48,
             .clip_norm = 1.0,
             .optimizer = {.beta1 = 0.9, .beta2 = 0.999, .epsilon = 1e-8, .weight_decay = 0.01}},
    };
}

// What one rank holds. Failures are returned, not asserted: only rank 0 is the test's process.
struct rank {
    struct training *training;
    struct group *group;
    struct device *device;
    struct model *model;
    struct trainer *trainer;
};

static int make_model(struct rank *rank, struct error *err)
{
    const struct training *training = rank->training;
    struct model_config config = fixture_config();
    if (training->vocabulary > 0)
        config.vocabulary = training->vocabulary;
    const bool odd = training->odd_rank == group_rank(rank->group) + 1;
    if (training->model)
        return model_load(rank->device, training->model, training->dtype, &rank->model, err);
    return model_create(rank->device, &config, training->dtype, &rank->model, err) ||
                   model_init_random(rank->model, odd ? 2 : 1, err)
               ? -1
               : 0;
}

static int read_adapters(struct rank *rank, const char *path, struct error *err)
{
    const struct lora *lora = rank->model->lora;
    struct safetensors file;
    int rc = 0;
    if (safetensors_open(path, &file, err))
        return -1;
    for (size_t i = 0; rc == 0 && i < lora->layout.parameter_count; i++) {
        const struct parameter *p = &lora->layout.parameters[i];
        char name[128];
        snprintf(name, sizeof(name), "initial.%s", p->name);
        const struct safetensors_entry *entry = safetensors_find(&file, name);
        if (!entry || entry->bytes != p->count * sizeof(float))
            rc = error_set(err, "'%s': no '%s' of this size", path, name);
        else
            device_copy_in(rank->device, (float *)lora->weights.data + p->offset, entry->data,
                           entry->bytes);
    }
    safetensors_close(&file);
    return rc;
}

static int add_adapters(struct rank *rank, struct error *err)
{
    const struct training *training = rank->training;
    if (!training->lora)
        return 0;
    return model_add_lora(rank->model, training->lora, err) ||
                   (training->lora_initial && read_adapters(rank, training->lora_initial, err))
               ? -1
               : 0;
}

static int begin(struct rank *rank, struct error *err)
{
    struct training *training = rank->training;
    const char *backend = getenv("MEMO_TEST_BACKEND");
    // One thread: threads do not survive a fork.
    const struct device_options options = {.backend = backend ? backend : "ref", .threads = 1};
    if (device_create(&options, &rank->device, err) || make_model(rank, err) ||
        add_adapters(rank, err) ||
        trainer_create(rank->model, rank->group, training->set, &training->options, &rank->trainer,
                       err))
        return -1;
    if (!training->checkpoints)
        return 0;
    struct strbuf changed = {0};
    rank->trainer->score = training->score;
    training->loaded =
        checkpoint_load(rank->trainer, training->fs, training->checkpoints, &changed, err);
    snprintf(training->changed, sizeof(training->changed), "%s",
             changed.bytes ? changed.bytes : "");
    strbuf_release(&changed);
    if (training->loaded < 0)
        return -1;
    return training->save_loaded ? checkpoint_save(rank->trainer, training->fs,
                                                   training->checkpoints, training->keep, err)
                                 : 0;
}

static int save(struct rank *rank, struct checkpoint_write **writing, struct error *err)
{
    const struct training *training = rank->training;
    if (!training->behind)
        return checkpoint_save(rank->trainer, training->fs, training->checkpoints, training->keep,
                               err);
    return checkpoint_complete(writing, err) ||
                   checkpoint_begin(rank->trainer, training->fs, training->checkpoints,
                                    training->keep, writing, err)
               ? -1
               : 0;
}

static int do_steps(struct rank *rank, struct checkpoint_write **writing, struct error *err)
{
    struct training *training = rank->training;
    struct trainer *trainer = rank->trainer;
    training->first_step = trainer->step;
    while (trainer->step < trainer->steps && !training->load_only) {
        if (trainer_step(trainer, &training->stats[training->steps], err) ||
            checkpoint_poll(writing, err))
            return -1;
        training->steps++;
        if (training->measure) {
            trainer->score = training->score;
            trainer->score.known = true;
            trainer->score.value = training->measure(trainer->step);
        }
        if (training->save_every > 0 && trainer->step % training->save_every == 0 &&
            save(rank, writing, err))
            return -1;
        if (training->steps == training->stop_after)
            break;
    }
    return checkpoint_complete(writing, err);
}

static int run_steps(struct rank *rank, struct error *err)
{
    struct checkpoint_write *writing = NULL;
    const int rc = do_steps(rank, &writing, err);
    checkpoint_abandon(writing);
    if (rc == 0 && rank->training->die_rank == group_rank(rank->group) + 1)
        raise(SIGKILL);
    return rc;
}

// Collective.
static int copy_state(struct rank *rank, struct error *err)
{
    struct training *training = rank->training;
    struct trainer *trainer = rank->trainer;
    const size_t elements = model_trained_layout(rank->model)->elements;
    training->elements = elements;
    training->tokens = trainer->tokens;
    training->consumed = trainer->consumed;
    training->state = mem_calloc(3 * elements, sizeof(float));
    for (int part = STATE_MASTER; part <= STATE_MOMENT2; part++) {
        if (optimizer_gather(trainer->optimizer, (enum state_part)part,
                             training->state + (size_t)part * elements, err))
            return -1;
    }
    return 0;
}

static int run_rank(struct group *group, void *context, struct error *err)
{
    struct rank rank = {.training = context, .group = group};
    int rc = begin(&rank, err);
    if (rc == 0)
        rc = run_steps(&rank, err);
    struct error failure; // all ranks fail alike, or the group is broken and copies nothing
    if (rank.trainer && copy_state(&rank, rc == 0 ? err : &failure))
        rc = -1;
    trainer_destroy(rank.trainer);
    model_destroy(rank.model);
    device_destroy(rank.device);
    return rc;
}

int training_run(struct training *training)
{
    training_release(training);
    training->steps = 0;
    training->err.text[0] = '\0';
    if (!training->fs)
        training->fs = fs_system();
    return group_run_shm(training->ranks, run_rank, training, &training->err);
}

void training_run_well(struct training *training)
{
    if (training_run(training))
        fail_msg("%s", training->err.text);
}

void training_release(struct training *training)
{
    free(training->state);
    training->state = NULL;
}

void fixture_set_fill(struct sequence_set *set, size_t count, uint64_t seed)
{
    const int64_t vocabulary = fixture_config().vocabulary;
    for (size_t s = 0; s < count; s++) {
        int32_t ids[24];
        const size_t length = 2 + random_u64(seed, s, 0) % 23;
        const size_t begin_at = 1 + random_u64(seed, s, 1) % (length - 1);
        const size_t end_at = begin_at + 1 + random_u64(seed, s, 2) % (length - begin_at);
        for (size_t t = 0; t < length; t++)
            ids[t] = (int32_t)(random_u64(seed, s, 3 + t) % (uint64_t)vocabulary);
        assert_int_equal(sequence_set_add(set, ids, length, begin_at, end_at, 24), 0);
    }
}

void assert_same_state(const struct training *a, const struct training *b)
{
    assert_int_equal(a->elements, b->elements);
    assert_int_equal(a->tokens, b->tokens);
    assert_true(digest_equal(a->consumed, b->consumed));
    assert_memory_equal(a->state, b->state, 3 * a->elements * sizeof(float));
}

void assert_losses_near(const struct training *a, const struct training *b, double tolerance)
{
    for (size_t i = 0; i < b->steps; i++) {
        const size_t step = b->first_step + i;
        assert_true(step >= a->first_step && step < a->first_step + a->steps);
        const double x = a->stats[step - a->first_step].loss, y = b->stats[i].loss;
        if (!(fabs(x - y) <= tolerance * fabs(x)))
            fail_msg("step %zu: loss %.9g, expected %.9g", step, y, x);
    }
}
