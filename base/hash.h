// SPDX-License-Identifier: Apache-2.0
// XXH3 with 128 bits: identities of content, and detection of torn or flipped bytes. Not a defence
// against somebody who forges data on purpose.
#ifndef MEMO_BASE_HASH_H
#define MEMO_BASE_HASH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct digest {
    uint8_t bytes[16]; // canonical (big-endian) order: memcmp order is numeric order
};

#define DIGEST_TEXT_BYTES 33 // 32 hexadecimal digits and a NUL

struct digest digest_bytes(const void *bytes, size_t length);
bool digest_equal(struct digest a, struct digest b);
int digest_compare(struct digest a, struct digest b); // like memcmp
void digest_format(struct digest d, char out[DIGEST_TEXT_BYTES]);
bool digest_parse(const char *text, struct digest *out); // exactly 32 hexadecimal digits

// A digest of several fields that cannot be confused with one another: each field is preceded by
// its length. Zero-initialise the builder with digest_begin.
struct digest_builder {
    void *state;
};

void digest_begin(struct digest_builder *builder);
void digest_field(struct digest_builder *builder, const void *bytes, size_t length);
void digest_field_text(struct digest_builder *builder, const char *text);
void digest_field_u64(struct digest_builder *builder, uint64_t value);
struct digest digest_end(struct digest_builder *builder); // releases the state

// The same without lengths, for content that arrives in pieces.
void digest_update(struct digest_builder *builder, const void *bytes, size_t length);

#endif
