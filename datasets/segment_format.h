// SPDX-License-Identifier: Apache-2.0
// The columns of a reflection segment; private to its writer and its reader.
//
// A segment is an HDF5 file behind our 512-byte block (datasets/h5_image.h). Attributes of the
// root: format ("memo reflections"), version. Datasets, all in the root, little endian:
//
//   pairs, one row each, task by task in the order of the tasks' rows
//     record_id      u8 [pairs, 16]   identity, see reflection_record_id
//     task           u32 [pairs]      row of the task that made it
//     step           u8 [pairs]       enum reflection_step
//     ordinal        u32 [pairs]      ascending inside a task
//     question       u8 [bytes]       UTF-8, one text after another
//     question_offsets  u64 [pairs + 1]  text i is question[offsets[i] : offsets[i + 1]]
//     answer, answer_offsets          the same
//     source_offsets u64 [pairs + 1]  its sources are rows offsets[i] to offsets[i + 1]
//     parent_offsets u64 [pairs + 1]  its parents, likewise
//     seed           u64 [pairs]
//     prompt_tokens, output_tokens  u32 [pairs]
//   sources: what pairs were made from, one row each, pair by pair, at least one of a pair
//     source_document  u8 [sources, 16]  digest of the document's text
//     source_begin, source_end  u64 [sources]  bytes of that document
//   parents: the pairs that pairs were made from, in this or another segment
//     parent         u8 [parents, 16] record id
//   tasks, one row each
//     task_id        u8 [tasks, 16]
//     task_outcome   u8 [tasks]       enum task_outcome
//     task_pairs     u32 [tasks]      how many of the pairs are its own; 0 unless done
//     task_reason, task_reason_offsets  UTF-8 and u64 [tasks + 1]: why set aside
//     task_seconds   f64 [tasks]
//   drops: pairs that were made and not kept, task by task; of a task no two of equal step and
//   reason
//     drop_task      u32 [drops]      row of the task
//     drop_step      u8 [drops]
//     drop_pairs     u32 [drops]
//     drop_reason, drop_reason_offsets  UTF-8 and u64 [drops + 1]
//   usage: what a step of a task cost the language model, task by task; of a task no two of equal
//   step
//     usage_task     u32 [usage]
//     usage_step     u8 [usage]
//     usage_requests u32 [usage]
//     usage_prompt_tokens, usage_cached_tokens, usage_output_tokens  u64 [usage]
//
// In Python:  f = h5py.File("x.h5"); o = f["question_offsets"]
//             print(f["question"][o[0] : o[1]].tobytes().decode())
//
// Equal content gives equal bytes: no times, no names of machines.
#ifndef MEMO_DATASETS_SEGMENT_FORMAT_H
#define MEMO_DATASETS_SEGMENT_FORMAT_H

#include "datasets/h5_image.h"
#include "datasets/reflections.h"

#define SEGMENT_MAGIC "MEMOREFL" // H5_IMAGE_MAGIC_BYTES
#define SEGMENT_VERSION 2

enum segment_column {
    PAIR_RECORD_ID,
    PAIR_TASK,
    PAIR_STEP,
    PAIR_ORDINAL,
    PAIR_QUESTION,
    PAIR_QUESTION_OFFSETS,
    PAIR_ANSWER,
    PAIR_ANSWER_OFFSETS,
    PAIR_SOURCE_OFFSETS,
    PAIR_PARENT_OFFSETS,
    PAIR_SEED,
    PAIR_PROMPT_TOKENS,
    PAIR_OUTPUT_TOKENS,
    SOURCE_DOCUMENT,
    SOURCE_BEGIN,
    SOURCE_END,
    PARENT_ID,
    TASK_ID,
    TASK_OUTCOME,
    TASK_PAIRS,
    TASK_REASON,
    TASK_REASON_OFFSETS,
    TASK_SECONDS,
    DROP_TASK,
    DROP_STEP,
    DROP_PAIRS,
    DROP_REASON,
    DROP_REASON_OFFSETS,
    USAGE_TASK,
    USAGE_STEP,
    USAGE_REQUESTS,
    USAGE_PROMPT_TOKENS,
    USAGE_CACHED_TOKENS,
    USAGE_OUTPUT_TOKENS,
    SEGMENT_COLUMNS,
};

enum segment_rows {
    ROWS_PAIRS,
    ROWS_PAIR_OFFSETS,
    ROWS_SOURCES,
    ROWS_PARENTS,
    ROWS_TASKS,
    ROWS_TASK_OFFSETS,
    ROWS_DROPS,
    ROWS_DROP_OFFSETS,
    ROWS_USAGE,
    ROWS_TEXT,
};

struct segment_column_spec {
    const char *name;
    enum h5_image_type type;
    size_t columns; // 0: one-dimensional
    enum segment_rows rows;
};
extern const struct segment_column_spec segment_columns[SEGMENT_COLUMNS];

size_t segment_row_bytes(enum segment_column column);

#endif
