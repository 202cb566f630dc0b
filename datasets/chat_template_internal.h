// SPDX-License-Identifier: Apache-2.0
// A family of chat templates: the tokens around a turn, and a function that says what a turn holds.
// The turns begin with a header that names the role, or each role has an enclosure of its own.
#ifndef MEMO_DATASETS_CHAT_TEMPLATE_INTERNAL_H
#define MEMO_DATASETS_CHAT_TEMPLATE_INTERNAL_H

#include "datasets/chat_template.h"

struct conversation {
    const struct chat_template *template;
    const struct chat_message *messages;
    size_t count;
};

// What stands between the header and the end of a turn.
struct body {
    struct strbuf text;
    const char *lead; // put before text with the header, never learned; or NULL
    bool absent;      // there is no such turn
};

struct enclosure {
    const char *open;  // or NULL
    const char *close; // or NULL
    bool is_text;      // else special tokens
};

struct enclosures {
    struct enclosure system;
    struct enclosure user;
    struct enclosure assistant;
};

struct chat_template {
    const char *name;
    const char *bos;                     // special token put first; or NULL
    const struct enclosures *enclosures; // instead of headers; or NULL
    const char *start;                   // special token, and behind it the role
    const char *header_end;              // special token behind the role; or NULL
    const char *separator;               // text at the end of the header
    const char *end;                     // special token
    const char *after_end;               // text
    const char *assistant;               // what that role is called
    const char *system;                  // text that begins, or is, the first system turn; or NULL
    const char *prompt_lead;             // text behind the header of the answer to come; or NULL
    bool is_system_default; // system is there only when the conversation has no system message
    bool must_alternate;    // user, assistant, user, ...
    int (*fill)(const struct conversation *chat, size_t index, struct body *body,
                struct error *err);
};

#endif
