// SPDX-License-Identifier: Apache-2.0
#include "worker/executive/inquiry.h"

#include "base/hash.h"
#include "base/mem.h"
#include "base/utf8.h"
#include "worker/executive/inquiry_internal.h"

#include <assert.h>
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

// Turns and tokens are the paper's.
const struct inquiry_limits inquiry_usual_limits = {
    .questions = 8,
    .memory_questions = 100,
    .identify_turns = 7,
    .seek_turns = 8,
    .dead_after = 3,
    .tries = 3,
    .executive_tokens = 2048,
    .memory_tokens = 512,
    .transcript_bytes = 16384,
};

// The executive's requests have ids from here on, the memory's are places of lines.
#define EXECUTIVE_ID (UINT64_C(1) << 32)
#define MEMORY_TEMPERATURE 0.1f // the paper's; 0.3 while seeking
#define MEMORY_SEEKING_TEMPERATURE 0.3f

const char *inquiry_stage_name(enum inquiry_stage stage)
{
    static const char *const names[] = {"grounding",  "identifying", "seeking",
                                        "concluding", "answered",    "failed"};
    return names[stage];
}

bool answer_is_unknown(const char *text, size_t bytes)
{
    static const char *const begins[] = {"idontknow", "idonotknow", "idon\u2019tknow", "imnotsure",
                                         "iamnotsure"};
    static const char *const wholes[] = {"", "unknown", "notknown"}; // there are longer names
    char folded[24];
    size_t length = 0;
    for (size_t i = 0; i < bytes && length + 1 < sizeof folded; i++)
        if (isalnum((unsigned char)text[i]) || (unsigned char)text[i] >= 0x80)
            folded[length++] = (char)tolower((unsigned char)text[i]);
    folded[length] = '\0';
    for (size_t i = 0; i < sizeof begins / sizeof *begins; i++)
        if (strncmp(folded, begins[i], strlen(begins[i])) == 0)
            return true;
    for (size_t i = 0; i < sizeof wholes / sizeof *wholes; i++)
        if (strcmp(folded, wholes[i]) == 0)
            return true;
    return false;
}

struct inquiry *inquiry_create(const char *question, const struct inquiry_limits *limits,
                               uint64_t seed)
{
    struct inquiry *inquiry = mem_calloc(1, sizeof *inquiry);
    inquiry->limits = *limits;
    inquiry->question = mem_strdup(question);
    inquiry->subject = mem_strdup("");
    inquiry->known = mem_strdup("");
    inquiry->seed = seed;
    return inquiry;
}

void inquiry_destroy(struct inquiry *inquiry)
{
    if (!inquiry)
        return;
    for (size_t i = 0; i < inquiry->line_count; i++) {
        free(inquiry->lines[i].question);
        free(inquiry->lines[i].candidate);
        free(inquiry->lines[i].answer);
    }
    free(inquiry->lines);
    free(inquiry->question);
    free(inquiry->subject);
    free(inquiry->known);
    free(inquiry->answer);
    strbuf_release(&inquiry->instruction);
    strbuf_release(&inquiry->shown);
    arena_release(&inquiry->arena);
    free(inquiry);
}

int inquiry_unknowns(const struct inquiry *inquiry, const char *candidate)
{
    int count = 0;
    for (size_t i = 0; i < inquiry->line_count; i++)
        count += inquiry->lines[i].unknown && *inquiry->lines[i].candidate &&
                 strcasecmp(inquiry->lines[i].candidate, candidate) == 0;
    return count;
}

// --- requests ---

static uint64_t request_seed(const struct inquiry *inquiry, uint64_t id, uint64_t tries)
{
    struct digest_builder builder;
    uint64_t seed = 0;
    digest_begin(&builder);
    digest_field_u64(&builder, inquiry->seed);
    digest_field_text(&builder, inquiry->question);
    digest_field_u64(&builder, id);
    digest_field_u64(&builder, tries);
    const struct digest digest = digest_end(&builder);
    memcpy(&seed, digest.bytes, sizeof seed);
    return seed & INT32_MAX; // what servers take, too: the same answers behind one
}

static void render_line(const struct inquiry *inquiry, size_t at, struct lm_request *out)
{
    const char *question = inquiry->lines[at].question;
    *out = (struct lm_request){
        .id = at,
        .parts = {{question, strlen(question)}},
        .part_count = 1,
        .sampling = {.temperature = inquiry->lines[at].stage == INQUIRY_SEEKING
                                        ? MEMORY_SEEKING_TEMPERATURE
                                        : MEMORY_TEMPERATURE},
        .seed = request_seed(inquiry, at, 0),
        .max_tokens = inquiry->limits.memory_tokens,
    };
}

bool inquiry_next(struct inquiry *inquiry, enum inquiry_whom *whom, struct lm_request *out)
{
    for (size_t i = 0; i < inquiry->line_count && inquiry->open > 0; i++) {
        if (inquiry->lines[i].sent)
            continue;
        inquiry->lines[i].sent = true;
        *whom = INQUIRY_MEMORY;
        render_line(inquiry, i, out);
        return true;
    }
    if (inquiry->open > 0 || inquiry->asking || inquiry->stage >= INQUIRY_ANSWERED)
        return false;
    inquiry->asking = true;
    *whom = INQUIRY_EXECUTIVE;
    inquiry_render_turn(inquiry, out);
    out->id = EXECUTIVE_ID + (uint64_t)inquiry->stage * 1000 + (uint64_t)inquiry->turn;
    out->seed = request_seed(inquiry, out->id, (uint64_t)inquiry->tries);
    return true;
}

// --- what the executive answers ---

static void replace_text(char **text, const char *by)
{
    char *copy = mem_strdup(by);
    free(*text);
    *text = copy;
}

static bool was_asked(const struct inquiry *inquiry, const char *question)
{
    for (size_t i = 0; i < inquiry->line_count; i++)
        if (strcasecmp(inquiry->lines[i].question, question) == 0)
            return true;
    return false;
}

static void add_question(struct inquiry *inquiry, const char *candidate, const char *question)
{
    const bool is_dead =
        *candidate && inquiry_unknowns(inquiry, candidate) >= inquiry->limits.dead_after;
    if (!*question || is_dead || was_asked(inquiry, question) ||
        inquiry->open >= (size_t)inquiry->limits.questions ||
        inquiry->line_count >= (size_t)inquiry->limits.memory_questions)
        return;
    inquiry->lines = mem_grow(inquiry->lines, &inquiry->line_capacity, inquiry->line_count + 1,
                              sizeof *inquiry->lines);
    inquiry->lines[inquiry->line_count++] =
        (struct inquiry_line){.stage = inquiry->stage,
                              .question = mem_strdup(question),
                              .candidate = mem_strdup(candidate)};
    inquiry->open++;
}

static int add_questions(struct inquiry *inquiry, const struct json *turn, struct error *err)
{
    const struct json *list = json_get(turn, "questions");
    if (!list || list->type != JSON_ARRAY)
        return error_set(err, "it has no array 'questions'");
    for (size_t i = 0; i < list->length; i++) {
        const struct json *item = &list->items[i];
        const char *candidate = "", *question = "";
        if (item->type == JSON_STRING)
            question = item->string;
        else if (json_get_string(item, "candidate", &candidate, err) ||
                 json_get_string(item, "question", &question, err))
            return -1;
        add_question(inquiry, candidate, question);
    }
    return 0;
}

static void enter(struct inquiry *inquiry, enum inquiry_stage stage)
{
    inquiry->stage = stage;
    inquiry->turn = inquiry->tries = 0;
}

// The stage goes on while something new was asked and turns are left; the answers come first.
static void next_turn(struct inquiry *inquiry, int turns, enum inquiry_stage behind, bool enough)
{
    inquiry->tries = 0;
    if (enough || inquiry->open == 0 || inquiry->turn + 1 >= turns)
        enter(inquiry, behind);
    else
        inquiry->turn++;
}

static int take_identifying(struct inquiry *inquiry, const struct json *turn, struct error *err)
{
    const char *confirmed = "", *known = "";
    if (json_get_string(turn, "confirmed", &confirmed, err) ||
        json_get_string(turn, "known", &known, err) || add_questions(inquiry, turn, err))
        return -1;
    replace_text(&inquiry->known, known);
    replace_text(&inquiry->subject, confirmed);
    next_turn(inquiry, inquiry->limits.identify_turns, INQUIRY_SEEKING, *confirmed != '\0');
    return 0;
}

static int take_seeking(struct inquiry *inquiry, const struct json *turn, struct error *err)
{
    const char *subject = "", *known = "";
    bool enough = false;
    if (json_get_string(turn, "subject", &subject, err) ||
        json_get_string(turn, "known", &known, err) ||
        json_get_bool(turn, "enough", &enough, err) ||
        (!enough && add_questions(inquiry, turn, err)))
        return -1;
    replace_text(&inquiry->known, known);
    if (*subject)
        replace_text(&inquiry->subject, subject);
    next_turn(inquiry, inquiry->limits.seek_turns, INQUIRY_CONCLUDING, enough);
    return 0;
}

static int take_conclusion(struct inquiry *inquiry, const struct json *turn, struct error *err)
{
    const char *answer = "";
    if (json_get_string(turn, "answer", &answer, err))
        return -1;
    if (!*answer)
        return error_set(err, "its answer is empty");
    inquiry->answer = mem_strdup(answer);
    enter(inquiry, INQUIRY_ANSWERED);
    return 0;
}

static int take_turn(struct inquiry *inquiry, const struct lm_result *result, struct error *err)
{
    const struct json *turn;
    arena_reset(&inquiry->arena);
    if (result->end == LM_REJECTED || result->end == LM_FAILED || result->end == LM_FATAL)
        return error_set(err, "%s", result->problem);
    if (json_parse(&inquiry->arena, result->answer.text, result->answer.bytes, &turn, err))
        return -1;
    if (turn->type != JSON_OBJECT)
        return error_set(err, "it is %s, not an object", json_type_name(turn->type));
    switch (inquiry->stage) {
    case INQUIRY_GROUNDING:
        if (add_questions(inquiry, turn, err))
            return -1;
        enter(inquiry, INQUIRY_IDENTIFYING);
        return 0;
    case INQUIRY_IDENTIFYING:
        return take_identifying(inquiry, turn, err);
    case INQUIRY_SEEKING:
        return take_seeking(inquiry, turn, err);
    default:
        return take_conclusion(inquiry, turn, err);
    }
}

static void take_executive(struct inquiry *inquiry, const struct lm_result *result)
{
    struct error err = {""};
    inquiry->asking = false;
    if (take_turn(inquiry, result, &err) == 0 || ++inquiry->tries < inquiry->limits.tries)
        return;
    snprintf(inquiry->problem, sizeof inquiry->problem,
             "the executive's turn while %s could not be used: %.300s",
             inquiry_stage_name(inquiry->stage), err.text);
    enter(inquiry, inquiry->stage == INQUIRY_CONCLUDING ? INQUIRY_FAILED : inquiry->stage + 1);
}

// --- what the memory answers ---

static void take_memory(struct inquiry *inquiry, const struct lm_result *result)
{
    assert(result->id < inquiry->line_count);
    struct inquiry_line *line = &inquiry->lines[result->id];
    const bool answered = result->end == LM_STOP || result->end == LM_LENGTH;
    const size_t bytes =
        answered ? utf8_valid_prefix(result->answer.text, result->answer.bytes) : 0;
    line->answer = mem_printf("%.*s", (int)bytes, result->answer.text ? result->answer.text : "");
    line->unknown = answer_is_unknown(line->answer, strlen(line->answer));
    inquiry->open--;
}

void inquiry_take(struct inquiry *inquiry, enum inquiry_whom whom, const struct lm_result *result)
{
    if (whom == INQUIRY_EXECUTIVE)
        take_executive(inquiry, result);
    else
        take_memory(inquiry, result);
}

// --- what there is to tell ---

enum inquiry_stage inquiry_stage(const struct inquiry *inquiry)
{
    return inquiry->stage;
}

const char *inquiry_answer(const struct inquiry *inquiry)
{
    return inquiry->answer;
}

const char *inquiry_problem(const struct inquiry *inquiry)
{
    return inquiry->problem;
}

const char *inquiry_subject(const struct inquiry *inquiry)
{
    return inquiry->subject;
}

size_t inquiry_line_count(const struct inquiry *inquiry)
{
    return inquiry->line_count;
}

const struct inquiry_line *inquiry_line_at(const struct inquiry *inquiry, size_t at)
{
    return &inquiry->lines[at];
}
