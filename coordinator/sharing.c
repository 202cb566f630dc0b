// SPDX-License-Identifier: Apache-2.0
#include "coordinator/sharing.h"

#include "base/log.h"

#define LAZY_LOOKS 10.0 // times look_seconds

void sharing_init(struct sharing *sharing, const struct sharing_options *options,
                  struct coordinator *coordinator, double looked_seconds)
{
    *sharing = (struct sharing){
        .options = options, .coordinator = coordinator, .looked_seconds = looked_seconds};
    for (size_t b = 0; b < options->block_count; b++)
        (void)coordinator_add_block(coordinator, options->blocks[b].first,
                                    options->blocks[b].count);
}

static void tell(struct sharing *sharing, const struct coordinator_event *event)
{
    if (sharing->options->tell)
        sharing->options->tell(sharing->options->state, event);
    else
        coordinator_handle(sharing->coordinator, event);
}

static void tell_found(struct sharing *sharing, uint32_t first, uint32_t end, double now_seconds)
{
    const struct sharing_options *options = sharing->options;
    for (uint32_t t = first; t < end; t++) {
        bool aside = false;
        if (coordinator_is_final(sharing->coordinator, t) ||
            !options->find(options->state, t, &aside))
            continue;
        tell(sharing,
             &(struct coordinator_event){
                 .kind = EVENT_FOUND, .now_seconds = now_seconds, .task = t, .set_aside = aside});
    }
}

static int look(struct sharing *sharing, double now_seconds, struct error *err)
{
    sharing->looked_seconds = now_seconds;
    return sharing->options->look(sharing->options->state, err);
}

// A job that has enough to do looks now and then all the same: others may have done some of it. So
// may one that has left since the last look.
static bool is_time_to_look(const struct sharing *sharing, double now_seconds)
{
    const struct coordinator_counts counts = coordinator_counts(sharing->coordinator);
    const double lazily = LAZY_LOOKS * sharing->options->look_seconds;
    return now_seconds >= sharing->next_look_seconds &&
           (coordinator_needs_news(sharing->coordinator) ||
            claims_last_over_seconds(sharing->options->claims) >= sharing->looked_seconds ||
            (counts.jobs > 1 && now_seconds >= sharing->looked_seconds + lazily));
}

static int look_for_news(struct sharing *sharing, double now_seconds, struct error *err)
{
    if (!is_time_to_look(sharing, now_seconds))
        return 0;
    sharing->next_look_seconds = now_seconds + sharing->options->look_seconds;
    if (look(sharing, now_seconds, err))
        return -1;
    tell_found(sharing, 0, (uint32_t)sharing->options->tasks, now_seconds);
    return 0;
}

static void tell_jobs(struct sharing *sharing, double now_seconds)
{
    const struct sharing_options *options = sharing->options;
    size_t jobs = claims_owners(options->claims);
    if (now_seconds < options->expected_seconds && jobs < options->expected_jobs)
        jobs = options->expected_jobs;
    if (jobs == coordinator_counts(sharing->coordinator).jobs || jobs == 0)
        return;
    tell(sharing,
         &(struct coordinator_event){.kind = EVENT_JOBS, .now_seconds = now_seconds, .jobs = jobs});
}

// A beat that fails, on a full disk for example, may succeed the next time.
static int bear(struct sharing *sharing, double now_seconds, const struct error *err)
{
    if (!sharing->failing) {
        log_warn("%s: trying again", err->text);
        sharing->failing = true;
        sharing->failing_since_seconds = now_seconds;
    }
    return now_seconds - sharing->failing_since_seconds > sharing->options->patience_seconds ? -1
                                                                                             : 0;
}

int sharing_step(struct sharing *sharing, double now_seconds, struct error *err)
{
    struct claims *claims = sharing->options->claims;
    if (sharing->stop_told)
        return 0;
    if (claims_step(claims, now_seconds, err))
        return bear(sharing, now_seconds, err);
    sharing->failing = false;
    sharing->stop_told = claims_are_over(claims);
    if (sharing->stop_told)
        tell(sharing,
             &(struct coordinator_event){.kind = EVENT_STOP_REQUESTED, .now_seconds = now_seconds});
    tell_jobs(sharing, now_seconds);
    return sharing->stop_told ? 0 : look_for_news(sharing, now_seconds, err);
}

int sharing_claim(struct sharing *sharing, uint32_t block, double now_seconds, struct error *err)
{
    const struct sharing_options *options = sharing->options;
    const struct sharing_block *range = &options->blocks[block];
    const int claim = claims_take(options->claims, block, err);
    if (claim < 0)
        return -1;
    if (claim == CLAIM_TAKEN_OVER) {
        if (claims_last_over_seconds(options->claims) > sharing->looked_seconds &&
            look(sharing, now_seconds, err))
            return -1;
        tell_found(sharing, range->first, range->first + range->count, now_seconds);
    }
    tell(sharing, &(struct coordinator_event){.kind = claim == CLAIM_REFUSED ? EVENT_CLAIM_REFUSED
                                                                             : EVENT_CLAIM_WON,
                                              .now_seconds = now_seconds,
                                              .block = block});
    return 0;
}

// A claim that cannot be made is as good as refused: nobody waits for it, and beats tell why.
void sharing_back_up(struct sharing *sharing, uint32_t task, double now_seconds)
{
    const struct sharing_options *options = sharing->options;
    struct error ignored;
    const int claim = claims_take(options->claims, (uint32_t)options->block_count + task, &ignored);
    tell(sharing,
         &(struct coordinator_event){.kind = claim > 0 ? EVENT_BACKUP_WON : EVENT_BACKUP_REFUSED,
                                     .now_seconds = now_seconds,
                                     .task = task});
}
