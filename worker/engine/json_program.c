// SPDX-License-Identifier: Apache-2.0
// Reading bytes by a compiled schema. What happens inside a string is one table of places, made of
// the ranges of UTF-8 (RFC 3629) and the escapes of JSON (RFC 8259).
#include "worker/engine/json_program.h"

#include <assert.h>
#include <stdlib.h>

enum number_part {
    PART_START,
    PART_MINUS,
    PART_ZERO,
    PART_WHOLE,
    PART_POINT,
    PART_FRACTION,
};

static bool is_in(uint8_t byte, uint8_t first, uint8_t last)
{
    return byte >= first && byte <= last;
}

static bool is_hex(uint8_t byte)
{
    return is_in(byte, '0', '9') || is_in(byte, 'a', 'f') || is_in(byte, 'A', 'F');
}

static enum json_place text_next(uint8_t byte)
{
    return byte == '"'               ? JSON_PLACE_CLOSED
           : byte == '\\'            ? JSON_PLACE_ESCAPE
           : is_in(byte, 0x20, 0x7F) ? JSON_PLACE_TEXT
           : is_in(byte, 0xC2, 0xDF) ? JSON_PLACE_LAST_1
           : byte == 0xE0            ? JSON_PLACE_E0
           : byte == 0xED            ? JSON_PLACE_ED
           : is_in(byte, 0xE1, 0xEF) ? JSON_PLACE_LAST_2
           : byte == 0xF0            ? JSON_PLACE_F0
           : is_in(byte, 0xF1, 0xF3) ? JSON_PLACE_LAST_3
           : byte == 0xF4            ? JSON_PLACE_F4
                                     : JSON_PLACE_REJECTED;
}

static enum json_place escape_next(uint8_t byte)
{
    switch (byte) {
    case '"':
    case '\\':
    case '/':
    case 'b':
    case 'f':
    case 'n':
    case 'r':
    case 't':
        return JSON_PLACE_TEXT;
    case 'u':
        return JSON_PLACE_HEX_4;
    default:
        return JSON_PLACE_REJECTED;
    }
}

// Behind \uD: 0 to 7 is a character of its own, 8 to B a first surrogate, the rest a second one.
static enum json_place surrogate_next(uint8_t byte)
{
    return is_in(byte, '0', '7')                                   ? JSON_PLACE_HEX_2
           : is_in(byte, '8', '9') || is_in(byte | 0x20, 'a', 'b') ? JSON_PLACE_HIGH_2
                                                                   : JSON_PLACE_REJECTED;
}

// All places but TEXT and ESCAPE: one set of bytes, one next place.
static enum json_place inner_next(enum json_place place, uint8_t byte)
{
    const enum json_place rejected = JSON_PLACE_REJECTED;
    const bool is_last = is_in(byte, 0x80, 0xBF);
    const uint8_t letter = byte | 0x20;
    switch (place) {
    case JSON_PLACE_LAST_1:
        return is_last ? JSON_PLACE_TEXT : rejected;
    case JSON_PLACE_LAST_2:
        return is_last ? JSON_PLACE_LAST_1 : rejected;
    case JSON_PLACE_LAST_3:
        return is_last ? JSON_PLACE_LAST_2 : rejected;
    case JSON_PLACE_E0:
        return is_in(byte, 0xA0, 0xBF) ? JSON_PLACE_LAST_1 : rejected;
    case JSON_PLACE_ED:
        return is_in(byte, 0x80, 0x9F) ? JSON_PLACE_LAST_1 : rejected;
    case JSON_PLACE_F0:
        return is_in(byte, 0x90, 0xBF) ? JSON_PLACE_LAST_2 : rejected;
    case JSON_PLACE_F4:
        return is_in(byte, 0x80, 0x8F) ? JSON_PLACE_LAST_2 : rejected;
    case JSON_PLACE_HEX_4:
        return !is_hex(byte) ? rejected : letter == 'd' ? JSON_PLACE_HEX_D : JSON_PLACE_HEX_3;
    case JSON_PLACE_HEX_3:
        return is_hex(byte) ? JSON_PLACE_HEX_2 : rejected;
    case JSON_PLACE_HEX_D:
        return surrogate_next(byte);
    case JSON_PLACE_HEX_2:
        return is_hex(byte) ? JSON_PLACE_HEX_1 : rejected;
    case JSON_PLACE_HIGH_2:
        return is_hex(byte) ? JSON_PLACE_HIGH_1 : rejected;
    case JSON_PLACE_HIGH_1:
        return is_hex(byte) ? JSON_PLACE_PAIR : rejected;
    case JSON_PLACE_PAIR:
        return byte == '\\' ? JSON_PLACE_PAIR_U : rejected;
    case JSON_PLACE_PAIR_U:
        return byte == 'u' ? JSON_PLACE_LOW_4 : rejected;
    case JSON_PLACE_LOW_4:
        return letter == 'd' && is_hex(byte) ? JSON_PLACE_LOW_3 : rejected;
    case JSON_PLACE_LOW_3:
        return is_in(letter, 'c', 'f') && is_hex(byte) ? JSON_PLACE_HEX_2 : rejected;
    default:
        assert(place == JSON_PLACE_HEX_1);
        return is_hex(byte) ? JSON_PLACE_TEXT : rejected;
    }
}

enum json_place json_place_next(enum json_place place, uint8_t byte, bool *starts)
{
    *starts = place == JSON_PLACE_TEXT && byte != '"';
    return place == JSON_PLACE_TEXT     ? text_next(byte)
           : place == JSON_PLACE_ESCAPE ? escape_next(byte)
                                        : inner_next(place, byte);
}

// A byte that leads to the quote in the fewest bytes.
static int place_nearest(enum json_place place)
{
    static const uint8_t bytes[JSON_PLACE_COUNT] = {
        [JSON_PLACE_TEXT] = '"',    [JSON_PLACE_LAST_1] = 0x80, [JSON_PLACE_LAST_2] = 0x80,
        [JSON_PLACE_LAST_3] = 0x80, [JSON_PLACE_E0] = 0xA0,     [JSON_PLACE_ED] = 0x80,
        [JSON_PLACE_F0] = 0x90,     [JSON_PLACE_F4] = 0x80,     [JSON_PLACE_ESCAPE] = 'n',
        [JSON_PLACE_HEX_4] = '0',   [JSON_PLACE_HEX_3] = '0',   [JSON_PLACE_HEX_D] = '0',
        [JSON_PLACE_HEX_2] = '0',   [JSON_PLACE_HEX_1] = '0',   [JSON_PLACE_HIGH_2] = '0',
        [JSON_PLACE_HIGH_1] = '0',  [JSON_PLACE_PAIR] = '\\',   [JSON_PLACE_PAIR_U] = 'u',
        [JSON_PLACE_LOW_4] = 'd',   [JSON_PLACE_LOW_3] = 'c'};
    return bytes[place];
}

static void enter(const struct json_program *program, struct json_state *state, uint16_t at)
{
    const struct json_instruction *instruction = &program->instructions[at];
    state->at = at;
    state->used = 0;
    state->place = instruction->operation == JSON_READ_TEXT ? instruction->node : 0;
}

struct json_state json_program_begin(const struct json_program *program)
{
    struct json_state state = {0};
    enter(program, &state, 0);
    return state;
}

static uint16_t find_child(const struct json_program *program, uint16_t node, uint8_t byte)
{
    uint16_t child = program->nodes[node].child;
    while (child && program->nodes[child].byte != byte)
        child = program->nodes[child].sibling;
    return child;
}

static bool step_text(const struct json_program *program, struct json_state *state, uint8_t byte)
{
    const uint16_t child = find_child(program, state->place, byte);
    if (!child)
        return false;
    state->place = child;
    if (!program->nodes[child].child)
        enter(program, state, (uint16_t)(state->at + 1));
    return true;
}

static bool step_string(const struct json_program *program, struct json_state *state, uint8_t byte)
{
    const uint32_t maximum = program->instructions[state->at].maximum;
    bool starts;
    const enum json_place next = json_place_next(state->place, byte, &starts);
    if (next == JSON_PLACE_REJECTED || (starts && state->used == maximum))
        return false;
    state->used += starts && maximum != JSON_UNLIMITED;
    state->place = (uint16_t)next;
    if (next == JSON_PLACE_CLOSED)
        enter(program, state, (uint16_t)(state->at + 1));
    return true;
}

// True when the byte belongs to the number.
static bool step_number(const struct json_instruction *number, struct json_state *state,
                        uint8_t byte)
{
    const bool is_digit = is_in(byte, '0', '9');
    const bool begins = state->place == PART_START || state->place == PART_MINUS;
    if (state->place == PART_START && byte == '-') {
        state->place = PART_MINUS;
    } else if (begins && is_digit) {
        state->place = byte == '0' ? PART_ZERO : PART_WHOLE;
        state->used = byte != '0';
    } else if ((state->place == PART_ZERO || state->place == PART_WHOLE) && byte == '.' &&
               !number->is_integer) {
        state->place = PART_POINT;
        state->used = 0;
    } else if (is_digit && state->place != PART_ZERO && !begins && state->used < JSON_DIGITS) {
        state->place = state->place == PART_WHOLE ? PART_WHOLE : PART_FRACTION;
        state->used++;
    } else {
        return false;
    }
    return true;
}

static bool number_may_end(const struct json_state *state)
{
    return state->place == PART_ZERO || state->place == PART_WHOLE || state->place == PART_FRACTION;
}

static void leave_array(const struct json_program *program, struct json_state *state,
                        uint16_t next_instruction)
{
    state->counts[program->instructions[next_instruction].level] = 0;
    enter(program, state, (uint16_t)(next_instruction + 1));
}

// True when the byte closes the array or is the comma; false leaves the state as it is.
static bool step_next(const struct json_program *program, struct json_state *state, uint8_t byte)
{
    const struct json_instruction *next = &program->instructions[state->at];
    uint32_t *count = &state->counts[next->level];
    if (byte == ']' && *count >= next->minimum) {
        leave_array(program, state, state->at);
        return true;
    }
    if (byte != ',' || *count >= next->maximum)
        return false;
    // Without a maximum, counts above the minimum are all alike.
    *count += next->maximum != JSON_UNLIMITED || *count < next->minimum;
    enter(program, state, (uint16_t)(next->partner + 1));
    return true;
}

bool json_program_step(const struct json_program *program, struct json_state *state, uint8_t byte)
{
    for (;;) {
        const struct json_instruction *instruction = &program->instructions[state->at];
        switch (instruction->operation) {
        case JSON_READ_TEXT:
            return step_text(program, state, byte);
        case JSON_READ_STRING:
            return step_string(program, state, byte);
        case JSON_READ_NEXT:
            return step_next(program, state, byte);
        case JSON_READ_NUMBER:
            if (step_number(instruction, state, byte))
                return true;
            if (!number_may_end(state))
                return false;
            enter(program, state, (uint16_t)(state->at + 1));
            break;
        case JSON_READ_ITEMS:
            if (byte == ']' && instruction->minimum == 0) {
                leave_array(program, state, instruction->partner);
                return true;
            }
            if (instruction->maximum == 0)
                return false;
            state->counts[instruction->level] = 1;
            enter(program, state, (uint16_t)(state->at + 1));
            break;
        case JSON_READ_END:
            return false;
        }
    }
}

int json_program_nearest(const struct json_program *program, const struct json_state *state)
{
    struct json_state at = *state;
    for (;;) {
        const struct json_instruction *instruction = &program->instructions[at.at];
        switch (instruction->operation) {
        case JSON_READ_TEXT:
            return program->nodes[program->nodes[at.place].nearest].byte;
        case JSON_READ_STRING:
            return place_nearest(at.place);
        case JSON_READ_NEXT:
            return at.counts[instruction->level] < instruction->minimum ? ',' : ']';
        case JSON_READ_NUMBER:
            if (!number_may_end(&at))
                return '0';
            break;
        case JSON_READ_ITEMS:
            if (instruction->minimum == 0)
                return ']';
            break;
        case JSON_READ_END:
            return -1;
        }
        enter(program, &at, (uint16_t)(at.at + 1));
    }
}

int json_program_only(const struct json_program *program, const struct json_state *state)
{
    int only = -1;
    if (program->instructions[state->at].operation == JSON_READ_TEXT) {
        const struct json_node *child = &program->nodes[program->nodes[state->place].child];
        return child->sibling ? -1 : child->byte;
    }
    for (int byte = 0; byte < 256; byte++) {
        struct json_state next = *state;
        if (!json_program_step(program, &next, (uint8_t)byte))
            continue;
        if (only >= 0)
            return -1;
        only = byte;
    }
    return only;
}

void json_program_release(struct json_program *program)
{
    free(program->instructions);
    free(program->nodes);
    *program = (struct json_program){0};
}
