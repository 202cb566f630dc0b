// SPDX-License-Identifier: Apache-2.0
#include "tests/worker/lm_fixture.h"

#include "base/fs.h"
#include "base/mem.h"
#include "tests/worker/json_fixture.h"
#include "tests/worker/model_fixture.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void save_model(const char *directory, uint64_t seed)
{
    struct error err;
    struct device *device = fixture_device();
    struct model_config config = fixture_config();
    config.vocabulary = LM_FIXTURE_VOCABULARY + 28; // a model may have more rows than tokens
    config.max_positions = LM_FIXTURE_POSITIONS;
    struct model *model = fixture_model(device, &config, DTYPE_F32, seed);
    if (model_save(model, fs_system(), directory, NULL, &err))
        fail_msg("%s", err.text);
    model_destroy(model);
    device_destroy(device);
}

char *lm_fixture_directory(uint64_t seed)
{
    struct error err;
    char *directory = mem_strdup("/tmp/memo-test-lm-XXXXXX");
    struct tokenizer *tokenizer = json_fixture_tokenizer(LM_FIXTURE_VOCABULARY);
    assert_non_null(mkdtemp(directory));
    if (tokenizer_save(tokenizer, fs_system(), directory, &err))
        fail_msg("%s", err.text);
    tokenizer_destroy(tokenizer);
    save_model(directory, seed);
    return directory;
}

void lm_fixture_remove(char *directory)
{
    struct fs *fs = fs_system();
    struct fs_names names = {0};
    struct error err;
    assert_int_equal(fs_list(fs, directory, &names, &err), 0);
    for (size_t i = 0; i < names.count; i++) {
        char *path = fs_join(directory, names.names[i]);
        assert_int_equal(fs->ops->remove(fs->state, path), 0);
        free(path);
    }
    fs_names_release(&names);
    assert_int_equal(fs->ops->remove(fs->state, directory), 0);
    free(directory);
}

struct lm *lm_fixture_open(const char *directory, const struct lm_engine_options *options)
{
    struct error err;
    struct lm *lm = NULL;
    struct lm_engine_options usual = options ? *options : (struct lm_engine_options){0};
    const char *backend = getenv("MEMO_TEST_BACKEND");
    usual.model = directory;
    usual.device = (struct device_options){.backend = backend ? backend : "ref", .threads = 2};
    if (lm_engine_create(&usual, &lm, &err))
        fail_msg("%s", err.text);
    return lm;
}

void lm_fixture_keep(struct lm_answer *answers, size_t count, const struct lm_result *result)
{
    assert_true(result->id < count);
    struct lm_answer *out = &answers[result->id];
    assert_false(out->is_there);
    out->is_there = true;
    out->end = result->end;
    strbuf_add(&out->answer, result->answer.text, result->answer.bytes);
    snprintf(out->problem, sizeof out->problem, "%s", result->problem);
    out->forced_from = result->forced_from;
    out->prompt_tokens = result->prompt_tokens;
    out->cached_tokens = result->cached_tokens;
    out->output_tokens = result->output_tokens;
}

void lm_fixture_collect(struct lm *lm, struct lm_answer *answers, size_t count)
{
    struct error err;
    struct lm_result result;
    enum lm_poll polled;
    while ((polled = lm_poll(lm, &result, &err)) != LM_POLL_IDLE) {
        if (polled == LM_POLL_BROKEN)
            fail_msg("%s", err.text);
        if (polled == LM_POLL_RESULT)
            lm_fixture_keep(answers, count, &result);
    }
}

void lm_fixture_release(struct lm_answer *answers, size_t count)
{
    for (size_t i = 0; i < count; i++)
        strbuf_release(&answers[i].answer);
}
