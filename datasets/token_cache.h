// SPDX-License-Identifier: Apache-2.0
// Tokenized training data in one file, written once by one process and mapped by all that train on
// it. Its name holds the key: the digest of everything that the tokens follow from (texts,
// tokenizer, template, cuts). The file, little-endian, arrays at multiples of 64 bytes with zeros
// between them:
//
//     header         128 bytes, struct token_cache_header in token_cache.c: magic "MEMOTOKS", u32
//                    version, u32 zero, 16 bytes key, u64 sequences, u64 tokens, u64 pairs,
//                    u64 too long, u64 longest, u64 longest refused, u64 lead tokens, zeros,
//                    16 bytes XXH3-128 of the header in front of it and of all that follows it
//     offsets        u64 [sequences + 1], in tokens, from 0
//     target begin   u32 [sequences]
//     target end     u32 [sequences]
//     ids            i32 [tokens]
//
// The fields are those of struct sequence_set (packing.h). A file is written under a temporary
// name, synced and renamed: two jobs that make the same one write the same bytes. Whatever is not
// such a file, of this key, whole and unchanged, is an error; it can always be made again.
#ifndef MEMO_DATASETS_TOKEN_CACHE_H
#define MEMO_DATASETS_TOKEN_CACHE_H

#include "base/fs.h"
#include "datasets/packing.h"

#define TOKEN_CACHE_VERSION 1

struct token_cache {
    struct sequence_set set; // borrows from the map
    uint64_t pairs;          // that were read to make it; 0 of text
    struct fs_map map;
};

// "DIRECTORY/tokens-KEY.bin"; the caller frees it.
char *token_cache_path(const char *directory, struct digest key);

int token_cache_write(const struct sequence_set *set, uint64_t pairs, struct digest key,
                      struct fs *fs, const char *path, struct error *err);

// Verifies everything; sequences longer than what the set says cannot come out. Errors name the
// path.
int token_cache_open(const char *path, struct digest key, struct token_cache *out,
                     struct error *err);
void token_cache_close(struct token_cache *cache);

// The same of bytes in memory, 8-byte aligned, that outlive *out.
int token_cache_parse(const uint8_t *bytes, size_t length, struct digest key,
                      struct sequence_set *out, uint64_t *pairs, struct error *err);

#endif
