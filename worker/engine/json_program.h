// SPDX-License-Identifier: Apache-2.0
// A JSON Schema as a program that reads one byte at a time. Schemas of the subset do not recurse,
// so a place in the output is a place in the program, one count for each array around it, and one
// number inside a string or a number: a finite automaton with counters. It knows nothing of tokens.
//
//   TEXT    one of several texts (a literal, the values of an enum, true and false), as a trie;
//           none is the beginning of another
//   STRING  the inside of a string and its closing quote
//   NUMBER  a number; ends without a byte of its own, before a byte that cannot belong to it
//   ITEMS   behind '[': the first item, or ']'
//   NEXT    behind an item: ',' and back to the item, or ']'
//   END     nothing may follow
#ifndef MEMO_WORKER_JSON_PROGRAM_H
#define MEMO_WORKER_JSON_PROGRAM_H

#include "base/error.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum {
    JSON_ARRAY_DEPTH = 6, // arrays inside arrays
    JSON_SHORTEST_LIMIT =
        32768,        // bytes of the shortest output, and of the shortest item of an array
    JSON_DIGITS = 15, // before and behind the point: every integer exact in a double
};
#define JSON_UNLIMITED UINT32_MAX
#define JSON_NO_ARRAY UINT16_MAX

enum json_operation {
    JSON_READ_TEXT,
    JSON_READ_STRING,
    JSON_READ_NUMBER,
    JSON_READ_ITEMS,
    JSON_READ_NEXT,
    JSON_READ_END
};

struct json_instruction {
    enum json_operation operation;
    uint16_t node;       // TEXT: root of the trie
    bool is_integer;     // NUMBER
    uint32_t maximum;    // STRING: code points; ITEMS, NEXT: items
    uint32_t minimum;    // ITEMS, NEXT
    uint16_t level;      // how many arrays are around; ITEMS, NEXT: their own not counted
    uint16_t partner;    // ITEMS: its NEXT; NEXT: its ITEMS
    uint16_t inside;     // ITEMS of the innermost array whose count is alive, or JSON_NO_ARRAY
    uint32_t item_bytes; // ITEMS, NEXT: of the shortest item and a comma
};

// A node of a trie; children are a list. Node 0 is none.
struct json_node {
    uint8_t byte;
    uint16_t child;
    uint16_t sibling;
    uint16_t nearest; // child on the way to the shortest text
    uint32_t to_end;  // bytes of that way
};

struct json_program {
    struct json_instruction *instructions;
    size_t count;
    size_t capacity;
    struct json_node *nodes;
    size_t node_count;
    size_t node_capacity;
};

// Compared and hashed as bytes: no padding.
struct json_state {
    uint16_t at;                       // instruction
    uint16_t place;                    // TEXT: node; STRING: enum json_place; NUMBER: part
    uint32_t used;                     // STRING: code points; NUMBER: digits of this part
    uint32_t counts[JSON_ARRAY_DEPTH]; // items begun in each array around
};

// Inside a string. What a byte does there depends on nothing else but the count of code points.
enum json_place {
    JSON_PLACE_TEXT,   // between characters
    JSON_PLACE_LAST_1, // one byte of a character is missing
    JSON_PLACE_LAST_2, // two, neither restricted
    JSON_PLACE_LAST_3, //
    JSON_PLACE_E0,     // behind that byte, which restricts the next: no overlong form,
    JSON_PLACE_ED,     // no surrogate,
    JSON_PLACE_F0,     // no overlong form,
    JSON_PLACE_F4,     // nothing above U+10FFFF
    JSON_PLACE_ESCAPE, // behind a backslash
    JSON_PLACE_HEX_4,  // behind \u
    JSON_PLACE_HEX_3,  // behind a digit other than D
    JSON_PLACE_HEX_D,  // behind \uD
    JSON_PLACE_HEX_2,  // two digits are missing
    JSON_PLACE_HEX_1,  //
    JSON_PLACE_HIGH_2, // of a first surrogate, two digits are missing
    JSON_PLACE_HIGH_1, //
    JSON_PLACE_PAIR,   // behind a first surrogate: a backslash
    JSON_PLACE_PAIR_U, // u
    JSON_PLACE_LOW_4,  // D
    JSON_PLACE_LOW_3,  // C to F
    JSON_PLACE_COUNT,
    JSON_PLACE_CLOSED,   // behind the closing quote
    JSON_PLACE_REJECTED, // no such byte here
};

// The place behind a byte. *starts: the byte begins a code point.
enum json_place json_place_next(enum json_place place, uint8_t byte, bool *starts);

// A schema outside the subset is an error that names the place and the keyword.
int json_program_compile(const char *schema, size_t bytes, struct json_program *out,
                         struct error *err);
void json_program_release(struct json_program *program);

struct json_state json_program_begin(const struct json_program *program);

// Reads a byte; false, with the state spoilt, when it may not come.
bool json_program_step(const struct json_program *program, struct json_state *state, uint8_t byte);

// The next byte of the shortest ending; -1 at the end.
int json_program_nearest(const struct json_program *program, const struct json_state *state);

// The only byte that may come; -1 when there are several, or none.
int json_program_only(const struct json_program *program, const struct json_state *state);

static inline bool json_program_ended(const struct json_program *program,
                                      const struct json_state *state)
{
    return program->instructions[state->at].operation == JSON_READ_END;
}

#endif
