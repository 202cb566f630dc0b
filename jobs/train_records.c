// SPDX-License-Identifier: Apache-2.0
#include "jobs/train_records.h"

#include "base/fs.h"
#include "base/json.h"

#include <inttypes.h>
#include <stdlib.h>

static void member(struct json_writer *w, const char *key, double value)
{
    json_key(w, key);
    json_number(w, value);
}

static void integer(struct json_writer *w, const char *key, size_t value)
{
    json_key(w, key);
    json_int(w, (int64_t)value);
}

static void held_out_members(struct json_writer *w, const struct held_out_figures *figures)
{
    const struct closed_book_score *answers = &figures->answers;
    member(w, "held_out_loss", figures->loss);
    if (answers->asked == 0)
        return;
    member(w, "held_out_exact", closed_book_exact_share(answers));
    member(w, "held_out_f1", answers->f1);
    integer(w, "held_out_answers", answers->asked);
}

void train_record_write(const struct step_record *record, struct strbuf *line)
{
    const struct step_stats *stats = record->stats;
    struct json_writer w = {.out = line};
    json_begin_object(&w);
    integer(&w, "step", stats->step + 1);
    member(&w, "loss", stats->loss);
    member(&w, "grad_norm", stats->grad_norm);
    member(&w, "lr", stats->learning_rate);
    integer(&w, "tokens", stats->tokens);
    integer(&w, "target_tokens", stats->target_tokens);
    member(&w, "seconds", record->seconds);
    member(&w, "tokens_per_second", (double)stats->tokens / record->seconds);
    if (record->peak_flops > 0)
        member(&w, "share_of_peak", record->flops / record->seconds / record->peak_flops);
    integer(&w, "resident_bytes", process_resident_bytes());
    member(&w, "communication_share", stats->communication_seconds / record->seconds);
    member(&w, "exposed_communication_share", stats->exposed_seconds / record->seconds);
    if (record->checkpoint_seconds > 0)
        member(&w, "checkpoint_seconds", record->checkpoint_seconds);
    char consumed[DIGEST_TEXT_BYTES];
    digest_format(record->consumed, consumed);
    json_key(&w, "consumed");
    json_text(&w, consumed);
    if (record->held_out)
        held_out_members(&w, record->held_out);
    json_end_object(&w);
}

static void add_held_out(const struct model_card *card, struct strbuf *text)
{
    const struct held_out_figures *figures = card->held_out;
    if (card->best_step < card->trainer->step)
        strbuf_addf(text, "| weights | those after step %zu, the best by held-out %s |\n",
                    card->best_step, card->best_by);
    if (!figures)
        return;
    strbuf_addf(text, "| held-out loss | %.4f |\n", figures->loss);
    if (figures->answers.asked > 0)
        strbuf_addf(text,
                    "| held-out questions, closed-book: exact match, token F1 | %zu of %zu "
                    "(%.1f%%), %.1f%% |\n",
                    figures->answers.exact, figures->answers.asked,
                    100 * closed_book_exact_share(&figures->answers), 100 * figures->answers.f1);
}

static void add_figures(const struct model_card *card, struct strbuf *text)
{
    const struct trainer *trainer = card->trainer;
    char data[DIGEST_TEXT_BYTES], identity[DIGEST_TEXT_BYTES], consumed[DIGEST_TEXT_BYTES];
    digest_format(card->data_digest, data);
    digest_format(trainer->identity, identity);
    digest_format(trainer->consumed, consumed);
    strbuf_addf(text, "| figure | value |\n|---|---|\n");
    strbuf_addf(text, "| objective | %s |\n", card->objective);
    strbuf_addf(text, "| pairs, sequences, left out as too long | %zu, %zu, %zu |\n", card->pairs,
                card->sequences, card->too_long);
    strbuf_addf(text, "| steps | %zu of %zu |\n", trainer->step, trainer->steps);
    strbuf_addf(text, "| tokens planned | %" PRIu64 " |\n", trainer_planned_tokens(trainer));
    strbuf_addf(text, "| tokens consumed | %" PRIu64 " |\n", trainer->tokens);
    strbuf_addf(text, "| loss of the first and the last step of the last run | %.4f, %.4f |\n",
                card->first_loss, card->last_loss);
    add_held_out(card, text);
    strbuf_addf(text, "| digest of the data (XXH3-128 of the token sequences) | %s |\n", data);
    strbuf_addf(text, "| digest of what was consumed, in its order | %s |\n", consumed);
    strbuf_addf(text, "| digest of data, options and initial weights | %s |\n", identity);
    strbuf_addf(text, "| repeatable | %s%s |\n",
                trainer->rounded ? "to rounding: between runs changed " : "bit for bit",
                trainer->rounded ? trainer->rounded : "");
    for (int f = 0; f < ENVIRONMENT_FIELDS; f++)
        strbuf_addf(text, "| %s | %s |\n", environment_names[f],
                    trainer->environment.values[f] ? trainer->environment.values[f] : "unknown");
}

int model_card_write(const struct model_card *card, struct fs *fs, const char *directory,
                     struct error *err)
{
    struct strbuf text = {0};
    strbuf_adds(&text, "# A memory model\n\nTrained by `memo train` from `");
    strbuf_addf(&text, "%s` on", card->base);
    for (size_t i = 0; i < card->data_count; i++)
        strbuf_addf(&text, "%s `%s`", i == 0 ? "" : ",", card->data[i]);
    strbuf_adds(&text, ".\n\n");
    add_figures(card, &text);
    strbuf_addf(&text, "\nOptions:\n\n```json\n%s\n```\n", card->options);
    char *path = fs_join(directory, "README.md");
    const int rc = fs_make_directories(fs, directory, err) ||
                           fs_write_text(fs, path, text.bytes, text.length, err)
                       ? -1
                       : 0;
    free(path);
    strbuf_release(&text);
    return rc;
}
