// SPDX-License-Identifier: Apache-2.0
// The Prometheus text exposition format, version 0.0.4: per family a HELP and a TYPE line, then its
// samples; counters end in _total, units are seconds, and label values escape \, " and line breaks.
#include "coordinator/status/view.h"

#include <inttypes.h>
#include <math.h>

static void begin(struct strbuf *out, const char *name, const char *type, const char *help)
{
    strbuf_addf(out, "# HELP memo_%s %s\n# TYPE memo_%s %s\n", name, help, name, type);
}

static void add_label_value(struct strbuf *out, const char *value)
{
    strbuf_addc(out, '"');
    for (const char *c = value; *c; c++) {
        if (*c == '\n')
            strbuf_adds(out, "\\n");
        else if (*c == '"' || *c == '\\')
            strbuf_addf(out, "\\%c", *c);
        else
            strbuf_addc(out, *c);
    }
    strbuf_addc(out, '"');
}

static void add_value(struct strbuf *out, double value)
{
    if (isfinite(value))
        strbuf_addf(out, " %.17g\n", value);
    else
        strbuf_adds(out, isnan(value) ? " NaN\n" : value > 0 ? " +Inf\n" : " -Inf\n");
}

static void sample(struct strbuf *out, const char *name, const char *label, const char *label_value,
                   double value)
{
    strbuf_addf(out, "memo_%s", name);
    if (label) {
        strbuf_addf(out, "{%s=", label);
        add_label_value(out, label_value);
        strbuf_addc(out, '}');
    }
    add_value(out, value);
}

// A family of one sample, left out while it is unknown.
static void single(struct strbuf *out, const char *name, const char *type, const char *help,
                   double value)
{
    if (value < 0)
        return;
    begin(out, name, type, help);
    sample(out, name, NULL, NULL, value);
}

static void add_tasks(struct strbuf *out, const struct view *view)
{
    const struct coordinator_counts *c = &view->counts;
    const size_t settled = c->done + c->aside + c->waiting + c->leased;
    const struct {
        const char *state;
        size_t count;
    } states[] = {{"done", c->done},
                  {"set_aside", c->aside},
                  {"waiting", c->waiting},
                  {"leased", c->leased},
                  {"pending", c->tasks > settled ? c->tasks - settled : 0}};
    begin(out, "tasks", "gauge", "Tasks of the plan by state.");
    for (size_t i = 0; i < sizeof(states) / sizeof(states[0]); i++)
        sample(out, "tasks", "state", states[i].state, (double)states[i].count);
    single(out, "retries_total", "counter", "Leases that expired, were lost or failed.",
           (double)c->retries);
    single(out, "late_results_total", "counter", "Results for tasks that were already final.",
           (double)c->late_results);
}

static void add_workers(struct strbuf *out, const struct view *view)
{
    size_t counts[WORKER_STATES] = {0};
    for (size_t i = view->workers->count > 1 ? 1 : 0; i < view->workers->count; i++)
        counts[view->workers->rows[i].state]++;
    begin(out, "workers", "gauge", "Workers by state.");
    for (int s = 0; s < WORKER_STATES; s++)
        sample(out, "workers", "state", worker_state_name((enum worker_state)s), (double)counts[s]);
}

static void add_drops(struct strbuf *out, const struct view *view)
{
    if (view->drop_count > 0)
        begin(out, "dropped_pairs_total", "counter", "Pairs not kept, by step and reason.");
    for (size_t i = 0; i < view->drop_count; i++) {
        strbuf_adds(out, "memo_dropped_pairs_total{step=");
        add_label_value(out, view->drops[i].step);
        strbuf_adds(out, ",reason=");
        add_label_value(out, view->drops[i].reason);
        strbuf_adds(out, "}");
        add_value(out, (double)view->drops[i].pairs);
    }
}

static void add_steps(struct strbuf *out, const struct view *view)
{
    static const char *const kinds[] = {"prompt", "cached", "output"};
    if (view->step_count > 0)
        begin(out, "step_tokens_total", "counter",
              "Tokens of the language model by step and kind.");
    for (size_t i = 0; i < view->step_count; i++) {
        const struct view_step *step = &view->steps[i];
        const uint64_t tokens[] = {step->prompt_tokens, step->cached_tokens, step->output_tokens};
        for (int k = 0; k < 3; k++)
            strbuf_addf(out, "memo_step_tokens_total{step=\"%s\",kind=\"%s\"} %" PRIu64 "\n",
                        step->step, kinds[k], tokens[k]);
    }
}

static void add_hours(struct strbuf *out, const struct view *view)
{
    single(out, "gpus", "gauge", "GPUs that the run occupies.", view->gpus);
    single(out, "gpu_seconds_total", "counter", "GPUs times wall time of this attempt.",
           view->gpu_hours * 3600);
    single(out, "gpu_earlier_seconds", "gauge", "The same of all other attempts on the directory.",
           view->earlier_gpu_hours * 3600);
    single(out, "gpu_limit_seconds", "gauge", "What --max-gpu-hours allows.",
           view->limit_gpu_hours * 3600);
    single(out, "gpu_forecast_seconds", "gauge", "GPU time of the whole run, as forecast.",
           view->forecast_gpu_hours * 3600);
    single(out, "gpu_quote_seconds", "gauge", "GPU time of the whole run, as quoted before it.",
           view->quote_gpu_hours * 3600);
}

void view_metrics(const struct view *view, struct strbuf *out)
{
    begin(out, "run_info", "gauge", "What runs, as labels; always 1.");
    strbuf_adds(out, "memo_run_info{verb=");
    add_label_value(out, view->verb);
    strbuf_adds(out, ",output=");
    add_label_value(out, view->output);
    strbuf_adds(out, ",attempt=");
    add_label_value(out, view->attempt);
    strbuf_adds(out, ",state=");
    add_label_value(out, view->state);
    strbuf_adds(out, "} 1\n");
    single(out, "elapsed_seconds", "gauge", "Since this attempt began.", view->elapsed_seconds);
    single(out, "remaining_seconds", "gauge", "Until the end, as forecast.",
           view->remaining_seconds);
    add_tasks(out, view);
    single(out, "pairs_total", "counter", "Pairs committed by this attempt.", (double)view->pairs);
    single(out, "tokens_total", "counter", "Tokens of what this attempt committed.",
           (double)view->tokens);
    single(out, "tokens_per_second", "gauge", "Over the last minutes.", view->tokens_per_second);
    add_workers(out, view);
    add_drops(out, view);
    add_steps(out, view);
    add_hours(out, view);
}
