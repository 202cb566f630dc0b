// SPDX-License-Identifier: Apache-2.0
// YAML as the JSON tree that it denotes, by libyaml, the only file that knows it. Plain scalars
// become null, booleans and numbers as in YAML 1.2; a quoted one is a string. Anchors, aliases,
// tags, several documents and repeated keys are errors, and errors name the line.
#ifndef MEMO_WORKER_MERGE_YAML_H
#define MEMO_WORKER_MERGE_YAML_H

#include "base/json.h"

// The tree lives in the arena. An empty document is null.
int yaml_parse(struct arena *arena, const char *bytes, size_t length, const struct json **out,
               struct error *err);

#endif
