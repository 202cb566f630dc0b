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
//     document       u8 [pairs, 16]   digest of the source document
//     span_begin, span_end  u64 [pairs]  bytes of the document it was made from
//     seed           u64 [pairs]
//     prompt_tokens, output_tokens  u32 [pairs]
//   tasks, one row each
//     task_id        u8 [tasks, 16]
//     task_outcome   u8 [tasks]       enum task_outcome
//     task_pairs     u32 [tasks]      how many of the pairs are its own; 0 unless done
//     task_dropped   u32 [tasks]      pairs that were made and not kept
//     task_reason, task_reason_offsets  UTF-8 and u64 [tasks + 1]: why set aside or dropped
//     task_tokens    u64 [tasks]
//     task_seconds   f64 [tasks]
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
#define SEGMENT_VERSION 1

enum segment_column {
    PAIR_RECORD_ID,
    PAIR_TASK,
    PAIR_STEP,
    PAIR_ORDINAL,
    PAIR_QUESTION,
    PAIR_QUESTION_OFFSETS,
    PAIR_ANSWER,
    PAIR_ANSWER_OFFSETS,
    PAIR_DOCUMENT,
    PAIR_SPAN_BEGIN,
    PAIR_SPAN_END,
    PAIR_SEED,
    PAIR_PROMPT_TOKENS,
    PAIR_OUTPUT_TOKENS,
    TASK_ID,
    TASK_OUTCOME,
    TASK_PAIRS,
    TASK_DROPPED,
    TASK_REASON,
    TASK_REASON_OFFSETS,
    TASK_TOKENS,
    TASK_SECONDS,
    SEGMENT_COLUMNS,
};

enum segment_rows { ROWS_PAIRS, ROWS_PAIR_OFFSETS, ROWS_TASKS, ROWS_TASK_OFFSETS, ROWS_TEXT };

struct segment_column_spec {
    const char *name;
    enum h5_image_type type;
    size_t columns; // 0: one-dimensional
    enum segment_rows rows;
};
extern const struct segment_column_spec segment_columns[SEGMENT_COLUMNS];

size_t segment_row_bytes(enum segment_column column);

#endif
