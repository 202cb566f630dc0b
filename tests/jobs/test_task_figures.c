// SPDX-License-Identifier: Apache-2.0
#include "jobs/task_figures.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static const struct reflection_drop some_drops[] = {{STEP_DIRECT, "too long", 3},
                                                    {STEP_VERIFY, "not self-contained", 9}};
static const struct reflection_usage some_usage[] = {{STEP_DIRECT, 1, 1000, 0, 300},
                                                     {STEP_CROSS, 7, 5000000000, 4000000000, 70}};
static const struct reflection_task some_task = {
    .drops = some_drops, .drop_count = 2, .usage = some_usage, .usage_count = 2};

static void what_a_worker_tells_is_what_rank_0_adds_up(void **state)
{
    (void)state;
    struct task_figures worker = {0}, sum = {0};
    for (int commit = 0; commit < 3; commit++) {
        struct strbuf text = {0};
        task_figures_add(&worker, &some_task);
        task_figures_add(&worker, &some_task);
        task_figures_take(&worker, 4095, &text);
        assert_int_equal(worker.drop_count, 0);
        task_figures_add_text(&sum, text.bytes);
        strbuf_release(&text);
    }
    task_figures_sort(&sum);
    assert_int_equal(sum.drop_count, 2);
    assert_string_equal(sum.drops[0].reason, "not self-contained");
    assert_string_equal(sum.drops[0].step, "3");
    assert_true(sum.drops[0].pairs == 54 && sum.drops[1].pairs == 18);
    struct view_step steps[REFLECTION_STEPS];
    assert_int_equal(task_figures_steps(&sum, steps), 2);
    assert_string_equal(steps[1].step, "5");
    assert_true(steps[1].prompt_tokens == 30000000000 && steps[1].requests == 42);
    task_figures_release(&sum);
}

static void what_does_not_fit_is_left_out_whole(void **state)
{
    (void)state;
    for (size_t limit = 0; limit < 120; limit++) {
        struct task_figures figures = {0}, again = {0};
        struct strbuf text = {0};
        task_figures_add(&figures, &some_task);
        task_figures_take(&figures, limit, &text);
        assert_true(text.length <= limit);
        assert_true(text.length == 0 || text.bytes[text.length - 1] == '\n');
        if (text.bytes)
            task_figures_add_text(&again, text.bytes);
        task_figures_release(&again);
        strbuf_release(&text);
    }
}

static void foreign_lines_are_passed_over(void **state)
{
    (void)state;
    static const char *const lines[] = {
        "",        "\n\n",         "x 1 2 3\n", "d 99 1 reason\n", "d -1 1 reason\n",    "d 1 7 \n",
        "d 1 7\n", "d 1 7 \xff\n", "u 1 2 3\n", "u 99 1 1 1 1\n",  "d 1 7 no line break"};
    struct task_figures figures = {0};
    for (size_t i = 0; i < sizeof(lines) / sizeof(lines[0]); i++)
        task_figures_add_text(&figures, lines[i]);
    struct view_step steps[REFLECTION_STEPS];
    assert_int_equal(figures.drop_count, 0);
    assert_int_equal(task_figures_steps(&figures, steps), 0);
    task_figures_add_text(&figures, "d 1 7 a reason of several words\n");
    assert_string_equal(figures.drops[0].reason, "a reason of several words");
    task_figures_release(&figures);
}

static void kinds_beyond_the_limit_are_not_kept(void **state)
{
    (void)state;
    struct task_figures figures = {0};
    for (int i = 0; i < 2 * TASK_FIGURES_DROPS; i++) {
        char line[64];
        snprintf(line, sizeof(line), "d 1 1 reason %d\n", i);
        task_figures_add_text(&figures, line);
    }
    assert_int_equal(figures.drop_count, TASK_FIGURES_DROPS);
    task_figures_release(&figures);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(what_a_worker_tells_is_what_rank_0_adds_up),
        cmocka_unit_test(what_does_not_fit_is_left_out_whole),
        cmocka_unit_test(foreign_lines_are_passed_over),
        cmocka_unit_test(kinds_beyond_the_limit_are_not_kept),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
