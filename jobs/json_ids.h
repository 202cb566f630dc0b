// SPDX-License-Identifier: Apache-2.0
// Token ids in JSON, as the verbs tokenize and logits exchange them: {"ids": [1, 2, 3]}.
#ifndef MEMO_JOBS_JSON_IDS_H
#define MEMO_JOBS_JSON_IDS_H

#include "base/json.h"
#include "datasets/tokenizer.h"

// Appends the ids of the member "ids"; whether a vocabulary has them is not looked at.
int json_ids_read(const struct json *line, struct token_list *out, struct error *err);

#endif
