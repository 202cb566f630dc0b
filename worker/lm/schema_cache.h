// SPDX-License-Identifier: Apache-2.0
// Compiled schemas by their text, with one vocabulary between them.
#ifndef MEMO_WORKER_SCHEMA_CACHE_H
#define MEMO_WORKER_SCHEMA_CACHE_H

#include "worker/engine/json_schema.h"

struct schema_cache;

// Keeps `limit` schemas, and more only as long as more are in use.
struct schema_cache *schema_cache_create(const struct tokenizer *tokenizer, size_t vocabulary,
                                         size_t limit);
void schema_cache_destroy(struct schema_cache *cache); // none is in use any more

// The schema stays until it is given back as often as it was taken.
int schema_cache_take(struct schema_cache *cache, const char *text, struct json_schema **out,
                      struct error *err);
void schema_cache_give_back(struct schema_cache *cache, const struct json_schema *schema);

size_t schema_cache_count(const struct schema_cache *cache);

#endif
