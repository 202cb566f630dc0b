// SPDX-License-Identifier: Apache-2.0
// Names that reader and writer of task vectors share.
#ifndef MEMO_WORKER_MERGE_VECTOR_FORMAT_H
#define MEMO_WORKER_MERGE_VECTOR_FORMAT_H

#define VECTOR_FORMAT "memo task vector"
#define VECTOR_VERSION "2"
#define VECTOR_MASK_SUFFIX ".mask"

#endif
