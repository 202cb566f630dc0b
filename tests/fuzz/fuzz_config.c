// SPDX-License-Identifier: Apache-2.0
// A config that parses is valid, lays out, and is written as a config that parses.
#include "tests/fuzz/fuzz.h"
#include "worker/model/layout.h"

#include <assert.h>

#define MAX_LAYERS 200 // laying out more only takes time

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct model_config config, again;
    struct error err;
    struct strbuf text = {0};
    struct layout layout;
    if (model_config_parse((const char *)data, size, &config, &err) != 0)
        return 0;
    assert(model_config_validate(&config, &err) == 0);
    model_config_write(&config, &text);
    assert(model_config_parse(text.bytes, text.length, &again, &err) == 0);
    assert(again.layers == config.layers && again.hidden == config.hidden &&
           again.vocabulary == config.vocabulary && again.tied == config.tied);
    if (config.layers <= MAX_LAYERS) {
        layout_create(&config, &layout);
        assert(layout.elements > 0);
        layout_release(&layout);
    }
    strbuf_release(&text);
    return 0;
}
