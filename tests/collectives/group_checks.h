// SPDX-License-Identifier: Apache-2.0
// The checks of every collective, the same for all transports. Each runs on all ranks and makes the
// same calls whatever it finds, so that a wrong result on one rank leaves the others in step.
#ifndef MEMO_TESTS_GROUP_CHECKS_H
#define MEMO_TESTS_GROUP_CHECKS_H

#include "collectives/group.h"

struct group_check {
    const char *name;
    int (*run)(struct group *group, void *context, struct error *err); // context is unused
};

extern const struct group_check group_checks[]; // ends with a NULL name

#endif
