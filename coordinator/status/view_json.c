// SPDX-License-Identifier: Apache-2.0
#include "coordinator/status/view.h"

#include "base/clock.h"
#include "base/json.h"

#include <math.h>
#include <time.h>

static void add_text(struct json_writer *w, const char *key, const char *text)
{
    json_key(w, key);
    json_text(w, text);
}

static void add_count(struct json_writer *w, const char *key, uint64_t value)
{
    json_key(w, key);
    json_int(w, (int64_t)value);
}

// In thousandths: what more digits say nobody reads, and they triple the text.
static void add_number(struct json_writer *w, const char *key, double value)
{
    json_key(w, key);
    if (value < 0)
        json_null(w);
    else
        json_number(w, round(value * 1e3) / 1e3);
}

static void add_fine_number(struct json_writer *w, const char *key, double value)
{
    json_key(w, key);
    if (value < 0)
        json_null(w);
    else
        json_number(w, round(value * 1e6) / 1e6);
}

static void add_head(struct json_writer *w, const struct view *view)
{
    char updated[24];
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    clock_format_utc(updated);
    add_text(w, "format", "memo status 1");
    add_text(w, "verb", view->verb);
    add_text(w, "output", view->output);
    add_text(w, "attempt", view->attempt);
    add_text(w, "host", view->host);
    add_text(w, "state", view->state);
    add_text(w, "started", view->started);
    add_text(w, "updated", updated);
    add_number(w, "updated_unix", (double)now.tv_sec + (double)now.tv_nsec * 1e-9);
    add_number(w, "elapsed_seconds", view->elapsed_seconds);
}

static void add_tasks(struct json_writer *w, const struct view *view)
{
    const struct coordinator_counts *c = &view->counts;
    const size_t elsewhere = c->done + c->aside + c->waiting + c->leased;
    json_key(w, "tasks");
    json_begin_object(w);
    add_count(w, "total", c->tasks);
    add_count(w, "done", c->done);
    add_count(w, "set_aside", c->aside);
    add_count(w, "waiting", c->waiting);
    add_count(w, "leased", c->leased);
    add_count(w, "pending", c->tasks > elsewhere ? c->tasks - elsewhere : 0);
    add_count(w, "done_at_start", view->done_at_start);
    add_count(w, "retries", c->retries);
    add_count(w, "late_results", c->late_results);
    json_end_object(w);
}

static void add_hours(struct json_writer *w, const struct view *view)
{
    add_number(w, "gpus", view->gpus);
    json_key(w, "gpu_hours");
    json_begin_object(w);
    add_fine_number(w, "spent", view->gpu_hours);
    add_fine_number(w, "earlier", view->earlier_gpu_hours);
    add_fine_number(w, "limit", view->limit_gpu_hours);
    add_fine_number(w, "forecast", view->forecast_gpu_hours);
    add_fine_number(w, "quote", view->quote_gpu_hours);
    json_end_object(w);
}

static void add_steps(struct json_writer *w, const struct view *view)
{
    json_key(w, "steps");
    json_begin_array(w);
    for (size_t i = 0; i < view->step_count; i++) {
        const struct view_step *step = &view->steps[i];
        json_begin_object(w);
        add_text(w, "step", step->step);
        add_count(w, "requests", step->requests);
        add_count(w, "prompt_tokens", step->prompt_tokens);
        add_count(w, "cached_tokens", step->cached_tokens);
        add_count(w, "output_tokens", step->output_tokens);
        json_end_object(w);
    }
    json_end_array(w);
}

static void add_reasons(struct json_writer *w, const struct view *view)
{
    json_key(w, "drops");
    json_begin_array(w);
    for (size_t i = 0; i < view->drop_count; i++) {
        json_begin_object(w);
        add_text(w, "step", view->drops[i].step);
        add_text(w, "reason", view->drops[i].reason);
        add_count(w, "pairs", view->drops[i].pairs);
        json_end_object(w);
    }
    json_end_array(w);
    json_key(w, "aside");
    json_begin_array(w);
    for (size_t i = 0; i < view->aside_count; i++) {
        json_begin_object(w);
        add_text(w, "reason", view->asides[i].reason);
        add_count(w, "tasks", view->asides[i].tasks);
        json_end_object(w);
    }
    json_end_array(w);
}

static void add_series(struct json_writer *w, const char *key, const struct status_curve *curve,
                       size_t offset, double unit)
{
    json_key(w, key);
    json_begin_array(w);
    for (size_t i = 0; i < curve->count; i++) {
        const char *sample = (const char *)&curve->samples[i];
        json_number(w, round(*(const double *)(sample + offset) / unit) * unit);
    }
    json_end_array(w);
}

static void add_curve(struct json_writer *w, const struct status_curve *curve)
{
    json_key(w, "curve");
    json_begin_object(w);
    add_series(w, "seconds", curve, offsetof(struct status_sample, seconds), 1);
    add_series(w, "tokens_per_second", curve, offsetof(struct status_sample, tokens_per_second), 1);
    add_series(w, "finished", curve, offsetof(struct status_sample, finished), 1);
    json_end_object(w);
}

static bool in_trouble(const struct worker_row *row)
{
    return row->state == WORKER_SILENT || row->state == WORKER_FAILED;
}

static void add_row(struct json_writer *w, const struct worker_row *row, double now)
{
    json_begin_object(w);
    add_count(w, "worker", (uint64_t)row->worker);
    add_text(w, "state", worker_state_name(row->state));
    add_count(w, "held", row->held);
    add_count(w, "tasks", row->tasks);
    add_count(w, "failed", row->failed);
    add_count(w, "pairs", row->pairs);
    add_count(w, "tokens", row->tokens);
    add_number(w, "tokens_per_second", fading_rate_read(&row->rate, now));
    add_number(w, "heard_seconds_ago",
               row->heard_seconds < 0 ? VIEW_UNKNOWN : fmax(now - row->heard_seconds, 0));
    json_end_object(w);
}

// Rank 0 of a cluster coordinates and is no worker.
static size_t first_worker(const struct view *view)
{
    return view->workers->count > 1 ? 1 : 0;
}

static size_t add_rows(struct json_writer *w, const struct view *view, bool troubled, size_t room)
{
    size_t shown = 0;
    for (size_t i = first_worker(view); i < view->workers->count && shown < room; i++) {
        if (in_trouble(&view->workers->rows[i]) != troubled)
            continue;
        add_row(w, &view->workers->rows[i], view->table_seconds);
        shown++;
    }
    return shown;
}

static size_t count_state(const struct view *view, enum worker_state state)
{
    size_t count = 0;
    for (size_t i = first_worker(view); i < view->workers->count; i++)
        count += view->workers->rows[i].state == state;
    return count;
}

static void add_workers(struct json_writer *w, const struct view *view)
{
    json_key(w, "worker");
    json_begin_array(w);
    size_t shown = add_rows(w, view, true, VIEW_WORKERS);
    shown += add_rows(w, view, false, VIEW_WORKERS - shown);
    json_end_array(w);
    json_key(w, "workers");
    json_begin_object(w);
    add_count(w, "expected", view->expected_workers);
    add_count(w, "present", view->counts.workers);
    add_count(w, "silent", count_state(view, WORKER_SILENT));
    add_count(w, "failed", count_state(view, WORKER_FAILED));
    add_count(w, "shown", shown);
    json_end_object(w);
}

void view_json(const struct view *view, struct strbuf *out)
{
    struct json_writer w = {.out = out};
    json_begin_object(&w);
    add_head(&w, view);
    add_tasks(&w, view);
    add_count(&w, "pairs", view->pairs);
    add_count(&w, "tokens", view->tokens);
    add_number(&w, "tokens_per_second", view->tokens_per_second);
    add_hours(&w, view);
    add_number(&w, "remaining_seconds", view->remaining_seconds);
    add_steps(&w, view);
    add_reasons(&w, view);
    add_curve(&w, view->curve);
    add_workers(&w, view);
    json_end_object(&w);
    strbuf_addc(out, '\n');
}
