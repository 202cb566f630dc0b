// SPDX-License-Identifier: Apache-2.0
// A schema that compiles can be obeyed: the shortest output and one of random bytes parse.
#include "base/json.h"
#include "base/random.h"
#include "base/strbuf.h"
#include "tests/fuzz/fuzz.h"
#include "worker/engine/json_program.h"

#include <assert.h>

enum { FREE_BYTES = 2000 }; // then the shortest ending

static int any_byte(const struct json_program *program, const struct json_state *state,
                    uint64_t step)
{
    for (uint64_t attempt = 0; attempt < 512; attempt++) {
        struct json_state behind = *state;
        const uint8_t byte = (uint8_t)random_u64(1, step, attempt);
        if (json_program_step(program, &behind, byte))
            return byte;
    }
    return json_program_nearest(program, state);
}

static void write_output(const struct json_program *program, size_t free_bytes)
{
    struct arena arena = {0};
    struct error err;
    struct strbuf text = {0};
    const struct json *root;
    struct json_state state = json_program_begin(program);
    while (!json_program_ended(program, &state)) {
        const int byte = text.length < free_bytes ? any_byte(program, &state, text.length)
                                                  : json_program_nearest(program, &state);
        strbuf_addc(&text, (char)byte);
        assert(json_program_step(program, &state, (uint8_t)byte));
    }
    assert(json_parse(&arena, text.bytes, text.length, &root, &err) == 0);
    strbuf_release(&text);
    arena_release(&arena);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct error err;
    struct json_program program;
    if (json_program_compile((const char *)data, size, &program, &err) == 0) {
        write_output(&program, 0);
        write_output(&program, FREE_BYTES);
        json_program_release(&program);
    }
    return 0;
}
