// SPDX-License-Identifier: Apache-2.0
// A tokenizer.json that loads encodes a text and decodes what it encoded without complaint.
#include "datasets/tokenizer.h"
#include "tests/fuzz/fuzz.h"

#include <assert.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const char text[] = "Caf\xc3\xa9 <|im_end|> 12,345\n\n  of the \xf0\x9f\x9a\xa2 'tis";
    struct tokenizer *tokenizer;
    struct token_list ids = {0};
    struct strbuf back = {0};
    struct error err;
    if (tokenizer_parse((const char *)data, size, NULL, 0, &tokenizer, &err) != 0)
        return 0;
    if (tokenizer_encode(tokenizer, NULL, text, strlen(text), true, &ids, &err) == 0)
        assert(tokenizer_decode(tokenizer, ids.ids, ids.count, &back, &err) == 0);
    token_list_release(&ids);
    strbuf_release(&back);
    tokenizer_destroy(tokenizer);
    return 0;
}
