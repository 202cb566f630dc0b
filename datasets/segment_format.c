// SPDX-License-Identifier: Apache-2.0
#include "datasets/segment_format.h"

const struct segment_column_spec segment_columns[SEGMENT_COLUMNS] = {
    [PAIR_RECORD_ID] = {"record_id", H5_IMAGE_U8, 16, ROWS_PAIRS},
    [PAIR_TASK] = {"task", H5_IMAGE_U32, 0, ROWS_PAIRS},
    [PAIR_STEP] = {"step", H5_IMAGE_U8, 0, ROWS_PAIRS},
    [PAIR_ORDINAL] = {"ordinal", H5_IMAGE_U32, 0, ROWS_PAIRS},
    [PAIR_QUESTION] = {"question", H5_IMAGE_U8, 0, ROWS_TEXT},
    [PAIR_QUESTION_OFFSETS] = {"question_offsets", H5_IMAGE_U64, 0, ROWS_PAIR_OFFSETS},
    [PAIR_ANSWER] = {"answer", H5_IMAGE_U8, 0, ROWS_TEXT},
    [PAIR_ANSWER_OFFSETS] = {"answer_offsets", H5_IMAGE_U64, 0, ROWS_PAIR_OFFSETS},
    [PAIR_SOURCE_OFFSETS] = {"source_offsets", H5_IMAGE_U64, 0, ROWS_PAIR_OFFSETS},
    [PAIR_PARENT_OFFSETS] = {"parent_offsets", H5_IMAGE_U64, 0, ROWS_PAIR_OFFSETS},
    [PAIR_SEED] = {"seed", H5_IMAGE_U64, 0, ROWS_PAIRS},
    [PAIR_PROMPT_TOKENS] = {"prompt_tokens", H5_IMAGE_U32, 0, ROWS_PAIRS},
    [PAIR_OUTPUT_TOKENS] = {"output_tokens", H5_IMAGE_U32, 0, ROWS_PAIRS},
    [SOURCE_DOCUMENT] = {"source_document", H5_IMAGE_U8, 16, ROWS_SOURCES},
    [SOURCE_BEGIN] = {"source_begin", H5_IMAGE_U64, 0, ROWS_SOURCES},
    [SOURCE_END] = {"source_end", H5_IMAGE_U64, 0, ROWS_SOURCES},
    [PARENT_ID] = {"parent", H5_IMAGE_U8, 16, ROWS_PARENTS},
    [TASK_ID] = {"task_id", H5_IMAGE_U8, 16, ROWS_TASKS},
    [TASK_OUTCOME] = {"task_outcome", H5_IMAGE_U8, 0, ROWS_TASKS},
    [TASK_PAIRS] = {"task_pairs", H5_IMAGE_U32, 0, ROWS_TASKS},
    [TASK_REASON] = {"task_reason", H5_IMAGE_U8, 0, ROWS_TEXT},
    [TASK_REASON_OFFSETS] = {"task_reason_offsets", H5_IMAGE_U64, 0, ROWS_TASK_OFFSETS},
    [TASK_SECONDS] = {"task_seconds", H5_IMAGE_F64, 0, ROWS_TASKS},
    [DROP_TASK] = {"drop_task", H5_IMAGE_U32, 0, ROWS_DROPS},
    [DROP_STEP] = {"drop_step", H5_IMAGE_U8, 0, ROWS_DROPS},
    [DROP_PAIRS] = {"drop_pairs", H5_IMAGE_U32, 0, ROWS_DROPS},
    [DROP_REASON] = {"drop_reason", H5_IMAGE_U8, 0, ROWS_TEXT},
    [DROP_REASON_OFFSETS] = {"drop_reason_offsets", H5_IMAGE_U64, 0, ROWS_DROP_OFFSETS},
    [USAGE_TASK] = {"usage_task", H5_IMAGE_U32, 0, ROWS_USAGE},
    [USAGE_STEP] = {"usage_step", H5_IMAGE_U8, 0, ROWS_USAGE},
    [USAGE_REQUESTS] = {"usage_requests", H5_IMAGE_U32, 0, ROWS_USAGE},
    [USAGE_PROMPT_TOKENS] = {"usage_prompt_tokens", H5_IMAGE_U64, 0, ROWS_USAGE},
    [USAGE_CACHED_TOKENS] = {"usage_cached_tokens", H5_IMAGE_U64, 0, ROWS_USAGE},
    [USAGE_OUTPUT_TOKENS] = {"usage_output_tokens", H5_IMAGE_U64, 0, ROWS_USAGE},
};

size_t segment_row_bytes(enum segment_column column)
{
    size_t columns = segment_columns[column].columns;
    return h5_image_type_bytes(segment_columns[column].type) * (columns ? columns : 1);
}
