// SPDX-License-Identifier: Apache-2.0
#include "worker/reflect/request_kind.h"

#include "base/mem.h"
#include "base/strbuf.h"

#include <stdlib.h>

#define PAIRS "pairs"

static const struct request_kind_info kinds[REQUEST_KINDS] = {
    [REQUEST_DIRECT] = {"direct", STEP_DIRECT, PROMPT_DIRECT, true, PAIRS},
    [REQUEST_INDIRECT] = {"indirect", STEP_INDIRECT, PROMPT_INDIRECT, true, PAIRS},
    [REQUEST_CONSOLIDATE] = {"consolidate", STEP_CONSOLIDATE, PROMPT_CONSOLIDATE, false, PAIRS},
    [REQUEST_JUDGE] = {"judge", STEP_VERIFY, PROMPT_JUDGE, true, NULL},
    [REQUEST_REWRITE] = {"rewrite", STEP_VERIFY, PROMPT_REWRITE, true, PAIRS},
    [REQUEST_ENTITIES] = {"entities", STEP_ENTITY, PROMPT_ENTITIES, false, "entities"},
    [REQUEST_LOOKUP] = {"lookup", STEP_ENTITY, PROMPT_LOOKUP, false, PAIRS},
    [REQUEST_CROSS] = {"cross", STEP_CROSS, PROMPT_CROSS, false, PAIRS},
};

const struct request_kind_info *request_kind_info(enum request_kind kind)
{
    return &kinds[kind];
}

static const char verdict_schema[] =
    "{\"type\":\"object\",\"properties\":{\"self_contained\":{\"type\":\"boolean\"}},"
    "\"required\":[\"self_contained\"],\"additionalProperties\":false}";

static void add_text_property(const char *name, uint32_t chars, struct strbuf *properties,
                              struct strbuf *required)
{
    strbuf_addf(properties, "%s\"%s\":{\"type\":\"string\",\"maxLength\":%u}",
                properties->length ? "," : "", name, chars);
    strbuf_addf(required, "%s\"%s\"", required->length ? "," : "", name);
}

static void add_from_property(uint32_t least, uint32_t batch, struct strbuf *properties,
                              struct strbuf *required)
{
    strbuf_addf(properties,
                "%s\"from\":{\"type\":\"array\",\"items\":{\"type\":\"integer\"},\"minItems\":%u,"
                "\"maxItems\":%u}",
                properties->length ? "," : "", least, batch > least ? batch : least);
    strbuf_addf(required, "%s\"from\"", required->length ? "," : "");
}

static void add_kind_property(struct strbuf *properties, struct strbuf *required)
{
    strbuf_adds(properties,
                "\"kind\":{\"type\":\"string\",\"enum\":[\"converging\",\"parallel\"]}");
    strbuf_adds(required, "\"kind\"");
}

// The members of one item, in the order in which they are to be written: what a pair is made from
// comes before its words.
static char *item_schema(enum request_kind kind, const struct answer_limits *limits)
{
    struct strbuf properties = {0}, required = {0};
    if (kind == REQUEST_CROSS) {
        add_kind_property(&properties, &required);
    }
    if (kind == REQUEST_CONSOLIDATE || kind == REQUEST_LOOKUP || kind == REQUEST_CROSS) {
        add_from_property(kind == REQUEST_CONSOLIDATE ? 2 : 1, limits->batch, &properties,
                          &required);
    }
    add_text_property("question", limits->question_chars, &properties, &required);
    if (kind != REQUEST_LOOKUP) {
        add_text_property("answer", limits->answer_chars, &properties, &required);
    }
    char *schema = mem_printf("{\"type\":\"object\",\"properties\":{%s},\"required\":[%s],"
                              "\"additionalProperties\":false}",
                              properties.bytes, required.bytes);
    strbuf_release(&properties);
    strbuf_release(&required);
    return schema;
}

char *request_kind_schema(enum request_kind kind, const struct answer_limits *limits)
{
    if (kind == REQUEST_JUDGE) {
        return mem_strdup(verdict_schema);
    }
    const char *key = kinds[kind].answer_key;
    char *item = kind == REQUEST_ENTITIES
                     ? mem_printf("{\"type\":\"string\",\"maxLength\":%u}", limits->answer_chars)
                     : item_schema(kind, limits);
    char *schema = mem_printf("{\"type\":\"object\",\"properties\":{\"%s\":{\"type\":\"array\","
                              "\"items\":%s,\"maxItems\":%u}},\"required\":[\"%s\"],"
                              "\"additionalProperties\":false}",
                              key, item, kind == REQUEST_REWRITE ? 1 : limits->max_items, key);
    free(item);
    return schema;
}
