// SPDX-License-Identifier: Apache-2.0
#include "jobs/generate_status.h"

#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "jobs/run_cost.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FILE_SECONDS 5.0   // between rewritings of the attempt's file
#define EARLY_SECONDS 30.0 // in which it is rewritten every second: somebody is watching
#define READ_SECONDS 30.0  // between looks at what other jobs on the directory have spent
#define MARGIN_SECONDS                                                                             \
    1.0 // progress comes about once a second: the budget stops before it is spent
#define MOST_ASIDE_REASONS 64 // kept apart; a run with more has one cause

static double now_seconds(const struct generate_status *status)
{
    return clock_seconds() - status->began_seconds;
}

static double gpus(const struct generate_status *status)
{
    return status->options->gpus > 0 ? status->options->gpus : (double)status->workers;
}

double generate_status_gpu_hours(const struct generate_status *status)
{
    return gpus(status) * now_seconds(status) / 3600;
}

static const char *key_of_environment(void)
{
    const char *key = getenv("MEMO_STATUS_KEY");
    return key && key[0] ? key : getenv("MEMO_API_KEY");
}

static void open_server(struct generate_status *status)
{
    struct error err;
    const int64_t port = status->options->status_port;
    const char *key = key_of_environment();
    if (port < 0)
        return;
    if (status_server_open(status->options->status_host, (int)port, key, &status->server, &err)) {
        log_warn("no status page: %s; --status-port 0 takes any free port", err.text);
        status->server = NULL;
        return;
    }
    log_info("status page on %s: %s%s", status->host, status_server_url(status->server),
             key && key[0] ? " (it asks for the key)" : "");
}

static int read_earlier(struct generate_status *status, struct error *err)
{
    status->next_read_seconds = now_seconds(status) + READ_SECONDS;
    return run_cost_spent(status->fs, status->run->path, status->attempt,
                          &status->earlier_gpu_hours, err);
}

// The same for the stop and for the refusal: a run that its budget has stopped is refused
// afterwards, so that nothing requeues it for ever.
static double margin_hours(const struct generate_status *status)
{
    return gpus(status) * MARGIN_SECONDS / 3600;
}

static int check_budget(const struct generate_status *status, struct error *err)
{
    const double limit = status->options->max_gpu_hours;
    if (limit <= 0 || status->earlier_gpu_hours + margin_hours(status) < limit)
        return 0;
    return error_set(err,
                     "--max-gpu-hours %g is spent: earlier attempts took %.4g GPU-hours; the "
                     "same command with a larger budget continues",
                     limit, status->earlier_gpu_hours);
}

int generate_status_open(struct generate_status *status, const struct generate_options *options,
                         struct run_directory *run, const char *attempt, size_t workers,
                         double began_seconds, struct error *err)
{
    const char *slash = strrchr(attempt, '/');
    *status = (struct generate_status){.options = options,
                                       .fs = run->fs,
                                       .run = run,
                                       .attempt = slash ? slash + 1 : attempt,
                                       .workers = workers,
                                       .began_seconds = began_seconds,
                                       .quote_gpu_hours = VIEW_UNKNOWN};
    if (gethostname(status->host, sizeof(status->host) - 1) != 0 ||
        utf8_valid_prefix(status->host, strlen(status->host)) < strlen(status->host))
        strcpy(status->host, "unknown");
    if (read_earlier(status, err) || check_budget(status, err))
        return -1;
    open_server(status);
    return 0;
}

void generate_status_close(struct generate_status *status)
{
    status_server_close(status->server);
    task_figures_release(&status->figures);
    for (size_t i = 0; i < status->aside_count; i++)
        free((void *)status->asides[i].reason);
    free(status->asides);
    free(status->weights);
    *status = (struct generate_status){0};
}

const double *generate_status_plan(struct generate_status *status, const struct task_plan *plan,
                                   const struct corpus *corpus, const bool *restored,
                                   const struct cluster_progress *earlier)
{
    free(status->weights);
    status->weights = task_plan_weights(plan, corpus);
    status->tasks = plan->count;
    status->total_weight = status->restored_weight = 0;
    for (size_t t = 0; t < plan->count; t++) {
        status->total_weight += status->weights[t];
        status->restored_weight += restored[t] ? status->weights[t] : 0;
    }
    status->earlier = *earlier;
    status->forecast = (struct forecast){0};
    status->rated_tokens = 0;
    return status->weights;
}

void generate_status_aside(struct generate_status *status, const char *reason)
{
    for (size_t i = 0; i < status->aside_count; i++) {
        if (strcmp(status->asides[i].reason, reason) == 0) {
            status->asides[i].tasks++;
            return;
        }
    }
    if (status->aside_count == MOST_ASIDE_REASONS ||
        utf8_valid_prefix(reason, strlen(reason)) < strlen(reason))
        return;
    status->asides = mem_grow(status->asides, &status->aside_capacity, status->aside_count + 1,
                              sizeof(*status->asides));
    status->asides[status->aside_count++] =
        (struct view_aside){.reason = mem_strdup(reason), .tasks = 1};
}

static double remaining_seconds(const struct generate_status *status,
                                const struct cluster_progress *progress)
{
    const struct coordinator_counts *counts = &progress->counts;
    const double done = progress->weight_done;
    const struct forecast_work work = {
        .done_weight = done,
        .left_weight = fmax(status->total_weight - status->restored_weight - done, 0),
        .left_tasks = counts->tasks - counts->done - counts->aside,
        .workers = counts->workers > 0 ? counts->workers : progress->agents,
        .tasks_per_second_per_worker = status->options->max_tasks_per_second};
    return forecast_remaining_seconds(&status->forecast, &work);
}

static void describe(const struct generate_status *status, const struct cluster_progress *progress,
                     const struct worker_table *workers, const char *state, struct view_step *steps,
                     struct view *out)
{
    const double left = remaining_seconds(status, progress);
    const double spent = generate_status_gpu_hours(status);
    *out = (struct view){
        .verb = "generate",
        .output = status->options->out,
        .attempt = status->attempt,
        .host = status->host,
        .state = state,
        .started = status->run->started,
        .elapsed_seconds = now_seconds(status),
        .table_seconds = progress->seconds,
        .counts = progress->counts,
        .done_at_start = progress->done_at_start,
        .expected_workers = progress->agents,
        .pairs = status->earlier.pairs + progress->pairs,
        .tokens = status->earlier.tokens + progress->tokens,
        .tokens_per_second = progress->tokens > 0
                                 ? fading_rate_read(&status->rate, now_seconds(status))
                                 : VIEW_UNKNOWN,
        .gpus = gpus(status),
        .gpu_hours = spent,
        .earlier_gpu_hours = status->earlier_gpu_hours,
        .limit_gpu_hours =
            status->options->max_gpu_hours > 0 ? status->options->max_gpu_hours : VIEW_UNKNOWN,
        .forecast_gpu_hours = left < 0
                                  ? VIEW_UNKNOWN
                                  : spent + status->earlier_gpu_hours + gpus(status) * left / 3600,
        .quote_gpu_hours = status->quote_gpu_hours,
        .remaining_seconds = left < 0 ? VIEW_UNKNOWN : left,
        .steps = steps,
        .step_count = task_figures_steps(&status->figures, steps),
        .drops = status->figures.drops,
        .drop_count = status->figures.drop_count,
        .asides = status->asides,
        .aside_count = status->aside_count,
        .curve = &status->curve,
        .workers = workers};
}

static void write_file(struct generate_status *status, const struct strbuf *json)
{
    struct error err;
    const double now = now_seconds(status);
    status->next_file_seconds = now < EARLY_SECONDS ? now : now + FILE_SECONDS;
    if (run_cost_write(status->fs, status->run->path, status->attempt, json, &err) &&
        !status->warned) {
        log_warn("%s; the run goes on", err.text);
        status->warned = true;
    }
}

// Every second for ten minutes, then less often, so that a run of ten days leaves a small file.
static double metric_interval(double seconds)
{
    return seconds < 600 ? 0 : seconds < 10800 ? 10 : 60;
}

static void write_metric(struct generate_status *status, const struct view *view)
{
    struct strbuf line = {0};
    struct json_writer w = {.out = &line};
    struct error ignored; // the metrics of one second are not worth the job
    const double seconds = now_seconds(status);
    const struct {
        const char *key;
        double value;
    } figures[] = {
        {"seconds", view->elapsed_seconds},
        {"tasks_done", (double)(view->counts.done + view->counts.aside)},
        {"pairs", (double)view->pairs},
        {"tokens", (double)view->tokens},
        {"workers", (double)view->counts.workers},
        {"waiting", (double)view->counts.waiting},
        {"retries", (double)view->counts.retries},
        {"tokens_per_second", view->tokens_per_second},
        {"gpu_hours", view->gpu_hours + view->earlier_gpu_hours},
        {"forecast_gpu_hours", view->forecast_gpu_hours},
    };
    if (seconds < status->next_metric_seconds)
        return;
    status->next_metric_seconds = seconds + metric_interval(seconds);
    json_begin_object(&w);
    for (size_t i = 0; i < sizeof(figures) / sizeof(figures[0]); i++) {
        json_key(&w, figures[i].key);
        if (figures[i].value < 0)
            json_null(&w);
        else
            json_number(&w, figures[i].value);
    }
    json_end_object(&w);
    (void)run_directory_metric(status->run, &line, &ignored);
    strbuf_release(&line);
}

static void show_line(const struct generate_status *status, const struct view *view)
{
    const struct coordinator_counts *counts = &view->counts;
    char left[32] = "unknown", hours[64] = "";
    if (view->remaining_seconds >= 0)
        clock_format_duration(view->remaining_seconds, left, sizeof(left));
    if (view->forecast_gpu_hours >= 0)
        snprintf(hours, sizeof(hours), " of %.3g", view->forecast_gpu_hours);
    (void)status;
    log_progress("%zu of %zu tasks, %llu new pairs, %.0f tokens/s, %zu workers, %.3g%s GPU-hours, "
                 "%zu set aside, %zu retries, left %s",
                 counts->done + counts->aside, counts->tasks, (unsigned long long)view->pairs,
                 view->tokens_per_second < 0 ? 0 : view->tokens_per_second, counts->workers,
                 view->gpu_hours + view->earlier_gpu_hours, hours, counts->aside, counts->retries,
                 left);
}

static void tell(struct generate_status *status, const struct cluster_progress *progress,
                 const struct worker_table *workers, const char *state, bool last)
{
    struct view view;
    struct view_step steps[REFLECTION_STEPS];
    struct strbuf json = {0}, metrics = {0};
    task_figures_sort(&status->figures);
    describe(status, progress, workers, state, steps, &view);
    if (!last) {
        show_line(status, &view);
        write_metric(status, &view);
    }
    const bool file_is_due = last || now_seconds(status) >= status->next_file_seconds;
    if (file_is_due || status->server)
        view_json(&view, &json);
    if (status->server) {
        view_metrics(&view, &metrics);
        status_server_publish(status->server, &json, &metrics);
    }
    if (file_is_due)
        write_file(status, &json);
    strbuf_release(&json);
    strbuf_release(&metrics);
}

static void sample(struct generate_status *status, const struct cluster_progress *progress)
{
    const double seconds = now_seconds(status);
    fading_rate_add(&status->rate, seconds, (double)(progress->tokens - status->rated_tokens));
    status->rated_tokens = progress->tokens;
    forecast_observe(&status->forecast, progress->seconds, progress->counts.workers);
    status_curve_add(&status->curve,
                     (struct status_sample){
                         .seconds = seconds,
                         .tokens_per_second = fading_rate_read(&status->rate, seconds),
                         .finished = (double)(progress->counts.done + progress->counts.aside)});
}

static bool budget_is_spent(struct generate_status *status)
{
    struct error ignored; // what others spent is read again later
    const double limit = status->options->max_gpu_hours;
    if (limit <= 0)
        return false;
    if (now_seconds(status) >= status->next_read_seconds)
        (void)read_earlier(status, &ignored);
    return generate_status_gpu_hours(status) + status->earlier_gpu_hours + margin_hours(status) >=
           limit;
}

bool generate_status_progress(struct generate_status *status,
                              const struct cluster_progress *progress,
                              const struct worker_table *workers)
{
    sample(status, progress);
    status->last = *progress;
    const size_t finished = progress->counts.done + progress->counts.aside;
    const bool spent = budget_is_spent(status) && finished < progress->counts.tasks;
    if (spent && !status->over_budget)
        log_warn("--max-gpu-hours %g is nearly spent: committing what is done, then stopping",
                 status->options->max_gpu_hours);
    status->over_budget = status->over_budget || spent;
    tell(status, progress, workers, spent ? "stopping" : "running", false);
    return spent;
}

void generate_status_end(struct generate_status *status, const char *state)
{
    const struct worker_table nobody = {0};
    if (status->fs)
        tell(status, &status->last, &nobody, state, true);
}
