// SPDX-License-Identifier: Apache-2.0
// What a run tells of itself: JSON that reads back, and metrics that no text can break.
#include "base/arena.h"
#include "base/json.h"
#include "base/mem.h"
#include "coordinator/status/view.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static const char hostile[] = "a \"quoted\" \\ back\nslash </script> \xc3\xa9";
static const struct view_drop drops[] = {{"1a", hostile, 7}, {"3", "plain", 1}};
static const struct view_aside asides[] = {{hostile, 2}};
static const struct view_step steps[] = {{"1a", 5, 5000000000, 4, 3}};

static struct view example(const struct status_curve *curve, const struct worker_table *workers)
{
    return (struct view){
        .verb = "generate",
        .output = hostile,
        .attempt = "attempt-0001",
        .host = "here",
        .state = "running",
        .started = "2026-11-26T00:00:00Z",
        .elapsed_seconds = 10,
        .table_seconds = 10,
        .counts = {.tasks = 100, .done = 40, .aside = 2, .waiting = 3, .leased = 5, .retries = 4},
        .expected_workers = workers->count > 1 ? workers->count - 1 : 1,
        .pairs = 1234,
        .tokens = 1ull << 40,
        .tokens_per_second = VIEW_UNKNOWN,
        .gpus = 8,
        .gpu_hours = 0.5,
        .limit_gpu_hours = VIEW_UNKNOWN,
        .forecast_gpu_hours = 2,
        .quote_gpu_hours = VIEW_UNKNOWN,
        .remaining_seconds = VIEW_UNKNOWN,
        .steps = steps,
        .step_count = 1,
        .drops = drops,
        .drop_count = 2,
        .asides = asides,
        .aside_count = 1,
        .curve = curve,
        .workers = workers};
}

static const struct json *parse(const struct view *view, struct arena *arena, struct strbuf *text)
{
    const struct json *root;
    struct error err;
    view_json(view, text);
    if (json_parse(arena, text->bytes, text->length, &root, &err))
        fail_msg("%s", err.text);
    return root;
}

static void the_json_reads_back(void **state)
{
    (void)state;
    struct status_curve curve = {0};
    struct worker_table workers;
    struct arena arena = {0};
    struct strbuf text = {0};
    status_curve_add(&curve, (struct status_sample){1, 2, 3});
    worker_table_init(&workers, 3);
    worker_table_joined(&workers, 1, 2);
    const struct view view = example(&curve, &workers);
    const struct json *root = parse(&view, &arena, &text), *tasks = json_get(root, "tasks");
    assert_string_equal(json_get(root, "output")->string, hostile);
    assert_int_equal(json_get(tasks, "pending")->integer, 50);
    assert_true(json_get(root, "tokens")->integer == 1ll << 40);
    assert_int_equal(json_get(root, "remaining_seconds")->type, JSON_NULL);
    assert_int_equal(json_get(json_get(root, "gpu_hours"), "quote")->type, JSON_NULL);
    assert_true(json_get(json_get(root, "gpu_hours"), "forecast")->number == 2);
    assert_string_equal(json_get(&json_get(root, "drops")->items[0], "reason")->string, hostile);
    assert_int_equal(json_get(json_get(root, "curve"), "seconds")->length, 1);
    const struct json *rows = json_get(root, "worker");
    assert_int_equal(rows->length, 2); // rank 0 is no worker
    assert_int_equal(json_get(&rows->items[0], "worker")->integer, 1);
    assert_true(json_get(&rows->items[0], "heard_seconds_ago")->number == 8);
    assert_int_equal(json_get(&rows->items[1], "heard_seconds_ago")->type, JSON_NULL);
    arena_release(&arena);
    strbuf_release(&text);
    worker_table_release(&workers);
}

static void of_many_workers_those_in_trouble_are_shown(void **state)
{
    (void)state;
    struct status_curve curve = {0};
    struct worker_table workers;
    struct arena arena = {0};
    struct strbuf text = {0};
    worker_table_init(&workers, 10001);
    for (int w = 1; w <= 10000; w++)
        worker_table_joined(&workers, w, 1);
    worker_table_observe(&workers, 9000, 3, true);
    worker_table_left(&workers, 9500, 2, true);
    const struct view view = example(&curve, &workers);
    const struct json *root = parse(&view, &arena, &text), *counts = json_get(root, "workers");
    const struct json *rows = json_get(root, "worker");
    assert_int_equal(rows->length, VIEW_WORKERS);
    assert_int_equal(json_get(&rows->items[0], "worker")->integer, 9000);
    assert_int_equal(json_get(&rows->items[1], "worker")->integer, 9500);
    assert_int_equal(json_get(&rows->items[2], "worker")->integer, 1);
    assert_int_equal(json_get(counts, "silent")->integer, 1);
    assert_int_equal(json_get(counts, "failed")->integer, 1);
    assert_int_equal(json_get(counts, "shown")->integer, VIEW_WORKERS);
    arena_release(&arena);
    strbuf_release(&text);
    worker_table_release(&workers);
}

static void assert_holds(const struct strbuf *text, const char *line)
{
    if (!strstr(text->bytes, line))
        fail_msg("no '%s' in:\n%s", line, text->bytes);
}

static void metrics_escape_their_labels_and_leave_out_what_is_unknown(void **state)
{
    (void)state;
    struct status_curve curve = {0};
    struct worker_table workers;
    struct strbuf text = {0};
    worker_table_init(&workers, 1);
    const struct view view = example(&curve, &workers);
    view_metrics(&view, &text);
    assert_holds(&text, "\nmemo_dropped_pairs_total{step=\"1a\",reason=\"a \\\"quoted\\\" \\\\ "
                        "back\\nslash </script> \xc3\xa9\"} 7\n");
    assert_holds(&text, "\nmemo_tasks{state=\"pending\"} 50\n");
    assert_holds(&text, "\nmemo_gpu_seconds_total 1800\n");
    assert_holds(&text, "\nmemo_tokens_total 1099511627776\n");
    assert_holds(&text, "\nmemo_step_tokens_total{step=\"1a\",kind=\"prompt\"} 5000000000\n");
    assert_null(strstr(text.bytes, "memo_gpu_quote_seconds"));
    assert_null(strstr(text.bytes, "memo_remaining_seconds"));
    strbuf_release(&text);
    worker_table_release(&workers);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(the_json_reads_back),
        cmocka_unit_test(of_many_workers_those_in_trouble_are_shown),
        cmocka_unit_test(metrics_escape_their_labels_and_leave_out_what_is_unknown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
