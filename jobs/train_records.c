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
    if (record->held_out_loss)
        member(&w, "held_out_loss", *record->held_out_loss);
    json_end_object(&w);
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
    if (card->held_out_loss >= 0)
        strbuf_addf(text, "| held-out loss | %.4f |\n", card->held_out_loss);
    strbuf_addf(text, "| digest of the data (XXH3-128 of the token sequences) | %s |\n", data);
    strbuf_addf(text, "| digest of what was consumed, in its order | %s |\n", consumed);
    strbuf_addf(text, "| digest of data, options and initial weights | %s |\n", identity);
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
