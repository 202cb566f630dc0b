// SPDX-License-Identifier: Apache-2.0
#include "jobs/json_ids.h"

int json_ids_read(const struct json *line, struct token_list *out, struct error *err)
{
    const struct json *ids = json_get(line, "ids");
    if (!ids || ids->type != JSON_ARRAY)
        return error_set(err, "no array under \"ids\"");
    for (size_t i = 0; i < ids->length; i++) {
        const struct json *id = &ids->items[i];
        if (id->type != JSON_NUMBER || !id->is_integer || id->integer < 0 ||
            id->integer > INT32_MAX)
            return error_set(err, "item %zu of \"ids\" is no token id", i);
        token_list_add(out, (int32_t)id->integer);
    }
    return 0;
}
