// SPDX-License-Identifier: Apache-2.0
// Where the cost model (cost_model.h) learns of language models and hardware: by name.
#ifndef MEMO_JOBS_COST_SOURCES_H
#define MEMO_JOBS_COST_SOURCES_H

#include "base/error.h"
#include "jobs/cost_model.h"

// name: a model directory, or a published shape.
int cost_model_read(const char *name, struct cost_model *out, struct error *err);

// A row of cost_hardware_rows, or "cpu": this machine, which is measured for a second.
int cost_hardware_find(const char *name, struct cost_hardware *out, struct error *err);

#endif
