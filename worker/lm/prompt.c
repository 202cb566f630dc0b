// SPDX-License-Identifier: Apache-2.0
#include "worker/lm/prompt.h"

#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

enum { ENTRIES_LIMIT = 512 }; // searched one by one, which is little beside tokenizing

enum entry_kind { ENTRY_PART, ENTRY_AROUND };

// The ids of one text; of what is around the user's turn, those from `split` on come behind it.
struct entry {
    enum entry_kind kind;
    struct digest text;
    struct token_list ids;
    size_t split;
    uint64_t used; // when, by the maker's clock
};

struct prompt_maker {
    const struct tokenizer *tokenizer;
    const struct chat_template *chat;
    struct tokenizer_scratch *scratch;
    struct entry entries[ENTRIES_LIMIT];
    size_t count;
    size_t bytes;
    size_t bytes_limit;
    uint64_t clock;
    struct prompt_counts counts;
};

struct prompt_maker *prompt_maker_create(const struct tokenizer *tokenizer,
                                         const struct chat_template *chat, size_t remembered_bytes)
{
    struct prompt_maker *maker = mem_calloc(1, sizeof *maker);
    maker->tokenizer = tokenizer;
    maker->chat = chat;
    maker->scratch = tokenizer_scratch_create(tokenizer);
    maker->bytes_limit = remembered_bytes;
    return maker;
}

void prompt_maker_destroy(struct prompt_maker *maker)
{
    if (!maker)
        return;
    for (size_t i = 0; i < maker->count; i++)
        token_list_release(&maker->entries[i].ids);
    tokenizer_scratch_destroy(maker->scratch);
    free(maker);
}

static size_t entry_bytes(const struct entry *entry)
{
    return entry->ids.count * sizeof *entry->ids.ids;
}

static const struct entry *recall(struct prompt_maker *maker, enum entry_kind kind,
                                  struct digest text)
{
    for (size_t i = 0; i < maker->count; i++) {
        struct entry *entry = &maker->entries[i];
        if (entry->kind == kind && digest_equal(entry->text, text)) {
            entry->used = ++maker->clock;
            maker->counts.remembered++;
            return entry;
        }
    }
    return NULL;
}

static void forget_oldest(struct prompt_maker *maker)
{
    size_t oldest = 0;
    for (size_t i = 1; i < maker->count; i++)
        if (maker->entries[i].used < maker->entries[oldest].used)
            oldest = i;
    maker->bytes -= entry_bytes(&maker->entries[oldest]);
    token_list_release(&maker->entries[oldest].ids);
    maker->entries[oldest] = maker->entries[--maker->count];
}

// Takes over the ids. What is larger than the limit stays until the next one comes.
static const struct entry *remember(struct prompt_maker *maker, struct entry entry)
{
    while (maker->count > 0 && (maker->count == ENTRIES_LIMIT ||
                                maker->bytes + entry_bytes(&entry) > maker->bytes_limit))
        forget_oldest(maker);
    entry.used = ++maker->clock;
    maker->bytes += entry_bytes(&entry);
    maker->counts.tokenized++;
    maker->entries[maker->count] = entry;
    return &maker->entries[maker->count++];
}

static const struct entry *encode_part(struct prompt_maker *maker, struct lm_text part,
                                       struct error *err)
{
    struct entry entry = {.kind = ENTRY_PART, .text = digest_bytes(part.text, part.bytes)};
    const struct entry *known = recall(maker, entry.kind, entry.text);
    if (known)
        return known;
    if (tokenizer_encode(maker->tokenizer, maker->scratch, part.text, part.bytes, false, &entry.ids,
                         err)) {
        token_list_release(&entry.ids);
        return NULL;
    }
    return remember(maker, entry);
}

// Puts the ids of a text, and of a blank line behind it, before the split.
static int insert_text(struct prompt_maker *maker, struct lm_text text, struct entry *entry,
                       struct error *err)
{
    struct strbuf lead = {0};
    struct token_list ids = {0};
    strbuf_add(&lead, text.text, text.bytes);
    strbuf_adds(&lead, "\n\n");
    const int rc = tokenizer_encode(maker->tokenizer, maker->scratch, lead.bytes, lead.length,
                                    false, &ids, err);
    for (size_t i = 0; i < ids.count; i++) {
        token_list_add(&entry->ids, 0);
        memmove(entry->ids.ids + entry->split + 1, entry->ids.ids + entry->split,
                (entry->ids.count - 1 - entry->split) * sizeof *entry->ids.ids);
        entry->ids.ids[entry->split++] = ids.ids[i];
    }
    strbuf_release(&lead);
    token_list_release(&ids);
    return rc;
}

// Renders the conversation with an empty user's turn, and splits it before that turn's end. A
// template without a system turn gets the system's text in front of the user's.
static int render_around(struct prompt_maker *maker, struct lm_text system, struct entry *entry,
                         struct error *err)
{
    const bool has_turn = system.bytes > 0 && chat_template_takes_system(maker->chat);
    const struct chat_message messages[] = {{"system", system.text, system.bytes}, {"user", "", 0}};
    struct chat_span spans[2];
    if (chat_render_ids(maker->chat, maker->tokenizer, maker->scratch, messages + !has_turn,
                        1 + has_turn, true, &entry->ids, spans, err))
        return -1;
    entry->split = spans[has_turn].content_end;
    return system.bytes > 0 && !has_turn ? insert_text(maker, system, entry, err) : 0;
}

static const struct entry *encode_around(struct prompt_maker *maker, struct lm_text system,
                                         struct error *err)
{
    struct entry entry = {.kind = ENTRY_AROUND, .text = digest_bytes(system.text, system.bytes)};
    const struct entry *known = recall(maker, entry.kind, entry.text);
    if (known)
        return known;
    if (render_around(maker, system, &entry, err)) {
        token_list_release(&entry.ids);
        return NULL;
    }
    return remember(maker, entry);
}

static void append(struct token_list *out, const int32_t *ids, size_t count)
{
    for (size_t i = 0; i < count; i++)
        token_list_add(out, ids[i]);
}

int prompt_make(struct prompt_maker *maker, const struct lm_request *request,
                struct token_list *out, struct error *err)
{
    const size_t start = out->count;
    const struct entry *around = encode_around(maker, request->system, err);
    if (!around)
        return error_prefix(err, "the system's turn");
    // A part may push it out of memory.
    struct token_list behind = {0};
    append(out, around->ids.ids, around->split);
    append(&behind, around->ids.ids + around->split, around->ids.count - around->split);
    int rc = 0;
    for (size_t i = 0; i < request->part_count && rc == 0; i++) {
        const struct entry *part = encode_part(maker, request->parts[i], err);
        if (part)
            append(out, part->ids.ids, part->ids.count);
        else
            rc = error_prefix(err, "part %zu of the user's turn", i);
    }
    append(out, behind.ids, behind.count);
    token_list_release(&behind);
    if (rc)
        out->count = start;
    return rc;
}

struct prompt_counts prompt_counts(const struct prompt_maker *maker)
{
    return maker->counts;
}
