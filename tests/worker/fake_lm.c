// SPDX-License-Identifier: Apache-2.0
#include "tests/worker/fake_lm.h"

#include "base/fs.h"
#include "base/hash.h"
#include "base/mem.h"
#include "base/random.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct fake_flight {
    uint64_t id;
    enum request_kind kind;
    struct fake_answer answer;
    uint32_t prompt_tokens;
};

static const char *const names[] = {
    "Nan Corrigle",     "Gideon Stannick", "Lake Ummerel", "Brindle Fell", "Lady Lasp",
    "Kestrick Viaduct", "Little Morrow",   "Salt Bride",   "Mournival",    "Constant Heron"};
#define NAMES (sizeof names / sizeof *names)

static enum request_kind find_kind(const struct fake_lm *fake, const struct lm_request *request,
                                   size_t *instruction)
{
    for (size_t i = 0; i < request->part_count; i++) {
        for (int kind = 0; kind < REQUEST_KINDS; kind++) {
            const struct prompt_text *text =
                &fake->prompts.texts[request_kind_info((enum request_kind)kind)->prompt];
            if (request->parts[i].bytes == text->bytes &&
                memcmp(request->parts[i].text, text->text, text->bytes) == 0) {
                *instruction = i;
                return (enum request_kind)kind;
            }
        }
    }
    assert(!"an instruction stands in every request");
    return REQUEST_DIRECT;
}

// Items of an answer, cut ones included: every item of these rules has one "question".
static size_t count_items(const struct strbuf *text)
{
    size_t count = 0;
    for (const char *at = text->bytes; at && (at = strstr(at, "\"question\"")); at++) {
        count++;
    }
    return count;
}

static void keep_book(struct fake_lm *fake, const struct fake_flight *flight)
{
    const enum reflection_step step = request_kind_info(flight->kind)->step;
    fake->requests[flight->kind]++;
    fake->made[step] += count_items(&flight->answer.text);
    fake->prompt_tokens[step] += flight->prompt_tokens;
    fake->output_tokens[step] += flight->answer.text.length;
}

static void fake_submit(struct lm *lm, const struct lm_request *request)
{
    struct fake_lm *fake = (struct fake_lm *)lm;
    struct fake_flight flight = {
        .id = request->id, .answer = {.end = LM_STOP, .forced_from = SIZE_MAX, .problem = ""}};
    struct strbuf prompt = {0};
    size_t instruction = 0, behind = 0;
    flight.kind = find_kind(fake, request, &instruction);
    for (size_t i = 0; i < request->part_count; i++) {
        strbuf_add(&prompt, request->parts[i].text, request->parts[i].bytes);
        behind = i <= instruction ? prompt.length : behind;
    }
    flight.prompt_tokens = (uint32_t)prompt.length;
    const char *item = prompt.bytes + behind;
    const char *continued = strstr(item, fake->prompts.texts[PROMPT_CONTINUE].text);
    const struct digest digest = digest_bytes(prompt.bytes, prompt.length);
    uint64_t hash = 0;
    memcpy(&hash, digest.bytes, sizeof hash);
    const struct fake_request seen = {
        flight.kind,
        request,
        prompt.bytes,
        prompt.length,
        item,
        continued ? continued + fake->prompts.texts[PROMPT_CONTINUE].bytes : NULL,
        random_u64(hash, request->seed, 0),
    };
    fake->answer(fake->state, &seen, &flight.answer);
    if (fake->keep_log) {
        strbuf_addf(&fake->log, "== %s\n", request_kind_info(flight.kind)->name);
        strbuf_add(&fake->log, prompt.bytes, prompt.length);
    }
    strbuf_release(&prompt);
    fake->flights = mem_grow(fake->flights, &fake->flight_capacity, fake->flight_count + 1,
                             sizeof *fake->flights);
    fake->flights[fake->flight_count++] = flight;
    assert(fake->flight_count <= lm->capacity);
    if (fake->flight_count > fake->most_in_flight) {
        fake->most_in_flight = fake->flight_count;
    }
}

static void forget(struct fake_lm *fake, size_t position)
{
    strbuf_release(&fake->flights[position].answer.text);
    fake->flight_count--;
    memmove(fake->flights + position, fake->flights + position + 1,
            (fake->flight_count - position) * sizeof *fake->flights);
}

static enum lm_poll fake_poll(struct lm *lm, struct lm_result *out, struct error *err)
{
    struct fake_lm *fake = (struct fake_lm *)lm;
    fake->polls++;
    if (fake->breaks) {
        error_set(err, "the fake broke");
        return LM_POLL_BROKEN;
    }
    if (fake->lose || fake->flight_count == 0) {
        return LM_POLL_IDLE;
    }
    const uint64_t draw = random_u64(fake->shuffle, 1, fake->polls);
    if (fake->shuffle > 0 && draw % 3 == 0) {
        return LM_POLL_RUNNING;
    }
    const size_t position = fake->shuffle > 0 ? draw / 3 % fake->flight_count : 0;
    const struct fake_flight *flight = &fake->flights[position];
    keep_book(fake, flight);
    strbuf_reset(&fake->last);
    strbuf_reserve(&fake->last, 1);
    strbuf_add(&fake->last, flight->answer.text.bytes, flight->answer.text.length);
    *out = (struct lm_result){
        .id = fake->strays ? UINT64_MAX : flight->id,
        .end = flight->answer.end,
        .answer = {fake->last.bytes, fake->last.length},
        .prompt_tokens = flight->prompt_tokens,
        // some servers count more cached tokens than there are
        .cached_tokens = flight->prompt_tokens / 2 + (fake->last.length % 5 ? 0 : UINT16_MAX),
        .output_tokens = (uint32_t)fake->last.length,
        .forced_from = flight->answer.forced_from,
        .problem = flight->answer.problem,
    };
    forget(fake, position);
    return LM_POLL_RESULT;
}

static void fake_cancel(struct lm *lm, uint64_t id)
{
    struct fake_lm *fake = (struct fake_lm *)lm;
    for (size_t i = fake->flight_count; i-- > 0;) {
        if (fake->flights[i].id == id) {
            forget(fake, i);
        }
    }
}

static void fake_destroy(struct lm *lm)
{
    struct fake_lm *fake = (struct fake_lm *)lm;
    if (fake->destroyed) {
        ++*fake->destroyed;
    }
    while (fake->flight_count > 0) {
        forget(fake, 0);
    }
    prompt_set_close(&fake->prompts);
    strbuf_release(&fake->log);
    strbuf_release(&fake->last);
    free(fake->flights);
    free(fake);
}

static const struct lm_ops fake_ops = {fake_submit, fake_poll, fake_cancel, fake_destroy};

struct fake_lm *fake_lm_create(size_t capacity)
{
    struct fake_lm *fake = mem_calloc(1, sizeof *fake);
    struct error err;
    fake->base =
        (struct lm){.ops = &fake_ops, .digest = digest_bytes("fake", 4), .capacity = capacity};
    fake->answer = fake_lm_rules;
    const int rc = prompt_set_open(fs_system(), NULL, &fake->prompts, &err);
    assert(rc == 0);
    (void)rc;
    return fake;
}

static void add_pair(struct strbuf *out, const char *extra, const char *question,
                     const char *answer)
{
    strbuf_addf(out, "%s{%s\"question\":\"%s\",\"answer\":\"%s\"}",
                out->bytes[out->length - 1] == '[' ? "" : ",", extra, question, answer);
}

// Pairs about names: the same few questions again and again, in different spellings.
static void write_facts(const struct fake_request *request, struct strbuf *out)
{
    const size_t count = 2 + request->hash % 12;
    for (size_t i = 0; i < count; i++) {
        const uint64_t draw = random_u64(request->hash, 2, i);
        char question[200], answer[200];
        snprintf(question, sizeof question, "%s %s %s%s in %d?", draw & 1 ? "what" : "What",
                 draw & 2 ? "did" : " DID", names[draw / 8 % NAMES], draw & 4 ? " do," : " do",
                 (int)(1800 + draw / 128 % 9));
        snprintf(answer, sizeof answer, "%s met %s (%d).", names[draw / 8 % NAMES],
                 names[draw / 4096 % NAMES], (int)(draw / 65536 % 1000));
        add_pair(out, "", question, draw / 1024 % 16 == 0 ? " " : answer);
    }
}

static void write_joined(const struct fake_request *request, struct strbuf *out)
{
    for (size_t i = 0; i < 2 + request->hash % 6; i++) {
        const uint64_t draw = random_u64(request->hash, 3, i);
        char from[40], question[80];
        snprintf(from, sizeof from, "\"from\":[%d,%d,99],", (int)(1 + draw % 3),
                 (int)(1 + draw / 4 % 3));
        snprintf(question, sizeof question, "What happened in the affair %d?",
                 (int)(draw / 64 % 50));
        add_pair(out, from, question, "Much happened, one thing after the other.");
    }
}

// A rewrite is sometimes missing, sometimes the same again.
static void write_rewrite(const struct fake_request *request, struct strbuf *out)
{
    char question[1000];
    const char *begin = strstr(request->item, "Question: ") + strlen("Question: ");
    const int length = (int)strcspn(begin, "\n");
    snprintf(question, sizeof question, "%.*s%s", length, begin,
             request->hash % 5 == 0 ? "" : " And to what end?");
    const char *answer = strstr(begin, "Answer: ") + strlen("Answer: ");
    char copy[1000];
    snprintf(copy, sizeof copy, "%.*s", (int)strcspn(answer, "\n"), answer);
    if (request->hash % 7 > 0) {
        add_pair(out, "", question, copy);
    }
}

static void write_names(const struct fake_request *request, struct strbuf *out)
{
    for (size_t i = 0; i < NAMES; i++) {
        if (strstr(request->item, names[i])) {
            strbuf_addf(out, "%s\"%s\"", out->bytes[out->length - 1] == '[' ? "" : ",", names[i]);
        }
    }
    strbuf_addf(out, "%s\"Nobody Whom A Pair Holds\"",
                out->bytes[out->length - 1] == '[' ? "" : ",");
}

static void write_lookups(const struct fake_request *request, struct strbuf *out)
{
    const char *name = strstr(request->item, "Name: ") + strlen("Name: ");
    for (size_t i = 0; i < 1 + request->hash % 3; i++) {
        const uint64_t draw = random_u64(request->hash, 4, i);
        char question[200];
        snprintf(question, sizeof question, "Who or what stands behind clue %d%s%.*s?",
                 (int)(draw % 200), draw / 256 % 5 ? "" : " of ",
                 draw / 256 % 5 ? 0 : (int)strcspn(name, "\n"), name);
        strbuf_addf(out, "%s{\"from\":[%d],\"question\":\"%s\"}",
                    out->bytes[out->length - 1] == '[' ? "" : ",", (int)(draw / 2048 % 3),
                    question);
    }
}

static void write_comparisons(const struct fake_request *request, struct strbuf *out)
{
    for (size_t i = 0; request->hash % 3 == 0 && i < 2; i++) {
        const uint64_t draw = random_u64(request->hash, 5, i);
        char extra[80], question[100];
        snprintf(extra, sizeof extra, "\"kind\":\"%s\",\"from\":[%d,%d],",
                 draw & 1 ? "converging" : "parallel", (int)(draw / 2 % 30), (int)(draw / 64 % 30));
        snprintf(question, sizeof question, "Who joins %d with %s?", (int)(draw / 4096 % 400),
                 names[draw / (1 << 22) % NAMES]);
        add_pair(out, extra, question, names[draw / 4096 % NAMES]);
    }
}

static bool is_bad(const struct fake_request *request)
{
    return request->hash % 3 == 0;
}

void fake_lm_rules(void *state, const struct fake_request *request, struct fake_answer *answer)
{
    static void (*const writers[REQUEST_KINDS])(const struct fake_request *, struct strbuf *) = {
        [REQUEST_DIRECT] = write_facts,       [REQUEST_INDIRECT] = write_facts,
        [REQUEST_CONSOLIDATE] = write_joined, [REQUEST_REWRITE] = write_rewrite,
        [REQUEST_ENTITIES] = write_names,     [REQUEST_LOOKUP] = write_lookups,
        [REQUEST_CROSS] = write_comparisons,
    };
    (void)state;
    struct strbuf *out = &answer->text;
    const uint64_t fault = random_u64(request->hash, 6, 0) % 16;
    if (fault == 0) {
        strbuf_adds(out, "I would rather not.");
        return;
    }
    if (request->kind == REQUEST_JUDGE) {
        strbuf_addf(out, "{\"self_contained\":%s}", is_bad(request) ? "false" : "true");
        return;
    }
    strbuf_addf(out, "{\"%s\":[", request_kind_info(request->kind)->answer_key);
    writers[request->kind](request, out);
    strbuf_adds(out, "]}");
    if (fault == 1) { // without its last bytes, as a server without schemas leaves it
        answer->end = LM_LENGTH;
        out->length -= out->length > 30 ? 20 : 3;
        out->bytes[out->length] = '\0';
    } else if (fault == 2) { // closed by force, as a constrained model leaves it
        answer->end = LM_LENGTH;
        answer->forced_from = out->length - (out->length > 30 ? 20 : 3);
    }
}
