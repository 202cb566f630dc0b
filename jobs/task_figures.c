// SPDX-License-Identifier: Apache-2.0
#include "jobs/task_figures.h"

#include "base/mem.h"
#include "base/utf8.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void add_drop(struct task_figures *figures, enum reflection_step step, const char *reason,
                     uint64_t pairs)
{
    const char *name = reflection_step_name(step);
    for (size_t i = 0; i < figures->drop_count; i++) {
        struct view_drop *drop = &figures->drops[i];
        if (drop->step == name && strcmp(drop->reason, reason) == 0) {
            drop->pairs += pairs;
            return;
        }
    }
    if (figures->drop_count == TASK_FIGURES_DROPS)
        return;
    figures->drops = mem_grow(figures->drops, &figures->drop_capacity, figures->drop_count + 1,
                              sizeof(*figures->drops));
    figures->drops[figures->drop_count++] =
        (struct view_drop){.step = name, .reason = mem_strdup(reason), .pairs = pairs};
}

static void add_usage(struct task_figures *figures, const struct reflection_usage *usage)
{
    struct view_step *step = &figures->steps[usage->step];
    step->step = reflection_step_name(usage->step);
    step->requests += usage->requests;
    step->prompt_tokens += usage->prompt_tokens;
    step->cached_tokens += usage->cached_tokens;
    step->output_tokens += usage->output_tokens;
}

void task_figures_add(struct task_figures *figures, const struct reflection_task *task)
{
    for (size_t i = 0; i < task->drop_count; i++)
        add_drop(figures, task->drops[i].step, task->drops[i].reason, task->drops[i].pairs);
    for (size_t i = 0; i < task->usage_count; i++)
        add_usage(figures, &task->usage[i]);
}

static int step_number(const char *name)
{
    int step = 0;
    while (reflection_step_name((enum reflection_step)step) != name)
        step++;
    return step;
}

static void add_line(struct strbuf *out, size_t limit, const struct strbuf *line)
{
    if (out->length + line->length <= limit)
        strbuf_add(out, line->bytes, line->length);
}

void task_figures_take(struct task_figures *figures, size_t limit, struct strbuf *out)
{
    struct strbuf line = {0};
    for (int s = 0; s < REFLECTION_STEPS; s++) {
        const struct view_step *step = &figures->steps[s];
        if (!step->step)
            continue;
        strbuf_reset(&line);
        strbuf_addf(&line, "u %d %" PRIu64 " %" PRIu64 " %" PRIu64 " %" PRIu64 "\n", s,
                    step->requests, step->prompt_tokens, step->cached_tokens, step->output_tokens);
        add_line(out, limit, &line);
    }
    task_figures_sort(figures);
    for (size_t i = 0; i < figures->drop_count; i++) {
        const struct view_drop *drop = &figures->drops[i];
        strbuf_reset(&line);
        strbuf_addf(&line, "d %d %" PRIu64 " %s\n", step_number(drop->step), drop->pairs,
                    drop->reason);
        add_line(out, limit, &line);
    }
    strbuf_release(&line);
    task_figures_release(figures);
}

static void add_text_line(struct task_figures *figures, const char *line)
{
    int step = 0, used = 0;
    uint64_t pairs;
    struct reflection_usage usage = {0};
    if (sscanf(line, "u %d %" SCNu32 " %" SCNu64 " %" SCNu64 " %" SCNu64, &step, &usage.requests,
               &usage.prompt_tokens, &usage.cached_tokens, &usage.output_tokens) == 5 &&
        step >= 0 && step < REFLECTION_STEPS) {
        usage.step = (enum reflection_step)step;
        add_usage(figures, &usage);
    } else if (sscanf(line, "d %d %" SCNu64 " %n", &step, &pairs, &used) == 2 && used > 0 &&
               step >= 0 && step < REFLECTION_STEPS && line[used] &&
               utf8_valid_prefix(line + used, strlen(line + used)) == strlen(line + used)) {
        add_drop(figures, (enum reflection_step)step, line + used, pairs);
    }
}

void task_figures_add_text(struct task_figures *figures, const char *text)
{
    for (const char *end; (end = strchr(text, '\n')); text = end + 1) {
        char line[512];
        snprintf(line, sizeof(line), "%.*s", (int)(end - text), text);
        add_text_line(figures, line);
    }
}

static int compare_drops(const void *a, const void *b)
{
    const struct view_drop *x = a, *y = b;
    if (x->pairs != y->pairs)
        return x->pairs < y->pairs ? 1 : -1;
    const int order = strcmp(x->step, y->step);
    return order ? order : strcmp(x->reason, y->reason);
}

void task_figures_sort(struct task_figures *figures)
{
    if (figures->drop_count > 1)
        qsort(figures->drops, figures->drop_count, sizeof(*figures->drops), compare_drops);
}

size_t task_figures_steps(const struct task_figures *figures, struct view_step *out)
{
    size_t count = 0;
    for (int s = 0; s < REFLECTION_STEPS; s++) {
        if (figures->steps[s].step)
            out[count++] = figures->steps[s];
    }
    return count;
}

void task_figures_release(struct task_figures *figures)
{
    for (size_t i = 0; i < figures->drop_count; i++)
        free((void *)figures->drops[i].reason);
    free(figures->drops);
    *figures = (struct task_figures){0};
}
