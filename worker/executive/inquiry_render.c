// SPDX-License-Identifier: Apache-2.0
// What the executive is shown: [system] [instruction of the stage] [question, subject, transcript].
#include "worker/executive/inquiry_internal.h"
#include "worker/executive/prompts.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

#define LIST_OF(item) "{\"type\":\"array\",\"maxItems\":32,\"items\":" item "}"
#define TEXT(most) "{\"type\":\"string\",\"maxLength\":" most "}"
#define OBJECT(members) "{\"type\":\"object\",\"properties\":{" members "}}"

// One for each stage in which the executive speaks. Temperatures are the paper's.
static const struct stage_info {
    const char *instruction;
    const char *schema;
    float temperature;
} stage_infos[] = {
    [INQUIRY_GROUNDING] = {executive_ground, OBJECT("\"questions\":" LIST_OF(TEXT("500"))), 0.4f},
    [INQUIRY_IDENTIFYING] =
        {executive_identify,
         OBJECT("\"known\":" TEXT("2000") ",\"candidates\":" LIST_OF(OBJECT("\"name\":" TEXT("200") ",\"why\":" TEXT("500"))) ",\"confirmed\":" TEXT(
             "200") ",\"questions\":" LIST_OF(OBJECT("\"candidate\":" TEXT("200") ",\"question\":" TEXT("500")))),
         0.4f},
    [INQUIRY_SEEKING] =
        {executive_seek,
         OBJECT("\"subject\":" TEXT("200") ",\"known\":" TEXT(
             "2000") ",\"enough\":{\"type\":\"boolean\"},\"questions\":" LIST_OF(TEXT("500"))),
         1.0f},
    [INQUIRY_CONCLUDING] = {executive_conclude, OBJECT("\"answer\":" TEXT("2000")), 0.3f},
};

static int stage_turns(const struct inquiry *inquiry)
{
    return inquiry->stage == INQUIRY_IDENTIFYING ? inquiry->limits.identify_turns
           : inquiry->stage == INQUIRY_SEEKING   ? inquiry->limits.seek_turns
                                                 : 1;
}

// The instruction with its places filled in.
static void render_instruction(struct inquiry *inquiry)
{
    const struct {
        const char *place;
        int value;
    } places[] = {{"{{questions}}", inquiry->limits.questions},
                  {"{{turns}}", stage_turns(inquiry)},
                  {"{{turn}}", inquiry->turn + 1}};
    const char *at = stage_infos[inquiry->stage].instruction;
    strbuf_reset(&inquiry->instruction);
    while (*at) {
        size_t skipped = 0;
        for (size_t i = 0; i < sizeof places / sizeof *places && !skipped; i++) {
            const size_t length = strlen(places[i].place);
            if (strncmp(at, places[i].place, length) != 0)
                continue;
            strbuf_addf(&inquiry->instruction, "%d", places[i].value);
            skipped = length;
        }
        if (!skipped)
            strbuf_addc(&inquiry->instruction, *at);
        at += skipped ? skipped : 1;
    }
}

static size_t line_bytes(const struct inquiry_line *line)
{
    return strlen(line->question) + strlen(line->answer) + 8;
}

// The first line from which on everything fits what the executive may be shown.
static size_t first_shown(const struct inquiry *inquiry)
{
    size_t at = inquiry->line_count, bytes = 0;
    while (at > 0) {
        bytes += line_bytes(&inquiry->lines[at - 1]);
        if (bytes > inquiry->limits.transcript_bytes)
            break;
        at--;
    }
    return at;
}

static void render_given_up(struct inquiry *inquiry)
{
    for (size_t i = 0; i < inquiry->line_count; i++) {
        const char *name = inquiry->lines[i].candidate;
        bool earlier = !*name;
        for (size_t j = 0; j < i && !earlier; j++)
            earlier = strcasecmp(inquiry->lines[j].candidate, name) == 0;
        if (!earlier && inquiry_unknowns(inquiry, name) >= inquiry->limits.dead_after)
            strbuf_addf(&inquiry->shown, "Given up: %s\n", name);
    }
}

static void render_transcript(struct inquiry *inquiry)
{
    const size_t first = first_shown(inquiry);
    strbuf_addf(&inquiry->shown, "User's question: %s\n", inquiry->question);
    if (*inquiry->subject)
        strbuf_addf(&inquiry->shown, "Subject: %s\n", inquiry->subject);
    if (*inquiry->known && first > 0)
        strbuf_addf(&inquiry->shown, "Known before: %s\n", inquiry->known);
    if (inquiry->stage == INQUIRY_IDENTIFYING)
        render_given_up(inquiry);
    for (size_t i = first; i < inquiry->line_count; i++)
        strbuf_addf(&inquiry->shown, "Q: %s\nA: %s\n", inquiry->lines[i].question,
                    inquiry->lines[i].unknown ? "I don't know" : inquiry->lines[i].answer);
}

void inquiry_render_turn(struct inquiry *inquiry, struct lm_request *out)
{
    const struct stage_info *info = &stage_infos[inquiry->stage];
    render_instruction(inquiry);
    strbuf_reset(&inquiry->shown);
    render_transcript(inquiry);
    *out = (struct lm_request){
        .system = {executive_system, executive_system_bytes},
        .parts = {{inquiry->instruction.bytes, inquiry->instruction.length},
                  {inquiry->shown.bytes, inquiry->shown.length}},
        .part_count = 2,
        .schema = info->schema,
        .sampling = {.temperature = info->temperature},
        .max_tokens = inquiry->limits.executive_tokens,
    };
}
