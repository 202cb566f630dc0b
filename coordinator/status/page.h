// SPDX-License-Identifier: Apache-2.0
// page.html as it was when the binary was built.
#ifndef MEMO_COORDINATOR_STATUS_PAGE_H
#define MEMO_COORDINATOR_STATUS_PAGE_H

#include <stddef.h>

extern const char status_page[];
extern const size_t status_page_bytes;

#endif
