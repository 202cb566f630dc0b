// SPDX-License-Identifier: Apache-2.0
#include "worker/reflect/source_name.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#define LEAST_BYTES 5

static bool is_word(char c)
{
    return isalnum((unsigned char)c) || (unsigned char)c >= 0x80;
}

static bool is_technical(const char *name, size_t bytes)
{
    bool letter = false, mark = false;
    for (size_t i = 0; i < bytes; i++) {
        letter = letter || isalpha((unsigned char)name[i]);
        mark = mark || isdigit((unsigned char)name[i]) || strchr("./\\_-", name[i]);
    }
    return bytes >= LEAST_BYTES && letter && mark;
}

static bool has_word(const char *text, const char *name, size_t bytes)
{
    const size_t length = strlen(text);
    const char *at = text;
    while ((at = memmem(at, length - (size_t)(at - text), name, bytes))) {
        const bool begins = at == text || !is_word(at[-1]) || !is_word(name[0]);
        const bool ends = !is_word(at[bytes]) || !is_word(name[bytes - 1]);
        if (begins && ends) {
            return true;
        }
        at++;
    }
    return false;
}

static bool names(const char *text, const char *name, size_t bytes)
{
    return is_technical(name, bytes) && has_word(text, name, bytes);
}

// "letters.jsonl" of "archive/letters.jsonl:17".
static const char *file_name(const char *source, size_t *out_bytes)
{
    const char *slash = strrchr(source, '/');
    const char *name = slash ? slash + 1 : source;
    const char *colon = strrchr(name, ':');
    const bool line = colon && colon[1] && strspn(colon + 1, "0123456789") == strlen(colon + 1);
    *out_bytes = line ? (size_t)(colon - name) : strlen(name);
    return name;
}

bool source_name_in(const struct corpus_document *document, const char *text)
{
    size_t bytes;
    const char *name = file_name(document->source, &bytes);
    return names(text, document->id, strlen(document->id)) || names(text, name, bytes);
}
